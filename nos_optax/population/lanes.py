"""How many children train side by side: measured once for a kind of device, then remembered.

More lanes keep a large device busier, until its memory or its arithmetic is full; but lanes that a
small population leaves empty are computed too. So the times are measured, and the number of lanes
follows from them and from the size of the population.
"""

import contextlib
import dataclasses
import json
import math
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from nos_optax._files import write_whole
from nos_optax.grammar import encode
from nos_optax.population.data import Dataset
from nos_optax.population.protocol import Protocol
from nos_optax.population.task import Task, image_task, paper_child
from nos_optax.population.task_check import check_task
from nos_optax.population.trainer import PopulationTrainer

SIZES = (16, 32, 64, 128, 256, 512)
GAIN = 0.05  # what a doubling must save, of the time per child, for the next to be tried
VALIDATION_EXAMPLES = 250  # so that validation takes its memory and next to no time


def choose_lanes(
    task: Task | Dataset,
    protocol: Protocol,
    iterations: int,
    devices: Sequence[jax.Device],
    store: Path,
    population: int,
) -> int:
    """Return the fastest number of lanes, from the store or by a measurement of about a minute.

    Args:
        task: what the children are; a data set of images stands for the paper's ConvNet on it.
        protocol: how a candidate earns its reward.
        iterations: the length of the longest program.
        devices: the devices that share a population, all of one kind; the first is measured.
        store: a folder of measurements; where it cannot be written they are not remembered.
        population: candidates in one call of the trainer.

    Returns:
        The number of children that should train side by side on each device; 1 on CPU.
    """
    if devices[0].platform == "cpu":
        return 1
    if isinstance(task, Dataset):
        task = image_task(task, paper_child(task, devices[0]))
    check_task(task, protocol.batch_size)
    shapes = [x.shape[1:] for x in jax.tree.leaves(task.train)]
    facts = devices[0].device_kind, jax.__version__, task.num_params, shapes, protocol.batch_size
    name = "_".join(map(str, ("lanes", *facts, iterations)))
    file = store / (re.sub(r"\W+", "_", name) + ".json")
    try:
        seconds = {int(lanes): float(s) for lanes, s in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or not ours
        seconds = {}
    if not seconds:
        seconds = measure_lanes(task, protocol, iterations, devices[0])
        if not seconds:
            return SIZES[0]  # the trainer halves it; the memory may be free another time
        with contextlib.suppress(OSError):
            store.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(seconds).encode())
    return best_lanes(
        seconds, task.num_examples(task.train), protocol, -(-population // len(devices))
    )


def measure_lanes(
    task: Task | Dataset, protocol: Protocol, iterations: int, device: jax.Device
) -> dict[int, float]:
    """Return lanes and their seconds per child and step, while more are faster and fit."""
    seconds: dict[int, float] = {}
    for lanes in SIZES:
        now = child_step_seconds(task, protocol, iterations, device, lanes)
        if not now < (1 - GAIN) * min(seconds.values(), default=math.inf):
            break
        seconds[lanes] = now
    return seconds


def best_lanes(seconds: Mapping[int, float], examples: int, protocol: Protocol, share: int) -> int:
    """Return the lanes with which a device evaluates its share of a population fastest.

    Half of the candidates are taken to survive the sweep: more than at the start of a search, fewer
    than at its end.

    Args:
        seconds: per child and step, for each number of lanes.
        examples: in the training set.
        protocol: how a candidate earns its reward.
        share: candidates of one device.
    """
    sweep_steps = max(1, min(protocol.sweep_examples, examples) // protocol.batch_size)
    train_steps = examples // protocol.batch_size * protocol.epochs
    swept, trained = share * len(protocol.learning_rates), -(-share // 2)

    def total(lanes: int) -> float:
        # Empty lanes of the last group take as long as full ones.
        steps = -(-swept // lanes) * sweep_steps + -(-trained // lanes) * train_steps
        return steps * lanes * seconds[lanes]

    return min(sorted(seconds), key=total)


def child_step_seconds(
    task: Task | Dataset, protocol: Protocol, iterations: int, device: jax.Device, lanes: int
) -> float:
    """Return the median seconds per child and step with all lanes full; inf if they do not fit."""
    trainer = short_trainer(task, protocol, iterations, device, lanes)
    programs = np.stack([encode("g", iterations).array] * lanes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trainer's own, which halves the lanes
        trainer.evaluate(programs)  # compiles
    if trainer.lanes < lanes:
        return math.inf
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        trainer.evaluate(programs)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / (lanes * trainer.sweep_steps)


def short_trainer(
    task: Task | Dataset,
    protocol: Protocol,
    iterations: int,
    device: jax.Device,
    lanes: int,
    steps: int = 20,
    fused: bool | None = None,
) -> PopulationTrainer:
    """Return a trainer whose candidates take `steps` steps and no more, `lanes` at a time.

    One learning rate, too small for `g` to diverge, and a margin that no child reaches, so that
    there is no training after the sweep.
    """
    if isinstance(task, Dataset):
        task = image_task(task, paper_child(task, device))
    few = dataclasses.replace(
        task,
        validation=jax.tree.map(lambda x: x[:VALIDATION_EXAMPLES], task.validation),
        perfect=math.inf,
    )
    examples = steps * protocol.batch_size
    short = Protocol((1e-5,), protocol.batch_size, examples, epochs=1, margin=1e9)
    # Twice the room: if one group of lanes were all, XLA would take its training out of the loop
    # over groups, and do it even where there are none.
    return PopulationTrainer(
        few,
        short,
        iterations=iterations,
        capacity=2 * lanes,
        lanes=lanes,
        devices=[device],
        fused=fused,
    )
