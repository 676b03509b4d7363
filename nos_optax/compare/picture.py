"""The picture of a comparison: each rival's difference to the baseline, with its interval."""

import math
from pathlib import Path

from nos_optax._command import printable
from nos_optax._files import write_figure
from nos_optax.compare.results import BETTER, UNDECIDED, WORSE, Comparison
from nos_optax.compare.trials import HIGHER_IS_BETTER, MEASURES

# Told apart by people of any colour vision, in print too: the markers differ as well.
LOOK = {BETTER: ("#0072b2", "o"), WORSE: ("#d55e00", "s"), UNDECIDED: ("#777777", "D")}
LONGEST = 40  # characters of a rival's name


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a panel for each task; the better side is on the right."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    tasks = comparison.tasks
    most = max(len(comparison.of(task)) - 1 for task in tasks)
    height = 1.3 + 0.32 * max(most, 1)
    figure = Figure(figsize=(8, height * len(tasks)), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(len(tasks), 1, squeeze=False)[:, 0]
    for task, panel in zip(tasks, panels, strict=True):
        rows = [
            row
            for row in comparison.of(task)
            if row.difference is not None and math.isfinite(row.difference.mean)
        ][::-1]
        for y, row in enumerate(rows):
            change = row.difference
            assert change is not None
            colour, marker = LOOK[row.verdict]
            panel.plot([change.low, change.high], [y, y], color=colour, linewidth=2)
            panel.plot(change.mean, y, marker=marker, color=colour, markersize=6)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
        panel.set_ylim(-0.6, len(rows) - 0.4)
        panel.set_title(_short(task), loc="left", fontsize=10, parse_math=False)
        panel.grid(axis="x", alpha=0.25)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        if not HIGHER_IS_BETTER[comparison.measure]:
            panel.invert_xaxis()
        for label in panel.get_yticklabels():
            label.set_parse_math(False)
    panels[-1].set_xlabel(
        f"difference to {_short(comparison.baseline)}, interval of 95 %, better on the right\n"
        f"({MEASURES[comparison.measure]})",
        parse_math=False,
    )
    handles = [
        figure.axes[0].plot([], [], color=colour, marker=marker, label=verdict)[0]
        for verdict, (colour, marker) in LOOK.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    write_figure(path, figure)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."
