"""Evaluation on many machines: Ray carries candidates to workers and rewards back.

Tasks have no state: a task is some rows of a population, and any worker gives the same answer. So
Ray may run a task again when a worker or a node is lost, and the search neither loses nor repeats a
candidate. (Actors that hold a device would wait for ever for one that is gone.)

Every node needs the same Python, Ray and nos_optax as the driver, and CIFAR-10 at the same path,
`data_dir`. The driver needs no accelerator.
"""

import dataclasses
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

import jax
import numpy as np

from nos_optax.grammar.program import as_population
from nos_optax.population import Evaluation, PopulationTrainer
from nos_optax.population.accelerator import (
    AcceleratorError,
    enable_compilation_cache,
    select_devices,
)
from nos_optax.population.flags import thread_settings, use_own_flags
from nos_optax.population.loop import LANES as SUITE_LANES
from nos_optax.population.reference import Reference, from_fields
from nos_optax.population.suite import SuiteTrainer
from nos_optax.search.config import TaskConfig
from nos_optax.search.engines.trainers import begun_references, make_trainer, trainer_facts
from nos_optax.search.interrupts import handlers_kept
from nos_optax.search.loading import is_own

RESOURCES = {"gpu": "GPU", "tpu": "TPU", "cpu": "CPU"}  # Ray's names, the best first
LANES = 64  # on an accelerator, where none are asked for
PROBE_SECONDS = 5  # Ray itself tries an address for minutes


class RayEngine:
    """Evaluates on all nodes of a Ray cluster, one device a worker.

    Args:
        config: the task; `auto` takes the best accelerator of the cluster.
        iterations: the length of the longest program.
        address: `HOST:PORT` of a running cluster, `auto` for the one this machine belongs to, or
            `local` to start Ray here; where None, `RAY_ADDRESS` or else `local`. Where this process
            has joined a cluster already, it is that one.
        workers: cores of a Ray that is started here; all that this process may use where None.
        task_size: candidates in a task; see `task_size` where None.

    Raises:
        AcceleratorError: no node has the accelerator.
        ConnectionError: there is no cluster at the address.
        DatasetError: a worker does not find the data.
        ImportError: Ray is missing, here or on a worker.
    """

    def __init__(
        self,
        config: TaskConfig,
        iterations: int,
        address: str | None = None,
        workers: int | None = None,
        task_size: int | None = None,
    ):
        jax.config.update("jax_platforms", "cpu")  # the controller's; accelerators are for children
        self._joined = _join(address, workers)
        try:
            self.accelerator = _accelerator(config.accelerator)
            settings = tuple(sorted(thread_settings().items()))
            self.task: WorkerTask = (
                _for_workers(config, self.accelerator),
                iterations,
                settings,
                _hashable(begun_references(config)),
            )
            self.lanes, self.task_size = config.lanes or _default_lanes(config), task_size
            self._evaluate = _remote(_evaluate, self.accelerator)
            self.chance, self.facts = _result(
                _remote(_describe, self.accelerator).remote(self.task)
            )
        except BaseException:
            self.close()
            raise
        # What one worker has measured is 0 for all.
        known = [from_fields(row) for row in self.facts.get("adam", ())]
        self.task = (*self.task[:-1], _hashable(known))
        self.facts |= {"workers": self.workers}

    @property
    def workers(self) -> int:
        """The workers that the cluster has room for at the moment, at least 1."""
        return max(1, int(_present().get(RESOURCES[self.accelerator], 0)))

    def evaluate(
        self,
        programs: np.ndarray,
        seed: int,
        epochs: int | None = None,
        hurdles: Sequence[float] | None = None,
        rates: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, Evaluation]]:
        """Yield each task's rows and their evaluation when it is done; see `Engine.evaluate`.

        Raises:
            ValueError: the population is empty or holds what is no program, or one is too long.
        """
        programs = as_population(programs)
        lanes = None if self.accelerator == "cpu" else self.lanes
        size = self.task_size or task_size(len(programs), self.workers, lanes)
        done, rows_of = SimpleQueue(), {}
        for rows in np.split(np.arange(len(programs)), range(size, len(programs), size)):
            chosen = None if rates is None else rates[rows]
            task = self._evaluate.remote(self.task, programs[rows], seed, epochs, hurdles, chosen)
            rows_of[task] = rows
            # One callback a task: ray.wait would look at all of them each time.
            task.future().add_done_callback(lambda _, task=task: done.put(task))
        try:
            while rows_of:
                task = done.get()
                yield rows_of.pop(task), _result(task)
        finally:
            _cancel(rows_of)

    def close(self) -> None:
        """Leave the cluster, and stop it if it was started here."""
        if self._joined:
            import ray

            ray.shutdown()
            self._joined = False


def _hashable(references: Sequence[Reference] | None) -> tuple[Reference, ...] | None:
    return tuple(references) if references else None


def _default_lanes(config: TaskConfig) -> int:
    """Return the lanes of an accelerator that was not told."""
    return SUITE_LANES if config.protocol == "speed" else LANES


