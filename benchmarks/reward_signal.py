"""Can the suite's reward tell good rules apart, and is what it likes good elsewhere?

Question: How much of the differences between rewards are the rules', how well do two halves of the
          seeds agree on the order, do known improvements on Adam come out ahead of it, and do
          longer trainings and the watch tasks put rules in the same order?
Method:   All rules of `nos_optax.rules`, three more and seven of Optax's optimizers, under a
          search's own protocol on the suite: seven rates centred by the size of the updates, three
          kept, two weights a seed. Four seeds are eight trainings of each at its best rate. Signal
          to noise is the standard deviation of the rules' means over the median of that of a rule's
          trainings. Only what learns on every task is counted. Halves of the trainings are compared
          by Spearman's rank correlation, a mean over all ways to halve them; the better half are
          the rules that one half of the trainings puts above its median. Differences to Adam are
          paired by training; intervals of rank correlations are by a bootstrap over rules.
          The same rules train ten times as long with a tuned Adam of its own (--long), and on
          each watch task.
Command:  python benchmarks/reward_signal.py [--long 0 --seeds 2 --tasks digits-mlp table]
Time:     see the file; each part is kept as it is done, and a killed run goes on.
Writes:   benchmarks/results/reward_signal.json, .md, and .jsonl, which a killed run goes on from
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from scipy.stats import spearmanr

import nos_optax
from nos_optax._command import make_console, one_message
from nos_optax.compare.records import Records, write_results
from nos_optax.compare.statistics import difference
from nos_optax.grammar import encode
from nos_optax.grammar.program import MAX_ITERATIONS, pad_programs
from nos_optax.population.accelerator import enable_compilation_cache, select_devices
from nos_optax.population.protocol import TRAINED
from nos_optax.population.reference import reference_store
from nos_optax.population.suite import SEEDS, SUITE, WATCH, SuiteTrainer, joint_speed, load_suite

FIRST_SEED = 600_000  # far from those of searches, of experiments and of Adam's tuning
OPTIMIZERS = {
    "optax.adam": optax.adam,
    "optax.nadam": optax.nadam,
    "optax.lion": optax.lion,
    "optax.adabelief": optax.adabelief,
    "optax.rmsprop": optax.rmsprop,
    "optax.sgd, momentum 0.9": lambda rate: optax.sgd(rate, momentum=0.9),
    "optax.contrib.muon": optax.contrib.muon,
}
MORE = ("drop(rmsprop, 0.3)", "ld * adam", "ld * (sign(g) + sign(m))")
AHEAD = ("(1 + sign(g) * sign(m)) * adam", "adam * exp(sign(g) * sign(m))", "optax.nadam")
BEHIND = "drop(rmsprop, 0.3)"
RESAMPLES = 2000  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure how well the suite's reward tells rules apart."""

    tasks: tuple[str, ...] = tuple(SUITE)
    """Of the suite."""
    watch: tuple[str, ...] = tuple(WATCH)
    """Watch tasks, to be ranked beside it."""
    seeds: int = 4
    """Of the suite, each two trainings; at least 2."""
    long: int = 10
    """Times the suite's horizon of the longer trainings, with one seed; 0 leaves them out."""
    results: Path = Path(__file__).parent / "results"
    """Where the file goes, and beside it what a killed run goes on from."""

    def __post_init__(self):
        if self.seeds < 2 or self.long < 0:
            raise ValueError(
                f"--seeds must be at least 2 and --long at least 0, got {self.seeds} and "
                f"{self.long}"
            )


def names() -> list[str]:
    """Return every rule once, in infix form, and the optimizers."""
    texts = [str(rule.rule) for rule in nos_optax.rules.values()]
    return [*dict.fromkeys([*texts, *MORE]), *OPTIMIZERS]


def train(trainer: SuiteTrainer, seed: int) -> np.ndarray:
    """Return each rule's reward on each task with each seed, `[P, tasks * SEEDS]`.

    They are nan where the rule did not learn on every task.
    """
    texts = [name for name in names() if name not in OPTIMIZERS]
    programs = np.stack([pad_programs(encode(x).array, MAX_ITERATIONS) for x in texts])
    found = [trainer.evaluate(programs, seed)]
    found += [trainer.evaluate_optimizer(factory, seed) for factory in OPTIMIZERS.values()]
    curves = np.concatenate([evaluation.curve for evaluation in found])
    status = np.concatenate([evaluation.status for evaluation in found])
    return np.where((status == TRAINED)[:, None], curves, np.nan)


def measure(tasks: tuple[str, ...], seeds: range, longer: int, records: Records) -> np.ndarray:
    """Return rewards `[P, tasks, trainings]`; what is on record is not trained again."""
    trainer, parts, suite = None, [], load_suite(tasks)
    facts = {"steps": [w.horizon for w in suite], "children": [w.children for w in suite]}
    for seed in seeds:
        key: dict[str, Any] = {"tasks": list(tasks), "seed": seed, "longer": longer, **facts}
        kept = records.get(key)
        if kept is None:
            if trainer is None:
                workloads = [dataclasses.replace(w, horizon=longer * w.horizon) for w in suite]
                trainer = SuiteTrainer(workloads, MAX_ITERATIONS, store=reference_store())
            rewards = train(trainer, seed)
            kept = {"rewards": rewards.reshape(len(rewards), len(tasks), SEEDS).tolist()}
            records.append(key, kept)
        parts.append(np.array(kept["rewards"], np.float64))
    return np.concatenate(parts, axis=-1)


