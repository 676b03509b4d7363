"""The rules of the paper, by name, with the accuracies that it gives."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from nos_optax.grammar import paper
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.rule import UpdateRule, parse


class Accuracy(NamedTuple):
    """CIFAR-10 accuracies of a Wide ResNet, in per cent, as Table 6 gives them.

    The network trained for 300 epochs at a constant learning rate, the best of seven by the
    validation accuracy.

    Attributes:
        final_validation: On validation images, after the last epoch.
        final_test: On test images, after the last epoch.
        best_validation: On validation images, after the epoch that was best on them.
        best_test: On test images, after that epoch.
    """

    final_validation: float
    final_test: float
    best_validation: float
    best_test: float


class PaperRule(NamedTuple):
    """A rule of Bello et al. (2017).

    Attributes:
        name: The key in `rules`.
        rule: The update rule; `nos_optax.from_rule` takes the `PaperRule` itself too.
        section: Where the paper has it: `Table 6` (even if section 5.1 has it too), `section 5.1`
            or `Table 1`.
        accuracy: What Table 6 gives for it; None for rules that are not in that table.
    """

    name: str
    rule: UpdateRule
    section: str
    accuracy: Accuracy | None = None


class _Catalogue(dict[str, PaperRule]):
    """Rules by name; an unknown name is an error that says which ones are like it."""

    def __missing__(self, name: object) -> PaperRule:
        near = difflib.get_close_matches(str(name), self) or self
        raise KeyError(f"no rule of the paper is called {name!r} here; try {', '.join(near)}")


_RULES = [
    *(
        PaperRule(name, parse(text), "Table 6", Accuracy(*figures))
        for name, (text, figures) in paper.TABLE_6.items()
    ),
    *(PaperRule(name, parse(text), "section 5.1") for name, text in paper.SECTION_5_1.items()),
    *(PaperRule(name, parse(text), "Table 1") for name, text in paper.TABLE_1.items()),
]
rules: Mapping[str, PaperRule] = MappingProxyType(_Catalogue({rule.name: rule for rule in _RULES}))


def named_rule(text: str) -> UpdateRule:
    """Return a rule of the catalogue by its name, or any by its text.

    Raises:
        RuleError: it is neither; the message has the names that are like it.
    """
    if text in rules:
        return rules[text].rule
    try:
        return parse(text)
    except RuleError as error:
        near = difflib.get_close_matches(text, rules)
        if not (near and text.isidentifier()):
            raise
        raise RuleError(f"{error}\nOr one of the paper's rules: {' or '.join(near)}?") from None
