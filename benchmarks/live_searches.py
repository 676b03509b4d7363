"""Which strategy finds good rules soonest on the suite itself, by seeds that nothing chose?

Question: how good is the rule that a search would name after so many trainings, and after how many
          is that rule better than tuned Adam?
Method:   one search for each strategy and seed, in the default space and on the suite, with a race
          and without finals; a search's leader at any time is the rule with the best bound from
          below. Every leader trains with --fresh seeds that had no part in any search, at the rates
          that its first seed has chosen; rewards are differences to tuned Adam with the same seed.
          Strategies are compared by the mean over their searches, search by search (paired by
          seed), with t intervals of 95 %. A search has found a rule better than Adam from the first
          population on after which each leader's own interval over the fresh seeds is above 0.
          Only trainings count: repeats and rejections are free. The winner's curse is what a search
          believes of its last leader, by the race's estimate, more than fresh seeds do.
Command:  python benchmarks/live_searches.py
          python benchmarks/live_searches.py --strategy evolution --seeds 10 --trainings 600
          python benchmarks/live_searches.py --strategy random mymodule:MyStrategy
          The same command goes on where a killed one stopped, and more trainings or seeds go on
          from fewer: the runs are in --runs, as evolution-0 and so on, and may come from elsewhere.
Time:     two minutes for a search of 400 trainings on 2 cores.
Writes:   benchmarks/results/live_searches_TRAININGS.json, .md and .png
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console
from scipy import stats
from strategies.pictures import draw_bands

from nos_optax._command import make_console, one_message
from nos_optax._files import write_figure
from nos_optax.compare.records import write_results
from nos_optax.compare.statistics import Difference, difference
from nos_optax.grammar import Program
from nos_optax.population.accelerator import enable_compilation_cache
from nos_optax.search import Engine, History, LocalEngine, SearchConfig, run_search
from nos_optax.search.judge import decimal
from nos_optax.search.race import Race

FIRST_SEED = 850_000  # far from those of searches, of experiments and of Adam's tuning
CHECKED = (100, 200, 400, 600, 1000, 2000)  # trainings after which strategies are compared
ABLATIONS = ("strategies.ablations:NoNiches", "strategies.ablations:NoTrees")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare strategies by searches on the suite."""

    strategy: tuple[str, ...] = ("evolution", "random", "ppo", *ABLATIONS)
    """Names of nos_optax.search.STRATEGIES, or MODULE:CLASS; the others are compared with the
    first."""
    seeds: int = 5
    """Searches with each, from random starts."""
    trainings: int = 400
    """Distinct ones of each search."""
    fresh: int = 10
    """Seeds that judge the leaders."""
    runs: Path = Path("runs/live")
    """Where the searches are kept."""
    out: Path = Path(__file__).parent / "results"
    """Where the results go."""

    def __post_init__(self):
        if min(self.seeds, self.fresh) < 2 or self.trainings < 1 or not self.strategy:
            raise ValueError(
                f"give at least one strategy, 2 seeds, 2 fresh seeds and 1 training; got "
                f"{self.strategy}, {self.seeds}, {self.fresh} and {self.trainings}"
            )


class Leader(NamedTuple):
    """The best rule of a search, from some number of trainings on."""

    trained: int
    rule: str
    fresh: tuple[float, ...]  # doublings ahead of Adam, by fresh seeds


class Outcome(NamedTuple):
    """What a search came to."""

    leaders: list[Leader]  # in turn
    estimate: float  # of the last one, by the search's own race

    @property
    def curse(self) -> float:
        """What the search believes of its last leader more than fresh seeds do."""
        return self.estimate - float(np.mean(self.leaders[-1].fresh))


def search(strategy: str, seed: int, arguments: Arguments, engine: Engine) -> Outcome:
    """Run a search, or what is left of it, and return what it came to."""
    folder = arguments.runs / f"{strategy.split(':')[-1]}-{seed}"
    config = SearchConfig(
        strategy=strategy,
        seed=seed,
        trainings=arguments.trainings,
        finalists=0,
        watch=(),
        out=folder,
        resume=True,
    )
    if not is_there(folder, arguments.trainings):
        run_search(config, engine=engine)
    history = History(folder / "history.sqlite", read_only=True)
    try:
        return judge(config, history, engine, arguments)
    finally:
        history.close()


def is_there(folder: Path, trainings: int) -> bool:
    """Return whether a folder holds a search of so many trainings."""
    if not (folder / "history.sqlite").exists():
        return False
    history = History(folder / "history.sqlite", read_only=True)
    try:
        return sum(c.is_training for c in history.candidates()) >= trainings
    finally:
        history.close()


def judge(config: SearchConfig, history: History, engine: Engine, arguments: Arguments) -> Outcome:
    """Let the race of a search that is over run again, and judge who was ahead."""
    candidates, race, size = history.candidates(), Race(config, history, engine), config.batch_size
    judged: dict[str, tuple[float, ...]] = {}
    found: list[Leader] = []
    estimate = np.nan
    for first in range(0, len(candidates) - size + 1, size):
        race.settle(candidates[first : first + size])
        if race.trained > arguments.trainings + size:  # of a folder that holds a longer search
            break
        if not len(race.standings):
            continue
        best, estimated = race.best()[0]
        estimate = estimated.mean
        if found and found[-1].rule == best.rule:
            continue
        if best.rule not in judged:
            assert best.origin is not None  # it has trained
            key = race.forms.keys[best.origin]
            rates = np.array([history.training(key).sweep], np.float32)
            # As the race trains it: at the rates that its first seed has chosen.
            program = Program.from_words(race.forms.origins[key].tokens).array[None]
            parts = (
                engine.evaluate(program, FIRST_SEED + i, rates=rates)
                for i in range(arguments.fresh)
            )
            judged[best.rule] = tuple(decimal(x.reward[0]) for one in parts for _, x in one)
        found.append(Leader(race.trained, best.rule, judged[best.rule]))
    return Outcome(found, estimate)


