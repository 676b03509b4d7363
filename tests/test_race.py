"""The race: what is believed of a rule after some seeds, and who gets the next one."""

import dataclasses

import numpy as np
import pytest
from fake_engine import FakeEngine

from nos_optax.grammar import Program, decode, encode
from nos_optax.population import Evaluation
from nos_optax.search import History, SearchConfig, run_search
from nos_optax.search.finals import HALVINGS, halve
from nos_optax.search.history import FILE, Candidate
from nos_optax.search.race import FIRST_SEED, Race
from nos_optax.search.standings import BELIEF, BOUND, CONTENDERS, ENOUGH_SEEDS, NOISE, Standings


def standings_of(rewards: dict[str, list[float]]) -> Standings:
    standings = Standings()
    for key, values in rewards.items():
        for value in values:
            standings.add(key, value)
    return standings


def test_estimates_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    rewards = {f"r{i}": list(rng.normal(i / 10, 0.2, 1 + i % 4)) for i in range(12)}
    found = standings_of(rewards).contenders()

    squares = {k: np.sum((np.array(v) - np.mean(v)) ** 2) for k, v in rewards.items()}
    freedom = {k: len(v) - 1 for k, v in rewards.items()}
    pooled = (BELIEF * NOISE**2 + sum(squares.values())) / (BELIEF + sum(freedom.values()))
    noise = {k: (BELIEF * pooled + squares[k]) / (BELIEF + freedom[k]) for k in rewards}
    centre, above = np.quantile([v[0] for v in rewards.values()], [0.5, 0.8413])
    spread = (above - centre) ** 2 - np.mean(list(noise.values()))
    assert spread > 0
    for key, values in rewards.items():
        weight = len(values) / noise[key]
        precision = weight + 1 / spread
        mean = (weight * np.mean(values) + centre / spread) / precision
        np.testing.assert_allclose(found[key].mean, mean, rtol=1e-12)
        np.testing.assert_allclose(found[key].error, precision**-0.5, rtol=1e-12)
        assert found[key].seeds == len(values)
        np.testing.assert_allclose(found[key].high - found[key].low, 2 * BOUND * precision**-0.5)
    assert list(found) == sorted(found, key=lambda key: -found[key].mean)


def test_without_others_or_without_differences_estimates_are_plain():
    assert standings_of({}).contenders() == {} and standings_of({}).due(4) == []
    alone = standings_of({"a": [0.5]}).contenders()["a"]
    assert alone.mean == 0.5 and np.isfinite(alone.error)
    same = standings_of({"a": [0.3], "b": [0.3], "c": [0.3]}).contenders()
    assert all(e.mean == pytest.approx(0.3) for e in same.values())


def test_only_the_best_contend():
    standings = standings_of({str(i): [float(i)] for i in range(3 * CONTENDERS)})
    assert set(standings.contenders()) == {str(i) for i in range(2 * CONTENDERS, 3 * CONTENDERS)}
    assert len(standings) == 3 * CONTENDERS and standings.mean("7") == 7.0


def test_the_best_and_those_that_may_be_better_are_due():
    # The noise is known: many seeds of rules that are far behind have shown it.
    known = {f"far {i}": list(np.tile([-9.1, -8.9], 20) - i) for i in range(9)}
    rewards = {"best": [1.0], "second": [0.9], "close": [0.85], "behind": [-3.0]}
    standings = standings_of(known | rewards)
    assert standings.due(2) == ["best", "second", "close"]
    assert standings.due(1) == ["best", "second"]
    for _ in range(ENOUGH_SEEDS - 1):
        standings.add("best", 1.0)
    assert "best" not in standings.due(2), "its mean is known"
    assert standings.due(0) == []


def test_the_race_takes_most_of_the_luck_out_of_the_best():
    """The best rule's reward less its true mean: by one seed each, and after a race."""
    by_one, by_race = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = {str(i): rng.normal(0, 0.1) for i in range(100)}
        standings = Standings()
        for key, mean in truth.items():
            standings.add(key, rng.normal(mean, 0.2))
        key = max(truth, key=standings.mean)
        by_one.append(standings.mean(key) - truth[key])
        for _ in range(20):
            for key in standings.due(8):
                standings.add(key, rng.normal(truth[key], 0.2))
        best = max(standings.contenders().items(), key=lambda item: item[1].low)
        by_race.append(best[1].mean - truth[best[0]])
    assert np.mean(by_one) > 0.25
    assert abs(np.mean(by_race)) < 0.05