def signal(trainings: np.ndarray) -> dict[str, float]:
    """Return how well the trainings `[P, n]` of P rules tell them apart."""
    n = trainings.shape[1]
    halves = list(itertools.combinations(range(n), n // 2))
    whole, better = [], []
    for half in halves:
        one = trainings[:, list(half)].mean(axis=1)
        other = trainings[:, [i for i in range(n) if i not in half]].mean(axis=1)
        whole.append(spearmanr(one, other).statistic)
        # Chosen by one half and ranked by it too, rules would seem to keep their order.
        upper = other >= np.median(other)
        first = spearmanr(one[upper], other[upper]).statistic
        better.append(first)
    spread = trainings.std(axis=1, ddof=1)
    return {
        "rules": len(trainings),
        "signal_to_noise": float(
            trainings.mean(axis=1).std(ddof=1) / np.median(spread[spread > 0])
        ),
        "halves": float(np.mean(whole)),
        "halves_of_the_better_half": float(np.mean(better)),
    }


def rank_correlation(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return Spearman's correlation of the rules' means, and its interval of 95 %."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    rng = np.random.default_rng(0)
    rows = rng.integers(len(x), size=(RESAMPLES, len(x)))
    resampled = [spearmanr(x[row], y[row]).statistic for row in rows]
    return {
        "rules": int(both.sum()),
        "rank_correlation": float(spearmanr(x, y).statistic),
        "interval": np.nanquantile(resampled, [0.025, 0.975]).tolist(),
    }


def summary(
    suite: np.ndarray, others: Mapping[str, np.ndarray], tasks: tuple[str, ...]
) -> dict[str, Any]:
    """Return what the rewards `[P, tasks, n]` of the suite and of other trainings say."""
    names_ = names()
    reward = joint_speed(suite.swapaxes(1, 2))  # [P, n]
    learned = np.isfinite(reward).all(axis=1)
    rows = dict(zip(names_, reward, strict=True))
    adam = rows["adam"]

    def against_adam(name: str) -> dict[str, float] | None:
        if not np.isfinite(rows[name]).all():
            return None
        change = difference(rows[name], adam)
        error = (rows[name] - adam).std(ddof=1) / np.sqrt(len(adam))
        return {**change._asdict(), "t": float(change.mean / error)}

    return {
        "suite": signal(reward[learned]),
        "each task": {
            task: signal(suite[np.isfinite(suite[:, i]).all(axis=1), i])
            for i, task in enumerate(tasks)
        },
        "against adam": {name: against_adam(name) for name in (*AHEAD, BEHIND)},
        "ranks": {
            name: rank_correlation(reward.mean(axis=1), joint_speed(x.mean(axis=2)))
            for name, x in others.items()
        },
        "rewards": {
            name: None
            if not np.isfinite(row).all()
            else [float(row.mean()), float(row.std(ddof=1))]
            for name, row in sorted(
                rows.items(), key=lambda item: -np.nan_to_num(item[1].mean(), nan=-np.inf)
            )
        },
    }


def markdown(found: Mapping[str, Any]) -> str:
    """Return the figures that have a goal, as a table."""
    suite, adam = found["suite"], found["against adam"]
    rows = [
        ("rank correlation of two halves of the trainings", ">= 0.97", f"{suite['halves']:.3f}"),
        ("of the better half", ">= 0.9", f"{suite['halves_of_the_better_half']:.3f}"),
        ("signal to noise of one training", ">= 3", f"{suite['signal_to_noise']:.1f}"),
    ]
    for name in (*AHEAD, BEHIND):
        row = adam[name]
        said = (
            "did not learn everywhere" if row is None else f"{row['mean']:+.3f}, t = {row['t']:.1f}"
        )
        rows.append((f"`{name}` less Adam", "t < -3" if name == BEHIND else "t > 3", said))
    for name, row in found["ranks"].items():
        low, high = row["interval"]
        text = f"{row['rank_correlation']:.2f} [{low:.2f}, {high:.2f}] of {row['rules']} rules"
        rows.append(
            (
                f"rank correlation with {name}",
                ">= 0.8" if "times as long" in name else ">= 0.7",
                text,
            )
        )
    lines = ["| measure | goal | measured |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def run(arguments: Arguments) -> None:
    """Measure, print and write."""
    devices = select_devices("cpu")
    enable_compilation_cache()
    console = make_console()
    config = {"names": names(), "jax": jax.__version__, "version": nos_optax.__version__}
    records = Records(arguments.results / "reward_signal.jsonl", config)
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    suite = measure(arguments.tasks, seeds, 1, records)
    others = {name: measure((name,), seeds[:2], 1, records) for name in arguments.watch}
    if arguments.long:
        longer = measure(arguments.tasks, seeds[:1], arguments.long, records)
        others[f"the suite, {arguments.long} times as long"] = longer
    found = summary(suite, others, arguments.tasks)
    console.print_json(json.dumps({k: v for k, v in found.items() if k != "rewards"}))
    content = {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "jax": jax.__version__,
        "trainings": suite.shape[-1],
        "seconds": records.seconds,
        **found,
    }
    write_results(arguments.results, "reward_signal", content, markdown(found))


if __name__ == "__main__":
    with one_message():
        run(tyro.cli(Arguments, description=Arguments.__doc__))
