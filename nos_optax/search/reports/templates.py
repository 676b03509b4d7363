"""The templates of pages and pictures, and how they write numbers and texts.

What comes from outside is escaped and on one line wherever a template has it: `Markup` alone is
passed on as it is, and the names of its makers here are all that there are.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nos_optax._command import printable
from nos_optax.search.reports.marks import Mark
from nos_optax.search.reports.mathematics import latex, mathml
from nos_optax.search.reports.statistics import finite, last_quarter, paired_interval, t_interval


def render(template: str, **values: Any) -> str:
    """Return a template with values in it."""
    return TEMPLATES.get_template(template).render(values)


def source(name: str) -> Markup:
    """Return a file beside the templates as it is."""
    return Markup(LOADER.get_source(TEMPLATES, name)[0])


def prose(value: object) -> Markup:
    """Return sentences on one line, with no line break before a unit."""
    words = " ".join(escape(value).split())
    return Markup(printable(words).replace(" %", "\u00a0%"))


def score(value: float | None) -> str:
    """Return a reward as people read it."""
    if value is None or not math.isfinite(value):
        return "none"
    plain = value == 0 or 0.01 <= abs(value) < 100  # else four digits, wherever they stand
    return (f"{value:.4f}" if plain else f"{value:.4g}").replace("-", "\u2212")


def interval(ends: tuple[float, float] | None) -> str:
    """Return an interval as people read it."""
    return "" if ends is None else f"{score(ends[0])} to {score(ends[1])}"


def signed(value: float) -> str:
    """Return a difference with its sign, to the hundredth of a doubling."""
    if round(value, 2) == 0:
        return "0.00"
    shown = f"{value:+.2f}" if abs(value) < 1000 else f"{value:+.2g}"
    return shown.replace("-", "\u2212")


def rate(value: float | None) -> str:
    """Return a learning rate as people read it."""
    if value is None:
        return "none"
    mantissa, _, exponent = f"{value:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def counted(count: int, noun: str = "") -> str:
    """Return a number of things: 1 candidate, 2 candidates."""
    return f"{count:,}" + (f" {noun}{'' if count == 1 else 's'}" if noun else "")


def duration(seconds: float) -> str:
    """Return a time in the units that suit it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def setting(value: Any) -> str:
    """Return a configuration's value as people write it."""
    match value:
        case list() | tuple():
            return ", ".join(map(setting, value)) or "none"
        case dict():
            return ", ".join(f"{key} {setting(item)}" for key, item in value.items())
        case None:
            return "default"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def tally(values: Iterable[Any]) -> list[tuple[Any, int]]:
    """Return how often each value is there, the most frequent first."""
    return Counter(values).most_common()


def outline(mark: Mark) -> Markup:
    """Return the path of a mark in the language of SVG."""
    if mark.kind == "dots":  # lines of no length, whose round ends are the dots
        return Markup("".join(f"M{x:.1f} {y:.1f}h0" for x, y in mark.paths[0]))
    end = "Z" if mark.kind == "area" else ""
    paths = ("L".join(f"{x:.1f} {y:.1f}" for x, y in path) for path in mark.paths)
    return Markup("".join(f"M{path}{end}" for path in paths))


def _text(value: object) -> object:
    return value if isinstance(value, Markup) else printable(value)


LOADER = PackageLoader("nos_optax.search.reports")
TEMPLATES = Environment(
    loader=LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_text,
    lstrip_blocks=True,
)
WRITE = (prose, score, interval, signed, rate, counted, duration, setting, outline, latex, mathml)
RECKON = (tally, finite, t_interval, paired_interval, last_quarter)
TEMPLATES.filters |= {function.__name__: function for function in (*WRITE, *RECKON)}
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
