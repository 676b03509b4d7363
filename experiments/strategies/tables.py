"""What compare_strategies.py shows: two tables and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness.pictures import draw_band
from harness.tables import interval_text, mean_text, text_table
from matplotlib.figure import Figure
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


LEARNING = (
    "Mean reward ± standard error (se); samples until its moving mean is a part of the way from "
    "chance to Adam (and in how many searches)"
)


def learning_table(summary: Mapping[str, dict]) -> Table:
    """Return the table of how the mean reward rises."""
    quarters = (f"quarter {i} ± se" for i in (1, 2, 3, 4))
    levels = (f"to {level:.0%}" for level in LEVELS)

    def row(strategy: str, s: dict) -> list[str]:
        return [
            strategy,
            *(f"{mean:.3f} ± {error:.3f}" for mean, error in s["quarters"]),
            _interval(strategy, s["minus_random"]["last_quarter"]),
            *(f"{'never' if m is None else f'{m:.0f}'} ({n})" for m, n in s["samples_to_reach"]),
        ]

    columns = ("strategy", *quarters, "last - random [95 %]", *levels)
    return text_table(columns, [row(*item) for item in summary.items()])


def finds_table(summary: Mapping[str, dict], standard: Sequence[Result]) -> Table:
    """Return the table of what was found."""
    columns = ("strategy", "best rule, fresh seeds ± se", "- random [95 %]", "good rules ± se")
    columns += ("good updates ± se", "evaluated", "repeated", "rejected")

    def row(strategy: str, s: dict) -> list[str]:
        return [
            strategy,
            "{:.4f} ± {:.4f}".format(*s["best"]),
            _interval(strategy, s["minus_random"]["best"]),
            *("{:.1f} ± {:.1f}".format(*s[key]) for key in ("good_rules", "good_updates")),
            *(f"{s[key][0]:.0f}" for key in ("evaluated", "repeated", "rejected")),
        ]

    ranked = sorted(standard, key=lambda result: -result.mean)
    known = [(result.name, mean_text(result.rewards, 4)) for result in ranked]
    return text_table(columns, [*(row(*item) for item in summary.items()), *known])


def _interval(strategy: str, interval: Sequence[float]) -> str:
    return "" if strategy == BASELINE else interval_text(interval, 3)


def draw(runs: Sequence[Run], chance: float, title: str, path: Path) -> None:
    """Draw the mean over seeds of three curves, in bands of 95 %."""
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
            draw_band(axes, curves, count, "interval", color=f"C{i}", label=strategy)
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
