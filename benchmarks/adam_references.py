"""Measure what tuned Adam does on the embedded tasks: the file that comes with the package.

Question: How long does Adam take to which loss on each embedded task?
Method:   As a search measures it for a task of the user's own: 13 rates with four seeds, three
          finer ones, then eleven lengths of training with eight other seeds. The text of the
          language models differs between versions of Python: give the topics of the others.
          With them, what no task has any more leaves the file.
Command:  python benchmarks/adam_references.py [--topics .../python3.12/pydoc_data/topics.py ...]
Time:     4 minutes on 2 cores for each version of Python; what is there is not measured again.
Writes:   nos_optax/population/tasks/adam.json
"""

import dataclasses
import json
import runpy
from pathlib import Path
from unittest import mock

import tyro

from nos_optax._command import make_console
from nos_optax.population import TaskLoop
from nos_optax.population.accelerator import enable_compilation_cache, select_devices
from nos_optax.population.reference import (
    LONGEST,
    SHIPPED,
    data_digest,
    from_fields,
    measure_reference,
    steps_of,
)
from nos_optax.population.suite import KNOWN, load_suite
from nos_optax.population.tasks import text
from nos_optax.population.tasks.characters import text_windows
from nos_optax.population.tasks.words import text_words

OF_TEXT = ("characters", "characters-large", "words", "words-large", "transformer")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure what tuned Adam does on the embedded tasks."""

    topics: tuple[Path, ...] = ()
    """Files pydoc_data/topics.py of other versions of Python."""
    again: bool = False
    """Measure also what the file has."""


def main() -> None:
    """Measure all tasks and write the file, task by task."""
    arguments = tyro.cli(Arguments, description=Arguments.__doc__)
    devices = select_devices("cpu")
    enable_compilation_cache()
    rows = {row["digest"]: row for row in json.loads(SHIPPED.read_text())}
    measured = [(name, None) for name in KNOWN]
    measured += [(name, file) for file in arguments.topics for name in OF_TEXT]
    found = set()
    for name, file in measured:
        row = measure(name, file, devices, {} if arguments.again else rows)
        rows[row["digest"]] = row
        found.add(row["digest"])
        SHIPPED.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
        make_console().print(f"{name}: Adam's rate is {row['learning_rate']:g}")
    if arguments.topics:  # else the text of other versions is not known here
        rows = {digest: row for digest, row in rows.items() if digest in found}
        SHIPPED.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


def measure(name: str, file: Path | None, devices, known: dict[str, dict]) -> dict:
    """Return the row of a task, with the text of a version of Python."""
    topics = text.topics if file is None else runpy.run_path(str(file))["topics"]
    with mock.patch.object(text, "topics", topics):
        _forget_text()
        (workload,) = load_suite([name])
        _forget_text()
    horizon = workload.horizon
    loop = TaskLoop(workload.task, workload.minibatch_size, steps_of(LONGEST, horizon), 1, devices)
    digest = data_digest(loop, horizon)
    if digest in known:
        reference = from_fields(known[digest])
    else:
        reference = measure_reference(loop, horizon)
    return {"task": name, "digest": digest, **dataclasses.asdict(reference)}


def _forget_text() -> None:
    text_windows.cache_clear()
    text_words.cache_clear()


if __name__ == "__main__":
    main()
