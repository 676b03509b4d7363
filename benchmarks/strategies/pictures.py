"""Curves over distinct trainings, one band for each strategy."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Band = tuple[np.ndarray, np.ndarray, np.ndarray]  # a mean, and the ends beside it, of each step


def draw_bands(
    bands: Mapping[str, Band], steps: np.ndarray, label: str, opacity: float
) -> tuple[Figure, Axes]:
    """Return a picture of the bands, with the label on the axis upwards."""
    figure = Figure((8, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, (mean, low, high)) in enumerate(bands.items()):
        axes.plot(steps, mean, label=name, color=f"C{i}")
        axes.fill_between(steps, low, high, color=f"C{i}", alpha=opacity, lw=0)
    axes.set_xlabel("distinct trainings")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure, axes
