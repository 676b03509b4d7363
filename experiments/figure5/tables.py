"""What `rosenbrock.py` says: three kinds of tables, and a few sentences."""

from collections.abc import Mapping, Sequence

import numpy as np
from harness.tables import interval_text, text_table
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
    columns = ("settings", "best rate", "epsilon", "f", f"median f of the last {LAST} steps")
    columns += ("least f", f"steps to f < {SOLVED:g}")

    def row(name: str, some: Runs) -> list[str]:
        best = some.describe(best_of_first(some))
        return [
            name,
            *(value(some.describe(k)["f"]) for k in best_by_rate(some, rates)),
            str(len(some.settings.first)),
            f"{best['rate']:g}",
            epsilon_of(name, best),
            *(value(best[key]) for key in ("f", "median_f_at_the_end", "best_f")),
            count(best["steps_to_solve"]),
        ]

    by_rate = (f"rate {rate:g}" for rate in rates)
    return text_table(("optimizer", *by_rate, *columns), [row(*item) for item in runs.items()])


def epsilon_of(name: str, row: Mapping) -> str:
    """Return Adam's epsilon for a table."""
    return f"{row['epsilon']:g}" if name.startswith("Adam") else ""


def sweep_table(sweeps: Mapping[str, Sweep], grids: Mapping[str, dict]) -> Table:
    """Return how wide each optimizer's good rates are, and where the comparison depends on them."""
    columns = ("optimizer", "best rate", "f there", f"rates with f < {SOLVED:g}", "from, to")
    columns += ("largest rate that did not diverge", f"{SUBJECT} ahead")

    def row(name: str, one: Sweep) -> list[str]:
        found, among = one.describe(), grids.get(name)
        largest = found["largest_rate_that_did_not_diverge"]
        return [
            *(name, f"{found['best_rate']:g}", value(found["f"])),
            f"{found['solved']} of {len(one.rates)}",
            ", ".join(f"{rate:.2g}" for rate in found["solved_from_to"]) or "none",
            "none" if largest is None else f"{largest:.2g}",
            f"{among['ahead']} of {among['grids']} grids" if among else "",
        ]

    return text_table(columns, [row(*item) for item in sweeps.items()])


def starts_table(rows: Mapping[str, dict]) -> Table:
    """Return the table of one comparison from random starts."""
    columns = ("optimizer", "settings", "rate", "epsilon", "median f", "quartiles of f", "solved")
    columns += ("steps to it", "diverged", f"log10 f: {SUBJECT}'s less this one's [95 %]")

    def cells(name: str, row: dict) -> list[str]:
        low, median, high = map(value, row["quartiles"])
        return [
            *(name, str(row["settings"]), f"{row['rate']:.2g}", epsilon_of(name, row)),
            *(median, f"{low} to {high}", f"{row['solved']} of {row['n']}"),
            *(count(row["median_steps_to_solve"]), str(row["diverged"])),
            "" if name == SUBJECT else interval_text(row["powersign_less_this"], 1),
        ]

    return text_table(columns, [cells(*item) for item in rows.items()])


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
        "The paper (section 6.1): ahead of Adam, RMSProp and SGD, close to Momentum."
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
