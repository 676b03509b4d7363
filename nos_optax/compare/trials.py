"""The trainings of a comparison: every rival has the same budget on every task.

Each learning rate trains to the end with the tuning seeds; the best one trains again with fresh
seeds, and only these are compared. What is in the records is not trained again.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nos_optax._arguments import plain_number
from nos_optax._files import slug
from nos_optax.compare.records import Records
from nos_optax.compare.rivals import Rival
from nos_optax.grammar.program import pad_programs
from nos_optax.population import Losses, Reference, TaskLoop
from nos_optax.population.loop import Factory
from nos_optax.population.reference import COARSE, training_digest

RATES = COARSE  # half a decade apart, as Adam's own are tuned with
MOST_SEEDS = 10_000
MOST_FIRST_SEED = 2 * 10**9  # Adam's own lie above
A_WHILE = 1.0  # seconds between two entries in the records
EXTENSIONS = 4  # rates that are tried beyond either end while the best one is there
MEASURES = {
    "score": "score by the task's metric",
    "loss": "validation loss",
    "training-loss": "mean loss of the minibatches on the way",
    "speed": "speed against tuned Adam, in doublings",
}
SCORES = "validation_score", "test_score"
HIGHER_IS_BETTER = {"score": True, "loss": False, "training-loss": False, "speed": True}


def _is_rate(rate: float) -> bool:
    with np.errstate(over="ignore", under="ignore"):
        return bool(0 < np.float32(rate) < np.inf)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What each rival may spend on a task.

    Attributes:
        rates: learning rates, rising; where the best is the first or the last, more are tried
            beyond it, at the same distance.
        tuning_seeds: with which each rate is tried.
        seeds: others, with which the best rate is trained again; at least 2.
        measure: what is compared, and what the best rate is best by: `score`, `loss`,
            `training-loss` or `speed`.
        centred: whether rates are multiples of the one at which the rival's first updates are as
            large as tuned Adam's; for `speed` alone, which knows tuned Adam.
        first_seed: of the tuning seeds; the others follow.

    Raises:
        ValueError: a number is out of range, the rates do not rise, or there is no such measure.
    """

    rates: tuple[float, ...] = RATES
    tuning_seeds: int = 1
    seeds: int = 8
    measure: str = "score"
    centred: bool = False
    first_seed: int = 0

    def __post_init__(self):
        self._take_numbers()
        if not self.rates or not all(map(_is_rate, self.rates)):
            raise ValueError(
                f"learning rates must be positive numbers that float32 holds, got {self.rates}"
            )
        if any(a >= b for a, b in zip(self.rates, self.rates[1:], strict=False)):
            raise ValueError(f"learning rates must rise, got {self.rates}")
        if self.tuning_seeds < 1:
            raise ValueError(f"tuning_seeds must be at least 1, got {self.tuning_seeds}")
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, to have an interval, got {self.seeds}")
        if self.tuning_seeds + self.seeds > MOST_SEEDS:
            raise ValueError(
                f"tuning_seeds and seeds must be at most {MOST_SEEDS:,} together, got "
                f"{self.tuning_seeds} and {self.seeds}"
            )
        if not 0 <= self.first_seed <= MOST_FIRST_SEED:
            raise ValueError(
                f"first_seed must be from 0 to {MOST_FIRST_SEED:,}, got {self.first_seed}"
            )
        if self.centred and self.measure != "speed":
            raise ValueError(f"rates are centred for the measure speed alone, got {self.measure!r}")
        if self.measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {self.measure!r}")

    def _take_numbers(self) -> None:
        """Turn the numbers of NumPy and JAX into Python's, which JSON holds, or refuse them."""
        for name in ("tuning_seeds", "seeds", "first_seed"):
            count = plain_number(getattr(self, name), int)
            if count is None:
                raise TypeError(f"{name} is {getattr(self, name)!r}, but must be a whole number.")
            object.__setattr__(self, name, count)
        if np.ndim(self.rates) != 1:
            raise TypeError(f"rates is {self.rates!r}, but must be several learning rates.")
        rates = [plain_number(rate, float) for rate in self.rates]
        if None in rates:
            raise TypeError(f"rates is {self.rates!r}, but must be numbers.")
        object.__setattr__(self, "rates", tuple(rates))


