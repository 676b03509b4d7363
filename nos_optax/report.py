"""Reports of runs.

Command:  python -m nos_optax.report RUN              writes RUN/report.html
          python -m nos_optax.report RUN RUN ...      writes comparison.html

A run may be finished, killed or in use. A page is one file that opens offline; its pictures, as PNG
and SVG, are in a folder of its name beside it.
"""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import tyro

from nos_optax._command import command_line, one_message, printable, say, stoppable
from nos_optax.search.reports import write_comparison, write_report


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path | None = None
) -> Path:
    """Write the report of a run, or a comparison of several.

    Args:
        runs: the run folders; they may be in use.
        out: the page, NAME.html (default: report.html in the folder of the run, comparison.html
            here of several runs).

    Returns:
        The page.

    Raises:
        OSError: there is no run, its history is damaged, or the page cannot be written.
        ValueError: a run is given twice, or a path is of another kind.
    """
    match runs:
        case ():
            raise ValueError("name at least one run folder: python -m nos_optax.report RUN")
        case (run,):
            return write_report(run, out)
        case _:
            return write_comparison(runs, out or Path("comparison.html"))


def main() -> None:
    """Parse the command line and report; a user's mistake is one message and exit code 1 or 2."""
    with stoppable("interrupted"), one_message(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        page = tyro.cli(report, args=command_line(sys.argv[1:]))
        for warning in caught:  # what is damaged, a line each
            print(printable(f"warning: {warning.message}"), file=sys.stderr)
        say(page)


if __name__ == "__main__":
    main()
