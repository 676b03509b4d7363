"""How far does tuning alone bring Adam? Its rate, betas, epsilon and decay, searched like a rule.

Question: much of what searches for optimizers gained was constant tuning. A found rule is a
          discovery only if it is better than Adam and NAdam whose constants were searched with as
          many trainings as the search had.
Method:   random search on the tasks of the suite. Half of the samples are Adam, half NAdam, with
          1 - b1 log-uniform from 0.01 to 1, 1 - b2 from 1e-4 to 0.3, and epsilon from 1e-10 to
          1e-3. Two of three decay their steps linearly, to a floor that is uniform from 0 to 1; the
          others do not, and the first of these is Adam with its usual constants. Each is evaluated
          as a rule is: seven rates half a decade apart, around tuned Adam's, for a quarter of the
          length, the best three to the end with two seeds. Then, as at a search's end, ever fewer
          have ever more seeds, at their rates: 32 two pairs, 16 four, 8 eight, 4 sixteen. The best
          by its joint speed, as a search has it, trains again with fresh seeds, and only these are
          reported, as differences to Adam with the usual constants of the mean over the tasks,
          paired by seed, with a t interval of 95 %.
Command:  python experiments/adam_ceiling.py
          python experiments/adam_ceiling.py --scale smoke
          The same command goes on where an interrupted one stopped.
Time:     small: 2,000 samples, about 40 minutes on 2 cores.
Writes:   experiments/results/adam_ceiling_SCALE.json and .md
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import command_line
from rich.console import Console

from nos_optax.compare.records import Records, write_results
from nos_optax.compare.results import interval
from nos_optax.compare.statistics import difference
from nos_optax.population import Losses
from nos_optax.population.reference import SWEEP, reference_store, steps_of
from nos_optax.population.suite import (
    KEPT,
    RATES,
    SUITE,
    SuiteTrainer,
    joint_speed,
    load_suite,
)
from nos_optax.search import rivals, select_devices

KINDS = {"Adam": optax.adam, "NAdam": optax.nadam}
USUAL = (0.9, 0.999, 1e-8, 1.0)  # b1, b2, epsilon, floor
LOG_ONE_LESS_B1, LOG_ONE_LESS_B2, LOG_EPSILON = (-2, 0), (-4, -0.5), (-10, -3)
HALVINGS = ((32, 2), (16, 4), (8, 8), (4, 16))  # so many have so many pairs of seeds
PAIR = 2  # seeds of an evaluation
FIRST_FRESH = 10**9  # nothing was chosen by these
CHUNK = 100  # samples between two records


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Search the constants and decays of Adam and NAdam on the suite."""

    scale: Literal["small", "smoke"] = "small"
    """Sets all other numbers, unless they are given too."""
    samples: int = 2_000
    """Of both optimizers together."""
    tasks: tuple[str, ...] = tuple(SUITE)
    """Tasks of the suite."""
    seed: int = 0
    """Of the samples."""
    fresh_seeds: int = 10
    """By which the best is judged; at least 2."""
    out: Path = Path("runs/adam_ceiling")
    """Folder of the records."""
    results: Path = Path(__file__).parent / "results"
    """Folder of the table."""

    def __post_init__(self):
        if self.samples < 2 or self.fresh_seeds < 2:
            raise ValueError(
                f"--samples and --fresh-seeds must be at least 2, got {self.samples} and "
                f"{self.fresh_seeds}"
            )


PRESETS = {
    "small": Arguments(),
    "smoke": Arguments("smoke", samples=4, tasks=("table",), fresh_seeds=2),
}


class Samples(NamedTuple):
    """Optimizers that differ in their constants; the first is Adam with the usual ones."""

    kinds: tuple[str, ...]  # [N]
    constants: np.ndarray  # float32[N, 4]: b1, b2, epsilon, floor of the decay


def draw(count: int, seed: int) -> Samples:
    """Return random optimizers, every other one NAdam."""
    rng = np.random.default_rng(seed)
    b1 = 1 - 10 ** rng.uniform(*LOG_ONE_LESS_B1, count)
    b2 = 1 - 10 ** rng.uniform(*LOG_ONE_LESS_B2, count)
    eps = 10 ** rng.uniform(*LOG_EPSILON, count)
    floor = np.where(rng.integers(3, size=count) == 0, 1.0, rng.uniform(size=count))
    constants = np.stack([b1, b2, eps, floor], axis=1).astype(np.float32)
    constants[0] = USUAL
    return Samples(tuple(list(KINDS)[i % 2] for i in range(count)), constants)


def decayed(kind: str, total_steps: int, rate, b1, b2, eps, floor):
    """Return Adam or NAdam with a linear decay of its steps from 1 to a floor."""
    optimizer = functools.partial(KINDS[kind], b1=b1, b2=b2, eps=eps)
    return rivals.decayed(optimizer, lambda steps: rivals.linear(steps, floor))(rate, total_steps)