class Training(NamedTuple):
    """What became of one training, as `Losses` has it."""

    training_loss: float
    loss: float  # on the validation set
    initial: float  # that of untrained weights
    validation_score: float  # chance if it diverged; nan, as the next, where there are no scores
    test_score: float  # nan where there is no test set

    @property
    def learned(self) -> bool:
        """Whether it ended with a lower loss than it began with; one that diverged did not."""
        return self.loss < self.initial


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a rival on a task.

    Attributes:
        rival: who.
        rate: the best learning rate.
        rates: all that were tried, rising.
        runs: one for each fresh seed, at the best rate.
        values: of the runs, by the budget's measure.
    """

    rival: Rival
    rate: float
    rates: tuple[float, ...]
    runs: tuple[Training, ...]
    values: tuple[float, ...]

    @property
    def inside(self) -> bool:
        """Whether the best rate has tried neighbours on both sides."""
        return self.rates[0] < self.rate < self.rates[-1]


def digest_of(loop: TaskLoop, steps: int) -> str:
    """Return a hash of all that decides a training's results, but its rival, rate and seed."""
    return f"{training_digest(loop, steps)}-{loop.platform}" + "-scored" * loop.scores


def open_records(out: Path, loop: TaskLoop, steps: int) -> Records:
    """Return the trainings of a task that a folder holds; a new task or length has a new file."""
    digest = digest_of(loop, steps)
    name = f"{slug(loop.task.name)}_{digest}.jsonl"
    return Records(out / "trainings" / name, {"digest": digest})


