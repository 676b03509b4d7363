"""Can rules be searched for an environment, here arithmetic of three bits?

Claim:    the paper's conclusion proposes to search for update rules that work in an environment:
          under low-precision arithmetic of, say, 4 bits, or where workers can exchange only a few
          bits. It shows no such search.
Paper:    no figures.
Method:   searches with PPO in the environment and in the plain task, seed by seed with equal
          samples. The best rules of each search, by their reward there, train again with seeds that
          only choose: one rule of each search, in the task where it was searched, and the best
          standard optimizer in each task. A standard optimizer that a search writes itself is
          not among its rules, however it is written; whether one had a higher reward there than
          all of them is reported. Then all of these and all standard optimizers train in both
          tasks with other seeds, and only these are reported. Differences are to the standard
          optimizer chosen for that task, paired by seed, with t intervals of 95 %, not corrected
          for their number. Over searches, the interval counts both the searches and the seeds,
          which all rules share, as random (`crossed_interval`). Every rule has the same sweep of
          seven learning rates. Rewards and reports are of the same validation images, so intervals
          cover weights, order of the images and random numbers only. A child that fails has the
          chance level.
Environments (`--environment`), each made by `few_bits`:
          three_bits, four_bits: weights, the layers' inputs and the gradients of each parameter
          array are rounded to 7 or 15 levels (`low_precision`).
          one_bit: 10 workers with 10 images each send the signs of their gradients and one number
          for each parameter array (`compressed_exchange`).
Choice:   three bits, because there the standard optimizers lose visibly on digits.
Command:  python experiments/environments.py
          python experiments/environments.py --environment one_bit
          python experiments/environments.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted search stopped.
          One search, with all options of the searcher:
          python experiments/search.py --protocol paper --task environments:three_bits
Time:     22 minutes on 2 cores beside other jobs (one_bit: longer). --scale paper is for
          accelerators.
Writes:   experiments/results/environments_ENVIRONMENT_SCALE.json, .md and .png
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from few_bits import compressed_exchange, low_precision
from harness import command_line
from harness.statistics import claims, mean_and_error, t_interval
from harness.study import Study
from harness.tables import interval_text, mean_text, text_table
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy import stats

from nos_optax.compare.statistics import LEVEL, difference
from nos_optax.grammar import Program, encode
from nos_optax.population import (
    Task,
    image_task,
    load_digits,
    paper_child,
)
from nos_optax.search import (
    FRESH_SEEDS,
    Candidate,
    Engine,
    LocalEngine,
    SearchConfig,
    run_search,
    train_again,
)
from nos_optax.search.probes import Probes
from nos_optax.search.results import STANDARD, STANDARD_ITERATIONS, Result, best_candidates

PLAIN = "plain"


def four_bits() -> Task:
    """Return the digits under arithmetic of 4 bits."""
    return in_environment("four_bits", 1000)


def three_bits() -> Task:
    """Return the digits under arithmetic of 3 bits."""
    return in_environment("three_bits", 1000)


def one_bit() -> Task:
    """Return the digits with 10 workers that send a bit for each entry of the gradient."""
    return in_environment("one_bit", 1000)


def in_environment(name: str, train_examples: int) -> Task:
    """Return the paper's child on the digits, in an environment or in none."""
    digits = load_digits(train_examples=train_examples)
    net = paper_child(digits)
    task = image_task(digits, net)
    if name == PLAIN:
        return task
    if name == "one_bit":
        return compressed_exchange(task, workers=10, bits=1, tensors=net.unflatten)
    return low_precision(task, {"three_bits": 3, "four_bits": 4}[name], tensors=net.unflatten)


