"""Are the rules of table 6 as good as the paper says, and in its order, on a wide ResNet?

Claim:    the paper trained dozens of its search's best rules on the wide ResNet for 300 epochs,
          and stopped early what showed less promise; table 6 has some that do well there, with the
          four common optimizers: 32 rows, each the best of seven learning rates by validation
          accuracy, without a decay (sections 5.1 and 8.2). Final test accuracies go from 90.1
          (Adam) to 93.0 (drop(m, 0.3) * exp(1e-3 * w)); Momentum's is 92.1. Two rows are one
          formula, and their accuracies are 0.5 to 0.7 apart: so much is noise.
Method:   as in table1_constant_rate.py, but without weight decay, of which the paper says nothing
          here. `small` takes 12 rules that span the paper's final test accuracies: Momentum, which
          the differences are to, and of 11 equally spaced accuracies from the least to the
          greatest the rule that is nearest to each, the first of the table where several are; --all
          takes every row. With --model child it is the small ConvNet of the search, which the paper
          does not report on.
          The ranks of our mean accuracies and of the paper's are compared by Spearman's
          correlation, for each column of table 6. Its interval of 95 % is a bootstrap over rules,
          of which each keeps its observed mean; the paper's noise is not known. How much of our
          order is noise is seen in the correlation of two halves of our own seeds, a mean over all
          ways to halve them: where it is low, ours can agree with no other order either.
          Differences are of the final test accuracies, seed by seed, with t intervals of 95 %.
          These are not corrected for their number, and none covers the choice of the rate. Better
          or worse is what paired t-tests say by Holm's procedure at 5 % over all rules.
          `small` is another setting: WRN-10-1, 5,000 images of half the size, 8 epochs.
Command:  python experiments/table6_all_rules.py --data-dir DIR
          python experiments/table6_all_rules.py --data-dir DIR --all
          python experiments/table6_all_rules.py --data-dir DIR --model child
          python experiments/table6_all_rules.py --data-dir DIR --scale paper   (accelerators)
          python experiments/table6_all_rules.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted one stopped, with --all too: the records are
          in --out.
Time:     small: about 90 trainings of 800 steps, each half a minute to a minute of one core, by the
          time of 200 steps: up to an hour on 2 cores, up to 2.5 with --all. paper: for
          accelerators, not run here.
Writes:   experiments/results/table6_all_rules[_child]_SCALE.json, .md and .png
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from harness import image_rivals
from harness.command_line import main
from harness.image_rivals import PAPER, SMALL, SMOKE, ImageConfig, More
from harness.rival_tables import PARTS, Result
from harness.statistics import between_halves, rank_correlation
from harness.tables import text_table
from harness.tuning import Rival
from rich.console import Console
from rich.table import Table

from nos_optax import rules

TABLE_6 = {name: row for name, row in rules.items() if row.accuracy}
BASELINE = "momentum"
SPANNING = 12  # rules, unless all are asked for
MOST_DRAWN = 12
REPLICATES = 10_000  # of the bootstrap


def figure(name: str, part: str) -> float:
    """Return one of the accuracies that the paper gives a rule, in per cent."""
    return getattr(TABLE_6[name].accuracy, part)


def spanning(count: int) -> list[str]:
    """Return so many rules that span the paper's final test accuracies, in the table's order.

    They are the baseline and, of equally spaced accuracies from the least to the greatest, the rule
    that is nearest to each and not taken yet.
    """
    paper = {name: figure(name, "final_test") for name in TABLE_6}
    chosen = {BASELINE}
    for target in np.linspace(min(paper.values()), max(paper.values()), count - 1):
        left = [name for name in paper if name not in chosen]
        chosen.add(min(left, key=lambda name: abs(paper[name] - target)))
    return [name for name in paper if name in chosen]


@dataclasses.dataclass(frozen=True)
class Arguments(ImageConfig):
    """Train the rules of table 6, each with its best rate, and compare their order with it."""

    experiment = "table6_all_rules"
    may_grow = (*ImageConfig.may_grow, "all")

    all: bool = True
    """All rows of the table; else 12 that span its accuracies."""

    def rivals(self) -> list[Rival]:
        """Return the rules."""
        names = list(TABLE_6) if self.all else spanning(SPANNING)
        return [Rival(name, str(TABLE_6[name].rule)) for name in names]


# Of all rules the same, and no weight decay.
SAME = {"found_rates": None, "weight_decays": (0.0,), "found_weight_decays": (0.0,)}
LONG, SMOKE_12 = Arguments.like(PAPER, **SAME), Arguments.like(SMOKE, **SAME, all=False)
SHORT = Arguments.like(SMALL, **SAME, train_examples=5000, epochs=8, all=False)
PRESETS = {
    ("small", "wrn"): SHORT,
    ("paper", "wrn"): LONG,
    ("smoke", "wrn"): SMOKE_12,
    # The search trains its child for 5 epochs with minibatches of 100.
    ("paper", "child"): dataclasses.replace(LONG, model="child", shift=0, batch_size=100, epochs=5),
    ("small", "child"): dataclasses.replace(SHORT, model="child"),
    ("smoke", "child"): dataclasses.replace(SMOKE_12, model="child"),
}


class Agreement(NamedTuple):
    """Rank correlations of the rules' accuracies."""

    with_paper: float
    low: float
    high: float
    between_our_halves: float  # of the seeds; mean over all ways to halve them


