"""What `rosenbrock.py` says: two kinds of tables, and a sentence."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.table import Table
from rosenbrock_measures import LAST, SOLVED, Runs, best_by_rate, best_of_first
from rosenbrock_trajectories import BASELINE


def value(f: float) -> str:
    """Return f for a table."""
    return f"{f:.1e}" if np.isfinite(f) else "diverged"


def count(steps: float) -> str:
    """Return a number of steps for a table."""
    return f"{steps:.0f}" if np.isfinite(steps) else "never"


def one_start_table(runs: Mapping[str, Runs], rates: Sequence[float]) -> Table:
    """Return the paper's comparison: f by rate, and the best of them."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    for rate in rates:
        table.add_column(f"rate {rate:g}", justify="right")
    last = f"median f of the last {LAST} steps"
    columns = ("settings", "best rate", "epsilon", "f", last, "least f", f"steps to f < {SOLVED:g}")
    for column in columns:
        table.add_column(column, justify="right")
    for name, some in runs.items():
        best = some.describe(best_of_first(some))
        table.add_row(
            name,
            *(value(some.describe(k)["f"]) for k in best_by_rate(some, rates)),
            str(len(some.settings.first)),
            f"{best['rate']:g}",
            epsilon_of(name, best),
            value(best["f"]),
            value(best["median_f_at_the_end"]),
            value(best["best_f"]),
            count(best["steps_to_solve"]),
        )
    return table


def epsilon_of(name: str, row: Mapping) -> str:
    """Return Adam's epsilon for a table."""
    return f"{row['epsilon']:g}" if name.startswith("Adam") else ""


def starts_table(rows: Mapping[str, dict]) -> Table:
    """Return the table of one comparison from random starts."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    columns = ("settings", "rate", "epsilon", "median f", "quartiles of f", "solved", "steps to it")
    for column in (*columns, "diverged", "log10 f - Adam's [95 %]"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        low, median, high = map(value, row["quartiles"])
        interval = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["log10_minus_adam"])
        table.add_row(
            name,
            str(row["settings"]),
            f"{row['rate']:.2g}",
            epsilon_of(name, row),
            median,
            f"{low} to {high}",
            f"{row['solved']} of {row['n']}",
            count(row["median_steps_to_solve"]),
            str(row["diverged"]),
            "" if name == BASELINE else interval,
        )
    return table


def verdict(runs: Mapping[str, Runs], name: str = "PowerSign") -> str:
    """Say in the paper's comparison who is better than one optimizer, and who is not."""
    best = {other: some.describe(best_of_first(some))["f"] for other, some in runs.items()}
    ranked = sorted(best, key=lambda other: best[other])
    better = [f"{other} ({value(best[other])})" for other in ranked if best[other] < best[name]]
    worse = [f"{other} ({value(best[other])})" for other in ranked if best[other] > best[name]]
    return (
        f"From the single start, {name} ends at f = {value(best[name])} with its best rate. "
        f"Better: {', '.join(better) or 'none'}. Worse: {', '.join(worse) or 'none'}."
    )
