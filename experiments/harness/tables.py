"""Tables for the terminal and for Markdown, and numbers as text."""

from collections.abc import Iterable, Sequence

import numpy as np
from rich import box
from rich.table import Table

from harness.statistics import mean_and_error


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> Table:
    """Return a table of text, the first column to the left and the others to the right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(table: Table) -> str:
    """Return the header and the rows of a table of text as Markdown, without its title."""
    header = [_cell(column.header) for column in table.columns]
    cells = zip(*([_cell(cell) for cell in column.cells] for column in table.columns), strict=True)
    rows = [header, ["---"] * len(header), *cells]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(content: object) -> str:
    return str(content).replace("|", r"\|")  # a bar would end the cell


def mean_text(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """Return a mean ± its standard error as text; of one value, or with an infinite one, all."""
    if len(values) < 2 or not np.isfinite(values).all():
        return ", ".join(f"{value:.{digits}f}" for value in values)
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def interval_text(interval: Sequence[float] | None, digits: int) -> str:
    """Return a mean and the ends of its interval, the first three numbers, as text."""
    if interval is None:
        return "baseline"
    mean, low, high = interval[:3]
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def rates_text(rates: Sequence[float]) -> str:
    """Return ascending learning rates as text: the ends and how many there are."""
    return f"{len(rates)}, {rates[0]:g} to {rates[-1]:g}" if rates else "none"
