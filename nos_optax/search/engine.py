"""Where candidates are evaluated: on this machine, or by a class with the same methods elsewhere.

A candidate's reward depends on the seed and its program alone, so a search does not notice which
engine it has, nor in which order the parts come back.
"""

import dataclasses
import math
import os
import platform
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from nos_optax.population import (
    Dataset,
    DatasetError,
    Evaluation,
    PopulationTrainer,
    Task,
    image_task,
    load_digits,
    paper_child,
)
from nos_optax.population.accelerator import select_devices
from nos_optax.population.flags import own_flags, thread_settings
from nos_optax.population.lanes import choose_lanes
from nos_optax.population.own import call_own, import_own
from nos_optax.population.reference import Reference, from_fields
from nos_optax.population.suite import SuiteTrainer, load_suite
from nos_optax.population.task import Batch
from nos_optax.population.task_check import check_direction, function_digests
from nos_optax.search.config import DATASETS, GIVEN, SUITE, SearchConfig, TaskConfig
from nos_optax.search.run_folder import CONFIG, read_facts, reason

MOST_STEPS = 2**31  # their counter has 32 bits
BYTES_PER_PARAMETER = 4 * 5  # of a child: weights, gradient, three moving averages, in float32


class Engine(Protocol):
    """Evaluates candidates.

    Attributes:
        chance: reward of a rule that never learns.
        facts: what a run records of the data, the devices and the versions.
    """

    chance: float
    facts: dict

    def evaluate(
        self,
        programs: np.ndarray,
        seed: int,
        epochs: int | None = None,
        hurdles: Sequence[float] | None = None,
    ) -> Iterator[tuple[np.ndarray, Evaluation]]:
        """Yield the evaluation in parts, as they are done.

        Args:
            programs: `int32[P, 5 G]` or `int32[P, G, 5]`.
            seed: as in `PopulationTrainer.evaluate`, like what follows.
            epochs: of the training; those of the configuration where None.
            hurdles: accuracies that let a child go on; where None all go on.

        Yields:
            Rows of `programs`, `int[K]`, and their evaluation. Each row comes exactly once.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds; it evaluates nothing afterwards."""
        ...


