"""Statistics over seeds."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95  # of all intervals


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of independent values and its standard error.

    Raises:
        ValueError: fewer than two values, which say nothing about their spread.
    """
    if len(values) < 2:
        raise ValueError(f"a standard error needs at least 2 values, got {len(values)}: more seeds")
    exact = np.asarray(values, np.float64)
    return float(exact.mean()), float(stats.sem(exact))


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of independent values, and the ends of its t interval of 95 %."""
    mean, error = mean_and_error(values)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def difference(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
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
