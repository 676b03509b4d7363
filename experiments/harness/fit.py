"""A training loop for models and data that are too large for a `PartLoop`.

The caller's step does all that is particular: model, loss, optimizer, sharding. This loop feeds it,
keeps the curve, checkpoints, evaluates, and notices a divergence.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.progress import Progress, TaskID

from harness.checkpoints import Checkpoints

DIVERGED, FINISHED = "diverged", "finished"

State = Any  # a pytree of arrays
Scalars = Mapping[str, jax.Array | float]
Step = Callable[[State, Any], tuple[State, Scalars]]


class Fit(NamedTuple):
    """A training that has ended; unpacks as `state, curve`."""

    state: State
    curve: list[dict[str, Any]]  # what was measured at "step", the updates so far

    @property
    def status(self) -> str:
        """`FINISHED` or `DIVERGED`."""
        return self.curve[-1].get("status", FINISHED) if self.curve else FINISHED


def fit(
    step: Step,
    state: State,
    batches: Callable[[int], Iterator[Any]],
    steps: int,
    checkpoints_folder: Path,
    progress: Progress,
    evaluate: Callable[[State], Scalars] | None = None,
    evaluate_every: int | None = None,
    record_every: int = 100,
) -> Fit:
    """Train; a killed training goes on from its last checkpoint, as if it had not been killed.

    Checkpoints take a hundredth of the time, and there is one after the last step. Delete the
    folder when its results are safe, or to begin anew.

    Args:
        step: one update, compiled by the caller, who may donate the state. Its metrics hold "loss".
        state: the start: arrays of fixed shapes, PRNG keys as their raw data. It may be donated.
        batches: the stream from a step on, 0 at the beginning; the same stream each time.
        steps: of the whole training.
        checkpoints_folder: of this training alone; its name is shown to the user.
        progress: shown to the user: loss and steps per second.
        evaluate: what else to measure, between the updates.
        evaluate_every: steps; None is at the end only.
        record_every: steps between the curve's entries, each the mean since the one before.

    Returns:
        The last state and the curve. A loss that is not finite ends the training: the last entry
        of the curve then has "status" `DIVERGED`.

    Raises:
        ValueError: the stream of batches ends too early.
        OSError: a file cannot be written.
    """
    name, path = checkpoints_folder.name, checkpoints_folder / "curve.jsonl"
    checkpoints = Checkpoints(checkpoints_folder / "states")
    first, state = _restore(checkpoints, state, steps)
    curve = _read_curve(path, first)
    task = progress.add_task(name, total=steps, completed=first)
    stream, show = batches(first), functools.partial(_show, progress, task, name)
    for start, end in _stretches(first, steps, record_every, evaluate_every):
        state, entry = _advance(step, state, stream, start, end, show)
        diverged = "status" in entry
        if evaluate and not diverged and (end == steps or end % (evaluate_every or steps) == 0):
            entry |= _floats(evaluate(state))
        curve.append(entry)
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if diverged:
            loss, number = entry["loss"], entry["step"]
            progress.console.print(f"{name}: diverged at step {number}, its loss is {loss}")
            break
        (checkpoints.save if end == steps else checkpoints.save_if_due)(end, state)
    checkpoints.close()
    return Fit(state, curve)


def _restore(checkpoints: Checkpoints, state: State, steps: int) -> tuple[int, State]:
    """Return the steps that are over, and the state placed as the one at the start was."""
    checkpoints.folder.mkdir(parents=True, exist_ok=True)
    state = jax.tree.map(jnp.asarray, state)
    restored = checkpoints.restore(state, steps)
    if restored is None:
        return 0, state
    first, arrays = restored
    return first, jax.tree.map(lambda a, at: jax.device_put(a, at.sharding), arrays, state)


def _stretches(first: int, steps: int, *periods: int | None) -> Iterator[tuple[int, int]]:
    """Yield where entries of the curve begin and end."""
    while first < steps:
        end = min([steps, *(first - first % every + every for every in periods if every)])
        yield first, end
        first = end


def _advance(step: Step, state: State, stream: Iterator[Any], start: int, end: int, show):
    """Return the state after some steps, and their entry of the curve."""
    rows = []
    for number, batch in zip(range(start + 1, end + 1), stream, strict=False):
        state, metrics = step(state, batch)
        rows.append(metrics)
        # Of the step before: to wait for this one would leave the device idle.
        loss = float(rows[max(len(rows) - 2, 0)]["loss"])
        show(number, loss)
        if not math.isfinite(loss):
            break
    rows = [_floats(row) for row in rows]
    for number, row in enumerate(rows, start + 1):
        if not math.isfinite(row["loss"]):
            return state, {"step": number, **row, "status": DIVERGED}
    if len(rows) < end - start:
        raise ValueError(f"the batches ended after {start + len(rows)} steps; {end} are needed")
    means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return state, {"step": end, **means}


def _floats(scalars: Scalars) -> dict[str, float]:
    return {name: float(value) for name, value in scalars.items()}


def _read_curve(path: Path, first: int) -> list[dict[str, Any]]:
    """Return the file's entries, and cut off those after the first step."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= first]
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in kept))
    part.replace(path)
    return [json.loads(line) for line in kept]


def _show(progress: Progress, task: TaskID, name: str, number: int, loss: float) -> None:
    """Show the user a step and its loss."""
    speed = next(known.speed for known in progress.tasks if known.id == task) or math.nan
    text = f"{name}: loss {loss:.4g}, {speed:.3g} steps/s"
    progress.update(task, completed=number, description=text)
