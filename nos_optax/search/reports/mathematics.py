"""Rules as mathematics that every browser typesets without a network."""

import re

from latex2mathml.converter import convert
from markupsafe import Markup

from nos_optax._command import printable
from nos_optax.grammar import RuleError, parse

_LETTERS = re.compile(r'(?:<mi mathvariant="normal">([A-Za-z])</mi>)+')
_WORD = re.compile(r"<mo>([A-Za-z]+)</mo>")


def latex(rule: str) -> str | None:
    """Return the LaTeX of a rule in infix form; None where this version cannot read it."""
    try:
        return parse(rule).latex()
    except RuleError:
        return None


def mathml(rule: str) -> Markup:
    """Return a rule in infix form as MathML; its text where this version cannot read it."""
    source = latex(rule)
    if source is None:
        return Markup("<code>{}</code>").format(printable(rule))
    markup = _LETTERS.sub(lambda m: f"<mi>{re.sub('<[^>]*>', '', m[0])}</mi>", convert(source))
    # A function's name as an operator would have an operator's space before the parenthesis.
    return Markup(_WORD.sub(r"<mi>\1</mi>", markup))
