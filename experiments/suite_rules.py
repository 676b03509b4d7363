"""Are the rules that searches find on the suite better than Adam, also where they were not sought?

Claim:    none of the paper's. Two searches on the suite from random starts, of 5,251 and 9,422
          distinct trainings on an H100 (benchmarks/results/gpu_search_h100_*.jsonl.xz), ended in
          one family: the sum of the signs of the gradient and of its average, with linear decay.
Method:   each rule trains on each task under the suite's protocol: seven rates centred by the size
          of its updates, the three best of them to the end, two weights a seed. The seeds are fresh
          ones, the same for all rules. A score is how much faster than tuned Adam a rule trains, in
          doublings, Adam having the same choice of rates: 0 is Adam, 1 is twice as fast. Tasks of
          the suite chose the found rules; the watch tasks are of other kinds and chose nothing,
          but were looked at while the suite was built, so they are no final test. Intervals of 95 %
          are of Student's t over seeds; a rule is better or worse than Adam where Holm's procedure
          over all rules of a column says so at 5 %. Finer than the rates' half decades nobody is
          tuned, and no rule has tuned betas.
Command:  python experiments/suite_rules.py
          python experiments/suite_rules.py --scale smoke    (a minute; says nothing)
          python experiments/suite_rules.py --rules "adam" "sign(m)" --tasks table transformer
Time:     about 10 minutes on 2 cores.
Writes:   experiments/results/suite_rules_SCALE.json, .jsonl (what a killed run goes on from), .md
          and .png
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from harness import command_line
from harness.statistics import between_halves, decided, rank_correlation, t_interval
from harness.study import Study
from harness.tables import text_table
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from nos_optax.compare.records import Records
from nos_optax.grammar import encode
from nos_optax.grammar.program import MAX_ITERATIONS, pad_programs
from nos_optax.population.reference import reference_store
from nos_optax.population.suite import SUITE, WATCH, SuiteTrainer, Workload, load_suite
from nos_optax.search import select_devices

FIRST_SEED = 500_000  # far from those of searches and of Adam's tuning
# A search's reward, but for rules that are dead on one task, which have the least reward of all.
SUITE_MEAN, WATCH_MEAN = "mean over the suite", "mean over the watch tasks"
FOUND = (
    "ld * (sign(g) + sign(m))",
    "ld * clip(clip(sign(g) + sign(m), 1e-5) + log(sign(m)), 1e-4)",
    "ld * clip(clip(m, 1e-5) + clip(g, 1e-5) * exp(0.01 * w), 1e-3)",
    "sqrt(cd) * sign(sign(exp(g^2) * adam) + sign(g^3))",
)
RIVALS = (
    "adam",
    "ld * adam",
    "cd * adam",
    "adam + rmsprop",
    "ld * (adam + rmsprop)",
    "(1 + sign(g) * sign(m)) * adam",
    "ld * ((1 + sign(g) * sign(m)) * adam)",
    "sign(m)",
    "ld * sign(m)",
    "sign(g) + sign(m)",
    "ld * m",
    "exp(sign(g) * sign(m)) * g",
    "(1 + sign(g) * sign(m)) * g",
)


@dataclasses.dataclass(frozen=True)
class Arguments(Study):
    """Compare rules with tuned Adam on the suite's tasks and on others."""

    experiment = "suite_rules"
    at_least = (("seeds", 2), ("steps", 8))
    may_grow = ("scale",)  # the records lie beside the results, by its name

    scale: Literal["small", "smoke"] = "small"
    """Sets all other numbers, unless they are given too."""
    rules: tuple[str, ...] = FOUND + RIVALS
    """In infix form, of at most four iterations."""
    tasks: tuple[str, ...] = (*SUITE, *WATCH)
    """Tasks of the suite, and those that it watches."""
    seeds: int = 10
    """Fresh ones, each two weights and orders of the data; at least 2."""
    steps: int | None = None
    """Horizon of every task (default: its own)."""


PRESETS = {
    "small": Arguments(),
    "smoke": Arguments(
        scale="smoke",
        rules=("adam", "ld * (sign(g) + sign(m))"),
        tasks=("table",),
        seeds=2,
        steps=8,
    ),
}


class Score(NamedTuple):
    """A rule on a task, or on the mean of several."""

    mean: float
    low: float
    high: float
    verdict: str  # better, worse or undecided, against Adam


def encode_rules(rules: tuple[str, ...]) -> np.ndarray:
    """Return programs `int32[P, 4, 5]`."""
    programs = [pad_programs(encode(rule).array, MAX_ITERATIONS) for rule in rules]
    return np.stack(programs)


def measure(arguments: Arguments, records: Records, console: Console) -> dict[str, np.ndarray]:
    """Return the rewards of all rules on each task, `[seeds, P]`; what is on record stays."""
    programs = encode_rules(arguments.rules)
    rewards = {}
    for name in arguments.tasks:
        trainer, rows = None, []
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
            key = {"task": name, "seed": seed}
            kept = records.get(key)
            if kept is None:
                if trainer is None:
                    trainer = SuiteTrainer(
                        [_workload(name, arguments)],
                        MAX_ITERATIONS,
                        store=reference_store(),
                    )
                    trainer.compile()
                found = trainer.evaluate(programs, seed)
                kept = {"rewards": found.reward.tolist()}
                records.append(key, kept)
            rows.append(kept["rewards"])
        rewards[name] = np.array(rows)
        console.print(f"{name}: {arguments.seeds} seeds of {len(programs)} rules")
    return rewards


