"""Does the controller learn, and does it find more? PPO, REINFORCE, evolution and random search.

Claim:    a controller trained by policy gradients writes better and better rules. The paper shows
          the rise of its mean reward (figure 4), without numbers; neither random search nor
          evolution is beside it there.
Method:   one search for each strategy and seed, all with the same number of samples, the same
          child, protocol and compiled program. A search's seed is that of its children too, so
          strategies are compared seed by seed: intervals are t intervals of 95 % over the seeds'
          differences to random search. Single rewards flatter: the best rules of each search
          are trained again with fresh seeds, which choose one of them; that one is trained again
          with other fresh seeds, and these give the number that is reported. A search whose rules
          all failed has found chance. A rule is good if its reward in the search is at most 0.01
          below that of Adam with the same seed; repeats of a rule count once.
Command:  python experiments/compare_strategies.py
          python experiments/compare_strategies.py --dataset cifar10 --data-dir DIR
          python experiments/compare_strategies.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted one stopped: the runs are in --out.
Time:     about 10 minutes for digits and 20 for CIFAR-10 on 2 cores. --scale paper is for
          accelerators: the full protocol and 10,000 samples a search.
Writes:   experiments/results/compare_strategies_DATASET_SCALE.json, .md, .png and .jsonl (the
          rewards of every search)
"""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from nos_optax.grammar import Program, encode
from nos_optax.search import (
    FRESH_SEEDS,
    AcceleratorError,
    Candidate,
    Engine,
    LocalEngine,
    SearchConfig,
    TaskConfig,
    enable_compilation_cache,
    load_dataset,
    search,
    train_again,
)
from nos_optax.search.report import STANDARD, STANDARD_ITERATIONS, Result

BASELINE = "random"
TOLERANCE = 0.01  # of accuracy, below Adam's
WINDOW = 64  # samples of the moving mean
BEST = 10  # rules in the mean of the best
LEVELS = (0.25, 0.5, 0.75, 0.9)  # of the way from chance to Adam's reward


@dataclasses.dataclass(frozen=True)
class Arguments(TaskConfig):
    """Compare search strategies at equal numbers of samples, over several seeds."""

    scale: Literal["paper", "small", "smoke"] = "small"
    """Sets all other numbers, unless they are given too."""
    strategies: tuple[str, ...] = ("ppo", "reinforce", "evolution", BASELINE)
    """As in experiments/search.py."""
    samples: int = 512
    """Candidates of each search."""
    seeds: int = 5
    """Searches with each strategy, at least 2."""
    batch_size: int = 32
    """Candidates per population."""
    iterations: int = 2
    """Length of a rule."""
    preset: Literal["default", "paper"] = "default"
    """Of the controllers."""
    finalists: int = 3
    """Best rules of a search that are trained again."""
    final_seeds: int = 5
    """Fresh seeds to choose one of them, and as many others to measure it."""
    out: Path | None = None
    """Folder of the runs (default: runs/compare_strategies_DATASET_SCALE)."""
    results: Path = Path(__file__).parent / "results"
    """Folder of the tables and the picture."""

    def __post_init__(self):
        super().__post_init__()
        for name, least in (("seeds", 2), ("finalists", 1), ("final_seeds", 2), ("samples", 4)):
            if getattr(self, name) < least:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} must be at least {least}, got {getattr(self, name)}")
        if BASELINE not in self.strategies:
            raise ValueError(f"--strategies must include {BASELINE}, got {self.strategies}")

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"compare_strategies_{self.dataset}_{self.scale}"

    def search_config(self, strategy: str, seed: int) -> SearchConfig:
        """Return one of the searches."""
        task = {f.name: getattr(self, f.name) for f in dataclasses.fields(TaskConfig)}
        return SearchConfig(
            **task,
            strategy=strategy,
            seed=seed,
            samples=self.samples,
            batch_size=self.batch_size,
            iterations=self.iterations,
            preset=self.preset,
            finalists=0,  # they are trained again here, those of all searches together
            final_seeds=1,
            out=(self.out or Path("runs") / self.name) / f"{strategy}-{seed}",
            resume=True,
        )


SMOKE = Arguments(
    scale="smoke",
    samples=8,
    seeds=2,
    batch_size=4,
    train_examples=200,
    sweep_examples=200,
    epochs=1,
    finalists=2,
    final_seeds=2,
)
PAPER = Arguments(scale="paper", samples=10_000, preset="paper", finalists=5)
PRESETS = {
    ("digits", "smoke"): SMOKE,
    ("digits", "small"): Arguments(),
    ("digits", "paper"): PAPER,
    ("cifar10", "smoke"): dataclasses.replace(SMOKE, dataset="cifar10"),
    ("cifar10", "small"): Arguments(
        dataset="cifar10",
        samples=160,
        batch_size=16,
        train_examples=1000,
        sweep_examples=300,
        epochs=2,
        minibatch_size=20,
        finalists=2,
        final_seeds=3,
    ),
    ("cifar10", "paper"): dataclasses.replace(PAPER, dataset="cifar10"),
}


