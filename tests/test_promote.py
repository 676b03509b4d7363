"""The funnel: who is stopped, what of a rule can go, and that nothing is trained twice."""

import json

import numpy as np
import optax
import pytest

from nos_optax import parse
from nos_optax.compare import as_rival
from nos_optax.compare.records import Records
from nos_optax.compare.results import BASELINE as AGAINST
from nos_optax.grammar import UpdateRule, encode
from nos_optax.grammar.expression import walk
from nos_optax.grammar.program import pad_programs
from nos_optax.population.suite import LARGER, SuiteTrainer, joint_speed, load_suite
from nos_optax.search import SearchConfig, run_search
from nos_optax.search.probes import Probes
from nos_optax.search.promote import Stage, entrants, promote
from nos_optax.search.promote.entrants import best_of_runs
from nos_optax.search.promote.simplify import deletions, shorter
from nos_optax.search.promote.stages import error_of_differences, joint_scores, staying
from nos_optax.search.rivals import ALL_RIVALS, RIVALS
from nos_optax.search.strategies.niches import ALIKE


@pytest.mark.parametrize(
    ("means", "kept", "error", "expected"),
    [
        ([0.5, 0.1, 0.4], 1, 0.0, [True, False, False]),
        ([0.5, 0.1, 0.4], 2, 0.0, [True, False, True]),
        ([0.5, 0.1, 0.4], 1, 0.1, [True, False, True]),  # within two errors of the best
        ([0.5, 0.1, 0.4], 1, np.inf, [True, True, True]),  # nothing is known of the noise
        ([0.5, 0.1, 0.4], 5, 0.0, [True, True, True]),
    ],
)
def test_rules_stop_by_bounds_and_not_by_luck(means, kept, error, expected):
    scores = np.array(means)[:, None] + np.array([-0.2, 0.0, 0.2])  # seeds that are alike for all
    assert staying(scores, kept, error).tolist() == expected


def test_a_rules_scores_are_about_the_joint_speed_of_its_means():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 0.3, (5, 4, 1))
    noise = rng.normal(0, 0.2, (5, 4, 400))
    scores = joint_scores(true + noise)
    assert scores.shape == (5, 400)
    np.testing.assert_allclose(scores.mean(axis=1), joint_speed((true + noise).mean(axis=2)))
    # Noise does not pass for slowness, as it would seed by seed.
    np.testing.assert_allclose(scores.mean(axis=1), joint_speed(true[:, :, 0]), atol=0.03)
    assert (joint_speed((true + noise).swapaxes(1, 2)).mean(axis=1) < scores.mean(axis=1)).all()
    # A task that is behind moves the scores most.
    slow = np.array([[[0.0, 0.0], [-1.0, -0.9]]])
    np.testing.assert_allclose(np.ptp(joint_scores(slow)), 0.1 * 2 / 3, rtol=0.05)


def test_the_error_of_a_difference_is_what_repeated_measurements_have():
    rng = np.random.default_rng(0)
    rules, seeds, noise = 6, 4, 0.3
    means, of_seeds = rng.normal(size=(rules, 1)), rng.normal(size=(2000, 1, seeds))
    scores = means + of_seeds + noise * rng.normal(size=(2000, rules, seeds))
    seen = (scores[:, 0] - scores[:, 1]).mean(axis=-1).std()
    told = np.sqrt(np.mean([error_of_differences(x) ** 2 for x in scores]))
    assert told == pytest.approx(seen, rel=0.05), "what seeds have in common is no noise"
    assert error_of_differences(scores[0, :1]) == np.inf == error_of_differences(scores[0, :, :1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sign(m) * g", {"sign(m)", "g", "m * g"}),
        ("clip(exp(ld), 1e-3) * -m", {"clip(exp(ld), 1e-3)", "-m", "exp(ld) * (-m)"}
         | {"clip(ld, 1e-3) * (-m)", "clip(exp(ld), 1e-3) * m"}),
        ("g", set()),
    ],
)  # fmt: skip
def test_a_deletion_puts_an_argument_in_the_place_of_its_function(text, expected):
    rule = parse(text)
    found = [UpdateRule(e) for e in deletions(rule.expression)]
    assert {str(each) for each in found} == expected
    nodes = len(list(walk(rule.expression)))
    assert all(len(list(walk(each.expression))) < nodes for each in found)


def test_shorter_rules_differ_and_have_programs():
    suite = SuiteTrainer(load_suite(["table"]), iterations=2)
    found = [rival.what for rival in shorter(as_rival("(m + g) * (g + m)"), suite)]
    assert len({parse(text).digest for text in found}) == len(found)
    assert all(len(encode(text).array) <= 2 for text in found)
    assert "m + g" in found and "g + m" not in found


def test_claims_are_made_against_all_that_one_would_use():
    assert RIVALS.items() <= ALL_RIVALS.items()
    for text in ALL_RIVALS.values():
        as_rival(text)


