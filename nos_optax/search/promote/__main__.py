"""Promote the best rules of searches.

Command:  python -m nos_optax.search.promote runs/a runs/b --test mymodule:task
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nos_optax._command import make_console, say, start, user_path
from nos_optax.compare.command import show
from nos_optax.population.suite import LARGER
from nos_optax.search.promote.command import OUT, promote

PROGRAM = "python -m nos_optax.search.promote"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which rules of a search are good elsewhere?

    The best rules of the runs go through stages of larger tasks, where the less promising stop
    early. Those that come through lose what they do not need, and are compared on the test tasks
    with tuned rivals. The same command goes on where a killed one stopped.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of searches."""
    task: tuple[str, ...] = tuple(LARGER)
    """What the rules train, the smaller first: names of tasks, or MODULE:TASK."""
    stages: tuple[int, ...] | None = None
    """How many of the tasks each stage has, in order (default: one stage of all)."""
    rules: int = 24
    """How many enter."""
    promoted: int = 3
    """How many come through."""
    seeds: int = 3
    """Trainings of each learning rate in the first stage; each stage has twice those of the
    last."""
    test: tuple[str, ...] = ()
    """Tasks that had no part in finding the rules, on which those that come through are compared
    with all rivals (default: no comparison)."""
    test_seeds: int = 8
    """Trainings there that are compared."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where they train; auto takes the best device that is present."""
    data_dir: Path | None = None
    """TensorFlow Datasets folder with a prepared cifar10 (default: ~/tensorflow_datasets)."""
    out: Path = OUT
    """Folder for the results and the trainings."""


def run(arguments: Arguments) -> None:
    """Promote, print what came out and write the files."""
    if not arguments.runs:
        raise ValueError("name at least one folder of a search")
    found = promote(
        arguments.runs,
        arguments.task,
        stages=arguments.stages,
        rules=arguments.rules,
        promoted=arguments.promoted,
        seeds=arguments.seeds,
        test=arguments.test,
        test_seeds=arguments.test_seeds,
        out=arguments.out,
        accelerator=arguments.accelerator,
        data_dir=arguments.data_dir,
    )
    out = user_path(arguments.out)
    if found.comparison is not None:
        show(found.comparison, out / "test", make_console())
    say(found.sentence())
    say(f"Wrote {out / 'promotion.md'}, promotion.json and promotion.html")


if __name__ == "__main__":
    start(Arguments, run, PROGRAM)
