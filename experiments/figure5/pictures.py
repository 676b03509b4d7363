"""The picture of `rosenbrock.py`: every optimizer's paths, f over the steps, f over the rates."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from figure5.measures import FLOOR, Runs, Sweep, best_by_rate, best_of_first
from figure5.tables import value
from figure5.trajectories import TUNED

COLOURS = ("#56B4E9", "#009E73", "#D55E00", "#000000")  # told apart by the colour-blind too
STYLES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 1)), (0, (8, 3)))
DRAWN = ((-2.2, 2.2), (-1.2, 3.4))  # of x and y
COLUMNS = 4


def draw(
    start: tuple[float, float],
    rates: Sequence[float],
    runs: Mapping[str, Runs],
    sweeps: Mapping[str, Sweep],
    path: Path,
) -> None:
    """Draw every optimizer's paths, one line a rate, and f at its best rate and at all rates."""
    figure = Figure(figsize=(13.5, 11), layout="constrained")
    rows = figure.add_gridspec(2, 1, height_ratios=(2, 1))
    top, bottom = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
    grid = top.subplots(-(-len(runs) // COLUMNS), COLUMNS, sharex=True, sharey=True)
    for axes, (name, some) in zip(grid.ravel(), runs.items(), strict=False):
        draw_paths(axes, name, some, start, rates)
        axes.set(xlabel="x", ylabel="y")
        axes.label_outer()
    for axes in grid.ravel()[len(runs) :]:
        axes.axis("off")
    handles = grid[0, 0].get_legend_handles_labels()
    top.legend(*handles, loc="outside upper center", ncols=7, frameon=False)
    over_steps, over_rates = bottom.subplots(1, 2, sharey=True)
    draw_curves(over_steps, runs)
    draw_sweeps(over_rates, sweeps)
    over_steps.set_ylabel("f")
    figure.savefig(path, dpi=150)


def draw_paths(
    axes, name: str, runs: Runs, start: tuple[float, float], rates: Sequence[float]
) -> None:
    """Draw the paths from the given start over the contours of log f."""
    x, y = np.meshgrid(np.linspace(*DRAWN[0], 300), np.linspace(*DRAWN[1], 300))
    log_f = np.log10((1 - x) ** 2 + 100 * (y - x**2) ** 2)
    axes.contour(x, y, log_f, levels=np.arange(-1, 4, 0.5), colors="0.8", linewidths=0.5)
    for i, k in enumerate(best_by_rate(runs, rates)):
        style = {"color": COLOURS[i % len(COLOURS)], "zorder": 3 + i}
        # What is far outside, or not finite, is not drawn.
        points = np.where(np.abs(runs.paths[k]) < 1e3, runs.paths[k], np.nan)
        # All run through the same valley: those drawn first are wider.
        width = 0.8 * (len(rates) - i)
        axes.plot(*points.T, lw=width, label=f"rate {rates[i]:g}", **style)
        axes.plot(*points[-1], "o", ms=5, mec="w", mew=0.6, **style | {"zorder": 20})
    axes.plot(*start, "s", color="0.5", ms=5, ls="", zorder=20, label="start")
    axes.plot(1, 1, "*", color="gold", ms=9, mec="k", mew=0.6, ls="", zorder=19, label="minimum")
    axes.plot([], [], "o", color="0.5", mec="w", ls="", label="end")
    best = runs.describe(best_of_first(runs))
    axes.set(xlim=DRAWN[0], ylim=DRAWN[1])
    axes.set_title(f"{name}\nf {value(best['f'])} at {best['rate']:g}", fontsize="medium")


def draw_curves(axes, runs: Mapping[str, Runs]) -> None:
    """Draw f over the steps, of each optimizer at its best setting."""
    for i, (name, some) in enumerate(runs.items()):
        k = best_of_first(some)
        best = some.describe(k)
        epsilon = f", {best['epsilon']:g}" if name == TUNED else ""
        curve = np.maximum(some.curves[k], FLOOR / 100)
        label = f"{name} ({best['rate']:g}{epsilon})"
        axes.plot(curve, lw=1.2, color=f"C{i}", ls=STYLES[i], label=label)
    axes.set(xlabel="step", yscale="log", ylim=(FLOOR / 100, 1e9))
    axes.set_title("f, each at its best rate (Adam: and epsilon)", fontsize="medium")
    axes.legend(frameon=False, fontsize="x-small", ncols=2, loc="upper right")


def draw_sweeps(axes, sweeps: Mapping[str, Sweep]) -> None:
    """Draw f after the last step over the learning rate; a line ends where it diverges."""
    for i, one in enumerate(sweeps.values()):
        shown = np.where(np.isfinite(one.values), np.maximum(one.values, FLOOR / 100), np.nan)
        axes.plot(one.rates, shown, lw=1.2, color=f"C{i}", ls=STYLES[i], marker=".", ms=4)
    axes.set(xlabel="learning rate", xscale="log")
    axes.set_title("f after the last step; a line ends where it diverges", fontsize="medium")
