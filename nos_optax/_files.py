"""Files: their names, and how they appear whole or not at all, whatever kills their writer."""

import contextlib
import os
from pathlib import Path


def write_whole(target: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, in a folder that is made if need be.

    Raises:
        OSError: it cannot be written.
    """
    # Another process may be writing the same: a report beside the search's own.
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power failure may leave the new name, but empty
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(f"cannot write {target}: {error.strerror}") from error


def slug(name: str) -> str:
    """Return a name as a part of a file's: letters, digits and hyphens, at most 40."""
    return "".join(c if c.isalnum() else "-" for c in name)[:40]
