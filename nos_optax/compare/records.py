"""What an experiment has measured so far, and what it writes at the end."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from nos_optax._files import write_whole

START = b'{"config":'


class Records:
    """Measurements in a file of JSON lines, so that a killed experiment repeats none.

    The first line is the configuration; each other is what was measured under a key. Lines are
    only ever appended, and are on the disk when `append` returns. Paths are kept as text, arrays
    and their scalars as numbers; nan and inf are kept. One process at a time holds the file.

    Args:
        path: the file, made here if need be.
        config: all that decides what is measured; paths and the like do not belong here.

    Raises:
        ValueError: the file has another configuration, is damaged before its last line, or holds
            something else.
        OSError: it cannot be read or written, or another process holds it.
    """

    def __init__(self, path: Path, config: Mapping[str, object]):
        self.path = path
        self._values: dict[str, dict] = {}
        self._spent, self._mark = 0.0, time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(f"{path}.lock", is_singleton=True)  # one of this process
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise BlockingIOError(
                f"another process measures into {path}; wait for it, or give another --out"
            ) from None
        lines = self._read()
        if not lines:
            self._write({"config": config})
            return
        self._check(lines[0]["config"], json.loads(_text(config)))
        self._values = {_text(line["key"]): line["values"] for line in lines[1:]}
        self._spent = sum(line.get("seconds", 0.0) for line in lines[1:])

    @property
    def seconds(self) -> float:
        """What was spent on all that is stored; a killed process' last, lost part is not in it."""
        return self._spent

    def append(self, key: Mapping[str, object], values: Mapping[str, object]) -> None:
        """Store what was measured under a new key; it is on the disk on return.

        Raises:
            ValueError: something is stored under this key.
            OSError: the file cannot be written.
        """
        self.extend([(key, values)])

    def extend(self, measured: Sequence[tuple[Mapping[str, object], Mapping[str, object]]]) -> None:
        """Store what was measured together under new keys, and raise as `append`.

        A process killed meanwhile leaves the first of them, or none.
        """
        for key, _ in measured:
            if _text(key) in self._values:
                raise ValueError(f"{self.path} has a record of {_text(key)} already")
        now = time.perf_counter()
        each = (now - self._mark) / max(len(measured), 1)
        self._write(*({"key": k, "values": v, "seconds": round(each, 3)} for k, v in measured))
        self._values |= {_text(k): json.loads(_text(v)) for k, v in measured}
        self._spent, self._mark = self._spent + now - self._mark, now

    def get(self, key: Mapping[str, object]) -> dict | None:
        """Return what is stored under a key; None if nothing is."""
        return self._values.get(_text(key))

    def _write(self, *lines: Mapping[str, object]) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a") as file:
                file.write("".join(_text(line) + "\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # the disk is full
            os.truncate(self.path, size)
            raise

    def _read(self) -> list[dict]:
        """Return the lines, and cut off a last one that was not written to its end."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        if not START.startswith(content[: len(START)]):
            raise ValueError(
                f"{self.path} holds no records of an experiment; give another --out, or delete it"
            )
        *whole, torn = content.split(b"\n")
        lines = []
        for number, text in enumerate(whole):
            try:
                lines.append(_line(text, first=number == 0))
            except ValueError as error:
                if number < len(whole) - 1 or number == 0:
                    remedy = "delete the file" if number == 0 else "delete that line"
                    raise ValueError(
                        f"{self.path} is damaged in line {number + 1}; {remedy}"
                    ) from error
        kept = sum(len(text) + 1 for text in whole[: len(lines)])
        if torn or len(lines) < len(whole):
            os.truncate(self.path, kept)
        return lines

    def _check(self, there: dict, config: dict) -> None:
        """Raise if the file is of another configuration."""
        differences = [
            f"{name} is {_text(there.get(name))} there and {_text(config.get(name))} here"
            for name in sorted({*there, *config})
            if _text(there.get(name)) != _text(config.get(name))
        ]
        if differences:
            raise ValueError(
                f"{self.path} holds records of another configuration: {'; '.join(differences)}. "
                "Give another --out, or delete it"
            )


def write_results(folder: Path, name: str, content: Mapping[str, object], text: str) -> None:
    """Write an experiment's results: NAME.json and NAME.md.

    Args:
        folder: made here if need be.
        name: of the files, without suffix.
        content: of the JSON file; nan and inf, which JSON lacks, become null.
        text: Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = _finite(json.loads(_text(content, sort_keys=False)))
    numbers = json.dumps(plain, indent=2, allow_nan=False) + "\n"
    write_whole(folder / f"{name}.json", numbers.encode())
    write_whole(folder / f"{name}.md", text.encode(errors="backslashreplace"))


def _line(text: bytes, first: bool) -> dict:
    """Return a line of a file of records.

    Raises:
        ValueError: it is not one.
    """
    line = json.loads(text)
    names = ("config",) if first else ("key", "values")
    if not isinstance(line, dict) or not all(isinstance(line.get(name), dict) for name in names):
        raise ValueError("no record")
    return line


def _text(value: object, sort_keys: bool = True) -> str:
    return json.dumps(value, sort_keys=sort_keys, default=_plain)


def _plain(value: Any) -> Any:
    """Return what JSON knows for a path, an array or an array's scalar."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} cannot be kept as JSON")


def _finite(value: Any) -> Any:
    """Return JSON's content with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
