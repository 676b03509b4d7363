"""Other bases and averages of PowerSign and AddSign on the child: part (c) of figure4_child.py.

A search's programs have one decay rate of the averages, and no constant but 1 and 2. So these train
by `nos_optax.powersign` and `nos_optax.addsign`: one compiled program for each of the two, with the
base and the decay rate as data.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from harness import rival_tables
from harness.rival_tables import Display, Result
from harness.statistics import claims, epochs_to_reach
from harness.tables import interval_text, mean_text, rates_text, text_table
from harness.tuning import Outcome, Rival
from rich.table import Table

import nos_optax
from nos_optax.compare.statistics import Difference, difference

EVALUATIONS = 4  # of an epoch, at most
PART = 0.9  # of the way from chance to the default's last score: the level that is to be reached
START = (0.03, 0.1, 0.3)  # learning rates; beyond an end where the best one is there


class Variant(NamedTuple):
    """Hyperparameters of PowerSign or AddSign."""

    optimizer: str
    base: float = math.e  # alpha of section 5.1; of PowerSign only
    b1: float = 0.9


POWERSIGN, ADDSIGN = "PowerSign", "AddSign"  # both also name the variant with the paper's defaults
AVERAGES = (0.8, 0.95, 0.99)  # beside the default
VARIANTS = {
    POWERSIGN: Variant(POWERSIGN),
    **{f"PowerSign, base {base}": Variant(POWERSIGN, base=base) for base in (2, 4, 10)},
    **{f"PowerSign, b1 {b1}": Variant(POWERSIGN, b1=b1) for b1 in AVERAGES},
    ADDSIGN: Variant(ADDSIGN),
    **{f"AddSign, b1 {b1}": Variant(ADDSIGN, b1=b1) for b1 in AVERAGES},
}


def powersign(numbers: jax.Array) -> optax.GradientTransformation:
    """Return PowerSign of a rate, a base and a decay rate of the average."""
    rate, base, b1 = numbers
    return nos_optax.powersign(rate, b1=b1, base=base)


def addsign(numbers: jax.Array) -> optax.GradientTransformation:
    """Return AddSign of a rate and a decay rate; the base is of no use to it."""
    rate, _, b1 = numbers
    return nos_optax.addsign(rate, b1=b1)


def rival(name: str) -> Rival:
    """Return a variant as a rival, with its rule as text."""
    optimizer, *numbers = VARIANTS[name]
    factory, rule = addsign, "(1 + sign(g) * sign(m)) * g"
    if optimizer == POWERSIGN:
        base = numbers[0]
        power = "exp(sign(g) * sign(m))" if base == math.e else f"{base:g}^(sign(g) * sign(m))"
        factory, rule = powersign, f"{power} * g"
    return Rival(name, rule, factory=factory, numbers=tuple(numbers))


RIVALS = tuple(map(rival, VARIANTS))


def evaluations(epoch_steps: int) -> int:
    """Return how often an epoch is looked at: as often as may be, at equal distances."""
    return max(k for k in range(1, EVALUATIONS + 1) if epoch_steps % k == 0)


# What is measured.


class Row(NamedTuple):
    """A variant in numbers; differences are to the paper's hyperparameters, seed by seed."""

    result: Result
    steps: list[float]  # to the level, of each fresh seed; inf where it is never reached
    fewer: Difference | None  # steps less the default's; None for the default, or where one is inf


def measure(outcomes: Sequence[Outcome], display: Display, steps_between: int) -> list[Row]:
    """Return each variant's numbers."""
    rows = []
    for default in (POWERSIGN, ADDSIGN):
        group = [o for o in outcomes if VARIANTS[o.rival.name].optimizer == default]
        results = rival_tables.measure(group, default, display)
        steps = steps_to_level(group, default, display.chance, steps_between)
        for result in results:
            fewer = None
            if result.name != default and np.isfinite([steps[default], steps[result.name]]).all():
                fewer = difference(steps[result.name], steps[default])
            rows.append(Row(result, steps[result.name], fewer))
    return rows


def steps_to_level(
    group: Sequence[Outcome], default: str, chance: float, steps_between: int
) -> dict[str, list[float]]:
    """Return the steps to the level, of each fresh seed, by variant.

    The level is `PART` of the way from chance to the default's mean last validation score.
    """
    curves = {
        o.rival.name: np.nan_to_num([t.validation for t in o.runs], nan=chance) for o in group
    }
    level = chance + PART * (float(curves[default][:, -1].mean()) - chance)
    return {
        name: [steps_between * epochs_to_reach(curve.tolist(), level, chance) for curve in of_one]
        for name, of_one in curves.items()
    }


# What is shown.


def table(rows: Sequence[Row], display: Display) -> Table:
    """Return the table of the variants."""
    columns = ("rival", "rule", "rates tried", "rate", "steps to the level ± se")
    return text_table(
        (*columns, "- default's [95 %]", "final test ± se", "- default's [95 %]"),
        [
            (
                *(result.name, result.rule, rates_text(result.tried), f"{result.rate:g}"),
                mean_text(steps, 0) if np.isfinite(steps).all() else "not reached by all",
                "not reached by all"
                if result.difference and not fewer
                else interval_text(fewer, 0),
                mean_text(result.values["final_test"], display.digits),
                interval_text(result.difference, display.digits),
            )
            for result, steps, fewer in rows
        ],
    )


def verdict(rows: Sequence[Row]) -> str:
    """Say what becomes of the two claims: of the base, and of the averages."""
    bases = {r.result.name: r.fewer for r in rows if "base" in r.result.name and r.fewer}
    finals = {r.result.name: r.result.difference for r in rows if r.result.difference is not None}
    groups: Mapping[str, Mapping[str, Difference]] = {
        "Other bases, final test against base e": {n: i for n, i in finals.items() if "base" in n},
        "Other averages, final test against b1 0.9": {n: i for n, i in finals.items() if "b1" in n},
    }
    said = [f"{title}, {claims(known)}" for title, known in groups.items() if known]
    if bases:
        said.insert(0, f"Other bases, fewer steps to the level, {claims(bases, lower=True)}")
    return " ".join(said)