@dataclasses.dataclass(frozen=True)
class Arguments(Study):
    """Search update rules for an environment, and compare them there and in the plain task."""

    experiment = "environments"
    at_least = (
        *(("searches", 2), ("finalists", 1), ("choosing_seeds", 1), ("final_seeds", 2)),
        *(("train_examples", 1), ("epochs", 1), ("samples", 1), ("batch_size", 1)),
    )

    scale: Literal["paper", "small", "smoke"] = "small"
    """Sets all other numbers, unless they are given too."""
    environment: Literal["three_bits", "four_bits", "one_bit"] = "three_bits"
    """Where the children train; see the file's header."""
    train_examples: int = 1000
    """As in experiments/search.py, like the next ones."""
    epochs: int = 5
    minibatch_size: int = 100
    iterations: int = 2
    preset: Literal["default", "paper"] = "default"
    samples: int = 512
    """Candidates of each search."""
    batch_size: int = 32
    """Candidates per population."""
    searches: int = 5
    """Searches in the environment, and as many in the plain task; at least 2."""
    finalists: int = 5
    """Best rules of a search, of which one is chosen."""
    choosing_seeds: int = 10
    """Fresh seeds that choose it, and the best standard optimizer."""
    final_seeds: int = 20
    """Other fresh seeds, for what is reported; at least 2."""

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"{self.experiment}_{self.environment}_{self.scale}"

    @property
    def tasks(self) -> tuple[str, str]:
        """The environment, and none."""
        return self.environment, PLAIN

    def search_config(self, task: str, seed: int) -> SearchConfig:
        """Return one of the searches; its `task` says where it can go on by itself."""
        return SearchConfig(
            accelerator=self.accelerator,
            task=("digits" if task == PLAIN else f"environments:{task}",),
            protocol="paper",
            train_examples=self.train_examples,
            epochs=self.epochs,
            minibatch_size=self.minibatch_size,
            iterations=self.iterations,
            preset=self.preset,
            samples=self.samples,
            batch_size=self.batch_size,
            seed=seed,
            finalists=0,  # they are trained again here
            out=self.folder / f"{task}-{seed}",
            resume=True,
        )


PRESETS = {
    "small": Arguments(),
    "smoke": Arguments(
        scale="smoke",
        train_examples=200,
        epochs=1,
        samples=8,
        batch_size=4,
        searches=2,
        finalists=2,
        choosing_seeds=2,
        final_seeds=2,
    ),
    "paper": Arguments(scale="paper", samples=10_000, preset="paper"),
}


class Found(NamedTuple):
    """The rule that was chosen of a search's best."""

    task: str  # where it was searched
    seed: int
    candidate: Candidate | None  # None if no rule learned anything
    ahead: str | None = None  # the best standard optimizer in the search, if none of its rules was

    @property
    def name(self) -> str:
        return f"found in {self.task}, search {self.seed}"


def make_engine(arguments: Arguments, task: str) -> Engine:
    """Return where the children of a task train."""
    config = arguments.search_config(task, seed=0)
    iterations = max(arguments.iterations, STANDARD_ITERATIONS)
    return LocalEngine(config, iterations, [in_environment(task, arguments.train_examples)])


