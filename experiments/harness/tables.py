"""Tables for the terminal and for Markdown."""

from rich.table import Table


def markdown(table: Table) -> str:
    """Return the header and the rows of a table of text as Markdown, without its title."""
    header = [_cell(column.header) for column in table.columns]
    cells = zip(*([_cell(cell) for cell in column.cells] for column in table.columns), strict=True)
    rows = [header, ["---"] * len(header), *cells]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(content: object) -> str:
    return str(content).replace("|", r"\|")  # a bar would end the cell