class Trials:
    """Trains rivals on one task.

    Args:
        loop: of the task, with scores where they are the measure.
        steps: of a training.
        budget: of each rival.
        records: where each training is kept.
        reference: what tuned Adam does on the task, where the measure is `speed`.
        advance: called with the number of trainings that are done, as they are.
        centre: returns the rate that a rival's rates are multiples of.
    """

    def __init__(
        self,
        loop: TaskLoop,
        steps: int,
        budget: Budget,
        records: Records,
        reference: Reference | None = None,
        advance: Callable[[int], None] = lambda count: None,
        centre: Callable[[Rival], float] = lambda rival: 1.0,
    ):
        self.loop, self.steps, self.budget, self.records = loop, steps, budget, records
        self.reference, self._advance, self._centre = reference, advance, centre
        self._has_test = loop.task.test is not None
        self._factories: dict[str, Factory] = {}  # one object each, as each object compiles
        self._rows = max(1, loop.lanes)  # rates that train at a time

    def run(self, rival: Rival) -> Outcome:
        """Tune the rival's learning rate, then train with fresh seeds."""
        first, centre = self.budget.first_seed, self._centre(rival)
        tuning = range(first, first + self.budget.tuning_seeds)
        fresh = range(tuning.stop, tuning.stop + self.budget.seeds)
        rate, rates = self.tune(rival, [centre * rate for rate in self.budget.rates], tuning)
        runs = self.trainings(rival, [rate], fresh)[0]
        return Outcome(rival, rate, rates, runs, tuple(map(self.value, runs)))

    def tune(
        self, rival: Rival, rates: Sequence[float], seeds: Sequence[int]
    ) -> tuple[float, tuple[float, ...]]:
        """Return the rival's best learning rate, and all that were tried, rising.

        While the best is the first or the last, one more is tried beyond it.
        """
        tried = self._tried(rival, [float(f"{rate:.6g}") for rate in rates], seeds)
        for _ in range(EXTENSIONS if len(tried) > 1 else 0):  # one rate has no distance to go on by
            rates, best = sorted(tried), max(tried, key=tried.__getitem__)
            if rates[0] < best < rates[-1]:
                break
            beyond = best * (best / (rates[1] if best == rates[0] else rates[-2]))
            if not _is_rate(beyond):
                break
            tried |= self._tried(rival, [beyond], seeds)
        return max(tried, key=tried.__getitem__), tuple(sorted(tried))

    def _tried(
        self, rival: Rival, rates: Sequence[float], seeds: Sequence[int]
    ) -> dict[float, tuple[float, float]]:
        """Return how good each rate is: the mean value, and where it ties, as accuracies do, loss.

        The test set has no part in it.
        """
        sign = 1 if HIGHER_IS_BETTER[self.budget.measure] else -1
        rows = self.trainings(rival, rates, seeds)
        return {
            rate: (
                sign * float(np.mean([self.value(run, test=False) for run in runs])),
                -float(np.mean([run.loss for run in runs])),
            )
            for rate, runs in zip(rates, rows, strict=True)
        }

    def value(self, run: Training, test: bool = True) -> float:
        """Return what the measure says of a training."""
        match self.budget.measure:
            case "score":
                return run.test_score if test and self._has_test else run.validation_score
            case "loss":
                return run.loss
            case "training-loss":
                return run.training_loss
        assert self.reference is not None
        losses = Losses(*map(np.array, (run.training_loss, np.nan, run.loss, run.initial)))
        return float(self.reference.speed(losses))

    def trainings(
        self, rival: Rival, rates: Sequence[float], seeds: Sequence[int]
    ) -> list[tuple[Training, ...]]:
        """Return the trainings at each rate, one for each seed; train those not in the records."""
        key = rival.key(self.loop.task, self.steps)
        keys = [[{"rival": key, "rate": rate, "seed": seed} for seed in seeds] for rate in rates]
        known = [[self.records.get(k) is not None for k in row] for row in keys]
        self._advance(sum(map(sum, known)))
        width, top = min(len(seeds), self.loop.devices), 0
        while top < len(rates):
            rows = range(top, min(top + self._rows, len(rates)))
            for left in range(0, len(seeds), width):
                columns = range(left, min(left + width, len(seeds)))
                cells = [(i, j) for i in rows for j in columns if not known[i][j]]
                if not cells:
                    continue
                at, chosen = np.array([rates[i] for i in rows]), [seeds[j] for j in columns]
                began = time.perf_counter()
                losses = self._train(rival, at, chosen)
                self._pace(len(rows), width, time.perf_counter() - began)
                self.records.extend(
                    [(keys[i][j], _training(losses, i - top, j - left)._asdict()) for i, j in cells]
                )
                self._advance(len(cells))
            top = rows.stop
        return [tuple(self._recorded(k) for k in row) for row in keys]

    def _pace(self, rows: int, width: int, seconds: float) -> None:
        """Choose how many rates train at a time: enough for the devices, and for about a second.

        A killed comparison loses no more than that, and one of small tasks need not wait for the
        disk and the devices after each training.
        """
        least = max(1, self.loop.devices * self.loop.lanes // width)
        self._rows = max(least, int(rows * A_WHILE / seconds))

    def _recorded(self, key: dict) -> Training:
        values = self.records.get(key) or {}
        if set(values) != set(Training._fields) or not all(
            isinstance(x, int | float) for x in values.values()
        ):
            raise ValueError(
                f"{self.records.path} is damaged: the training {key} has {values}; delete that line"
            )
        return Training(**values)

    def _train(self, rival: Rival, rates: np.ndarray, seeds: Sequence[int]) -> Losses:
        """Return losses `[rates, seeds]`."""
        program = rival.program()
        if program is None:
            optimizer = self._factories.setdefault(rival.name, rival.factory(self.steps))
        else:
            optimizer = np.stack([pad_programs(program, self.loop.iterations)] * len(rates))
        losses = self.loop.train_seeds(optimizer, rates, seeds, self.steps)
        if not self.loop.scores:
            return losses
        chance = np.float32(self.loop.task.chance)
        scores = {name: getattr(losses, name) for name in SCORES[: 1 + self._has_test]}
        return losses._replace(**{k: np.where(np.isnan(x), chance, x) for k, x in scores.items()})


def _training(losses: Losses, row: int, column: int) -> Training:
    train, _, validation, initial, *scores = (float(x[row, column]) for x in losses)
    return Training(train, validation, initial, *scores)