def run_searches(
    arguments: Arguments, task: str, engine: Engine, console: Console
) -> list[list[Candidate]]:
    """Run every search in a task that is not done yet; return the candidates of all."""
    runs = []
    for seed in range(arguments.searches):
        result = run_search(arguments.search_config(task, seed), engine=engine)
        # A folder may hold a longer search, of which this one is the beginning.
        candidates = result.candidates[: arguments.samples]
        best = max(candidates, key=lambda c: c.reward)
        last = np.mean([c.reward for c in candidates[-(-len(candidates) * 3 // 4) :]])
        console.print(
            f"{task}, search {seed}: mean reward of the last quarter {last:.3f}, best "
            f"{best.reward:.3f} {best.rule}, {result.seconds:.0f} s",
            markup=False,
        )
        runs.append(candidates)
    return runs


def choose(
    arguments: Arguments, task: str, engine: Engine, runs: Sequence[Sequence[Candidate]]
) -> tuple[list[Found], str]:
    """Return the rule of each search in a task, and the name of the standard optimizer there.

    The seeds that choose are no seeds of a search, and none of the final ones.
    """
    seeds = range(FRESH_SEEDS, FRESH_SEEDS + arguments.choosing_seeds)
    finalists = [best_candidates(candidates, arguments.finalists) for candidates in runs]
    programs = {c.fingerprint: Program.from_words(c.tokens) for some in finalists for c in some}
    programs |= {name: encode(rule) for name, rule in STANDARD.items()}
    means = {r.name: r.mean for r in train_again(engine, programs, seeds)}
    found = [
        Found(
            task,
            seed,
            max(some, key=lambda c: means[c.fingerprint], default=None),
            standard_ahead(run, some),
        )
        for seed, (run, some) in enumerate(zip(runs, finalists, strict=True))
    ]
    return found, max(STANDARD, key=means.__getitem__)


def standard_ahead(run: Sequence[Candidate], finalists: Sequence[Candidate]) -> str | None:
    """Return the standard optimizer with a higher reward in a search than its best other rule."""
    names = standard_fingerprints()
    written = [c for c in run if c.status == "trained" and c.fingerprint in names]
    best = max(written, key=lambda c: c.reward, default=None)
    if best is None or any(c.reward >= best.reward for c in finalists):
        return None
    return names[best.fingerprint]


@functools.cache
def standard_fingerprints() -> dict[str, str]:
    """Return the names of the standard optimizers by their fingerprints."""
    programs = [encode(rule, STANDARD_ITERATIONS).array for rule in STANDARD.values()]
    probed = Probes(STANDARD_ITERATIONS)(programs)
    return {p.fingerprint: name for p, name in zip(probed, STANDARD, strict=True)}


def measure(
    arguments: Arguments, engines: Mapping[str, Engine], found: Sequence[Found]
) -> dict[str, dict[str, Result]]:
    """Train what was chosen and the standard optimizers; return the results by task and name."""
    first = FRESH_SEEDS + arguments.choosing_seeds
    seeds = range(first, first + arguments.final_seeds)
    programs = {
        f.name: Program.from_words(f.candidate.tokens) for f in found if f.candidate is not None
    }
    programs |= {name: encode(rule) for name, rule in STANDARD.items()}
    return {
        task: {r.name: r for r in train_again(engine, programs, seeds)}
        for task, engine in engines.items()
    }


# What is reported.


def compare(
    results: Mapping[str, Mapping[str, Result]], standard: Mapping[str, str]
) -> dict[str, dict]:
    """Return each rule's scores and its differences to the standard optimizer of each task."""
    rows: dict[str, dict] = {}
    for task, of_task in results.items():
        reference = of_task[standard[task]].rewards
        for name, result in of_task.items():
            row = rows.setdefault(name, {"rule": result.rule, "tokens": result.tokens})
            row[task] = {
                "score": t_interval(result.rewards),
                "difference": None
                if name == standard[task]
                else difference(result.rewards, reference),
                "rewards": result.rewards,
                "learning_rates": result.learning_rates,
                "failed": len(result.statuses) - result.statuses.count("trained"),
            }
    return rows


def crossed_interval(values: np.typing.ArrayLike) -> tuple[float, float, float]:
    """Return the mean of searches x seeds, and the ends of its interval of 95 %.

    Both are random: `x_ij = mean + search_i + seed_j + noise_ij`. The variance of the mean is the
    sum of that of the searches' means and that of the seeds' means, which counts the noise twice
    and so is rather too large; its degrees of freedom are Satterthwaite's.

    Args:
        values: `[n, m]`, a row for each search, a column for each seed; at least two of each.
    """
    values = np.asarray(values, np.float64)
    errors = [mean_and_error(values.mean(axis=axis).tolist())[1] for axis in (1, 0)]
    variances, freedoms = np.square(errors), np.array(values.shape) - 1
    total, mean = float(variances.sum()), float(values.mean())
    if total == 0:
        return mean, mean, mean
    freedom = total**2 / float((variances**2 / freedoms).sum())
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * total**0.5
    return mean, mean - half, mean + half


def over_searches(
    rows: Mapping[str, dict],
    found: Sequence[Found],
    standard: Mapping[str, str],
    chances: Mapping[str, float],
) -> dict[str, dict]:
    """Return, of each task's scores, the differences over searches.

    A search that found nothing has the chance level.
    """
    summary: dict[str, dict] = {}
    environment, plain = dict.fromkeys(f.task for f in found)
    for task, name in standard.items():
        reference = np.array(rows[name][task]["rewards"])
        scores = {
            origin: np.array(
                [
                    rows[f.name][task]["rewards"]
                    if f.name in rows
                    else np.full_like(reference, chances[task])
                    for f in found
                    if f.task == origin
                ]
            )
            for origin in (environment, plain)
        }
        less_standard = {
            f"rules of {origin} less {name}": crossed_interval(some - reference)
            for origin, some in scores.items()
        }
        between = crossed_interval(scores[environment] - scores[plain])
        summary[task] = less_standard | {f"rules of {environment} less rules of {plain}": between}
    return summary


def verdict(
    rows: Mapping[str, dict],
    summary: Mapping[str, dict],
    found: Sequence[Found],
    standard: Mapping[str, str],
) -> str:
    """Say what the searches came to, whatever it is."""
    environment = found[0].task
    reference = standard[environment]
    names = [f.name for f in found if f.task == environment and f.name in rows]
    changes = {name: rows[name][environment]["difference"] for name in names}
    nothing = sum(f.candidate is None for f in found)
    lines = [
        f"In {environment}, against {reference}, the standard optimizer chosen there, the rules "
        f"found there: {claims(changes)}"
    ]
    for task, of_task in summary.items():
        differences = (f"{name} {say(interval)}" for name, interval in of_task.items())
        lines.append(f"Accuracy in {task}, mean over searches: {'; '.join(differences)}.")
    ahead = [f for f in found if f.ahead]
    names = ", ".join(f"{f.ahead} in {f.task}, search {f.seed}" for f in ahead)
    lines.append(
        f"In {len(ahead)} of {len(found)} searches a standard optimizer had a higher reward than "
        f"every other rule{f': {names}' if names else ''}."
    )
    if nothing:
        lines.append(f"{nothing} of {len(found)} searches found no rule that learns.")
    return " ".join(lines)


def say(interval: Sequence[float]) -> str:
    """Return a difference with its interval, and what it says."""
    _, low, high = interval
    sense = "above 0" if low > 0 else "below 0" if high < 0 else "not told apart from 0"
    return f"{interval_text(interval, 3)} ({sense})"


def results_table(rows: Mapping[str, dict], standard: Mapping[str, str]) -> Table:
    """Return the table of all rules, the best in the environment first."""
    columns = [c for task, name in standard.items() for c in (f"{task} ± se", f"- {name} [95 %]")]
    environment = next(iter(standard))

    def cells(row: dict) -> Iterator[str]:
        for task in standard:
            failed = f" ({row[task]['failed']} failed)" if row[task]["failed"] else ""
            yield mean_text(row[task]["rewards"], 3) + failed
            yield interval_text(row[task]["difference"], 3)

    ranked = sorted(rows.items(), key=lambda item: -item[1][environment]["score"][0])
    return text_table(
        ("rule", *columns, "update"), [(name, *cells(row), row["rule"]) for name, row in ranked]
    )


def draw(rows: Mapping[str, dict], standard: Mapping[str, str], title: str, path: Path) -> None:
    """Draw every rule's score in both tasks, with intervals, in the order of the environment."""
    environment = next(iter(standard))
    names = sorted(rows, key=lambda name: rows[name][environment]["score"][0])
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(standard), sharey=True)
    for axes, task in zip(panels, standard, strict=True):
        for place, name in enumerate(names):
            mean, low, high, _ = rows[name][task]["score"]
            color = "0.4" if name in STANDARD else "C1" if f"in {environment}," in name else "C0"
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=color)
        axes.axvline(rows[standard[task]][task]["score"][0], color="0.6", lw=0.8, ls=":")
        label = f"validation accuracy, intervals of 95 %; dotted: {standard[task]}"
        axes.set(title=task, xlabel=label)
    panels[0].set_yticks(range(len(names)), names)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)


def run(arguments: Arguments, console: Console) -> None:
    """Run the searches, train what was chosen, print the table and write the results."""
    start = time.perf_counter()
    engines = {task: make_engine(arguments, task) for task in arguments.tasks}
    found: list[Found] = []
    standard, searches = {}, {}
    for task, engine in engines.items():
        searches[task] = run_searches(arguments, task, engine, console)
        of_task, standard[task] = choose(arguments, task, engine, searches[task])
        found += of_task
    console.print("training the chosen rules and the standard optimizers")
    rows = compare(measure(arguments, engines, found), standard)
    seconds = time.perf_counter() - start

    chances = {task: engine.chance for task, engine in engines.items()}
    summary = over_searches(rows, found, standard, chances)
    title = (
        f"digits in the environment {arguments.environment} and plain, {arguments.searches} "
        f"searches of {arguments.samples} samples in each; accuracy over {arguments.final_seeds} "
        "fresh seeds ± standard error, differences to the standard optimizer chosen for the task"
    )
    content = {
        **engines[arguments.environment].facts,
        "seconds": seconds,
        "standard": standard,
        "found": [
            {"task": f.task, "search": f.seed, "name": f.name, "standard_ahead": f.ahead}
            | {"reward": f.candidate.reward if f.candidate else None}
            for f in found
        ],
        "over_searches": summary,
        "rules": rows,
        "rewards": {
            task: [[c.reward for c in run] for run in runs] for task, runs in searches.items()
        },
    }
    tables = {"Accuracies": results_table(rows, standard)}
    notes = [verdict(rows, summary, found, standard)]
    arguments.publish(console, title, tables, notes, content)
    heading = f"digits: rules found in {arguments.environment}, found in plain, and standard ones"
    draw(rows, standard, heading, arguments.picture)


if __name__ == "__main__":
    command_line.main(run, PRESETS)