class LocalEngine:
    """Evaluates on all devices of this machine.

    It compiles from the start, while its maker does something else, and in a thread of its own, so
    that Ctrl-C need not wait for the end of a population.

    Args:
        config: the task.
        iterations: the length of the longest program.
        task: what the children are, or the images that they train on; the configuration's where
            None.

    Raises:
        AcceleratorError: the accelerator is absent.
        DatasetError: the data is missing.
        ValueError: the training examples do not fill a minibatch.
    """

    def __init__(self, config: TaskConfig, iterations: int, task: Task | Dataset | None = None):
        devices = select_devices(config.accelerator)
        own = isinstance(task, Task) or config.dataset not in DATASETS
        with own_flags():
            self.trainer = make_trainer(config, iterations, devices, task)
            self.facts = trainer_facts(self.trainer, own)
        self.chance = self.trainer.chance
        self._settings = thread_settings()
        self._thread = ThreadPoolExecutor(1)
        self._compiled = self._thread.submit(self._under_settings, self.trainer.compile)

    def evaluate(
        self,
        programs: np.ndarray,
        seed: int,
        epochs: int | None = None,
        hurdles: Sequence[float] | None = None,
    ) -> Iterator[tuple[np.ndarray, Evaluation]]:
        """Yield all rows at once: the devices share them out among themselves."""
        self._compiled.result()
        done = self._thread.submit(
            self._under_settings, self.trainer.evaluate, programs, seed, epochs, hurdles
        )
        yield np.arange(len(programs)), done.result()

    def _under_settings(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in another thread, where JAX's settings are those of this engine."""
        with own_flags(self._settings):
            return function(*arguments)

    def close(self) -> None:
        """Begin nothing more; the devices belong to the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def make_engine(
    config: SearchConfig, iterations: int, task: Task | Dataset | None = None
) -> Engine:
    """Return the engine that a configuration names.

    Args:
        config: what is searched.
        iterations: the length of the longest program.
        task: as for `LocalEngine`; with Ray it is the configuration's.
    """
    if config.engine == "local":
        return LocalEngine(config, iterations, task)
    from nos_optax.search.ray_engine import RayEngine

    return RayEngine(config, iterations, config.ray_address)


def load_task(config: TaskConfig, device: jax.Device) -> Task:
    """Return the task that a configuration names.

    Args:
        config: its `dataset` is a data set of images, or names a task of the user's own.
        device: where it will be trained.

    Raises:
        DatasetError: the data is missing, or smaller than asked for, with the remedy.
        ValueError: what the user named is no task.
    """
    if config.dataset == GIVEN:
        raise ValueError(
            "the task was given from Python: go on by nos_optax.search.search(task, out=..., "
            "resume=True), or search for module:name"
        )
    if config.dataset == SUITE:
        raise ValueError(f"dataset suite is several tasks: name one of {', '.join(DATASETS[:-1])}")
    if config.dataset in DATASETS:
        dataset = load_dataset(config)
        return image_task(dataset, paper_child(dataset, device))
    own = import_own("dataset", config.dataset, DATASETS)
    task = call_own("dataset", config.dataset, own) if callable(own) else own
    if not isinstance(task, Task):
        raise ValueError(
            f"dataset {config.dataset!r} is a {type(task).__name__}; give a "
            "nos_optax.population.Task, or a function that returns one"
        )
    examples, wanted = task.num_examples(task.train), config.train_examples
    if wanted is not None and wanted > examples:
        raise DatasetError(f"--train-examples is {wanted}; {task.name} has {examples}")
    return dataclasses.replace(task, train=jax.tree.map(lambda x: x[:wanted], task.train))


def load_dataset(config: TaskConfig) -> Dataset:
    """Return the images that a configuration names.

    Raises:
        DatasetError: they are missing, or fewer than asked for, with the remedy.
    """
    if config.dataset == "digits":
        return load_digits(train_examples=config.train_examples or 1000)
    from nos_optax.population.cifar10 import load_cifar10

    return load_cifar10(config.data_dir, config.train_examples)


def make_trainer(
    config: TaskConfig,
    iterations: int,
    devices: list[jax.Device],
    task: Task | Dataset | None = None,
) -> PopulationTrainer | SuiteTrainer:
    """Return the trainer of a task, or of the suite.

    Args:
        config: the task; its `accelerator` is ignored.
        iterations: the length of the longest program.
        devices: where the children train.
        task: what they are, or the images that they train on; the configuration's where None.
    """
    cache = jax.config.values["jax_compilation_cache_dir"]
    if task is None and config.dataset == SUITE:
        store = Path(cache) / "references" if cache else None
        return SuiteTrainer(
            load_suite(), iterations, devices, config.lanes, store, references=_begun(config)
        )
    task = task or load_task(config, devices[0])
    if isinstance(task, Task):
        check_size(task, config, devices)
    return PopulationTrainer(
        task,
        config.protocol(),
        iterations=iterations,
        lanes=_lanes(config, task, iterations, devices),
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
        ValueError: a training has more steps than its counter can hold, or the children side by
            side need more memory for their parameters alone than this machine has.
    """
    steps = task.num_examples(task.train) // config.minibatch_size * config.max_epochs
    if steps >= MOST_STEPS:
        raise ValueError(
            f"{config.max_epochs:,} epochs of {task.num_examples(task.train):,} examples are "
            f"{steps:,} steps; a training has at most {MOST_STEPS - 1:,}: give fewer epochs, or a "
            "larger --minibatch-size"
        )
    if config.lanes is None or devices[0].platform != "cpu" or not hasattr(os, "sysconf"):
        return
    needed = config.lanes * len(devices) * task.num_params * BYTES_PER_PARAMETER
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ValueError(
            f"--lanes {config.lanes:,} on each of {len(devices)} cores need {needed / 1e9:,.1f} GB "
            f"for the parameters, gradients and averages of the children alone, and this machine "
            f"has {present / 1e9:,.1f} GB: give fewer"
        )


def _begun(config: TaskConfig) -> list[Reference] | None:
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


def _lanes(
    config: TaskConfig, task: Task | Dataset, iterations: int, devices: list[jax.Device]
) -> int | None:
    """Return the lanes asked for, or in a search those measured to be fastest."""
    cache = jax.config.values["jax_compilation_cache_dir"]
    if config.lanes or cache is None or not isinstance(config, SearchConfig):
        return config.lanes
    store = Path(cache) / "lanes"
    return choose_lanes(task, config.protocol(), iterations, devices, store, config.batch_size)


def trainer_facts(trainer: PopulationTrainer | SuiteTrainer, own: bool) -> dict:
    """Return what a task's configuration does not say: its data, the devices, the versions.

    Args:
        trainer: of the task, or of the suite.
        own: whether the task is the user's own: then its metric is tried at the initial weights.

    Raises:
        ValueError: the metric is not finite there.
    """
    from nos_optax import __version__

    if isinstance(trainer, SuiteTrainer):
        facts, devices = _suite_facts(trainer), trainer.devices
    else:
        facts, devices = _task_facts(trainer, own), trainer.mesh.devices.ravel()
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
    data = [(w.task.train, w.task.validation) for w in trainer.workloads]
    functions = {
        f"{name} of {w.task.name}": digest
        for w in trainer.workloads
        for name, digest in function_digests(w.task, w.minibatch_size).items()
    }
    return {
        "dataset": SUITE,
        "score": "speed against tuned Adam, in doublings",
        "tasks": [w.task.name for w in trainer.workloads],
        "minibatch_sizes": [w.minibatch_size for w in trainer.workloads],
        "horizons": [w.horizon for w in trainer.workloads],
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
