"""Paired differences over seeds, and Holm's correction over rivals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # of all intervals
SIGNIFICANCE = 1 - LEVEL  # of Holm's procedure


class Difference(NamedTuple):
    """What a rival's values are more than the baseline's, seed by seed.

    Attributes:
        mean: of the differences.
        low: lower end of the t interval of 95 %, of this difference alone.
        high: upper end.
        p: of the paired t-test that the mean is 0, before any correction.
    """

    mean: float
    low: float
    high: float
    p: float


def difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the paired difference of values of the same seeds, in the same order.

    It is nan, and undecided, where a value is not finite.

    Raises:
        ValueError: they are not as many, or fewer than two.
    """
    x, y = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(
            f"a paired difference needs the same seeds of both, at least 2; got {len(x)} and "
            f"{len(y)}"
        )
    with np.errstate(invalid="ignore"):
        change = x - y
    if not np.isfinite(change).all():
        return Difference(np.nan, np.nan, np.nan, 1.0)
    mean = float(change.mean())
    if np.ptp(change) <= 1e-6 * np.abs(change).max():
        # All differences agree, as those of accuracies may, and the t-test would be certain. The
        # test of signs is not: by chance all of n are on one side once in 2^(n - 1) times.
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 2.0 ** (1 - len(change)))
    from scipy import stats  # takes a second, which a search need not wait for at its start

    test = stats.ttest_1samp(change, 0)
    interval = test.confidence_interval(LEVEL)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's procedure, in the order given.

    Rejecting where they are at most a level errs, over the whole family, with at most this
    probability, however the tests depend on each other.

    References:
        Holm, A simple sequentially rejective multiple test procedure, 1979

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    raised = np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order])
    adjusted[order] = np.minimum(raised, 1)
    return adjusted.tolist()
