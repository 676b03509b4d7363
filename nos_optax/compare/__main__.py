"""Compare optimizers.

Command:  python -m nos_optax.compare adam optax.lion "adam * exp(sign(g) * sign(m))" --task digits
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nos_optax._command import make_console, start, unprotected
from nos_optax.compare.command import OUT, compare, show
from nos_optax.compare.trials import RATES, Budget
from nos_optax.population.workloads import KNOWN

PROGRAM = "python -m nos_optax.compare"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which optimizer for a model? Every rival gets the same tuning.

    Every learning rate trains to the end. The best one of each rival trains again with seeds that
    chose nothing, and only these trainings are compared with the first rival's, seed by seed. The
    same command goes on where a killed one stopped.
    """

    rivals: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Rules in infix form, names of nos_optax.rules, optax.NAME, or MODULE:FACTORY, a function from
    a learning rate to an Optax optimizer."""
    task: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="{" + ",".join([*KNOWN, "MODULE:TASK"]) + "}"),
    ] = ()
    """What they train; may be given several times."""
    rates: tuple[float, ...] = RATES
    """Learning rates of every rival; more are tried beyond an end at which the best one is."""
    tuning_seeds: int = 1
    """Trainings of each rate."""
    seeds: int = 8
    """Trainings of the best rate, with seeds that tuning did not use; these are compared."""
    epochs: int | None = None
    """Length of every training (default: the task's own, or 5)."""
    minibatch_size: int | None = None
    """Examples in a minibatch (default: the task's own, or 32)."""
    measure: Literal["score", "loss", "training-loss", "speed"] = "score"
    """What is compared: the task's metric, the validation loss, the mean loss on the way, or the
    speed against tuned Adam in doublings, which is measured first."""
    baseline: str | None = None
    """The rival that the others are compared with (default: the first)."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where they train; auto takes the best device that is present."""
    data_dir: Path | None = None
    """TensorFlow Datasets folder with a prepared cifar10 (default: ~/tensorflow_datasets)."""
    out: Path = OUT
    """Folder for the results and the trainings."""


def run(arguments: Arguments) -> None:
    """Compare, print the tables and write the files."""
    if not arguments.task:
        raise ValueError(f"--task is missing: name one of {', '.join(KNOWN)}, or MODULE:TASK")
    budget = Budget(arguments.rates, arguments.tuning_seeds, arguments.seeds, arguments.measure)
    found = compare(
        unprotected(arguments.rivals),
        arguments.task,
        budget=budget,
        baseline=arguments.baseline,
        epochs=arguments.epochs,
        minibatch_size=arguments.minibatch_size,
        out=arguments.out,
        accelerator=arguments.accelerator,
        data_dir=arguments.data_dir,
    )
    show(found, arguments.out, make_console())


if __name__ == "__main__":
    start(Arguments, run, PROGRAM, repeatable=("task",))