def bootstrap(
    ours: np.ndarray, paper: np.ndarray, replicates: int = REPLICATES
) -> tuple[float, float]:
    """Return a 95 % interval of the rank correlation of our means with the paper's figures.

    Args:
        ours: `[rules]`.
        paper: `[rules]`.
        replicates: draws of rules with replacement.
    """
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(ours), size=(replicates, len(ours)))
    low, high = np.quantile(rank_correlation(ours[chosen], paper[chosen]), (0.025, 0.975))
    return float(low), float(high)


def agreements(results: Sequence[Result]) -> dict[str, Agreement]:
    """Compare our order of the rules with the paper's, for each of its columns."""
    compared = {}
    for part in PARTS:
        ours = np.array([result.values[part] for result in results])
        paper = np.array([figure(result.name, part) for result in results])
        compared[part] = Agreement(
            float(rank_correlation(ours.mean(1), paper)),
            *bootstrap(ours.mean(1), paper),
            between_halves(ours),
        )
    return compared


def agreements_table(compared: Mapping[str, Agreement]) -> Table:
    """Return the table of the rank correlations."""
    columns = "column of table 6", "with the paper's [95 %]", "between two halves of our seeds"
    rows = [
        (
            part.replace("_", " "),
            f"{row.with_paper:.2f} [{row.low:.2f}, {row.high:.2f}]",
            f"{row.between_our_halves:.2f}",
        )
        for part, row in compared.items()
    ]
    return text_table(columns, rows)


def order(agreement: Agreement) -> str:
    """Say what the rank correlation of the final test accuracies shows."""
    interval = f"{agreement.with_paper:+.2f} [{agreement.low:+.2f}, {agreement.high:+.2f}]"
    found = "undecided"
    if agreement.low > 0:
        found = "it agrees"
    elif agreement.high < 0:
        found = "it is contrary"
    return (
        f"The order of the final test accuracies against the paper's: {found}, rank correlation "
        f"{interval}. Between two halves of our own seeds it is "
        f"{agreement.between_our_halves:+.2f}: the lower this is, the less any other order can "
        "agree with ours."
    )


def draw_orders(axes: Any, results: Sequence[Result]) -> None:
    """Draw the paper's final test accuracies of the rules, in the order of ours."""
    ours = {result.name: np.mean(result.values["final_test"]) for result in results}
    names = sorted(ours, key=ours.__getitem__)
    axes.plot([figure(name, "final_test") for name in names], range(len(names)), "o", ms=5)
    axes.grid(axis="y", lw=0.4, alpha=0.6)
    axes.set_yticks(range(len(names)), [f"{name} {ours[name]:.1f}" for name in names])
    axes.set(
        title="rules in our order, with our final test accuracy, %",
        xlabel="paper's final test accuracy, %",
    )


def drawn(names: Sequence[str]) -> list[str]:
    """Return the rules whose curves are shown: all, or of many some that span the accuracies."""
    return list(names) if len(names) <= MOST_DRAWN else spanning(MOST_DRAWN)


def more(results: Sequence[Result]) -> More:
    """Return what is said of the order of the rules."""
    compared = agreements(results)
    return More(
        "Rank correlation of the rules' accuracies",
        agreements_table(compared),
        order(compared["final_test"]),
        {"rank_correlations": {part: row._asdict() for part, row in compared.items()}},
        functools.partial(draw_orders, results=results),
    )


def run(config: Arguments, console: Console) -> None:
    """Train all rivals, print the tables and write the results."""
    rivals = config.rivals()
    names = [rival.name for rival in rivals]
    paper = {n: f"{figure(n, 'best_test')} / {figure(n, 'final_test')}" for n in names}
    shown = drawn(names)
    image_rivals.run(config, rivals, BASELINE, paper, "Rules of table 6", shown, more, console)


if __name__ == "__main__":
    main(run, PRESETS, key=lambda config: (config.scale, config.model))
