"""Statistics over seeds."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95  # of all intervals
SIGNIFICANCE = 0.05  # of Holm's procedure

Interval = tuple[float, float, float]  # mean, lower end, upper end


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of independent values and its standard error.

    Raises:
        ValueError: fewer than two values, which say nothing about their spread.
    """
    if len(values) < 2:
        raise ValueError(f"a standard error needs at least 2 values, got {len(values)}: more seeds")
    exact = np.asarray(values, np.float64)
    return float(exact.mean()), float(stats.sem(exact))


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values, and the ends of its t interval of 95 %."""
    mean, error = mean_and_error(values)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def interval_if_finite(values: Sequence[float] | np.ndarray) -> Interval | None:
    """Return the t interval; None of one value, or where a value is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return t_interval(list(values))


def difference(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Return the mean paired difference, and the ends of its t interval of 95 %.

    Args:
        values: one for each seed.
        baseline: of the same seeds in the same order.

    Returns:
        The mean of `values - baseline`, and the lower and the upper end.

    Raises:
        ValueError: they are not of the same seeds, or fewer than two.
    """
    return t_interval([x - y for x, y in zip(values, baseline, strict=True)])


def p_value(interval: Interval, count: int) -> float:
    """Return the two-sided p-value of the t-test that the mean of so many values is 0.

    Args:
        interval: of `t_interval` or `difference`, whose t-test is the paired one.
        count: how many values it is of.
    """
    mean, low, high = interval
    error = (high - low) / 2 / float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    if error == 0:
        return float(mean == 0)
    return 2 * float(stats.t.sf(abs(mean) / error, count - 1))


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
