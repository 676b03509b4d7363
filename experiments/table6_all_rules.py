"""Are the paper's found rules as good as it says, and in its order? All rules of table 6.

Claim:    rules that the search found on a small ConvNet do well on a wide residual network too:
          table 6 has 20 rules, the four usual ones among them, with accuracies on CIFAR-10 after
          300 epochs at the best of seven constant learning rates. The rows and figures in this
          repository (`nos_optax.rules`) were transcribed from memory and not checked.
Method:   as in table1_constant_rate.py, for all these rules; with --model child, for the small
          ConvNet of the search, which the paper does not report. The ranks of our mean accuracies
          and of the paper's are compared by Spearman's correlation, for each column of table 6.
          Its interval of 95 % is a bootstrap over rules, of which each keeps its observed mean; the
          paper's noise is not known. How much of the order is our own noise is seen in the mean
          correlation between two of our seeds: where it is low, ours can agree with no other
          order either. In the paper, all accuracies on test images are between 90.1 and 93.2, so a
          perfect repetition would not have correlation 1.
          Differences are to Momentum, of the final test accuracies, seed by seed, with t intervals
          of 95 %. These are not corrected for their number, and none covers the choice of the
          rate, for which there is one seed. Better or worse is what paired t-tests say by Holm's
          procedure at 5 % over all rules. `small` is another setting, a tiny network that has just
          begun to learn.
Command:  python experiments/table6_all_rules.py --data-dir DIR
          python experiments/table6_all_rules.py --data-dir DIR --model child
          python experiments/table6_all_rules.py --data-dir DIR --scale paper   (accelerators)
          python experiments/table6_all_rules.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted one stopped: the records are in --out.
Time:     18 minutes on 2 cores beside other jobs, and 25 with --model child.
Writes:   experiments/results/table6_all_rules[_child]_SCALE.json, .md and .png
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from harness.command_line import main
from harness.image_rivals import (
    PAPER,
    SMALL,
    SMOKE,
    ImageConfig,
    check,
    paper_accuracies,
    report,
    train,
)
from harness.rival_tables import PARTS, Result, edge_note, measure, results_table, verdict
from harness.tuning import Rival
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from nos_optax import rules

NAME = "table6_all_rules"
TABLE_6 = {name: row for name, row in rules.items() if row.accuracy}
RIVALS = tuple(Rival(name, str(row.rule)) for name, row in TABLE_6.items())
BASELINE = "momentum"
DRAWN = (
    "sgd",
    "momentum",
    "adam",
    "rmsprop",
    "powersign",
    "clip_momentum_exp_v",
    "momentum_exp_v",
    "adam_powersign",
    "g_plus_drop_momentum",
    "drop_momentum_exp_w",
)
REPLICATES = 10_000  # of the bootstrap
SHORT = dataclasses.replace(SMALL, epochs=3)
PRESETS = {
    ("small", "wrn"): SHORT,
    ("paper", "wrn"): PAPER,
    ("smoke", "wrn"): SMOKE,
    # The search trains its child for 5 epochs with minibatches of 100.
    ("paper", "child"): dataclasses.replace(
        PAPER, model="child", shift=0, batch_size=100, epochs=5, capacity=140
    ),
    ("small", "child"): dataclasses.replace(
        SHORT, model="child", train_examples=10_000, batch_size=50, epochs=5
    ),
    ("smoke", "child"): dataclasses.replace(SMOKE, model="child"),
}


class Agreement(NamedTuple):
    """Rank correlations of the rules' accuracies."""

    with_paper: float
    low: float
    high: float
    between_our_seeds: float  # mean over pairs


def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation along the last axis; 0 where all of one are equal.

    Args:
        x: `[..., rules]`.
        y: likewise.
    """
    x, y = (stats.rankdata(values, axis=-1) for values in (x, y))
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    size = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), size, out=np.zeros_like(size), where=size > 0)


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
    low, high = np.quantile(correlation(ours[chosen], paper[chosen]), (0.025, 0.975))
    return float(low), float(high)


def agreements(results: Sequence[Result]) -> dict[str, Agreement]:
    """Compare our order of the rules with the paper's, for each of its columns."""
    compared = {}
    for part in PARTS:
        ours = np.array([result.values[part] for result in results])
        paper = np.array([getattr(TABLE_6[result.name].accuracy, part) for result in results])
        pairs = itertools.combinations(ours.T, 2)
        compared[part] = Agreement(
            float(correlation(ours.mean(1), paper)),
            *bootstrap(ours.mean(1), paper),
            float(np.mean([correlation(x, y) for x, y in pairs])),
        )
    return compared


def agreements_table(compared: Mapping[str, Agreement]) -> Table:
    """Return the table of the rank correlations."""
    table = Table(box=box.SIMPLE)
    for column in ("column of table 6", "with the paper's [95 %]", "between two of our seeds"):
        table.add_column(column)
    for part, row in compared.items():
        with_paper = f"{row.with_paper:.2f} [{row.low:.2f}, {row.high:.2f}]"
        table.add_row(part.replace("_", " "), with_paper, f"{row.between_our_seeds:.2f}")
    return table


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
        f"{interval}. Between two of our own seeds it is {agreement.between_our_seeds:+.2f}: the "
        "lower this is, the less any other order can agree with ours."
    )


def draw_orders(axes: Any, results: Sequence[Result]) -> None:
    """Draw the paper's final test accuracies of the rules, in the order of ours."""
    ours = {result.name: np.mean(result.values["final_test"]) for result in results}
    names = sorted(ours, key=ours.__getitem__)
    paper = paper_accuracies({name: name for name in TABLE_6})
    axes.plot([float(paper[name]) for name in names], range(len(names)), "o", ms=5)
    axes.grid(axis="y", lw=0.4, alpha=0.6)
    axes.set_yticks(range(len(names)), [f"{name} {ours[name]:.1f}" for name in names])
    axes.set(
        title="rules in our order, with our final test accuracy, %",
        xlabel="paper's final test accuracy (table 6 as transcribed), %",
    )


def run(config: ImageConfig, console: Console) -> None:
    """Train all rivals, print the tables and write the results."""
    if config.check:
        check(config, console)
        return
    trained = train(config, NAME, RIVALS, console)
    results = measure(trained.outcomes, BASELINE, trained.display)
    compared = agreements(results)
    figures = paper_accuracies({name: name for name in TABLE_6})
    tables = {
        "All rules": results_table(
            results, BASELINE, trained.display, figures, "paper's table 6, final test"
        ),
        "Rank correlation of the rules' accuracies": agreements_table(compared),
    }
    notes = [
        verdict(results, BASELINE, trained.display),
        order(compared["final_test"]),
        edge_note(results, config.rates),
    ]
    panel = functools.partial(draw_orders, results=results)
    more = {"rank_correlations": {part: row._asdict() for part, row in compared.items()}}
    report(config, NAME, trained, results, tables, notes, DRAWN, console, panel, more)


if __name__ == "__main__":
    main(run, PRESETS, key=lambda config: (config.scale, config.model))