# Validation images, where not all: of these small children, all would take most of the time.
VALIDATION = {("cifar10", "small"): 1000}


# Statistics over seeds.


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(np.mean(values)), float(stats.sem(values))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of independent values, and the ends of its t interval."""
    mean, error = mean_and_error(values)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def difference(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean paired difference, and the ends of its interval."""
    return t_interval(np.subtract(values, baseline).tolist())


# What is measured of one search.


def moving_mean(rewards: Sequence[float], window: int) -> np.ndarray:
    """Return the mean of the last `window` rewards, from the sample on that completes the first."""
    return np.convolve(rewards, np.full(window, 1 / window), mode="valid")


def samples_to_reach(rewards: Sequence[float], level: float, window: int) -> int | None:
    """Return after how many samples the moving mean first reaches a level; None if never."""
    reached = moving_mean(rewards, window) >= level
    return int(reached.argmax()) + window if reached.any() else None


def good_so_far(candidates: Sequence[Candidate], level: float, identity: str) -> np.ndarray:
    """Return how many different rules of at least a level were seen, after each sample.

    `identity` is the field that tells rules apart: by algebra `digest`, by updates `fingerprint`.
    """
    seen: set[str] = set()
    counts = []
    for candidate in candidates:
        if candidate.status == "trained" and candidate.reward >= level:
            seen.add(getattr(candidate, identity))
        counts.append(len(seen))
    return np.array(counts)


def mean_of_best(candidates: Sequence[Candidate], count: int, chance: float) -> np.ndarray:
    """Return the mean of the `count` best different updates so far; chance for those missing."""
    best, means = [chance] * count, []
    for candidate in candidates:
        if candidate.origin == candidate.id:  # trained for itself: no repeat, not rejected
            best = sorted([*best, candidate.reward])[1:]
        means.append(np.mean(best))
    return np.array(means)


