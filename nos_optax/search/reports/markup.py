"""The parts that pages are made of, and the page around them.

What comes from outside goes through `text`; what is markup already is passed on as it is.
"""

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from nos_optax._command import printable
from nos_optax.search.reports.theme import DARK, LIGHT, variables

_FILES = files("nos_optax.search.reports")


def text(value: object) -> str:
    """Return a value as text of a page, on one line and without what no page may hold."""
    return html.escape(printable(value))


def prose(value: str) -> str:
    """Return sentences as text of a page, with no line break before a unit."""
    return text(value).replace(" %", "\u00a0%")


def score(value: float | None) -> str:
    """Return a reward as people read it."""
    if value is None or not math.isfinite(value):
        return "none"
    plain = value == 0 or 0.01 <= abs(value) < 100  # else four digits, wherever they stand
    return (f"{value:.4f}" if plain else f"{value:.4g}").replace("-", "\u2212")


def interval(ends: tuple[float, float] | None) -> str:
    """Return an interval as people read it."""
    return "" if ends is None else f"{score(ends[0])} to {score(ends[1])}"


def rate(value: float | None) -> str:
    """Return a learning rate as people read it."""
    if value is None:
        return "none"
    mantissa, _, exponent = f"{value:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def counted(count: int, noun: str) -> str:
    """Return a number of things: 1 candidate, 2 candidates."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time in the units that suit it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def section(name: str, title: str, *body: str) -> str:
    """Return a section with a heading that can be linked to."""
    heading = f'<h2 id="{name}-title"><a href="#{name}">{text(title)}</a></h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{"".join(body)}</section>'


def paragraph(*sentences: str) -> str:
    """Return sentences, plain text, as a paragraph."""
    return f"<p>{prose(' '.join(sentences))}</p>"


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], numbers=()) -> str:
    """Return a table that scrolls inside its own box.

    Args:
        caption: what it shows, plain text.
        header: names of the columns, plain text.
        rows: of cells, markup.
        numbers: the columns that hold numbers.

    Returns:
        Markup.
    """
    kinds = ['class="number"' if i in numbers else "" for i in range(len(header))]
    head = "".join(
        f'<th scope="col" {kind}>{text(name)}</th>'
        for kind, name in zip(kinds, header, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td {kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<p class="hint">{prose(caption)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table aria-label="{text(caption)}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def code(value: object) -> str:
    """Return a value as code."""
    return f"<code>{text(value)}</code>"


def json_text(value: Any) -> str:
    """Return a configuration's value as people write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(json_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {json_text(item)}" for key, item in value.items())
    match value:
        case None:
            return "default"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def page(title: str, subtitle: str, sections: Sequence[str], data: str = "") -> str:
    """Return a whole page that needs, and may load, nothing else.

    Args:
        title: of the page, plain text.
        subtitle: under it, plain text.
        sections: markup.
        data: elements with the data of the page's script.

    Returns:
        HTML.
    """
    script = _FILES.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    style = (
        f":root {{ {variables(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}\n"
    ) + _FILES.joinpath("page.css").read_text(encoding="utf-8")
    template = Template(_FILES.joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        policy=policy,
        title=text(title),
        subtitle=text(subtitle),
        style=style,
        body="\n".join(sections),
        data=data,
        script=script,
    )