def _workload(name: str, arguments: Arguments) -> Workload:
    (workload,) = load_suite([name])
    steps = arguments.steps or workload.horizon
    return dataclasses.replace(workload, horizon=steps)


def score(rewards: np.ndarray) -> list[Score]:
    """Return what the rewards `[seeds, P]` of all rules say; 0 is Adam.

    Adam itself is always at 0, without a spread: it is none of the family that Holm's procedure
    corrects for.
    """
    intervals = {i: t_interval(column) for i, column in enumerate(rewards.T)}
    own = {str(i): x for i, x in intervals.items() if np.any(rewards[:, i] != 0)}
    verdicts = decided(own)
    return [Score(*x[:3], verdicts.get(str(i), "Adam")) for i, x in intervals.items()]


def columns(rewards: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the means over the suite and over the watch tasks, then each task, `[seeds, P]`."""
    groups = {SUITE_MEAN: SUITE, WATCH_MEAN: WATCH}
    means = {
        name: np.mean([rewards[task] for task in members if task in rewards], axis=0)
        for name, members in groups.items()
        if any(task in rewards for task in members)
    }
    return means | dict(rewards)


def signal(rewards: np.ndarray) -> dict[str, float]:
    """Return how well rewards `[seeds, P]` tell rules apart.

    Returns:
        The standard deviation of the rules' means over the median one of a rule's seeds, and the
        mean rank correlation of the means over one half of the seeds and over the other.
    """
    spread = rewards.std(axis=0, ddof=1)
    return {
        "signal_to_noise": float(rewards.mean(axis=0).std(ddof=1) / np.median(spread[spread > 0])),
        "halves_rank_correlation": between_halves(rewards.T),
    }


def results_table(rules: tuple[str, ...], scores: Mapping[str, list[Score]]) -> Table:
    """Return all scores, the rules in the order of the first column."""
    first = next(iter(scores.values()))
    order = sorted(range(len(rules)), key=lambda i: -first[i].mean)
    rows = [(rules[i], *(_cell(column[i]) for column in scores.values())) for i in order]
    return text_table(("rule", *scores), rows)


def _cell(score: Score) -> str:
    mark = {"better": " +", "worse": " -"}.get(score.verdict, "")
    return f"{score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]{mark}"


def draw(rules: tuple[str, ...], scores: Mapping[str, list[Score]], path: Path) -> None:
    """Draw the means over the suite and over the watch tasks, with their intervals."""
    shown = [name for name in (SUITE_MEAN, WATCH_MEAN) if name in scores]
    first = scores[shown[0]]
    order = sorted(range(len(rules)), key=lambda i: first[i].mean)
    figure = Figure((9, 1.4 + 0.32 * len(rules)), layout="constrained")
    axes = figure.subplots()
    for k, name in enumerate(shown):
        for y, i in enumerate(order):
            mean, low, high, _ = scores[name][i]
            at, colour = y + 0.16 * (0.5 - k), f"C{k}"
            axes.plot((low, high), (at, at), color=colour, lw=1.5)
            axes.plot(mean, at, "os"[k], color=colour, ms=5, label=None if y else name)
    axes.axvline(0, color="0.6", lw=1)
    axes.set_yticks(range(len(rules)), [rules[i] for i in order], family="monospace", fontsize=8)
    axes.set_xlabel("doublings of speed against tuned Adam (1: twice as fast)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def run(arguments: Arguments, console: Console) -> None:
    """Train the rules, print the table and write the results."""
    select_devices("cpu")
    encode_rules(arguments.rules)  # a mistake is said before anything is trained
    load_suite(arguments.tasks)
    config = arguments.training() | {"jax": jax.__version__}
    records = Records(arguments.results / f"{arguments.name}.jsonl", config)
    rewards = columns(measure(arguments, records, console))
    scores = {k: score(x) for k, x in rewards.items()}
    first = next(iter(rewards.values()))
    # How each column ranks the rules beside the first, which is the suite where that is measured.
    agreement = {
        k: float(rank_correlation(first.mean(axis=0), x.mean(axis=0))) for k, x in rewards.items()
    }
    signals = {k: signal(x) for k, x in rewards.items()}
    title = (
        f"Speed against tuned Adam in doublings, mean [95 % interval] of {arguments.seeds} fresh "
        "seeds; + and -: better and worse than Adam by Holm's procedure over the column"
    )
    begin, *others = agreement
    said = (
        f"{begin}: signal to noise {signals[begin]['signal_to_noise']:.1f}, rank correlation of "
        f"halves of the seeds {signals[begin]['halves_rank_correlation']:.3f}"
    )
    if others:
        ranks = ", ".join(f"{k} {agreement[k]:.2f}" for k in others)
        said += f"; rank correlation with it: {ranks}"
    content = {
        "seconds": records.seconds,
        "signal": signals,
        "rank_correlation_with_the_first": agreement,
        "scores": {
            k: {r: s._asdict() for r, s in zip(arguments.rules, column, strict=True)}
            for k, column in scores.items()
        },
    }
    tables = {"Doublings": results_table(arguments.rules, scores)}
    arguments.publish(console, title, tables, [said], content)
    draw(arguments.rules, scores, arguments.picture)


if __name__ == "__main__":
    command_line.main(run, PRESETS)
