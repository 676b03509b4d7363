"""Does a decay of the learning rate change who wins? Cosine, linear cosine and its noisy form.

Claim:    on CIFAR-10 with a wide residual network, decays of the learning rate, above all the
          linear cosine decays that the paper's search found, make optimizers more accurate, and
          PowerSign and AddSign stay ahead (table 2 and figure 7). Its figures and its list of rows
          are not at hand.
Method:   as in table1_constant_rate.py. The 16 rows are our choice, made before any run: all pairs
          of four methods (the two usual ones that the paper starts from, Momentum and Adam, and
          the two that it proposes, PowerSign and AddSign, whose sign term stays constant, so that
          only the learning rate decays) and of four schedules (a constant one for comparison,
          cosine, linear cosine, noisy linear cosine, each to the end of the training). The rate is
          tuned for each pair, with one seed, which no interval covers. The four constant rates are
          rows of table1_constant_rate.py too. Differences are to Momentum with a cosine decay; a
          second table has each method's differences to its own constant rate. All are of final test
          accuracies, seed by seed, with t intervals of 95 %, not corrected for their number. Better
          or worse is what paired t-tests say by Holm's procedure at 5 % over all rows of a table.
          `small` is another setting, a tiny network that has just begun to learn: a decay has
          little to refine there.
Command:  python experiments/table2_decayed_rate.py --data-dir DIR
          python experiments/table2_decayed_rate.py --data-dir DIR --scale paper   (accelerators)
          python experiments/table2_decayed_rate.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted one stopped: the records are in --out.
Time:     12 minutes on 2 cores beside other jobs.
Writes:   experiments/results/table2_decayed_rate_SCALE.json, .md and .png
"""

import functools
import itertools
from collections.abc import Sequence

from harness.command_line import main
from harness.image_rivals import PAPER, SMALL, SMOKE, ImageConfig, check, report, train
from harness.rival_tables import (
    Result,
    claims,
    draw_differences,
    edge_note,
    interval_text,
    measure,
    results_table,
    verdict,
)
from harness.statistics import Interval, difference
from harness.tuning import Rival
from rich import box
from rich.console import Console
from rich.table import Table

from nos_optax import rules

NAME = "table2_decayed_rate"
METHODS = {"Momentum": "momentum", "Adam": "adam", "PowerSign": "powersign", "AddSign": "addsign"}
CONSTANT, DECAYS = "constant", ("cosine", "linear cosine", "noisy linear cosine")


def row(method: str, schedule: str) -> str:
    """Return a rival's name."""
    return f"{method} + {schedule}"


RIVALS = tuple(
    Rival(row(method, schedule), str(rules[key].rule), schedule)
    for (method, key), schedule in itertools.product(METHODS.items(), (CONSTANT, *DECAYS))
)
BASELINE = row("Momentum", "cosine")
DRAWN = [row(*pair) for pair in itertools.product(METHODS, (CONSTANT, "cosine", "linear cosine"))]
PRESETS = {"small": SMALL, "paper": PAPER, "smoke": SMOKE}


def differences_to_constant(results: Sequence[Result]) -> dict[str, Interval]:
    """Return how much each decay changes its method's final test accuracy, with intervals."""
    final = {result.name: result.values["final_test"] for result in results}
    return {
        row(method, decay): difference(final[row(method, decay)], final[row(method, CONSTANT)])
        for method, decay in itertools.product(METHODS, DECAYS)
    }


def decays_table(differences: dict[str, Interval], digits: int) -> Table:
    """Return the table of the differences, methods by decays."""
    table = Table(box=box.SIMPLE)
    for column in ("method", *DECAYS):
        table.add_column(column)
    for method in METHODS:
        cells = (interval_text(differences[row(method, decay)], digits) for decay in DECAYS)
        table.add_row(method, *cells)
    return table


def run(config: ImageConfig, console: Console) -> None:
    """Train all rivals, print the tables and write the results."""
    if config.check:
        check(config, console)
        return
    trained = train(config, NAME, RIVALS, console)
    results = measure(trained.outcomes, BASELINE, trained.display)
    differences = differences_to_constant(results)
    tables = {
        "Methods and schedules": results_table(results, BASELINE, trained.display, {}),
        "Final test, with a decay - with a constant rate [95 %]": decays_table(
            differences, trained.display.digits
        ),
    }
    notes = [
        verdict(results, BASELINE, trained.display),
        f"Final test against the same method's constant rate, {claims(differences, config.seeds)}",
        edge_note(results, config.rates),
    ]
    panel = functools.partial(
        draw_differences, results=results, baseline=BASELINE, display=trained.display
    )
    more = {"differences_to_constant": differences}
    report(config, NAME, trained, results, tables, notes, DRAWN, console, panel, more)


if __name__ == "__main__":
    main(run, PRESETS)