def best_rules(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the best trained candidates with different updates, the standard ones included."""
    trained = [c for c in candidates if c.status == "trained" and c.origin == c.id]
    return sorted(trained, key=lambda c: -c.reward)[:count]


class Run(NamedTuple):
    """One search."""

    strategy: str
    seed: int
    candidates: list[Candidate]
    adam: float  # its reward with this seed

    @property
    def rewards(self) -> list[float]:
        return [c.reward for c in self.candidates]

    def measure(self, chance: float) -> dict:
        """Return what a search is judged by, but for its best rule."""
        evaluated = sum(c.origin == c.id for c in self.candidates)
        rejected = sum(c.status == "rejected" for c in self.candidates)
        good, window = self.adam - TOLERANCE, min(WINDOW, len(self.candidates) // 4)
        levels = [chance + level * (self.adam - chance) for level in LEVELS]
        return {
            "quarters": [float(q.mean()) for q in np.array_split(self.rewards, 4)],
            "mean": float(np.mean(self.rewards)),
            "evaluated": evaluated,
            "rejected": rejected,
            "repeated": len(self.candidates) - evaluated - rejected,
            "trained": sum(c.status == "trained" and c.origin == c.id for c in self.candidates),
            "good_rules": int(good_so_far(self.candidates, good, "digest")[-1]),
            "good_updates": int(good_so_far(self.candidates, good, "fingerprint")[-1]),
            "samples_to_reach": [samples_to_reach(self.rewards, x, window) for x in levels],
        }


# The experiment.


def make_engine(arguments: Arguments) -> Engine:
    """Return where all searches are evaluated: compiled once."""
    config = arguments.search_config(BASELINE, seed=0)
    iterations = max(arguments.iterations, STANDARD_ITERATIONS)
    images = VALIDATION.get((arguments.dataset, arguments.scale))
    dataset = load_dataset(config)
    # The first validation images are a random part of all.
    few = dataclasses.replace(
        dataset,
        validation_images=dataset.validation_images[:images],
        validation_labels=dataset.validation_labels[:images],
    )
    return LocalEngine(config, iterations, few)


def run_searches(arguments: Arguments, engine: Engine, console: Console) -> list[Run]:
    """Run every search that is not done yet; return all."""
    adam = train_again(engine, {"Adam": encode("adam")}, range(arguments.seeds))[0].rewards
    runs = []
    for seed in range(arguments.seeds):
        for strategy in arguments.strategies:
            result = search(arguments.search_config(strategy, seed), engine=engine)
            # A folder may hold a longer search, of which this one is the beginning.
            runs.append(Run(strategy, seed, result.candidates[: arguments.samples], adam[seed]))
            quarters = [f"{q:.3f}" for q in runs[-1].measure(engine.chance)["quarters"]]
            console.print(
                f"seed {seed} {strategy:9}: mean reward by quarter {' '.join(quarters)}, "
                f"{result.seconds:.0f} s"
            )
    return runs


def train_finalists(
    arguments: Arguments, engine: Engine, runs: Sequence[Run]
) -> tuple[list[Result | None], list[Result]]:
    """Return the best rule of each run, None if none was trained, and the standard optimizers."""
    count = arguments.final_seeds
    choosing = range(FRESH_SEEDS, FRESH_SEEDS + count)
    measuring = range(FRESH_SEEDS + count, FRESH_SEEDS + 2 * count)
    finalists = [best_rules(run.candidates, arguments.finalists) for run in runs]
    # Runs that found the same rule share its training.
    programs = {c.fingerprint: Program.from_words(c.tokens) for some in finalists for c in some}
    means = {r.name: r.mean for r in train_again(engine, programs, choosing)} if programs else {}
    chosen = [
        max((c.fingerprint for c in some), key=means.__getitem__, default=None)
        for some in finalists
    ]
    standard = {name: encode(rule) for name, rule in STANDARD.items()}
    again = standard | {name: programs[name] for name in chosen if name is not None}
    results = {r.name: r for r in train_again(engine, again, measuring)}
    best = [None if name is None else results[name] for name in chosen]
    return best, [results[name] for name in standard]


def summarise(measures: Mapping[str, list[dict]]) -> dict[str, dict]:
    """Return of each strategy the statistics over its runs; their order is that of the seeds."""
    summary = {}
    for strategy, rows in measures.items():
        base = measures[BASELINE]
        quarters, last = np.array([r["quarters"] for r in rows]), [r["quarters"][-1] for r in rows]
        scalars = ("mean", "best", "good_rules", "good_updates")
        counts = ("evaluated", "trained", "repeated", "rejected")
        summary[strategy] = {
            "quarters": [mean_and_error(q) for q in quarters.T],
            **{key: mean_and_error([r[key] for r in rows]) for key in (*scalars, *counts)},
            "samples_to_reach": [
                median_reached([r["samples_to_reach"][i] for r in rows]) for i in range(len(LEVELS))
            ],
            "minus_random": {
                "last_quarter": difference(last, [r["quarters"][-1] for r in base]),
                **{k: difference([r[k] for r in rows], [r[k] for r in base]) for k in scalars},
            },
        }
    return summary


def median_reached(samples: Sequence[int | None]) -> tuple[float | None, int]:
    """Return the median of the samples needed, None if it is never, and how many runs got there."""
    median = float(np.median([np.inf if s is None else s for s in samples]))
    return median if np.isfinite(median) else None, sum(s is not None for s in samples)


# What is shown.


def learning_table(summary: Mapping[str, dict], title: str) -> Table:
    """Return the table of how the mean reward rises."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("strategy", *(f"quarter {i}" for i in (1, 2, 3, 4)), "last - random [95 %]"):
        table.add_column(column)
    for level in LEVELS:
        table.add_column(f"to {level:.0%}", justify="right")
    for strategy, s in summary.items():
        table.add_row(
            strategy,
            *(f"{mean:.3f} ± {error:.3f}" for mean, error in s["quarters"]),
            _interval(strategy, s["minus_random"]["last_quarter"]),
            *(f"{'never' if m is None else f'{m:.0f}'} ({n})" for m, n in s["samples_to_reach"]),
        )
    return table


def finds_table(summary: Mapping[str, dict], standard: Sequence[Result]) -> Table:
    """Return the table of what was found."""
    table = Table(box=box.SIMPLE)
    for column in ("strategy", "best rule, fresh seeds", "- random [95 %]"):
        table.add_column(column)
    for column in ("good rules", "good updates", "evaluated", "repeated", "rejected"):
        table.add_column(column, justify="right")
    for strategy, s in summary.items():
        table.add_row(
            strategy,
            "{:.4f} ± {:.4f}".format(*s["best"]),
            _interval(strategy, s["minus_random"]["best"]),
            *("{:.1f} ± {:.1f}".format(*s[key]) for key in ("good_rules", "good_updates")),
            *(f"{s[key][0]:.0f}" for key in ("evaluated", "repeated", "rejected")),
        )
    for result in sorted(standard, key=lambda r: -r.mean):
        error = result.deviation / np.sqrt(len(result.rewards))
        table.add_row(result.name, f"{result.mean:.4f} ± {error:.4f}")
    return table


def _interval(strategy: str, interval: Sequence[float]) -> str:
    return "" if strategy == BASELINE else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)