class Tuner:
    """Trains samples on one task: all of a kind by one program, as their constants are data.

    What the loop takes for a learning rate is the number of a row `[rate, b1, b2, epsilon, floor]`.
    """

    def __init__(self, samples: Samples, suite: SuiteTrainer, task: int):
        self.kinds, self.reference = np.array(samples.kinds), suite.references[task]
        self.horizon, self._loop = suite.workloads[task].horizon, suite.loops[task]
        rates = self.reference.learning_rate * np.array(RATES, np.float32)
        # [N, rates, 5]
        rows = [[np.r_[rate, constants] for rate in rates] for constants in samples.constants]
        self._table = np.array(rows, np.float32).reshape(-1, 5)
        self._factory = functools.cache(self._make_factory)  # one object each, as each compiles

    def _make_factory(self, kind: str, steps: int):
        def optimizer(row):
            return decayed(kind, steps, *jnp.asarray(self._table)[row.astype(jnp.int32)])

        return optimizer

    def train(self, rows: np.ndarray, tried: np.ndarray, seed: int, length: float = 1.0) -> Losses:
        """Train samples at some of their rates; return losses `[P, K]`.

        Args:
            rows: P numbers of samples.
            tried: `int[P, K]`, which of RATES.
            seed: of all.
            length: part of the task's.
        """
        numbers = (rows[:, None] * len(RATES) + tried).astype(np.float32)
        found = np.empty((len(Losses._fields), *tried.shape), np.float32)
        steps = steps_of(length, self.horizon)
        for kind in KINDS:
            of_kind = np.flatnonzero(self.kinds[rows] == kind)
            if len(of_kind):
                factory = self._factory(kind, steps)
                losses = self._loop.train(factory, numbers[of_kind].ravel(), seed, steps)
                found[:, of_kind] = np.stack(losses).reshape(-1, len(of_kind), tried.shape[1])
        return Losses(*found)

    def evaluate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the speeds `[P]` at the best of all rates, and which that is, as of a rule."""
        every = np.tile(np.arange(len(RATES)), (len(rows), 1))
        late = self.train(rows, every, 0, SWEEP).late
        kept = np.argsort(late, axis=1, kind="stable")[:, :KEPT]
        speeds = np.mean([self.speeds(rows, kept, seed) for seed in range(PAIR)], axis=0)
        best = speeds.argmax(axis=1)
        at = np.arange(len(rows))
        return speeds[at, best], kept[at, best]

    def speeds(self, rows: np.ndarray, tried: np.ndarray, seed: int) -> np.ndarray:
        """Return the speeds `[P, K]`."""
        return self.reference.speed(self.train(rows, tried, seed))


def search(
    tuners: Sequence[Tuner], count: int, records: Records, console: Console
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rewards `[N]` of all samples, and their best rates `int[N, T]`."""
    rewards, rates = [], []
    for first in range(0, count, CHUNK):
        rows = np.arange(first, min(first + CHUNK, count))
        key = {"samples": [first, len(rows)]}
        kept = records.get(key)
        if kept is None:
            speeds, best = zip(*(tuner.evaluate(rows) for tuner in tuners), strict=True)
            joint, at = joint_speed(np.stack(speeds, axis=1)), np.stack(best, axis=1)
            kept = {"rewards": joint.tolist(), "rates": at.tolist()}
            records.append(key, kept)
            console.print(f"{first + len(rows)} of {count} samples")
        rewards += kept["rewards"]
        rates += kept["rates"]
    return np.array(rewards), np.array(rates)


def again(
    tuners: Sequence[Tuner], rows: np.ndarray, rates: np.ndarray, seeds: Sequence[int]
) -> np.ndarray:
    """Return the speeds `[P, S, T]` at the rates `int[P, T]`."""
    of_tasks = [
        [tuner.speeds(rows, rates[:, t, None], seed)[:, 0] for seed in seeds]
        for t, tuner in enumerate(tuners)
    ]
    return np.array(of_tasks).transpose(2, 1, 0)


def halve(tuners: Sequence[Tuner], rewards: np.ndarray, rates: np.ndarray) -> int:
    """Return the best sample after ever fewer had ever more seeds."""
    means = rewards.copy()
    for count, pairs in HALVINGS:
        rows = np.argsort(-means, kind="stable")[:count]
        means = np.full_like(means, -np.inf)
        speeds = again(tuners, rows, rates[rows], range(PAIR * pairs))
        means[rows] = joint_speed(speeds.mean(axis=1))
    return int(means.argmax())


def run(arguments: Arguments, console: Console) -> None:
    """Search, judge the best and write the results."""
    select_devices("cpu")
    samples = draw(arguments.samples, arguments.seed)
    suite = SuiteTrainer(load_suite(arguments.tasks), 1, store=reference_store())
    tuners = [Tuner(samples, suite, task) for task in range(len(arguments.tasks))]
    name = f"adam_ceiling_{arguments.scale}"
    config = {
        "samples": arguments.samples,
        "tasks": {w.task.name: w.horizon for w in suite.workloads},
        "seed": arguments.seed,
        "reward": "joint speed",
    }
    records = Records(arguments.out / f"{name}.jsonl", config | {"jax": jax.__version__})
    rewards, rates = search(tuners, arguments.samples, records, console)
    best = halve(tuners, rewards, rates)
    seeds = range(FIRST_FRESH, FIRST_FRESH + arguments.fresh_seeds)
    adam, ours = again(tuners, np.array([0, best]), rates[[0, best]], seeds).mean(axis=2)
    change = difference(ours, adam)
    kind, (b1, b2, eps, floor) = samples.kinds[best], samples.constants[best].tolist()
    said = (
        f"The best of {arguments.samples} is {kind} with b1 = {b1:.4f}, b2 = {b2:.5f}, epsilon "
        f"{eps:.2g} and a linear decay of its steps to {floor:.2f} of them: {interval(change)} "
        "doublings faster than Adam with its usual constants and no decay, "
        f"n = {len(seeds)} fresh seeds. In the search its reward was {rewards[best]:+.3f}."
    )
    console.print(said)
    content = {
        "arguments": config,
        "seconds": records.seconds,
        "best": {
            "kind": kind,
            "b1": b1,
            "b2": b2,
            "eps": eps,
            "floor": floor,
            "rates": rates[best],
        },
        "difference": change._asdict(),
        "scores": {"usual": adam, "best": ours},
    }
    write_results(arguments.results, name, content, f"# The ceiling of tuning\n\n{said}\n")


if __name__ == "__main__":
    command_line.main(run, PRESETS)
