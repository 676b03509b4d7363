"""A stage of the funnel: rules train on its tasks ever longer, and the less promising stop early.

A rule is not watched in the middle of its training: one that decays its steps looks bad until their
end. It trains from the start for a quarter of the tasks' lengths, then for a half, then for the
whole, and each of these is a training of its own.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nos_optax.compare import Budget, Rival, as_rival
from nos_optax.compare.trials import Trials, open_records
from nos_optax.population import SuiteTrainer
from nos_optax.population.reference import steps_of
from nos_optax.population.suite import joint_speed

LENGTHS = (1 / 4, 1 / 2, 1.0)  # parts of the tasks' lengths
STEP = 3.0  # from a learning rate to the next: half a decade
BOUND = 2.0  # standard errors
ADAM = as_rival("adam")


@dataclasses.dataclass(frozen=True)
class Stage:
    """How many rules come through, and how well they are measured.

    Attributes:
        seeds: trainings of each learning rate, at least 2.
        kept: rules that come through, at least 1.
        first_seed: the others follow.
    """

    seeds: int
    kept: int
    first_seed: int

    def __post_init__(self):
        if self.seeds < 2:
            raise ValueError(f"a stage needs at least 2 seeds, to have an error; got {self.seeds}")
        if self.kept < 1:
            raise ValueError(f"a stage must keep at least 1 rule, got {self.kept}")


class Heat(NamedTuple):
    """Rules trained on the tasks of a stage, at one length.

    Attributes:
        length: part of the tasks' lengths.
        rules: their names.
        scores: `[R, S]`, the joint speed on the tasks, seed by seed (`joint_scores`).
        rates: `[R, T]`, the best learning rates.
        by_task: `[R, T]`, the means over the seeds.
        error: standard error of the difference between two rules' means.
        stays: `bool[R]`, which go on.
    """

    length: float
    rules: tuple[str, ...]
    scores: np.ndarray
    rates: np.ndarray
    by_task: np.ndarray
    error: float
    stays: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """`[R]`."""
        return self.scores.mean(axis=1)


class Course:
    """The tasks of a stage, on which rules train for any part of their lengths.

    Attributes:
        spent: on each rule, in trainings of a task's whole length.

    Args:
        suite: the tasks.
        out: the folder that keeps every training.
        advance: called with the number of trainings that are done, as they are.
        say: called with a few words on what is being trained.
    """

    def __init__(
        self,
        suite: SuiteTrainer,
        out: Path,
        advance: Callable[[int], None] = lambda count: None,
        say: Callable[[str], None] = lambda words: None,
    ):
        self.suite = suite
        self._out, self._advance, self._say = out, advance, say
        self._trials: dict[tuple[int, int], Trials] = {}
        self._adams: dict[tuple[float, tuple[int, ...]], np.ndarray] = {}
        self.spent: dict[str, float] = defaultdict(float)

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return [workload.task.name for workload in self.suite.workloads]

    def train(
        self, rivals: Sequence[Rival], around: np.ndarray, length: float, seeds: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train rules at three learning rates or more, and return the speeds at the best.

        While the best rate is the least or the greatest, one more is tried beyond it.

        Args:
            rivals: R rules.
            around: `[R, T]`, learning rates; a third and three times these are tried too.
            length: part of the tasks' lengths.
            seeds: S of them, the same for all.

        Returns:
            Speeds `[R, T, S]` in doublings, less those of Adam, trained as long and tuned alike;
            and the best rates `[R, T]`.
        """
        speeds, rates = self._train(rivals, around, length, seeds)
        return speeds - self._adam(length, tuple(seeds)), rates

    def _adam(self, length: float, seeds: tuple[int, ...]) -> np.ndarray:
        """Return the speeds of Adam itself, `[T, S]`: what 0 is at this length."""
        if (length, seeds) not in self._adams:
            around = np.array([[r.learning_rate for r in self.suite.references]])
            self._adams[length, seeds] = self._train([ADAM], around, length, seeds)[0][0]
        return self._adams[length, seeds]

    def _train(
        self, rivals: Sequence[Rival], around: np.ndarray, length: float, seeds: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the speeds in doublings of the reference's whole length, and the best rates."""
        speeds = np.empty((*around.shape, len(seeds)))
        rates = np.empty(around.shape)
        for t, task in enumerate(self.tasks):
            trials = self._of(t, length)
            self._say(f"{task}, {length:g} of its length, {len(rivals)} rules")
            for r, rival in enumerate(rivals):
                near = [around[r, t] * factor for factor in (1 / STEP, 1.0, STEP)]
                rates[r, t], tried = trials.tune(rival, near, seeds)
                if rival is not ADAM:
                    self.spent[rival.name] += length * len(tried) * len(seeds)
                (runs,) = trials.trainings(rival, [rates[r, t]], seeds)  # they are on record
                speeds[r, t] = [trials.value(run) for run in runs]
        return speeds, rates

    def _of(self, task: int, length: float) -> Trials:
        """Return what trains on a task for a part of its length."""
        loop, workload = self.suite.loops[task], self.suite.workloads[task]
        steps = steps_of(length, workload.horizon)
        if (task, steps) not in self._trials:
            self._trials[task, steps] = Trials(
                loop,
                steps,
                Budget(measure="speed"),
                open_records(self._out, loop, steps),
                self.suite.references[task],
                self._advance,
            )
        return self._trials[task, steps]


def run_stage(
    course: Course, stage: Stage, rivals: Sequence[Rival], around: np.ndarray
) -> list[Heat]:
    """Train rules ever longer; return what they did at each length.

    After a quarter and a half, those stop that are worse than the last that would come through, by
    more than `BOUND` standard errors. After the whole, the best `stage.kept` stay.

    Args:
        course: the tasks.
        stage: how many come through.
        rivals: the rules.
        around: `[R, T]`, where the search for their learning rates begins; from a length to the
            next the best ones are taken on.
    """
    seeds = range(stage.first_seed, stage.first_seed + stage.seeds)
    lengths = LENGTHS if len(rivals) > stage.kept else LENGTHS[-1:]  # else nobody has to stop
    heats = []
    for length in lengths:
        speeds, rates = course.train(rivals, around, length, seeds)
        scores = joint_scores(speeds)
        error = error_of_differences(scores)
        stays = staying(scores, stage.kept, error if length < 1 else 0.0)
        names = tuple(rival.name for rival in rivals)
        heats.append(Heat(length, names, scores, rates, speeds.mean(axis=2), error, stays))
        rivals = [rival for rival, stay in zip(rivals, stays, strict=True) if stay]
        around = rates[stays]
    return heats


def joint_scores(speeds: np.ndarray) -> np.ndarray:
    r"""Return the joint speed of each rule as a mean over its seeds.

    The joint speed of single seeds would take noise for slowness. So it is that of the means over
    the seeds, :math:`\bar s_t`, and a seed's part in it is its first order:

    .. math:: J(\bar s) + \sum_t w_t (s_t - \bar s_t), \quad w_t = \partial J / \partial \bar s_t .

    Args:
        speeds: `[R, T, S]`, in doublings.

    Returns:
        `[R, S]`.
    """
    means = speeds.mean(axis=2)
    times = 2.0**-means
    weights = times / times.sum(axis=1, keepdims=True)
    parts = np.einsum("rt,rts->rs", weights, speeds - means[:, :, None])
    return joint_speed(means)[:, None] + parts


def staying(scores: np.ndarray, kept: int, error: float) -> np.ndarray:
    """Return which rules are not worse than the kept-th best by more than the bound, `bool[R]`.

    Without an error these are the best `kept`, and all that are as good as the last of them.
    """
    means = scores.mean(axis=1)
    last = np.sort(means)[::-1][min(kept, len(means)) - 1]
    return means + BOUND * error >= last if error else means >= last


def error_of_differences(scores: np.ndarray) -> float:
    r"""Return the standard error of the difference between two rules' means over the same seeds.

    That of all rules together, as each has few seeds: with the residuals
    :math:`e_{rs} = x_{rs} - \bar x_r - \bar x_s + \bar x` it is

    .. math:: \sqrt{\frac{2}{S} \frac{\sum e_{rs}^2}{(R - 1)(S - 1)}} .

    Args:
        scores: `[R, S]`.
    """
    rules, seeds = scores.shape
    if rules < 2 or seeds < 2:
        return np.inf  # nothing is known of the noise
    residuals = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    variance = np.sum(residuals**2) / ((rules - 1) * (seeds - 1))
    return float(np.sqrt(2 * variance / seeds))
