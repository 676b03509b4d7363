"""A rule's trajectories and learning rates as pictures, PNG and SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from nos_optax._files import write_figure
from nos_optax.explain.sweep import Sweep
from nos_optax.explain.trajectories import FUNCTIONS, Trajectory
from nos_optax.population import Task


def draw_trajectories(ways: Mapping[str, Sequence[Trajectory]], folder: Path) -> list[str]:
    """Draw the ways over each function's contours, and the values below; return the file names."""
    count = len(FUNCTIONS)
    figure = Figure(figsize=(3.6 * count, 6.6), layout="constrained")
    panels = figure.subplots(2, count)
    for column, function in enumerate(FUNCTIONS):
        above, below = panels[:, column]
        x0, x1, y0, y1 = function.view
        x, y = np.meshgrid(np.linspace(x0, x1, 120), np.linspace(y0, y1, 120))
        z = np.asarray(function.value(jnp.stack([x, y])))
        above.contour(x, y, np.log10(z + 1e-3), levels=14, colors="0.8", linewidths=0.6)
        # The first is what one looks at: it is drawn on top.
        for i, (name, of_rule) in reversed(list(enumerate(ways.items()))):
            way, color = of_rule[column], f"C{i}"
            if way.rate is None:
                continue
            label = f"{name} ({way.rate:g})"
            above.plot(*way.points.T, "-", color=color, lw=1 + (i == 0), alpha=0.9)
            below.semilogy(np.maximum(way.values, 1e-16), color=color, lw=1 + (i == 0), label=label)
        above.plot(*function.start, "k.", ms=6)
        above.plot(*function.minimum, "k*", ms=9)
        above.set(xlim=(x0, x1), ylim=(y0, y1), title=function.name)
        below.set(xlabel="step")
        below.legend(frameon=False, fontsize=8)
    panels[1, 0].set_ylabel("value")
    return _save(figure, folder, "trajectories")


def draw_sweeps(sweeps: Mapping[str, Sweep], task: Task, folder: Path) -> list[str]:
    """Draw the score over the learning rate; return the file names."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    for i, (name, found) in reversed(list(enumerate(sweeps.items()))):
        low, high = found.scores.min(axis=1), found.scores.max(axis=1)
        axes.fill_between(found.rates, low, high, color=f"C{i}", alpha=0.15, lw=0)
        axes.plot(found.rates, found.mean, ".-", color=f"C{i}", lw=1 + (i == 0), label=name)
    axes.axhline(task.chance, color="0.5", lw=0.8, ls=":", label="chance")
    axes.set(xscale="log", xlabel="learning rate", ylabel="validation score", title=task.name)
    axes.legend(frameon=False)
    return _save(figure, folder, "sweep")


def _save(figure: Figure, folder: Path, name: str) -> list[str]:
    names = [f"{name}.png", f"{name}.svg"]
    for each in names:
        write_figure(folder / each, figure, dpi=150)
    return names
