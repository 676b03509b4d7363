"""What the pictures of the experiments share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.statistics import mean_and_error, t_interval


def draw_band(
    axes: Any, curves: np.ndarray, last: int | None = None, of: str = "error", **style: Any
) -> None:
    """Draw the mean of curves over 1, 2, ..., in a band.

    Args:
        axes: of the picture.
        curves: `[n, length]`.
        last: where they end; at their length where None.
        of: `error`, the standard error of the mean, or `interval`, of 95 %.
        style: of the line.
    """
    if of == "error":
        mean, error = np.array([mean_and_error(column) for column in curves.T]).T
        low, high = mean - error, mean + error
    else:
        mean, low, high, _ = np.array([t_interval(column) for column in curves.T]).T
    x = np.arange(len(mean)) + 1 + (last or len(mean)) - len(mean)
    axes.plot(x, mean, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)


def draw_intervals(axes: Any, intervals: Mapping[str, Sequence[float]]) -> None:
    """Draw means with their intervals, the first on top, and a line at 0."""
    rows = range(len(intervals), 0, -1)
    mean, low, high = np.array([interval[:3] for interval in intervals.values()]).T
    axes.errorbar(mean, rows, xerr=(mean - low, high - mean), fmt="o", ms=4, lw=1.2, color="C0")
    axes.axvline(0, color="0.3", lw=0.8, ls=":")
    axes.set_yticks(rows, intervals)
