"""Statistics over seeds that `nos_optax.compare` has no use for."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from nos_optax.compare.statistics import SIGNIFICANCE, Difference, difference, holm


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean of independent values and its standard error.

    Raises:
        ValueError: fewer than two values, which say nothing about their spread.
    """
    if len(values) < 2:
        raise ValueError(f"a standard error needs at least 2 values, got {len(values)}: more seeds")
    exact = np.asarray(values, np.float64)
    return float(exact.mean()), float(stats.sem(exact))


def t_interval(values: Sequence[float] | np.ndarray) -> Difference:
    """Return how independent values differ from 0."""
    return difference(list(values), [0.0] * len(values))


def decided(differences: Mapping[str, Difference], lower: bool = False) -> dict[str, str]:
    """Say which differences are not 0, by Holm's procedure at 5 % over all of them.

    Args:
        differences: by name.
        lower: whether lower is better.

    Returns:
        Better, worse or undecided, by name.
    """
    adjusted = holm([change.p for change in differences.values()])
    return {
        name: "undecided" if p > SIGNIFICANCE else "better" if (d.mean < 0) == lower else "worse"
        for (name, d), p in zip(differences.items(), adjusted, strict=True)
    }


def claims(differences: Mapping[str, Difference], lower: bool = False) -> str:
    """Say in words what `decided` returns."""
    verdicts = decided(differences, lower)
    better, worse = (
        ", ".join(name for name, verdict in verdicts.items() if verdict == which) or "none"
        for which in ("better", "worse")
    )
    return (
        f"{len(verdicts)} paired t-tests by Holm's procedure at 5 %: better: {better}; worse: "
        f"{worse}; undecided: {list(verdicts.values()).count('undecided')}."
    )


def epochs_to_reach(curve: Sequence[float], level: float, start: float) -> float:
    """Return after how many epochs a curve first reaches a level, interpolated between epochs.

    A curve that goes up and down reaches a level early by luck: compare curves that are as noisy.

    Args:
        curve: the score after each epoch; higher is better, and nan is never enough.
        level: the score to reach.
        start: the score before the first epoch.

    Returns:
        Epochs, 0 where the start is enough, and inf where the level is never reached.
    """
    if start >= level:
        return 0.0
    for epoch, (before, after) in enumerate(zip((start, *curve[:-1]), curve, strict=True)):
        if after >= level:
            return epoch + (level - before) / (after - before)
    return math.inf


def peak(scores: Mapping[float, float]) -> float:
    """Return the learning rate at which scores are best, interpolated between the rates.

    It is the vertex of the parabola in log(rate) through the best score and both neighbours; at an
    end of the rates, it is this rate.

    Args:
        scores: by rate; higher is better.
    """
    rates = sorted(scores)
    best = max(range(len(rates)), key=lambda i: scores[rates[i]])
    if best in (0, len(rates) - 1):
        return rates[best]
    near = rates[best - 1 : best + 2]
    curvature, slope, _ = np.polyfit(np.log(near) - np.log(near[1]), [scores[r] for r in near], 2)
    if curvature == 0:  # all three are equal
        return rates[best]
    return float(near[1] * np.exp(-slope / (2 * curvature)))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation along the last axis; 0 where all of one are equal.

    Args:
        x: `[..., n]`.
        y: likewise.
    """
    x, y = (stats.rankdata(values, axis=-1) for values in (x, y))
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    size = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), size, out=np.zeros_like(size), where=size > 0)


def between_halves(ours: np.ndarray) -> float:
    """Return the rank correlation of the means of two halves of the seeds.

    Args:
        ours: `[n, seeds]`.

    Returns:
        The mean over all ways to choose half of the seeds, rounded down; the others are the rest.
    """
    seeds = range(ours.shape[1])
    found = []
    for half in itertools.combinations(seeds, len(seeds) // 2):
        rest = [seed for seed in seeds if seed not in half]
        found.append(rank_correlation(ours[:, list(half)].mean(1), ours[:, rest].mean(1)))
    return float(np.mean(found))
