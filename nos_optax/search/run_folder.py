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
    seconds: float  # the population's time, shared equally
    digest: str  # of the canonical form: the same for rules that algebra makes equal


class RunFolder:
    """Writes a run; files appear whole or not at all, but for the growing list of candidates.

    Args:
        path: the folder, made here; `runs/DATE-TIME` where None.

    Raises:
        FileExistsError: the folder holds another run, or anything else.
    """

    def __init__(self, path: Path | None):
        self.path = path or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
        check_free(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    def write_config(self, config: SearchConfig, facts: dict) -> None:
        """Record the resolved configuration and facts about the machine and the data."""
        fields = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(config).items()
        }
        self.write_json(CONFIG, {"config": fields | {"out": str(self.path)}, **facts})

    def append(self, candidates: list[Candidate]) -> None:
        """Add candidates and force them to the disk."""
        with (self.path / CANDIDATES).open("a") as file:
            for candidate in candidates:
                file.write(json.dumps(_plain(dataclasses.asdict(candidate))) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_json(self, name: str, content) -> None:
        """Write a JSON file; nan becomes null."""
        self.write_text(name, json.dumps(_plain(content), indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        partial.write_text(text)
        partial.replace(target)


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
    """Return the candidates of a run folder, in order."""
    lines = (path / CANDIDATES).read_text().splitlines()
    return [Candidate(**json.loads(line)) for line in lines]


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
