"""What charts are made of: lines, areas, dots and words, in the units of the data."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Mark(NamedTuple):
    """Something drawn in one colour."""

    kind: str  # line, area or dots
    paths: Sequence[np.ndarray]  # points [K, 2] of each line or outline; dots are one path
    colour: str  # a name of the theme
    size: float = 1.6  # pixels: the width of lines, and of dots
    opacity: float = 1.0
    dash: str = ""
    label: str = ""  # in the legend
    shape: str = "o"  # of dots


class Words(NamedTuple):
    """Text at a point."""

    x: float
    y: float
    text: str
    anchor: str = "start"  # or middle, end
    move: tuple[float, float] = (0.0, 4.0)  # pixels from the point, right and down
    colour: str = "muted"
    size: float = 11.0


class Axis(NamedTuple):
    """What the places along a side of a panel mean."""

    names: Sequence[str] | None = None  # of the places 0, 1, ...; None: numbers
    limits: tuple[float, float] | None = None  # None: of all that is drawn
    kind: str = ""  # percent, or whole
    grid: bool = False


class Panel(NamedTuple):
    """Marks in a frame of their own."""

    marks: Sequence[Mark | Words]
    x: Axis = Axis()
    y: Axis = Axis(grid=True)
    height: float = 250.0  # pixels
    right: float = 12.0  # pixels beside the frame, for words
    title: str = ""


class Chart(NamedTuple):
    """Panels under one legend."""

    name: str  # of its files
    panels: Sequence[Panel]
    x: str = ""  # what is along the bottom
    y: str = ""
    columns: int = 1
    says: Mapping[str, Any] = {}  # what the caption under it needs to know


def line(x: ArrayLike, y: ArrayLike, colour: str, size: float = 1.6, **look: Any) -> Mark:
    """Return a line through points."""
    return Mark("line", [np.column_stack([x, y])], colour, size, **look)


def spans(
    low: ArrayLike, high: ArrayLike, y: ArrayLike, colour: str, size: float = 2.0, **look: Any
) -> Mark:
    """Return lines from left to right, such as intervals."""
    rows = np.column_stack(np.atleast_1d(*np.broadcast_arrays(low, y, high, y))).reshape(-1, 2, 2)
    return Mark("line", list(rows), colour, size, **look)


def dots(x: ArrayLike, y: ArrayLike, colour: str, size: float, **look: Any) -> Mark:
    """Return dots, or other shapes: ^ v D s as they look, | a stroke."""
    return Mark("dots", [np.column_stack([x, y])], colour, size, **look)


def band(x: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str, **look: Any) -> Mark:
    """Return the area between two lines."""
    above, below = np.column_stack([x, high]), np.column_stack([x, low])
    return Mark("area", [np.concatenate([above, below[::-1]])], colour, **look)


def boxes(
    left: ArrayLike, right: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str, **look: Any
) -> Mark:
    """Return rectangles."""
    corners = np.column_stack(np.broadcast_arrays(left, low, right, low, right, high, left, high))
    return Mark("area", list(corners.reshape(-1, 4, 2)), colour, **look)
