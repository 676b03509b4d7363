"""A run's history for other programs: every candidate, with the training that its reward is of.

Command:  python -m nos_optax.search.export RUN [--format jsonl|parquet] [--out FILE]

A candidate that shares an earlier one's training has that one's sweep, curve and seconds; one that
was rejected untrained has none. A run that is being written is exported as far as it has come.
"""

import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nos_optax._command import command_line, one_message, say, stoppable, user_path
from nos_optax._files import write_whole
from nos_optax.search.history import Candidate, History
from nos_optax.search.run_folder import open_history

NUMBERS = ("reward", "learning_rate", "seconds")
LISTS = ("sweep", "curve")
FIELDS = (*(field.name for field in dataclasses.fields(Candidate)), *LISTS, "seconds")


def rows(path: Path) -> Iterator[dict]:
    """Yield a dictionary with the keys FIELDS for each candidate of a run folder, in order.

    Args:
        path: the run folder.

    Raises:
        OSError: it holds no run, or cannot be read.
    """
    with open_history(path) as history:
        candidates = history.candidates()
        for candidate in candidates:
            origin = None if candidate.origin is None else candidates[candidate.origin]
            yield dataclasses.asdict(candidate) | _training(history, origin)


def _training(history: History, origin: Candidate | None) -> dict:
    """Return what the training of an origin adds; without --reuse it is kept under the number."""
    if origin is None:
        return dict.fromkeys((*LISTS, "seconds"))
    shared = history.has_training(origin.fingerprint)
    training = history.training(origin.fingerprint if shared else str(origin.id))
    return {
        "sweep": list(training.sweep),
        "curve": list(training.curve),
        "seconds": training.seconds,
    }


def jsonl(rows: Sequence[dict]) -> bytes:
    """Return an object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: Sequence[dict]) -> bytes:
    """Return a Parquet file.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import write_table
    except ImportError as error:
        raise ImportError(
            f"parquet needs pyarrow ({error}): pip install 'nos_optax[parquet]'"
        ) from error
    kinds = {name: pyarrow.string() for name in FIELDS}
    kinds |= dict.fromkeys(("id", "origin"), pyarrow.int64())
    kinds |= dict.fromkeys(NUMBERS, pyarrow.float64())
    kinds |= dict.fromkeys(LISTS, pyarrow.list_(pyarrow.float64()))
    content = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(list(rows), pyarrow.schema(kinds)), content)
    return content.getvalue()


FORMATS = {"jsonl": jsonl, "parquet": parquet}


def export(
    run: Annotated[Path, tyro.conf.Positional],
    format: Literal["jsonl", "parquet"] = "jsonl",
    out: Path | None = None,
) -> Path:
    """Write every candidate of a run, with its training's sweep, curve and seconds, to a file.

    Args:
        run: the run folder; it may be in use.
        format: of the file.
        out: the file (default: history.FORMAT in the run folder).

    Returns:
        The file.

    Raises:
        ImportError: the format needs a package that is not installed.
        OSError: there is no run, or the file cannot be written.
    """
    run = user_path(run)
    content = FORMATS[format](list(rows(run)))
    out = user_path(out) if out else run / f"history.{format}"
    write_whole(out, content)
    return out


def main() -> None:
    """Parse the command line and export; a user's mistake is one message and exit code 1 or 2."""
    with stoppable("interrupted"), one_message():
        words = command_line(sys.argv[1:])
        say(tyro.cli(export, prog="python -m nos_optax.search.export", args=words))


if __name__ == "__main__":
    main()
