"""The trainer of a configuration's protocol, and what a run records of it."""

import dataclasses
import math
import os
import platform
import zlib
from collections.abc import Sequence

import jax
import numpy as np

from nos_optax._version import __version__
from nos_optax.population import PopulationTrainer, Task
from nos_optax.population.reference import Reference, from_fields, reference_store
from nos_optax.population.suite import SUITE, SuiteTrainer, Workload
from nos_optax.population.task import Batch
from nos_optax.population.task_check import check_direction, function_digests
from nos_optax.search.config import SearchConfig, TaskConfig
from nos_optax.search.loading import Given, load_task, load_workloads
from nos_optax.search.run_folder import CONFIG, read_facts, reason

MOST_STEPS = 2**31  # their counter has 32 bits
BYTES_PER_PARAMETER = 4 * 5  # of a child: weights, gradient, three moving averages, in float32


def make_trainer(
    config: TaskConfig,
    iterations: int,
    devices: list[jax.Device],
    tasks: Sequence[Given] = (),
    references: Sequence[Reference] | None = None,
) -> PopulationTrainer | SuiteTrainer:
    """Return the trainer of a configuration's protocol.

    Args:
        config: the tasks; its `accelerator` is ignored.
        iterations: the length of the longest program.
        devices: where the children train.
        tasks: what they are, or the images that they train on; the configuration's where empty.
        references: what tuned Adam does on them, where it is known.
    """
    if config.protocol == "speed":
        workloads = load_workloads(config, tasks)
        check_memory(max(w.task.num_params for w in workloads), config.lanes, devices)
        return SuiteTrainer(
            workloads,
            iterations,
            devices,
            config.lanes,
            reference_store(),
            references=begun_references(config) if references is None else references,
            slack=config.slack,
        )
    (given,) = tasks or (None,)
    if isinstance(given, Workload):
        given = given.task
    task = load_task(config, devices[0]) if given is None or isinstance(given, str) else given
    if isinstance(task, Task):
        check_size(task, config, devices)
    return PopulationTrainer(
        task,
        config.paper_protocol(),
        iterations=iterations,
        lanes=config.lanes,
        devices=devices,
        max_epochs=config.max_epochs,
    )


def check_size(task: Task, config: TaskConfig, devices: Sequence[jax.Device]) -> None:
    """Refuse what cannot be counted or held, before anything is compiled.

    Args:
        task: what the children are.
        config: how long they train, and how many side by side.
        devices: where.

    Raises:
        ValueError: a training has more steps than its counter can hold, or as `check_memory`.
    """
    size = config.paper_protocol().batch_size
    steps = task.num_examples(task.train) // size * config.max_epochs
    if steps >= MOST_STEPS:
        raise ValueError(
            f"{config.max_epochs:,} epochs of {task.num_examples(task.train):,} examples are "
            f"{steps:,} steps; a training has at most {MOST_STEPS - 1:,}: give fewer epochs, or a "
            "larger --minibatch-size"
        )
    check_memory(task.num_params, config.lanes, devices)


def check_memory(parameters: int, lanes: int | None, devices: Sequence[jax.Device]) -> None:
    """Refuse children side by side that need more memory than this machine has, as far as is known.

    Args:
        parameters: of a child.
        lanes: children side by side on a device; None where nobody asked for a number.
        devices: where.

    Raises:
        ValueError: their parameters and what trains them alone are too large.
    """
    if lanes is None or devices[0].platform != "cpu" or not hasattr(os, "sysconf"):
        return
    needed = lanes * len(devices) * parameters * BYTES_PER_PARAMETER
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ValueError(
            f"--lanes {lanes:,} on each of {len(devices)} cores need {needed / 1e9:,.1f} GB "
            f"for the parameters, gradients and averages of the children alone, and this machine "
            f"has {present / 1e9:,.1f} GB: give fewer"
        )


def begun_references(config: TaskConfig) -> list[Reference] | None:
    """Return what Adam does on the suite, as a run to go on with was begun; None of a new run.

    Measured again, on another machine or by another version, it would differ in the last digits.
    """
    folder = isinstance(config, SearchConfig) and config.resume and config.out
    if not folder or not (folder / CONFIG).exists():
        return None
    rows = read_facts(folder).get("adam", ())
    try:
        return [from_fields(row) for row in rows] or None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / CONFIG} is damaged: what Adam does, {reason(error)}; start a new run"
        ) from None


def trainer_facts(trainer: PopulationTrainer | SuiteTrainer, own: bool) -> dict:
    """Return what a task's configuration does not say: its data, the devices, the versions.

    Args:
        trainer: of the task, or of the suite.
        own: whether the task is the user's own: then its metric is tried at the initial weights.

    Raises:
        ValueError: the metric is not finite there.
    """
    suite = isinstance(trainer, SuiteTrainer)
    facts = _suite_facts(trainer) if suite else _task_facts(trainer, own)
    devices = trainer.devices
    return facts | {
        "devices": [str(d) for d in devices],
        "device_kind": devices[0].device_kind,
        "versions": {
            "nos_optax": __version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }


def _suite_facts(trainer: SuiteTrainer) -> dict:
    """Return the facts of a suite; what Adam does on its tasks is among them."""
    names = [w.task.name for w in trainer.workloads]
    data = [(w.task.train, w.task.validation) for w in trainer.workloads]
    functions = {
        f"{name} of {w.task.name}": digest
        for w in trainer.workloads
        for name, digest in function_digests(w.task, w.minibatch_size).items()
    }
    return {
        "dataset": "the suite" if names == list(SUITE) else ", ".join(names),
        "score": "speed against tuned Adam, in doublings",
        "tasks": names,
        "minibatch_sizes": [w.minibatch_size for w in trainer.workloads],
        "horizons": [w.horizon for w in trainer.workloads],
        "children": [w.children for w in trainer.workloads],
        "data_checksum": _checksum(data),
        "functions": functions,
        "parameters": [w.task.num_params for w in trainer.workloads],
        "chance": trainer.chance,
        "adam": [dataclasses.asdict(reference) for reference in trainer.references],
        "lanes": trainer.lanes,
    }


def _task_facts(trainer: PopulationTrainer, own: bool) -> dict:
    """Return the facts of one task."""
    task, batch_size = trainer.task, trainer.protocol.batch_size
    tried = {}
    if own:
        tried["untrained"] = trainer.untrained_score()
        if math.isinf(task.perfect):  # else a score above it is an error
            check_direction(task, batch_size)
    return tried | {
        "dataset": trainer.task.name,
        "train_examples": Task.num_examples(trainer.task.train),
        "validation_examples": Task.num_examples(trainer.task.validation),
        "data_checksum": _checksum((trainer.task.train, trainer.task.validation)),
        "functions": function_digests(task, batch_size),
        "sweep_steps": trainer.sweep_steps,
        "train_steps": trainer.train_steps,
        "parameters": trainer.task.num_params,
        "chance": trainer.chance,
        "threshold": trainer.threshold,
        "lanes": trainer.lanes,
    }


def _checksum(batch: Batch) -> int:
    """Return a number that tells data from other data."""
    checksum = 0
    for x in jax.tree.leaves(batch):
        checksum = zlib.crc32(np.asarray(x).tobytes(), checksum)
    return checksum
