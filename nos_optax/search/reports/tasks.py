"""Finalists and rivals task by task: a picture, and a table with the numbers."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nos_optax.compare.results import BASELINE, BETTER, UNDECIDED, WORSE
from nos_optax.search.reports.finals import Compared, Finals
from nos_optax.search.reports.markup import paragraph, table, text
from nos_optax.search.reports.picture import Chart
from nos_optax.search.reports.theme import LIGHT

COLOURS = {BETTER: "blue", UNDECIDED: "muted", WORSE: "orange"}
MARKERS = {BETTER: "^", UNDECIDED: "o", WORSE: "v"}
COLUMNS = 5  # panels side by side
SHOWN = 24  # rivals in the picture; the table has all


def tasks_chart(finals: Finals) -> Chart:
    """Return each rival's difference to the baseline on each task."""
    names = [name for name in finals.names if name != finals.baseline][:SHOWN][::-1]
    tasks = list(finals.rows)
    columns = min(COLUMNS, len(tasks))

    def draw(figure: Figure, narrow: bool) -> None:
        across = 1 if narrow else columns
        down = -(-len(tasks) // across)
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, task in zip(panels, tasks, strict=False):
            _panel(panel, {row.name: row for row in finals.rows[task]}, names)
            panel.set_title(_short(task, 32 if across < COLUMNS - 1 else 19), size=11)
        for panel in panels[len(tasks) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(tasks) - across) : len(tasks)]:
            panel.tick_params(labelbottom=True)
            panel.set_xlabel(f"to {finals.baseline}")
        for verdict, colour in COLOURS.items():
            panels[0].plot([], [], MARKERS[verdict], color=LIGHT[colour], ms=6, label=verdict)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)

    left_out = len(finals.names) - 1 - len(names)
    more = f" The table has {left_out} more." if left_out > 0 else ""
    caption = (
        f"How much faster each optimizer trains than {finals.baseline}, in doublings, with 95 % t "
        "intervals that are paired by seed: to the right of the line is better. The verdicts are "
        f"by Holm's procedure at 5 % over the rivals of a task.{more}"
    )
    each = 17 * len(names)
    heights = 110 + (each + 34) * -(-len(tasks) // columns), 110 + (each + 34) * len(tasks)
    return Chart("tasks", "Task by task", caption, heights, draw)


def _panel(axes: Axes, rows: dict[str, Compared], names: Sequence[str]) -> None:
    """Draw the differences on one task, one a row."""
    axes.axvline(0, color=LIGHT["faint"], lw=1)
    for y, name in enumerate(names):
        row = rows.get(name)
        if row is None or row.difference is None or not math.isfinite(row.difference):
            continue
        colour = LIGHT[COLOURS.get(row.verdict, "muted")]
        if row.interval is not None:
            axes.plot(row.interval, (y, y), color=colour, lw=2)
        axes.plot(row.difference, y, MARKERS.get(row.verdict, "o"), color=colour, ms=6)
    axes.set_yticks(range(len(names)), [_short(name, 24) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="x")
    axes.locator_params(axis="x", nbins=4)
    axes.spines["left"].set_visible(False)


def _short(name: str, most: int) -> str:
    """Return a name that fits; the table has the whole one."""
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def tasks_table(finals: Finals) -> str:
    """Return each rival's difference on each task with its interval and verdict, and the least."""
    tasks = list(finals.rows)
    rows = []
    for name in finals.names:
        of, least = finals.of(name), finals.least(name)
        where = f"{text(least[0])}<br><small>{_signed(least[1])}</small>" if least else ""
        cells = (_cell(of.get(task)) for task in tasks)
        rows.append((text(name), where, *cells))
    caption = (
        f"Difference to {finals.baseline} in doublings, its 95 % interval, and the verdict. Least "
        "on: the task on which an optimizer does least."
    )
    notes = "".join(map(paragraph, finals.notes))
    return table(caption, ("optimizer", "least on", *tasks), rows, range(2, 2 + len(tasks))) + notes


def _cell(row: Compared | None) -> str:
    """Return a difference as markup."""
    if row is None or row.verdict == BASELINE:
        return "" if row is None else text(BASELINE)
    if row.difference is None or not math.isfinite(row.difference):
        return "not finite"
    low, high = (_signed(end) for end in row.interval or (math.nan, math.nan))
    ends = f"{low} to {high}" if row.interval else "no interval"
    return f"{_signed(row.difference)}<br><small>{ends}<br>{row.verdict}</small>"


def _signed(value: float) -> str:
    """Return a difference with its sign, to the hundredth of a doubling."""
    if round(value, 2) == 0:
        return "0.00"
    shown = f"{value:+.2f}" if abs(value) < 1000 else f"{value:+.2g}"
    return shown.replace("-", "\u2212")


def least_sentence(finals: Finals, names: Sequence[str]) -> str:
    """Return on which task each of some rules does least."""
    least = {name: finals.least(name) for name in names if len(finals.rows) > 1}
    said = [f"{name} on {least[0]} ({_signed(least[1])})" for name, least in least.items() if least]
    return (
        f"Of the search's tasks, each finalist does least on one: {', '.join(said)}."
        if said
        else ""
    )
