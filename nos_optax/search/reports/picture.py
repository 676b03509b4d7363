"""Charts as files and as parts of a page, drawn by matplotlib without its global state."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nos_optax.search.reports.markup import prose, text
from nos_optax.search.reports.theme import LIGHT, PICTURE_STYLE

WIDE, NARROW = 760, 340  # CSS pixels, which are a picture's points
SHORT = 24  # letters that a narrow picture has room for
_VARIABLES = {colour: f"var(--{name})" for name, colour in LIGHT.items()}
_COLOUR = re.compile("|".join(_VARIABLES))


class Chart(NamedTuple):
    """What is drawn, twice in a page: for a desk and for a phone."""

    name: str  # of its files
    title: str
    caption: str  # what is seen, plain text
    heights: tuple[int, int]  # CSS pixels, wide and narrow
    draw: Callable[[Figure, bool], None]  # onto a figure; whether it is narrow


class Picture(NamedTuple):
    """A chart that is drawn."""

    chart: Chart
    wide: bytes  # SVG
    narrow: bytes  # SVG
    png: bytes  # wide


def draw(chart: Chart) -> Picture:
    """Draw a chart."""
    wide, png = _render(chart, False, ("svg", "png"))
    return Picture(chart, wide, *_render(chart, True, ("svg",)), png)


def files(picture: Picture) -> dict[str, bytes]:
    """Return a picture as a PNG and an SVG file, on light paper."""
    name = picture.chart.name
    return {f"{name}.png": picture.png, f"{name}.svg": picture.wide}


def figure(picture: Picture) -> str:
    """Return a picture as a figure of a page, whose colours follow the page's."""
    chart = picture.chart
    return (
        f'<figure id="figure-{chart.name}">{_inline(chart, "wide", picture.wide)}'
        f"{_inline(chart, 'narrow', picture.narrow)}"
        f"<figcaption>{prose(chart.caption)}</figcaption></figure>"
    )


def legend(axes: Axes, columns: int) -> None:
    """Put the legend above the axes."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns)


def score_label(score: str, narrow: bool) -> str:
    """Return what an axis of rewards is called; a short name where a long one has no room."""
    return "reward" if narrow and len(score) > SHORT else score


def reward_label(score: str, narrow: bool) -> str:
    """Return what an axis of rewards in the search is called."""
    return "reward" if narrow and len(score) > SHORT else f"reward: {score}"


def _inline(chart: Chart, variant: str, content: bytes) -> str:
    """Return an SVG file as an element with ids of its own."""
    prefix = f"{chart.name}-{variant}-"
    svg = content.decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to these
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace('xlink:href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")
    svg = re.sub(r"font-family: [^;]*; ?", "", svg)
    svg = _COLOUR.sub(lambda match: _VARIABLES[match[0]], svg)
    _, attributes, body = re.split(r"<svg([^>]*)>", svg, maxsplit=1)
    box = re.findall(r'viewBox="[^"]*"', attributes)[0]
    return (
        f'<svg class="{variant}" {box} role="img" aria-labelledby="{prefix}title {prefix}desc">'
        f'<title id="{prefix}title">{text(chart.title)}</title>'
        f'<desc id="{prefix}desc">{text(chart.caption)}</desc>{body}'
    )


def _render(chart: Chart, narrow: bool, kinds: Sequence[str]) -> list[bytes]:
    """Return a chart as files of some kinds."""
    contents = []
    with matplotlib.rc_context(PICTURE_STYLE), warnings.catch_warnings():
        # The browser has the letters of a folder's name that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        size = (NARROW if narrow else WIDE) / 72, chart.heights[narrow] / 72
        drawn = Figure(figsize=size, layout="constrained", facecolor=LIGHT["paper"])
        chart.draw(drawn, narrow)
        for axes in drawn.axes:
            axes.set_facecolor("none")
        for kind in kinds:
            content = io.BytesIO()
            undated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            metadata = undated if kind == "svg" else None
            drawn.savefig(content, format=kind, dpi=144, metadata=metadata)
            contents.append(content.getvalue())
    return contents