def task_size(population: int, workers: int, lanes: int | None) -> int:
    """Return how many candidates go into a task.

    On CPU a worker trains one child at a time and candidates differ tenfold in cost, so each gets
    four tasks a population, if there are enough candidates, of at most 8. Elsewhere `lanes`
    children cost as much as one, and most candidates are dead after the sweep, so a worker gets one
    task a population, of at most four times `lanes`.

    Args:
        population: candidates to evaluate.
        workers: workers there are.
        lanes: children side by side on a worker; None on CPU.

    Returns:
        At least 1.

    Examples:
        >>> task_size(32, 2, None), task_size(32, 100, None), task_size(10_000, 4, None)
        (4, 1, 8)
        >>> task_size(1000, 10, 64), task_size(10_000, 10, 64)
        (100, 256)
    """
    share, most = (4 * workers, 8) if lanes is None else (workers, 4 * lanes)
    return min(-(-population // share), most)


def _join(address: str | None, workers: int | None) -> bool:
    """Join or start Ray, without its chatter; return False where this process has done it."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("evaluation by Ray needs it: pip install 'nos_optax[ray]'") from error

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its default is announced by a warning in every worker.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": workers or _cores(), "include_dashboard": False}
    elif workers is not None:
        raise ValueError(
            f"workers is {workers}, but the Ray at {address} has its own; leave it out"
        )
    elif address != "auto":
        _probe(address)
    try:
        with handlers_kept():
            ray.init(**options)
    except (RuntimeError, ValueError, OSError) as error:
        raise ConnectionError(f"cannot join Ray at {address}: {error}") from error
    return True


def _probe(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray at {address!r} ({error}): start it with `ray start --head` and give HOST:PORT"
        ) from error


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # the system does not tell
        return os.cpu_count() or 1


def _present() -> dict[str, float]:
    import ray

    return ray.cluster_resources()


def _accelerator(wanted: str) -> str:
    """Return the accelerator that a search gets, of those in the cluster."""
    here = [kind for kind, resource in RESOURCES.items() if _present().get(resource)]
    if wanted == "auto" and here:
        return here[0]
    if wanted in here:
        return wanted
    raise AcceleratorError(
        f"the Ray cluster has no {wanted}, but {', '.join(here) or 'no worker at all'}: "
        "add a node that has it, or ask for another accelerator"
    )


def _for_workers(config: TaskConfig, accelerator: str) -> TaskConfig:
    """Return the task as every node understands it, whatever its working directory."""
    folder = config.data_dir and config.data_dir.expanduser().absolute()
    chosen = accelerator == "cpu" or config.protocol == "speed"  # there loops choose theirs
    lanes = config.lanes if chosen else config.lanes or LANES
    return dataclasses.replace(config, accelerator=accelerator, data_dir=folder, lanes=lanes)


def _remote(function, accelerator: str):
    import ray

    needs: dict = {
        "cpu": {},
        "gpu": {"num_gpus": 1},
        "tpu": {"resources": {"TPU": 1}},
    }[accelerator]
    # Ray would otherwise end a worker on a GPU after its first task, and the trainer with it.
    return ray.remote(num_cpus=1, max_retries=-1, max_calls=0, **needs)(function)


def _result(task):
    """Return what a task returned, or raise what it raised, without Ray's wrapping."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as error:
        cause = error.cause
        if "failed to import on the worker" in str(cause):
            reason = str(cause).strip().splitlines()[-1]
            raise ImportError(
                f"a Ray worker cannot import what it needs ({reason}): install the same "
                "nos_optax, with its extras, on every node"
            ) from error
        raise cause from error


def _cancel(tasks) -> None:
    """Drop tasks that nobody waits for; those that run now come to their end."""
    import ray

    if ray.is_initialized():
        for task in tasks:
            ray.cancel(task, force=False)


# What follows runs in the workers.


# A task: its configuration, the length of the longest program, the driver's settings of JAX, and
# what tuned Adam does, where that is known.
WorkerTask = tuple[TaskConfig, int, tuple[tuple[str, Any], ...], tuple[Reference, ...] | None]


def _describe(task: WorkerTask) -> tuple[float, dict]:
    trainer = _trainer(*task)
    return trainer.chance, trainer_facts(trainer, own=is_own(task[0]))


def _evaluate(
    task: WorkerTask,
    programs: np.ndarray,
    seed: int,
    epochs: int | None,
    hurdles: Sequence[float] | None,
    rates: np.ndarray | None,
) -> Evaluation:
    chosen = {} if rates is None else {"rates": rates}
    return _trainer(*task).evaluate(programs, seed, epochs, hurdles, **chosen)


@lru_cache(maxsize=1)
def _trainer(
    config: TaskConfig,
    iterations: int,
    settings: tuple[tuple[str, Any], ...],
    references: tuple[Reference, ...] | None,
) -> PopulationTrainer | SuiteTrainer:
    """Build the trainer, once in a worker's life."""
    use_own_flags(dict(settings))
    enable_compilation_cache()
    return make_trainer(config, iterations, _devices(config.accelerator), references=references)


def _devices(accelerator: str) -> list[jax.Device]:
    """Return the worker's devices: those that Ray shows it, or its one core."""
    if accelerator != "cpu":
        jax.config.update("jax_platforms", None)  # the driver's JAX_PLATFORMS comes along
        return select_devices(accelerator)
    # XLA's threads, by default as many as the machine has cores. Two and more round alike; one,
    # without a thread pool, rounds in another way.
    os.environ["NPROC"] = "2"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    return jax.local_devices(backend="cpu")