class NoisyEngine(FakeEngine):
    """Rewards that differ from seed to seed, around a mean of the program's own."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def evaluate(self, programs, seed, epochs=None, rates=None):
        self.calls.append((seed, len(programs)))
        self.rates = rates
        for rows, found in super().evaluate(programs, 0, epochs):
            luck = [np.random.default_rng([seed, *np.ravel(programs[r])]).normal() for r in rows]
            reward = found.reward + np.where(found.status == 0, 0.1 * np.array(luck), 0)
            yield rows, Evaluation(reward.astype(np.float32), *found[1:])


def config(tmp_path, **changes) -> SearchConfig:
    return dataclasses.replace(
        SearchConfig(
            samples=64,
            batch_size=16,
            iterations=1,
            strategy="evolution",
            finalists=0,
            race=4,
            watch=(),
            out=tmp_path / "run",
        ),
        **changes,
    )


def test_all_rules_have_the_same_seeds_and_their_first_rates(tmp_path):
    engine = NoisyEngine()
    asked = config(tmp_path)
    run_search(asked, engine=engine)
    with_seeds = {seed for seed, _ in engine.calls}
    assert min(with_seeds) == asked.seed and max(with_seeds) < FIRST_SEED + ENOUGH_SEEDS
    history = History(asked.out / FILE, read_only=True)
    trainings = history.trainings()
    again = {key: t for key, t in trainings.items() if " seed " in key}
    assert again, "nobody raced"
    for key in again:
        rule, seed = key.split(" seed ")
        assert 1 <= int(seed) < ENOUGH_SEEDS
        assert all(f"{rule} seed {n}" in trainings for n in range(1, int(seed))), "no seed is left"
    assert engine.rates is not None and engine.rates.shape[1] == len(trainings[rule].sweep)
    history.close()


def test_a_strategy_is_told_estimates_and_what_has_changed(tmp_path):
    told: dict[bytes, float] = {}

    class Notes:
        """Asks for the same eight programs and others, and keeps what it is told."""

        def __init__(self, space, key):
            self.space, self.asks = space, 0

        def ask(self, count):
            import jax

            self.asks += 1
            self.asked = np.asarray(self.space.sample(jax.random.key(self.asks), count))
            return self.asked

        def tell(self, tokens, rewards):
            told.update({row.tobytes(): r for row, r in zip(tokens, rewards, strict=True)})

        def revise(self, tokens, rewards):
            assert all(row.tobytes() in told for row in tokens), "it was never asked for"
            told.update({row.tobytes(): r for row, r in zip(tokens, rewards, strict=True)})

    asked = config(tmp_path, samples=96, strategy="given")
    engine = NoisyEngine()
    found = run_search(asked, engine=engine, strategy=Notes)
    history = History(asked.out / FILE)
    race = Race(asked, history, engine)
    for start in range(0, 80, 16):  # of the last population nobody is told
        race.settle(found.candidates[start : start + 16])
    best = race.best()
    assert len(best) > 4 and max(e.seeds for _, e in best) > 2
    for candidate, estimate in best:
        row = Program.from_words(candidate.tokens).array.ravel().tobytes()
        assert told[row] == pytest.approx(estimate.mean, abs=1e-5)
    history.close()


def test_a_race_gives_each_rule_one_more_seed(tmp_path):
    asked = config(tmp_path, samples=128, batch_size=64, strategy="random", race=0)
    found = run_search(asked, engine=NoisyEngine())
    history = History(asked.out / FILE)
    race = Race(asked, history, NoisyEngine())
    race.settle(found.candidates, race=False)
    first, second, third = [c for c, _ in race.best()][:3]
    keys = [c.fingerprint for c in (first, second, third)]
    race.train(keys[:1])
    race.train(keys[:2])
    assert [race.standings.seeds(key) for key in keys] == [3, 2, 1]
    race.train(keys)  # the seeds that each has are a ladder, which none may climb at once
    assert [race.standings.seeds(key) for key in keys] == [4, 3, 2]
    history.close()


def test_halving_gives_ever_more_seeds_to_ever_fewer(tmp_path):
    asked = config(tmp_path, samples=320, batch_size=64, strategy="random")
    engine = NoisyEngine()
    found = run_search(asked, engine=engine)
    history = History(asked.out / FILE)
    race = Race(asked, history, engine)
    race.settle(found.candidates, race=False)
    halve(race)
    counts = sorted((e.seeds for _, e in race.best()), reverse=True)
    for count, seeds in HALVINGS:
        assert all(n >= seeds for n in counts[: min(count, len(counts))]), (count, seeds)
    history.close()


def test_a_rule_that_is_written_in_several_ways_is_raced_once(tmp_path):
    asked = config(tmp_path)
    history = History(tmp_path / FILE)
    engine = NoisyEngine()
    race = Race(asked, history, engine)
    row = {"digest": "d", "learning_rate": 0.1, "status": "trained", "reason": None}
    first = Candidate(0, "m + m", "m m x x +", fingerprint="f", origin=0, reward=0.4, **row)
    twin = Candidate(1, "m", "m g x x left", fingerprint="f", origin=0, reward=0.4, **row)
    race.settle([first, twin], race=False)
    assert len(race.standings) == 1 and race.best()[0][0].rule == "m"
    history.close()


PAIR = ("(adam + adam) * exp(adam / adam)", "adam")  # 5.4 times the other


class Written:
    """Asks for the one rule, and ever after for the other."""

    def __init__(self, space, key):
        self.asks = 0

    def ask(self, count):
        self.asks += 1
        row = encode(PAIR[self.asks > 1], 3).array.ravel()
        return np.stack([row] * count)

    def tell(self, tokens, rewards):
        pass


def test_the_form_that_was_trained_races_and_not_a_shorter_one_of_another_size(tmp_path):
    """Learning rates are of the form that chose them: with them, another one may diverge."""
    raced = []

    class Watched(NoisyEngine):
        def evaluate(self, programs, seed, epochs=None, rates=None):
            if rates is not None:
                raced.extend(str(decode(Program.from_array(np.ravel(row)))) for row in programs)
            return super().evaluate(programs, seed, epochs, rates)

    asked = config(tmp_path, samples=48, iterations=3, strategy="given", live_results=False)
    found = run_search(asked, engine=Watched(), strategy=Written)
    shorter = found.candidates[-1]
    assert shorter.rule == "adam" and shorter.origin == 0, "they share a training"
    assert len(raced) > 1 and set(raced) == {PAIR[0]}
    history = History(asked.out / FILE)
    race = Race(asked, history, NoisyEngine())
    race.settle(found.candidates, race=False)
    (best,) = (candidate for candidate, _ in race.best())
    assert best.id == 0, "what only nearly does the same is another form"
    history.close()