def told(outcome: Outcome) -> str:
    """Return what came out of a search, in words."""
    found = outcome.leaders
    if not found:
        return "no rule learned"
    since = ahead_from(found)
    ahead = "not ahead of Adam" if since is None else f"ahead of Adam from training {since} on"
    return f"{found[-1].rule}, {np.mean(found[-1].fresh):+.2f} by fresh seeds, {ahead}"


def reward_after(found: list[Leader], trained: int, nothing: float) -> float:
    """Return the fresh mean of the leader after so many trainings."""
    before = [leader for leader in found if leader.trained <= trained]
    return float(np.mean(before[-1].fresh)) if before else nothing


def ahead_from(found: list[Leader]) -> int | None:
    """Return after how many trainings all leaders are better than Adam; None if never."""
    since = None
    for leader in found:
        if interval(leader.fresh)["low"] > 0:
            since = leader.trained if since is None else since
        else:
            since = None
    return since


def median(values: list[int | None]) -> float | None:
    """Return the median of numbers of trainings, those that are None being the largest."""
    middle = float(np.median([np.inf if x is None else x for x in values]))
    return middle if np.isfinite(middle) else None


def interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return a mean with its t interval of 95 %; nan of fewer than two values."""
    if len(values) < 2:
        return Difference(np.nan, np.nan, np.nan, 1.0)._asdict()
    return difference(list(values), [0.0] * len(values))._asdict()


def run(arguments: Arguments, console: Console) -> None:
    """Search, judge, print and write."""
    enable_compilation_cache()
    config = SearchConfig(watch=())
    engine = LocalEngine(config, config.space().iterations)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in arguments.strategy}
    for seed in range(arguments.seeds):
        for name in arguments.strategy:
            outcomes[name].append(search(name, seed, arguments, engine))
            console.print(f"{name}, seed {seed}: {told(outcomes[name][-1])}", markup=False)
    found = {name: [x.leaders for x in searches] for name, searches in outcomes.items()}
    steps = [n for n in CHECKED if n < arguments.trainings] + [arguments.trainings]
    curves = {
        name: np.array([[reward_after(s, n, engine.chance) for n in steps] for s in searches])
        for name, searches in found.items()
    }
    reference = next(iter(curves.values()))
    rows = {
        name: {
            "rewards": {str(n): interval(y[:, i]) for i, n in enumerate(steps)},
            "less_the_first": {
                str(n): interval(y[:, i] - reference[:, i]) for i, n in enumerate(steps)
            },
            "ahead_from": [ahead_from(s) for s in found[name]],
            "median_ahead_from": median([ahead_from(s) for s in found[name]]),
            "curse": interval([x.curse for x in outcomes[name] if x.leaders]),
            "last": [told(x) for x in outcomes[name]],
            "searches": [[leader._asdict() for leader in s] for s in found[name]],
        }
        for name, y in curves.items()
    }
    name = f"live_searches_{arguments.trainings}"
    text = as_markdown(rows, arguments, steps)
    console.print(text, markup=False)
    write_results(arguments.out, name, {"facts": engine.facts, "strategies": rows}, text)
    draw(found, arguments, engine.chance, arguments.out / f"{name}.png")
    engine.close()


def as_markdown(rows: dict[str, dict], arguments: Arguments, steps: list[int]) -> str:
    """Return the table."""
    first = arguments.strategy[0]
    heads = [f"after {n}" for n in steps]
    lines = [
        f"{arguments.seeds} searches with each strategy; doublings ahead of tuned Adam by "
        f"{arguments.fresh} fresh seeds, the mean over the searches with 95 % intervals.",
        "",
        f"| strategy | {' | '.join(heads)} | less {first}'s, at the end | better than Adam from "
        "training, the median | searches that are, at the end | winner's curse |",
        "|---|" + "---|" * (len(heads) + 4),
    ]
    for name, row in rows.items():
        cells = [words(row["rewards"][str(n)]) for n in steps]
        cells.append("" if name == first else words(row["less_the_first"][str(steps[-1])]))
        middle, ahead = row["median_ahead_from"], row["ahead_from"]
        cells.append("never" if middle is None else f"{middle:.0f}")
        cells.append(f"{sum(x is not None for x in ahead)} of {len(ahead)}")
        cells.append(words(row["curse"]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def words(row: dict[str, float]) -> str:
    """Return a mean and its interval."""
    return f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def draw(
    found: dict[str, list[list[Leader]]], arguments: Arguments, nothing: float, path: Path
) -> None:
    """Draw the leaders' fresh rewards over the trainings: means, and their intervals as bands."""
    steps, bands = np.arange(arguments.trainings + 1), {}
    for name, searches in found.items():
        curves = np.array([[reward_after(s, n, nothing) for n in steps] for s in searches])
        mean = curves.mean(axis=0)
        half = stats.t.ppf(0.975, len(curves) - 1) * stats.sem(curves, axis=0)
        bands[name.split(":")[-1]] = mean, mean - half, mean + half
    label = "doublings ahead of tuned Adam, fresh seeds"
    figure, axes = draw_bands(bands, steps, label, opacity=0.12)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set_ylim(-1, 1)
    write_figure(path, figure, dpi=150)


def main() -> None:
    """Search with each strategy, and say how they compare."""
    with one_message():
        run(tyro.cli(Arguments, description=Arguments.__doc__), make_console())


if __name__ == "__main__":
    main()
