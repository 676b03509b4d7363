"""What `rosenbrock.py` says: three kinds of tables, and a few sentences."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.table import Table

from figure5.measures import LAST, SOLVED, Runs, Sweep, best_by_rate, best_of_first
from figure5.trajectories import NOT_THE_PAPERS, SUBJECT, TUNED


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


def sweep_table(sweeps: Mapping[str, Sweep], grids: Mapping[str, dict]) -> Table:
    """Return how wide each optimizer's good rates are, and where the comparison depends on them."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    columns = ("best rate", "f there", f"rates with f < {SOLVED:g}", "from, to")
    for column in (*columns, "largest rate that did not diverge", f"{SUBJECT} ahead"):
        table.add_column(column, justify="right")
    for name, one in sweeps.items():
        row, among = one.describe(), grids.get(name)
        largest = row["largest_rate_that_did_not_diverge"]
        table.add_row(
            name,
            f"{row['best_rate']:g}",
            value(row["f"]),
            f"{row['solved']} of {len(one.rates)}",
            ", ".join(f"{rate:.2g}" for rate in row["solved_from_to"]) or "none",
            "none" if largest is None else f"{largest:.2g}",
            f"{among['ahead']} of {among['grids']} grids" if among else "",
        )
    return table


def starts_table(rows: Mapping[str, dict]) -> Table:
    """Return the table of one comparison from random starts."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    columns = ("settings", "rate", "epsilon", "median f", "quartiles of f", "solved", "steps to it")
    for column in (*columns, "diverged", f"log10 f: {SUBJECT}'s less this one's [95 %]"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        low, median, high = map(value, row["quartiles"])
        interval = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["powersign_less_this"])
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
            "" if name == SUBJECT else interval,
        )
    return table


def verdict(runs: Mapping[str, Runs]) -> str:
    """Say in the paper's comparison which of the paper's rivals end below PowerSign."""
    best = {
        name: some.describe(best_of_first(some))["f"]
        for name, some in runs.items()
        if name not in (NOT_THE_PAPERS, "Adam")  # the paper's Adam is the one with tuned epsilon
    }
    ranked = sorted(best, key=lambda name: best[name])
    better = [f"{name} ({value(best[name])})" for name in ranked if best[name] < best[SUBJECT]]
    worse = [f"{name} ({value(best[name])})" for name in ranked if best[name] > best[SUBJECT]]
    return (
        f"From the single start, {SUBJECT} ends at f = {value(best[SUBJECT])} with its best rate. "
        f"Better: {', '.join(better) or 'none'}. Worse: {', '.join(worse) or 'none'}. "
        "The paper, from its picture: ahead of Adam, RMSProp and SGD, close to Momentum."
    )


def width(one: Sweep, steps_of_a_decade: int) -> str:
    """Say how narrow PowerSign's best rate is."""
    row = one.describe()
    if not row["solved"]:
        return f"{SUBJECT} reaches f < {SOLVED:g} at none of {len(one.rates)} rates."
    low, high = row["solved_from_to"]
    return (
        f"{SUBJECT}'s best of {len(one.rates)} rates, {steps_of_a_decade} a decade, is "
        f"{row['best_rate']:.2g} with f = {value(row['f'])}. It reaches f < {SOLVED:g} at "
        f"{row['solved']} of them, from {low:.2g} to {high:.2g}, and the largest rate that does "
        f"not diverge is {row['largest_rate_that_did_not_diverge']:.2g}."
    )


def epsilon_note(runs: Mapping[str, Runs]) -> str:
    """Say what tuning Adam's epsilon did."""
    with_it, without = (runs[n].describe(best_of_first(runs[n])) for n in (TUNED, "Adam"))
    return (
        f"Adam's epsilon: {with_it['epsilon']:g} is the best and ends at {value(with_it['f'])}; "
        f"TensorFlow's default, {without['epsilon']:g}, ends at {value(without['f'])}."
    )
