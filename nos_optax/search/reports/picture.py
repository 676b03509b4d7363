"""Pictures as files; a page has its own in the colours of its reader."""

import io
import warnings
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from nos_optax.search.reports.layout import Drawing
from nos_optax.search.reports.marks import Mark
from nos_optax.search.reports.templates import render
from nos_optax.search.reports.theme import LIGHT

# A name may hold dollar signs.
PLAIN: dict[Any, Any] = {"text.parse_math": False, "font.family": "DejaVu Sans"}
ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def files(drawing: Drawing) -> dict[str, bytes]:
    """Return a picture as an SVG and a PNG file, on light paper."""
    name, vectors = drawing.chart.name, render("file.svg", picture=drawing, paint=LIGHT)
    return {f"{name}.svg": vectors.encode(), f"{name}.png": png(drawing)}


def png(drawing: Drawing) -> bytes:
    """Return a drawing as dots of colour, two to a pixel of its view box."""
    with matplotlib.rc_context(PLAIN), warnings.catch_warnings():
        # A browser has the letters of a folder's name that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        size = drawing.width / 72, drawing.height / 72
        figure = Figure(size, facecolor=LIGHT["paper"])
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, drawing.width), ylim=(drawing.height, 0))
        axes.axis("off")
        for number, mark in enumerate(drawing.marks):
            _paint(axes, mark, number)
        for words in drawing.words:
            x, y = np.add((words.x, words.y), words.move)
            anchor, colour = ANCHORS[words.anchor], LIGHT[words.colour]
            text = axes.text(x, y, words.text, ha=anchor, size=words.size, color=colour)
            text.set_zorder(len(drawing.marks))
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=144)
    return content.getvalue()


def _paint(axes: Axes, mark: Mark, number: int) -> None:
    """Draw a mark over those before it."""
    look: dict[str, Any] = {"color": LIGHT[mark.colour], "alpha": mark.opacity, "zorder": number}
    dash = (0, [float(part) for part in mark.dash.split()]) if mark.dash else "-"
    match mark.kind:
        case "dots":
            axes.plot(*mark.paths[0].T, "o", ms=mark.size, mew=0, **look)
        case "line":
            axes.add_collection(
                LineCollection(mark.paths, linewidths=mark.size, linestyles=dash, **look)
            )
        case _:
            axes.add_collection(PolyCollection(mark.paths, linewidths=0, **look))