@pytest.mark.parametrize(
    ("name", "optimizer", "scale"),
    [
        ("Lion, cosine decay", optax.lion, lambda t: (1 + np.cos(np.pi * t / 20)) / 2),
        ("NAdam, linear decay", optax.nadam, lambda t: 1 - t / 20),
        (
            "NAdam, cosine decay to a tenth",
            optax.nadam,
            lambda t: 0.1 + 0.9 * (1 + np.cos(np.pi * t / 20)) / 2,
        ),
        (
            "Adam, warm-up and cosine decay",
            optax.adam,
            lambda t: t / 2 if t < 2 else (1 + np.cos(np.pi * (t - 2) / 18)) / 2,
        ),
    ],
)
def test_rivals_decay_as_they_say(name, optimizer, scale):
    params, gradient = np.zeros(3, np.float32), np.ones(3, np.float32)
    tx, plain = as_rival(ALL_RIVALS[name]).factory(20)(0.1), optimizer(0.1)
    state, plain_state = tx.init(params), plain.init(params)
    for t in range(20):
        update, state = tx.update(gradient, state, params)
        expected, plain_state = plain.update(gradient, plain_state, params)
        np.testing.assert_allclose(update, expected * scale(t), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": ("table",)}, "test tasks must have no part in choosing"),
        ({"promoted": 5, "rules": 4}, "promoted must be from 1 to the 4 rules"),
        ({"promoted": 0}, "promoted must be from 1"),
        ({"seeds": 1}, "seeds must be from 2"),
        ({"test_seeds": 1}, "test_seeds at least 2"),
        ({"stages": (1, 1)}, "share out all 1 tasks"),
        ({"tasks": ()}, "at least one"),
        ({"tasks": ("tables",)}, "tables"),
    ],
)
def test_what_cannot_be_promoted_is_said_at_once(tmp_path, changes, message):
    settings = {"runs": [tmp_path], "tasks": ("table",), "out": tmp_path / "out", **changes}
    with pytest.raises(ValueError, match=message):
        promote(**settings)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        promote([tmp_path], ["table"], out=tmp_path / "out")
    with pytest.raises(ValueError, match="at least 2 seeds"):
        Stage(seeds=1, kept=1, first_seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("promote") / "run"
    run_search(
        SearchConfig(task=("table",), trainings=24, race=4, finalists=0, watch=(), out=out, seed=1)
    )
    return out


FEW = {"Adam": "adam", "Lion, cosine decay": ALL_RIVALS["Lion, cosine decay"]}


def funnel(run, out, **changes):
    settings = {"rules": 4, "promoted": 1, "seeds": 2, "stages": (1, 1), "progress": False}
    settings |= {"test": ("digits-autoencoder",), "test_seeds": 2, "rivals": FEW, **changes}
    return promote([run], ("table", "digits-mlp"), out=out, **settings)


@pytest.mark.slow
def test_rules_come_through_or_stop_and_nothing_is_trained_twice(run, tmp_path, monkeypatch):
    done = []

    def stop(self, rows):
        if len(done) == 12:
            raise KeyboardInterrupt
        done.append(rows)
        whole(self, rows)

    whole = Records.extend
    with monkeypatch.context() as killing:
        killing.setattr(Records, "extend", stop)
        with pytest.raises(KeyboardInterrupt):
            funnel(run, tmp_path / "killed")
    found, unbroken = (funnel(run, tmp_path / name) for name in ("killed", "whole"))
    assert found.as_json() == unbroken.as_json()
    assert found.comparison is not None and unbroken.comparison is not None
    assert found.comparison.rows == unbroken.comparison.rows

    with monkeypatch.context() as again:
        again.setattr(Records, "extend", lambda self, rows: pytest.fail("trained again"))
        assert funnel(run, tmp_path / "whole").as_json() == unbroken.as_json()

    (promoted,) = found.promoted
    assert promoted.entrant in found.entrants
    counts = [len(heat.rules) for _, heat in found.heats]
    assert counts == sorted(counts, reverse=True) and counts[0] == len(found.entrants)
    assert found.heats[-1][1].stays.sum() == 1
    names = {row.name: row.verdict for row in found.comparison.rows}
    assert names["Adam"] == AGAINST
    assert "found 1" in names or promoted.simplified == "adam"
    assert found.spent.keys() == {entrant.rule for entrant in found.entrants}
    assert 0 <= found.share_in_vain < 1
    content = json.loads((tmp_path / "whole" / "promotion.json").read_text())
    assert content["promoted"][0]["simplified"] == promoted.simplified
    page = (tmp_path / "whole" / "promotion.html").read_text()
    assert promoted.entrant.rule.partition(" ")[0] in page and "data:image/svg" in page
    text = (tmp_path / "whole" / "promotion.md").read_text()
    assert "test/results.md" in text
    if "found 1" in names:
        table = text.partition("ahead of a rival")[2]
        assert "| rival | found 1 |" in table and "| `Lion, cosine decay` |" in table


@pytest.mark.slow
def test_searches_take_turns_and_rules_that_do_the_same_enter_once(run, monkeypatch):
    import jax

    once = best_of_runs([run], 6, jax.local_devices())
    twice = best_of_runs([run, run], 6, jax.local_devices())
    assert [entrant.rule for entrant in once] == [entrant.rule for entrant in twice]
    assert all(np.isfinite(entrant.factor) and entrant.factor > 0 for entrant in once)
    assert [e.low for e in once] == sorted((e.low for e in once), reverse=True)
    programs = np.stack([pad_programs(entrant.program(), 3) for entrant in once])
    courses = Probes(3).courses(programs)
    assert np.tril(courses @ courses.T, -1).max() < ALIKE

    with monkeypatch.context() as known:
        known.setattr(entrants, "distinct", lambda ranked, tolerance: [])
        with pytest.raises(ValueError, match=f"{run} do nearly what known optimizers do: go on"):
            best_of_runs([run], 6, jax.local_devices())


def test_the_larger_tasks_are_the_suites_kinds():
    for name, workload in zip(LARGER, load_suite(list(LARGER)), strict=True):
        (small,) = load_suite([name.removesuffix("-large")])
        assert workload.task.name == name
        assert workload.horizon * workload.minibatch_size >= 8 * small.horizon
        assert workload.task.num_params >= small.task.num_params
