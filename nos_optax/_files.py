"""Files: their names, and how they appear whole or not at all, whatever kills their writer."""

import contextlib
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nos_optax._printable import printable


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


def write_figure(target: Path, figure: Any, **options: Any) -> None:
    """Write a Matplotlib figure as `write_whole` does, in the format of the file's name."""
    content = io.BytesIO()
    figure.savefig(content, format=target.suffix[1:], **options)
    write_whole(target, content.getvalue())


def refuse_links(path: Path, names: Iterable[str] = ("",)) -> None:
    """Raise if a folder of results holds a link, a pipe or a device, which would lead outside it.

    A folder may come from somebody else: through a link, what is meant for it would be written to,
    deleted from or read from somewhere else. The folder itself may be given by a link.

    Args:
        path: the folder.
        names: of what is written there, files and folders; all of it unless given.

    Raises:
        OSError: it does, naming the first.
    """
    for start in (path / name for name in names):
        below = [Path(at, x) for at, folders, files in os.walk(start) for x in (*folders, *files)]
        for inside in sorted([*below, start] if start != path else below):
            try:
                mode = inside.lstat().st_mode
            except FileNotFoundError:  # not there, or just finished by another process
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise OSError(
                    f"{printable(inside)} is {kind}, and a folder of results holds files and "
                    "folders of its own only: remove it, or put what it stands for in its place"
                )


def slug(name: str) -> str:
    """Return a name as a part of a file's: letters, digits and hyphens, at most 40."""
    return "".join(c if c.isalnum() else "-" for c in name)[:40]
