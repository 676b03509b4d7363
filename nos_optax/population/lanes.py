"""How many children train side by side: measured once for a kind of device, then remembered.

More lanes keep a large device busier, until its memory or its arithmetic is full; but lanes that a
small population leaves empty are computed too. So the times are measured, and the number of lanes
follows from them and from the size of the population.
"""

import contextlib
import dataclasses
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from nos_optax.grammar import encode
from nos_optax.population.data import Dataset
from nos_optax.population.protocol import Protocol
from nos_optax.population.trainer import PopulationTrainer

SIZES = (16, 32, 64, 128, 256, 512)
GAIN = 0.05  # what a doubling must save, of the time per child, for the next to be tried
STEPS = 20
REPEATS = 3
VALIDATION_IMAGES = 250  # a chunk, so that validation takes its memory and next to no time

Measure = Callable[[Dataset, Protocol, int, Sequence[jax.Device], int], float]


def choose_lanes(
    dataset: Dataset,
    protocol: Protocol,
    iterations: int,
    devices: Sequence[jax.Device],
    store: Path,
    population: int = 256,
    measure: Measure | None = None,
) -> int:
    """Return the fastest number of lanes, from the store or by a measurement of about a minute.

    Args:
        dataset: what the children train on.
        protocol: how a candidate earns its reward.
        iterations: the length of the longest program.
        devices: the devices that share a population, all of one kind; the first is measured.
        store: a JSON file of earlier measurements. One that cannot be read is written anew, and
            one that cannot be written is done without.
        population: candidates in one call of the trainer.
        measure: what to measure with, on any device; where None it is `child_step_seconds`, and
            the answer on CPU is 1 without a measurement.

    Returns:
        The number of children that should train side by side on each device.
    """
    if measure is None and devices[0].platform == "cpu":
        return 1
    known = _read(store)
    key = _key(dataset, protocol, iterations, devices[0])
    if key not in known:
        measured = measure_lanes(dataset, protocol, iterations, devices, measure=measure)
        if not measured:
            return SIZES[0]  # the trainer halves it; the memory may be free another time
        # Other processes may have measured for other data in the meantime.
        known = _read(store) | {key: measured}
        _write(store, known)
    share = -(-population // len(devices))
    return best_lanes(known[key], dataset, protocol, share)


def measure_lanes(
    dataset: Dataset,
    protocol: Protocol,
    iterations: int,
    devices: Sequence[jax.Device],
    sizes: Sequence[int] = SIZES,
    measure: Measure | None = None,
) -> dict[int, float]:
    """Time growing numbers of lanes, until more are not faster or do not fit.

    Returns:
        Lanes to seconds per child and step; empty where not even the first size fits.
    """
    measure = measure or child_step_seconds
    seconds: dict[int, float] = {}
    for lanes in sizes:
        now = measure(dataset, protocol, iterations, devices, lanes)
        before = min(seconds.values(), default=math.inf)
        if now < math.inf:
            seconds[lanes] = now
        if not now < (1 - GAIN) * before:
            break
    return seconds


def best_lanes(
    seconds: Mapping[int, float], dataset: Dataset, protocol: Protocol, share: int
) -> int:
    """Return the lanes with which a device's share of a population is evaluated fastest.

    Half of the candidates are taken to survive the sweep: more than at the start of a search, fewer
    than at its end.

    Args:
        seconds: lanes to seconds per child and step.
        dataset: what the children train on.
        protocol: how a candidate earns its reward.
        share: candidates of one device in one call.
    """
    examples = len(dataset.train_images)
    sweep_steps = max(1, min(protocol.sweep_examples, examples) // protocol.batch_size)
    train_steps = examples // protocol.batch_size * protocol.epochs
    swept, trained = share * len(protocol.learning_rates), -(-share // 2)

    def total(lanes: int) -> float:
        # Empty lanes of the last group take as long as full ones.
        steps = -(-swept // lanes) * sweep_steps + -(-trained // lanes) * train_steps
        return steps * lanes * seconds[lanes]

    return min(sorted(seconds), key=total)


def child_step_seconds(
    dataset: Dataset,
    protocol: Protocol,
    iterations: int,
    devices: Sequence[jax.Device],
    lanes: int,
) -> float:
    """Return the median seconds per child and step with all lanes full; inf if they do not fit."""
    trainer = short_trainer(dataset, protocol, iterations, devices[:1], lanes)
    programs = np.stack([encode("g", iterations).array] * lanes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trainer's own, which halves the lanes
        trainer.evaluate(programs)  # compiles
    if trainer.lanes < lanes:
        return math.inf
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        trainer.evaluate(programs)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / (lanes * trainer.sweep_steps)


def short_trainer(
    dataset: Dataset,
    protocol: Protocol,
    iterations: int,
    devices: Sequence[jax.Device],
    lanes: int,
    steps: int = STEPS,
) -> PopulationTrainer:
    """Return a trainer whose candidates take `steps` steps and no more, `lanes` at a time.

    One learning rate, too small for `g` to diverge, and a margin that no child reaches, so that
    there is no training after the sweep.
    """
    examples = steps * protocol.batch_size
    few = dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:examples],
        train_labels=dataset.train_labels[:examples],
        validation_images=dataset.validation_images[:VALIDATION_IMAGES],
        validation_labels=dataset.validation_labels[:VALIDATION_IMAGES],
    )
    short = dataclasses.replace(
        protocol, learning_rates=(1e-5,), sweep_examples=examples, epochs=1, margin=1e9
    )
    return PopulationTrainer(
        few, short, iterations=iterations, capacity=lanes, lanes=lanes, devices=list(devices)
    )


def _key(dataset: Dataset, protocol: Protocol, iterations: int, device: jax.Device) -> str:
    shape = "x".join(map(str, dataset.train_images.shape[1:]))
    return (
        f"{device.device_kind}, jax {jax.__version__}, {shape}, {dataset.num_classes} classes, "
        f"minibatches of {protocol.batch_size}, {iterations} iterations"
    )


def _read(store: Path) -> dict[str, dict[int, float]]:
    """Return the measurements that the file holds, if it is one of ours."""
    try:
        content = json.loads(store.read_text())
        return {
            key: {int(lanes): float(seconds) for lanes, seconds in row.items()}
            for key, row in content.items()
            if row
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(store: Path, known: Mapping[str, Mapping[int, float]]) -> None:
    """Replace the file as a whole: another process may be reading it."""
    with contextlib.suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=store.parent, prefix=store.name)
        with os.fdopen(handle, "w") as file:
            json.dump(known, file, indent=1)
        os.replace(path, store)
