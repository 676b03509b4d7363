"""The end of a search: its best rules beside the optimizers that one would use without it."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from nos_optax.compare import Budget, Comparison, Rival, as_rival, compare
from nos_optax.compare.results import ALL_TASKS, BETTER, WORSE, interval
from nos_optax.grammar import Program, decode, encode
from nos_optax.grammar.program import pad_programs
from nos_optax.population import STATUSES, SuiteTrainer
from nos_optax.population.protocol import TRAINED
from nos_optax.population.suite import RATES
from nos_optax.search.config import FRESH_SEEDS, SearchConfig
from nos_optax.search.engines import Engine
from nos_optax.search.history import Candidate
from nos_optax.search.judge import collect, decimal
from nos_optax.search.loading import Given, load_workloads
from nos_optax.search.probes import Probes, are_alike
from nos_optax.search.race import Race
from nos_optax.search.results import STANDARD, Result
from nos_optax.search.rivals import BASELINE, RIVALS

HALVINGS = ((32, 2), (16, 4), (8, 8), (4, 16))  # rules that get so many seeds, of all that trained
TUNING_SEEDS = 5  # of two, a rival whose tasks differ much by seed misses its best rate
FIRST_SEED = 10**9  # nothing was chosen by these


def speed_finals(
    race: Race,
    config: SearchConfig,
    tasks: Sequence[Given],
    folder: Path,
    on_stage: Callable[[str], None] = lambda stage: None,
    suite: SuiteTrainer | None = None,
) -> Comparison | None:
    """Compare the best rules with tuned rivals, by seeds that nothing was chosen by.

    The finalists are those with the best bounds from below, after sequential halving. Each of them
    and of the rivals has seven rates, centred by the size of its updates and more beyond an end.

    Args:
        race: with the standings of all rules.
        config: what was searched.
        tasks: as for `load_workloads`.
        folder: of the run; the comparison's files go to `finals` in it.
        on_stage: called with a few words on what is being trained.
        suite: a trainer that has compiled the tasks already.

    Returns:
        None where there are to be no finalists, or no rule has learned.
    """
    if config.finalists == 0:
        return None
    halve(race)
    found = finalists(race)
    if not found:
        return None
    assert config.final_seeds is not None  # by the defaults
    rivals = [as_rival(text)._replace(name=name) for name, text in RIVALS.items()]
    rivals += [
        # By its program: what is written may take more iterations than the space has.
        Rival(f"found {i}", candidate.rule, decode(Program.from_words(candidate.tokens)))
        for i, candidate in enumerate(found, 1)
    ]
    budget = Budget(
        rates=RATES,
        tuning_seeds=TUNING_SEEDS,
        seeds=max(config.final_seeds, 2),  # for an interval
        measure="speed",
        centred=True,
        first_seed=FIRST_SEED,
    )
    return compare(
        rivals,
        load_workloads(config, tasks) if suite is None else suite.workloads,
        budget=budget,
        baseline=BASELINE,
        out=folder / "finals",
        accelerator=config.accelerator if config.engine == "local" else "cpu",
        progress=lambda words: on_stage(f"finals: {words}"),
        suite=suite,
    )


def halve(race: Race) -> None:
    """Give ever more seeds to ever fewer of the best rules."""
    for count, seeds in HALVINGS:
        while due := [
            key
            for key in list(race.standings.contenders())[:count]
            if race.standings.seeds(key) < seeds
        ]:
            race.train(due)


def finalists(race: Race) -> list[Candidate]:
    """Return the rules with the best bounds from below that do not what a rival does."""
    ranked = [candidate for candidate, _ in race.best()]
    return distinct(ranked, race.config.tolerance or 0.0)[: race.config.finalists]


class _Written(Protocol):
    @property
    def tokens(self) -> str: ...


Rule = TypeVar("Rule", bound=_Written)


def distinct(ranked: Sequence[Rule], tolerance: float) -> list[Rule]:
    """Return those rules that do nearly what no rival does, and none before them."""
    rivals = [as_rival(text).program() for text in RIVALS.values()]
    rivals = [program for program in rivals if program is not None]
    programs = rivals + [Program.from_words(rule.tokens).array for rule in ranked]
    longest = max(map(len, programs))
    probed = Probes(longest)(np.stack([pad_programs(program, longest) for program in programs]))
    seen = np.stack([np.frombuffer(found.behaviour, np.float32) for found in probed])
    new = [
        not are_alike(seen[i], seen[:i], tolerance).any() for i in range(len(rivals), len(programs))
    ]
    return list(itertools.compress(ranked, new))


def verdict(comparison: Comparison) -> str:
    """Return in words how the finalist that was the best before the fresh seeds compares."""
    whole = ALL_TASKS if ALL_TASKS in comparison.tasks else comparison.tasks[0]
    rows = {task: {r.name: r for r in comparison.of(task)} for task in comparison.tasks}
    row = rows[whole]["found 1"]
    assert row.difference is not None
    against = f"by {interval(row.difference)} doublings of {BASELINE}'s training"
    words = {
        BETTER: f"trains faster than tuned {BASELINE}, {against}",
        WORSE: f"trains more slowly than tuned {BASELINE}, {against}",
    }.get(
        row.verdict,
        f"is not told apart from tuned {BASELINE}: {interval(row.difference)} doublings",
    )
    said = f"found 1, {row.what}, {words} (Holm over {len(rows[whole]) - 1} rivals, n = {row.n})."
    each = {task: of["found 1"] for task, of in rows.items() if task != ALL_TASKS}
    if len(each) > 1:
        least = min(each.values(), key=lambda r: r.difference.mean if r.difference else 0.0)
        said += f" It does least on {least.task}: {interval(least.difference)}, {least.verdict}."
    return said


def as_results(comparison: Comparison | None, race: Race) -> list[Result]:
    """Return the rows over all tasks as rules that were trained again, the best mean first."""
    if comparison is None:
        return []
    contenders = {candidate.rule: (candidate, estimate) for candidate, estimate in race.best()}
    results = []
    for row in comparison.of(ALL_TASKS) or comparison.rows:
        tokens, searched = "", None
        if row.name not in RIVALS:
            candidate, estimate = contenders[row.what]
            tokens, searched = candidate.tokens, decimal(estimate.mean)
        elif (program := as_rival(row.what).program()) is not None:
            tokens = str(Program.from_array(program))
        results.append(
            Result(
                row.name,
                row.what,
                tokens,
                tuple(map(decimal, row.scores)),
                (decimal(row.rate),) * row.n,
                (STATUSES[TRAINED],) * row.n,
                searched,
            )
        )
    return results


def train_again(
    engine: Engine, programs: Mapping[str, Program], seeds: Sequence[int], epochs: int | None = None
) -> list[Result]:
    """Evaluate named programs with each of several seeds."""
    longest = max(len(p.iterations) for p in programs.values())
    population = np.stack([pad_programs(p.array, longest) for p in programs.values()])
    evaluations = [collect(engine.evaluate(population, seed, epochs)) for seed in seeds]
    return [
        Result(
            name,
            str(decode(program)),
            str(program),
            # As in the search, no reward is less than chance: one would decide a mean alone.
            tuple(max(t[i].reward, decimal(engine.chance)) for t in evaluations),
            tuple(t[i].learning_rate for t in evaluations),
            tuple(t[i].status for t in evaluations),
        )
        for i, (name, program) in enumerate(programs.items())
    ]


def paper_finals(engine: Engine, found: Sequence[Candidate], config: SearchConfig) -> list[Result]:
    """Train the best candidates and the standard optimizers again, with fresh seeds."""
    if config.finalists == 0:
        return []
    names = [f"found {i + 1}" for i in range(len(found))]
    programs = {name: Program.from_words(c.tokens) for name, c in zip(names, found, strict=True)}
    programs |= {name: encode(rule) for name, rule in STANDARD.items()}
    candidates = dict(zip(names, found, strict=True))
    assert config.final_seeds is not None  # by the defaults
    seeds = range(FRESH_SEEDS, FRESH_SEEDS + config.final_seeds)
    results = train_again(engine, programs, seeds, config.final_epochs)
    again = [
        r._replace(rule=candidates[r.name].rule, searched=candidates[r.name].reward)
        for r in results
        if r.name in candidates
    ]
    # Until here by their rewards in the search, which flatter; from here by the fresh seeds'.
    ranked = sorted(again, key=lambda r: -r.mean)
    numbered = [r._replace(name=name) for r, name in zip(ranked, names, strict=True)]
    return numbered + [r for r in results if r.name not in candidates]
