"""The rules of the paper, by name, with the accuracies that it gives.

The rows of Table 6 were transcribed without the paper at hand and have not been checked against it:
a row may be missing, and a figure should be looked up there before it is quoted.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from nos_optax.grammar.rule import Accuracy, PaperRule, parse

_TABLE_6: dict[str, tuple[str, tuple[float, float, float, float]]] = {
    "sgd": ("g", (92.0, 91.8, 92.9, 91.9)),
    "momentum": ("m", (92.7, 92.1, 93.1, 92.3)),
    "adam": ("adam", (90.4, 90.1, 91.8, 90.7)),
    "rmsprop": ("rmsprop", (90.7, 90.3, 91.4, 90.3)),
    "powersign_plus_clip": (
        "(exp(sign(g) * sign(m)) + clip(g, 1e-4)) * g",
        (92.5, 92.4, 93.8, 93.1),
    ),
    "clip_momentum_exp_v": ("clip(m, 1e-4) * exp(v)", (93.5, 92.5, 93.8, 92.7)),
    "momentum_exp_v": ("m * exp(v)", (93.1, 92.4, 93.8, 92.6)),
    "powersign": ("exp(sign(g) * sign(m)) * g", (93.1, 92.8, 93.8, 92.8)),
    "drop3_powersign": ("drop(g, 0.3) * exp(sign(g) * sign(m))", (92.7, 92.2, 93.6, 92.7)),
    "momentum_exp_g2": ("m * exp(g^2)", (93.1, 92.5, 93.6, 92.4)),
    "drop_momentum_over_exp_g2": ("drop(m, 0.1) / exp(g^2)", (92.6, 92.4, 93.5, 93.0)),
    "drop1_powersign": ("drop(g, 0.1) * exp(sign(g) * sign(m))", (92.8, 92.4, 93.5, 92.2)),
    "clip_rmsprop_plus_drop_momentum": (
        "clip(rmsprop, 1e-5) + drop(m, 0.3)",
        (90.8, 90.8, 91.4, 90.9),
    ),
    "adam_powersign": ("adam * exp(sign(g) * sign(m))", (92.6, 92.0, 93.4, 92.0)),
    "adam_exp_momentum": ("adam * exp(m)", (92.9, 92.8, 93.3, 92.7)),
    "g_plus_drop_momentum": ("g + drop(m, 0.3)", (93.4, 92.9, 93.7, 92.9)),
    "drop_momentum_exp_g3": ("drop(m, 0.1) * exp(g^3)", (92.8, 92.7, 93.7, 92.8)),
    "g_minus_clip_g2": ("g - clip(g^2, 1e-4)", (93.4, 92.8, 93.7, 92.8)),
    "exp_g_minus_exp_momentum": ("exp(g) - exp(m)", (93.2, 92.5, 93.5, 93.1)),
    "drop_momentum_exp_w": ("drop(m, 0.3) * exp(1e-3 * w)", (93.2, 93.0, 93.5, 93.2)),
}

# Section 5.1: both families, without and with the decays of the sign term, f(t).
_DECAYS = {"ld": "ld", "cd": "cd", "rd10": "rd(10)", "rd20": "rd(20)"}
_SECTION_5_1: dict[str, str] = {
    **{f"powersign_{name}": f"exp({f} * sign(g) * sign(m)) * g" for name, f in _DECAYS.items()},
    "addsign": "(1 + sign(g) * sign(m)) * g",
    **{f"addsign_{name}": f"(1 + {f} * sign(g) * sign(m)) * g" for name, f in _DECAYS.items()},
}


class _Catalogue(dict[str, PaperRule]):
    """Rules by name; an unknown name is an error that says which ones are like it."""

    def __missing__(self, name: object) -> PaperRule:
        near = difflib.get_close_matches(str(name), self) or self
        raise KeyError(f"no rule of the paper is called {name!r} here; try {', '.join(near)}")


_RULES = [
    PaperRule(name, parse(text), "Table 6", Accuracy(*figures))
    for name, (text, figures) in _TABLE_6.items()
] + [PaperRule(name, parse(text), "section 5.1") for name, text in _SECTION_5_1.items()]
rules: Mapping[str, PaperRule] = MappingProxyType(_Catalogue({rule.name: rule for rule in _RULES}))
