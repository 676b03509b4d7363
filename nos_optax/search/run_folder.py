"""The folder of a run: what was asked, what was evaluated, what came out."""

import dataclasses
import json
import math
import os
import time
from pathlib import Path

from nos_optax.search.config import SearchConfig

CONFIG, CANDIDATES = "config.json", "candidates.jsonl"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One row of `candidates.jsonl`."""

    id: int
    rule: str  # infix
    tokens: str  # the vocabulary's words
    reward: float  # validation accuracy; the chance level for the dead and the diverged
    learning_rate: float | None  # None where every rate of the sweep diverged
    status: str  # trained, dead or diverged
    seconds: float  # the batch's time, controller and compiling included, shared equally
    digest: str  # of the canonical form: the same for rules that algebra makes equal


class RunFolder:
    """Writes a run; files appear whole or not at all, but for the growing list of candidates.

    Args:
        path: the folder, made here; `runs/DATE-TIME` where None.

    Raises:
        FileExistsError: the folder holds another run, or anything else.
    """

    def __init__(self, path: Path | None):
        self.path = path or default_path()
        check_free(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    def write_config(self, config: SearchConfig, facts: dict) -> None:
        """Record the resolved configuration and facts about the machine and the data."""
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(SearchConfig)}
        fields = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
        self.write_json(CONFIG, {"config": fields | {"out": str(self.path)}, **facts})

    def append(self, candidates: list[Candidate]) -> None:
        """Add candidates and force them to the disk."""
        with (self.path / CANDIDATES).open("a", encoding="utf-8") as file:
            for candidate in candidates:
                file.write(json.dumps(_plain(dataclasses.asdict(candidate))) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_json(self, name: str, content) -> None:
        """Write a JSON file; nan becomes null."""
        self.write_text(name, json.dumps(_plain(content), indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        partial.write_bytes(content)
        partial.replace(target)


def default_path() -> Path:
    """Return the folder of a run that was not given one: `runs/DATE-TIME`."""
    return Path("runs") / time.strftime("%Y%m%d-%H%M%S")


def check_free(path: Path) -> None:
    """Refuse a folder that is not empty.

    Raises:
        FileExistsError: it holds another run, or other files.
        NotADirectoryError: it is a file.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"--out {path} is a file; name a new folder")
    if path.is_dir() and any(path.iterdir()):
        what = "another run" if (path / CONFIG).exists() else "other files"
        raise FileExistsError(f"--out {path} holds {what}; name a new folder or remove it")


def read_candidates(path: Path) -> list[Candidate]:
    """Return the candidates of a run folder, in order; a last line that a crash cut is left out."""
    lines = (path / CANDIDATES).read_text(encoding="utf-8").splitlines(keepends=True)
    return [Candidate(**json.loads(line)) for line in lines if line.endswith("\n")]


def _plain(value):
    """Return `value` with every non-finite number as None, for strict JSON."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