def markdown(table: Table) -> str:
    """Return a table of text as Markdown."""
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    rows = [[str(column.header) for column in table.columns], ["---"] * len(cells)]
    rows += [list(row) for row in zip(*cells, strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def draw(arguments: Arguments, runs: Sequence[Run], chance: float, path: Path) -> None:
    """Draw the mean over seeds of three curves, in bands of 95 %."""
    from matplotlib.figure import Figure

    window = min(WINDOW, arguments.samples // 4)
    adam = float(np.mean([run.adam for run in runs]))
    panels = {
        f"mean reward of the last {window} samples": lambda r: moving_mean(r.rewards, window),
        f"mean of the {BEST} best rules so far": lambda r: mean_of_best(r.candidates, BEST, chance),
        "different rules as good as Adam": lambda r: good_so_far(
            r.candidates, r.adam - TOLERANCE, "fingerprint"
        ),
    }
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (label, curve) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for i, strategy in enumerate(arguments.strategies):
            curves = np.array([curve(run) for run in runs if run.strategy == strategy])
            bands = np.array([t_interval(column) for column in curves.T])
            samples = np.arange(arguments.samples - len(bands), arguments.samples) + 1
            axes.plot(samples, bands[:, 0], color=f"C{i}", label=strategy)
            axes.fill_between(samples, *bands[:, 1:].T, color=f"C{i}", alpha=0.2, lw=0)
        axes.set(xlabel="samples", ylabel=label, xlim=(0, arguments.samples))
    for axes in figure.axes[:2]:
        axes.axhline(adam, color="0.3", lw=0.8, ls=":")
        axes.annotate("Adam", (0, adam), (2, 2), textcoords="offset points", color="0.3")
    for axes in figure.axes:  # of few seeds, the bands reach much farther
        axes.set_ylim(0, 1.25 * np.max([np.max(line.get_ydata()) for line in axes.lines]) + 1e-9)
    figure.axes[0].legend(frameon=False)
    figure.suptitle(f"{arguments.dataset}: mean over {arguments.seeds} seeds, bands of 95 %")
    figure.savefig(path, dpi=150)


def write(arguments: Arguments, files: Mapping[str, str]) -> None:
    """Write text files, by their suffix."""
    for suffix, text in files.items():
        (arguments.results / f"{arguments.name}.{suffix}").write_text(text)


def run(arguments: Arguments, console: Console) -> None:
    """Run the searches, print the tables and write the results."""
    start = time.perf_counter()
    engine = make_engine(arguments)
    runs = run_searches(arguments, engine, console)
    console.print("training the best again")
    best, standard = train_finalists(arguments, engine, runs)
    seconds = time.perf_counter() - start

    measures: dict[str, list[dict]] = {strategy: [] for strategy in arguments.strategies}
    for one, result in zip(runs, best, strict=True):
        found = {"best": result.mean, "rule": result.rule} if result else {"best": engine.chance}
        measures[one.strategy].append({"seed": one.seed} | one.measure(engine.chance) | found)
    summary = summarise(measures)
    title = (
        f"{arguments.dataset}, {arguments.samples} samples, {arguments.seeds} seeds: mean reward ± "
        "standard error; samples until its moving mean is a part of the way from chance to Adam "
        "(and in how many searches)"
    )
    tables = learning_table(summary, title), finds_table(summary, standard)
    console.print(*tables)
    console.print(f"{seconds:.0f} s")

    arguments.results.mkdir(parents=True, exist_ok=True)
    content = {
        "arguments": {k: v for k, v in dataclasses.asdict(arguments).items() if k not in PATHS},
        **engine.facts,
        "seconds": seconds,
        "adam": [one.adam for one in runs if one.strategy == BASELINE],
        "standard": {r.name: r.rewards for r in standard},
        "summary": summary,
        "runs": measures,
    }
    rows = ({"strategy": r.strategy, "seed": r.seed, "rewards": r.rewards} for r in runs)
    write(
        arguments,
        {
            "json": json.dumps(content, indent=2, allow_nan=False) + "\n",
            "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "md": f"{title}\n\n" + "\n".join(map(markdown, tables)),
        },
    )
    draw(arguments, runs, engine.chance, arguments.results / f"{arguments.name}.png")


PATHS = ("data_dir", "out", "results")  # they say nothing about the results


def parse() -> Arguments:
    """Parse the command line; what is not given is the preset's."""
    given = tyro.cli(Arguments, description=Arguments.__doc__)
    preset = PRESETS[given.dataset, given.scale]
    return tyro.cli(Arguments, default=preset, description=Arguments.__doc__)


def main() -> None:
    """Parse the command line and run; a user's mistake is one message and exit code 1 or 2."""
    console = Console()
    try:
        enable_compilation_cache()
        run(parse(), console if console.is_terminal else Console(width=160))
    except (ValueError, OSError, AcceleratorError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")


if __name__ == "__main__":
    main()
