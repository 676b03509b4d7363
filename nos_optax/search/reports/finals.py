"""What a run's `finals/results.json` says: the best rules beside tuned rivals, task by task."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nos_optax._command import printable
from nos_optax.compare.results import ALL_TASKS, BASELINE, BETTER, UNDECIDED, WORSE
from nos_optax.search.history import is_number
from nos_optax.search.run_folder import reason

FILE = "finals/results.json"
VERDICTS = (BETTER, WORSE, UNDECIDED, BASELINE)
LARGEST = 1e30  # no reward is more, and a picture's axis may not overflow


class Compared(NamedTuple):
    """A rival on a task."""

    name: str
    difference: float  # to the baseline; nan of itself, and where it is not finite
    interval: tuple[float, float] | None  # of that; None where it is none, or not finite
    verdict: str  # one of VERDICTS

    @property
    def is_finite(self) -> bool:
        """Whether there is a difference that can be drawn."""
        return math.isfinite(self.difference)


@dataclasses.dataclass(frozen=True)
class Finals:
    """The comparison at the end of a run.

    Attributes:
        baseline: the rival that the differences are to.
        sentences: what to take home from each task.
        rows: of each task, the best mean first.
        notes: what a reader must know before believing it.
    """

    baseline: str
    sentences: Mapping[str, str]
    rows: Mapping[str, tuple[Compared, ...]]
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What to take home: of all tasks, or of the only one."""
        return self.sentences.get(ALL_TASKS) or next(iter(self.sentences.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """The rivals, the best over all tasks first."""
        tasks = sorted(self.rows, key=lambda task: task != ALL_TASKS)
        return tuple(dict.fromkeys(row.name for task in tasks for row in self.rows[task]))

    def of(self, name: str) -> dict[str, Compared]:
        """Return a rival's row of each task that it has one of."""
        return {task: row for task, rows in self.rows.items() for row in rows if row.name == name}

    def least(self, name: str) -> tuple[str, float] | None:
        """Return the task on which a rival does least against the baseline, and the difference."""
        found = [
            (row.difference, task)
            for task, row in self.of(name).items()
            if task != ALL_TASKS and row.is_finite
        ]
        return min(found)[::-1] if found else None


def is_drawable(value: object) -> bool:
    """Whether a value from a file is a number that can be drawn."""
    return is_number(value) and abs(value) <= LARGEST  # ty: ignore[invalid-argument-type]


def read_finals(path: Path, damage: list[str]) -> Finals | None:
    """Return the comparison of a run folder; None if there is none, or nothing of it is whole.

    Args:
        path: the run folder.
        damage: is told what cannot be read, a sentence each.
    """
    file = path / FILE
    content = read_json(file, _checked, "its comparison is left out", damage)
    if content is None:
        return None
    sentences, rows = {}, {}
    for task, value in content["tasks"].items():
        name = printable(task)
        if known := _rows(name, value, file, damage):
            sentences[name], rows[name] = printable(value["sentence"]), known
    said = tuple(printable(note) for note in content["notes"] if isinstance(note, str))
    return Finals(printable(content["baseline"]), sentences, rows, said) if rows else None


def read_json(file: Path, check: Callable[[Any], Any], lost: str, damage: list[str]) -> Any:
    """Return what a file holds, as `check` returns it; None without one, or of a damaged one."""
    try:
        return check(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        damage.append(f"{file} is damaged ({reason(error)}): {lost}")
        return None


def _checked(content: Any) -> dict[str, Any]:
    match content:
        case {"measure": "speed", "baseline": str(), "tasks": dict(), "notes": list()}:
            return content
        case {"measure": "speed"}:
            raise ValueError("it has no baseline, no tasks or no notes")
    raise ValueError("it holds no comparison of speeds")


def _rows(task: str, value: Any, file: Path, damage: list[str]) -> tuple[Compared, ...]:
    """Return the rows of a task that are whole; none if it has no sentence."""
    found: dict[str, Compared] = {}
    match value:
        case {"sentence": str(), "rivals": list(rivals)}:
            for number, rival in enumerate(rivals, 1):
                row = _row(rival)
                if row is None or row.name in found:
                    of = f"rival {number} of {len(rivals)} on {task:.60}"
                    damage.append(f"{file} is damaged: {of} is left out")
                else:
                    found[row.name] = row
        case _:
            damage.append(f"{file} is damaged: task {task:.60} is left out")
    return tuple(found.values())


def _row(rival: Any) -> Compared | None:
    """Return a rival on a task; None if the values are not of their kinds."""
    match rival:
        case {"name": str(name), "verdict": str(verdict), **rest} if name and verdict in VERDICTS:
            ends = rest.get("interval")
        case _:
            return None
    if not (ends is None or (isinstance(ends, list) and len(ends) == 2)):
        return None
    numbers = (rest.get("mean"), rest.get("difference"), *(ends or ()))
    if not all(x is None or is_drawable(x) for x in numbers):
        return None
    _, difference, *known = (math.nan if x is None else float(x) for x in numbers)
    low, high = known or (math.nan, math.nan)
    interval = (low, high) if math.isfinite(low) and math.isfinite(high) else None
    change = math.nan if verdict == BASELINE else difference
    return Compared(printable(name), change, interval, verdict)
