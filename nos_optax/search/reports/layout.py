"""Where everything in a chart goes, in the pixels of a view box."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nos_optax.search.reports.marks import Axis, Chart, Mark, Panel, Words, boxes, dots, line, spans

WIDTH = 720.0  # a page shows it a little larger
LINE = 18.0  # of text
LONGEST = 24  # letters of a name on the left: three columns of such names leave room for panels
LARGEST = 1e300  # so that differences are numbers
OUTLINES = {  # of dots that are not round, about a point
    "^": [(-0.5, 0.4), (0, -0.55), (0.5, 0.4)],
    "v": [(-0.5, -0.4), (0, 0.55), (0.5, -0.4)],
    "s": [(-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)],
    "D": [(-0.6, 0), (0, -0.6), (0.6, 0), (0, 0.6), (-0.6, 0)],
    "|": [(0, -0.5), (0, 0.5)],
}
OPEN = ("D", "|")  # drawn as lines


class Drawing(NamedTuple):
    """A chart in pixels."""

    chart: Chart
    height: float
    marks: list[Mark]
    words: list[Words]
    width: float = WIDTH


class Scale(NamedTuple):
    """The way from the units of the data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, values):
        """Return the pixels of values."""
        part = (np.clip(values, -LARGEST, LARGEST) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def layout(chart: Chart) -> Drawing:
    """Return a chart in pixels: the legend, then rows of panels."""
    panels, columns = chart.panels, min(chart.columns, len(chart.panels))
    named = [i % columns == 0 or p.y.names != panels[0].y.names for i, p in enumerate(panels)]
    margins = [_margin(p) if names else 8.0 for p, names in zip(panels, named, strict=True)]
    lefts = [max(margins[i::columns]) for i in range(columns)]
    rights = [max(p.right for p in panels[i::columns]) for i in range(columns)]
    width = (WIDTH - sum(lefts) - sum(rights)) / columns
    shared = [_limits(0, panels), _limits(1, panels)]

    marks, words, top = _legend(panels)
    if chart.y:
        words.append(Words(0, top + 12, _shortened(chart.y, 100), move=(0, 0)))
        top += LINE
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        top += LINE if any(panel.title for panel in row) else 8
        for i, panel in enumerate(row):
            left = sum(lefts[: i + 1]) + sum(rights[:i]) + i * width
            limits = shared[1] if panel.y.names is None else _limits(1, [panel])
            x = Scale(*shared[0], left, left + width)
            y = Scale(*limits, top + panel.height, top)
            places = _frame(panel, x, y, marks, words)
            words += places if named[first + i] else []
        top += max(panel.height for panel in row) + LINE
    if chart.x:
        middle, name = (lefts[0] + WIDTH) / 2, _shortened(chart.x, 90)
        words.append(Words(middle, top + 14, name, "middle", (0, 0)))
        top += LINE
    return Drawing(chart, top + 4, marks, words)


def _frame(panel: Panel, x: Scale, y: Scale, marks: list[Mark], words: list[Words]) -> list[Words]:
    """Draw a panel; return what is written on its left."""
    across, up = _ticks(panel.x, x, 100), _ticks(panel.y, y, 45)
    if panel.x.grid:
        lines = [np.array([(v, y.start), (v, y.end)]) for v in across]
        marks.append(Mark("line", lines, "rule", 1))
    if panel.y.grid:
        marks.append(spans(x.start, x.end, list(up), "rule", size=1))
    marks.append(spans(x.start, x.end, y.start, "faint", size=1))
    for mark in panel.marks:
        if isinstance(mark, Words):
            place = min(float(x(mark.x)), x.end), float(y(mark.y))
            words.append(mark._replace(x=place[0], y=place[1]))
        elif any(map(len, mark.paths)):
            known = [path[np.isfinite(path).all(axis=1)] for path in mark.paths]
            paths = [np.column_stack([x(p[:, 0]), y(p[:, 1])]) for p in known]
            marks.append(_shaped(mark._replace(paths=paths)))
    if panel.title:
        words.append(Words(x.start, y.end, panel.title, move=(0, -6), colour="ink"))
    words += [Words(v, y.start, said, "middle", (0, 14)) for v, said in across.items()]
    return [Words(x.start, v, said, "end", (-7, 4)) for v, said in up.items()]


def _shaped(mark: Mark) -> Mark:
    """Return dots that are not round as the outlines that they are."""
    if mark.kind != "dots" or mark.shape == "o":
        return mark
    outline = mark.size * np.array(OUTLINES[mark.shape])
    kind, size = ("line", 1.5) if mark.shape in OPEN else ("area", 0.0)
    return mark._replace(kind=kind, size=size, paths=[p + outline for p in mark.paths[0]])


def _margin(panel: Panel) -> float:
    """Return the room that the names on the left of a panel need."""
    names = [_shortened(name) for name in panel.y.names or ()]
    return 12 + max(map(width_of, names), default=40)


def _limits(side: int, panels: Sequence[Panel]) -> tuple[float, float]:
    """Return the ends of an axis that panels share: 0 is across, 1 is up."""
    axes = [panel.y if side else panel.x for panel in panels]
    if names := [axis.names for axis in axes if axis.names is not None]:
        return -0.6, max(map(len, names)) - 0.4
    found = [axis.limits for axis in axes if axis.limits]
    if not found:
        paths = [p for panel in panels for m in panel.marks if isinstance(m, Mark) for p in m.paths]
        values = np.concatenate([np.zeros(0), *(path[:, side] for path in paths)])
        values = np.clip(values[np.isfinite(values)], -LARGEST, LARGEST)
        low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
        largest = max(abs(low), abs(high))
        flat = high - low <= 1e-9 * max(largest, 1e-9)
        room = 0.1 * max(largest, 1e-3) if flat else 0.04 * (high - low)
        found = [(float(low - room), float(high + room))]
    return min(low for low, _ in found), max(high for _, high in found)


def _ticks(axis: Axis, scale: Scale, apart: float) -> dict[float, str]:
    """Return what is written at which pixels: the names, or round numbers."""
    if axis.names is not None:
        return {float(scale(i)): _shortened(name) for i, name in enumerate(axis.names)}
    count = max(2, round(abs(scale.end - scale.start) / apart))
    values, step = _round_numbers(scale.low, scale.high, count)
    if axis.kind == "whole":
        values = values[values == np.round(values)]
    return {float(scale(v)): _said(v, step, axis) for v in values}


def _round_numbers(low: float, high: float, count: int) -> tuple[np.ndarray, float]:
    """Return about so many round numbers between two, and how far apart they are."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= 0.6 * rough)
    return np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step, step


def _said(value: float, step: float, axis: Axis) -> str:
    """Return a number as it is written at an axis."""
    if axis.kind == "percent":
        return f"{value:.0%}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    plain = digits <= 6 and abs(value) < 1e7
    return (f"{value + 0.0:,.{digits}f}" if plain else f"{value:.3g}").replace("-", "\u2212")


def _legend(panels: Sequence[Panel]) -> tuple[list[Mark], list[Words], float]:
    """Return the legend of all panels, in as many lines as it needs, and its height."""
    labelled = {
        mark.label: mark
        for panel in panels
        for mark in panel.marks
        if isinstance(mark, Mark) and mark.label and any(map(len, mark.paths))
    }
    marks: list[Mark] = []
    words: list[Words] = []
    x, y = 0.0, 10.0
    for mark in labelled.values():
        name = _shortened(mark.label, 36)
        if x and x + 20 + width_of(name) > WIDTH:
            x, y = 0.0, y + LINE
        marks += _sample(mark, x, y)
        words.append(Words(x + 20, y, name))
        x += 20 + width_of(name) + 14
    return marks, words, y + LINE / 2 if words else 0.0


def _sample(mark: Mark, x: float, y: float) -> Iterator[Mark]:
    """Yield what stands before a name in the legend."""
    if mark.kind == "area":
        yield boxes(x, x + 14, y - 5, y + 5, mark.colour, opacity=mark.opacity)
    elif mark.kind == "line":
        yield line([x, x + 14], [y, y], mark.colour, mark.size, dash=mark.dash)
    else:
        yield _shaped(dots([x + 7], [y], mark.colour, max(7.0, mark.size), shape=mark.shape))


def width_of(text: str) -> float:
    """Return about how wide a line of text is at most, whatever the font."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return 6.4 * len(text) + 5 * wide


def _shortened(name: str, most: int = LONGEST) -> str:
    """Return a name that fits; a table has the whole one."""
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"
