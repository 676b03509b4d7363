"""What compare_strategies.py shows: two tables and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness.statistics import t_interval
from rich import box
from rich.table import Table

from nos_optax.search.results import Result
from strategies.measures import (
    BASELINE,
    LEVELS,
    TOLERANCE,
    WINDOW,
    Run,
    good_so_far,
    mean_of_best,
    moving_mean,
)

BEST = 10  # rules in the mean of the best


def learning_table(summary: Mapping[str, dict], title: str) -> Table:
    """Return the table of how the mean reward rises."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("strategy", *(f"quarter {i}" for i in (1, 2, 3, 4)), "last - random [95 %]"):
        table.add_column(column)
    for level in LEVELS:
        table.add_column(f"to {level:.0%}", justify="right")
    for strategy, s in summary.items():
        table.add_row(
            strategy,
            *(f"{mean:.3f} ± {error:.3f}" for mean, error in s["quarters"]),
            _interval(strategy, s["minus_random"]["last_quarter"]),
            *(f"{'never' if m is None else f'{m:.0f}'} ({n})" for m, n in s["samples_to_reach"]),
        )
    return table


def finds_table(summary: Mapping[str, dict], standard: Sequence[Result]) -> Table:
    """Return the table of what was found."""
    table = Table(box=box.SIMPLE)
    for column in ("strategy", "best rule, fresh seeds", "- random [95 %]"):
        table.add_column(column)
    for column in ("good rules", "good updates", "evaluated", "repeated", "rejected"):
        table.add_column(column, justify="right")
    for strategy, s in summary.items():
        table.add_row(
            strategy,
            "{:.4f} ± {:.4f}".format(*s["best"]),
            _interval(strategy, s["minus_random"]["best"]),
            *("{:.1f} ± {:.1f}".format(*s[key]) for key in ("good_rules", "good_updates")),
            *(f"{s[key][0]:.0f}" for key in ("evaluated", "repeated", "rejected")),
        )
    for result in sorted(standard, key=lambda r: -r.mean):
        error = result.deviation / np.sqrt(len(result.rewards))
        table.add_row(result.name, f"{result.mean:.4f} ± {error:.4f}")
    return table


def _interval(strategy: str, interval: Sequence[float]) -> str:
    return "" if strategy == BASELINE else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)


def draw(runs: Sequence[Run], chance: float, title: str, path: Path) -> None:
    """Draw the mean over seeds of three curves, in bands of 95 %."""
    from matplotlib.figure import Figure

    count = len(runs[0].candidates)
    window = min(WINDOW, count // 4)
    adam = float(np.mean([run.adam for run in runs]))
    panels = {
        f"mean reward of the last {window} samples": lambda r: moving_mean(r.rewards, window),
        f"mean of the {BEST} best rules so far": lambda r: mean_of_best(r.candidates, BEST, chance),
        "different rules as good as Adam": lambda r: good_so_far(
            r.candidates, r.adam - TOLERANCE, "fingerprint"
        ),
    }
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (label, curve) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for i, strategy in enumerate(dict.fromkeys(run.strategy for run in runs)):
            curves = np.array([curve(run) for run in runs if run.strategy == strategy])
            bands = np.array([t_interval(column) for column in curves.T])
            samples = np.arange(count - len(bands), count) + 1
            axes.plot(samples, bands[:, 0], color=f"C{i}", label=strategy)
            axes.fill_between(samples, *bands[:, 1:].T, color=f"C{i}", alpha=0.2, lw=0)
        axes.set(xlabel="samples", ylabel=label, xlim=(0, count))
    for axes in figure.axes[:2]:
        axes.axhline(adam, color="0.3", lw=0.8, ls=":")
        axes.annotate("Adam", (0, adam), (2, 2), textcoords="offset points", color="0.3")
    for axes in figure.axes:  # of few seeds, the bands reach much farther
        axes.set_ylim(0, 1.25 * np.max([np.max(line.get_ydata()) for line in axes.lines]) + 1e-9)
    place: Any = "outside lower center"  # matplotlib's annotations do not know it
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc=place, ncols=len(labels), frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
