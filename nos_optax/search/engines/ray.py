"""Evaluation on many machines: Ray carries candidates to workers and rewards back.

Tasks have no state: a task is some rows of a population, and any worker gives the same answer. So
a task may run again when a worker or a node is lost, and the search neither loses nor repeats a
candidate. (Actors that hold a device would wait for ever for one that is gone.) It runs again at
the driver's word, not at Ray's, which would repeat for ever what ends its worker each time.

Every node needs the same Python, Ray and nos_optax as the driver, and CIFAR-10 at the same path,
`data_dir`. The driver needs no accelerator.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import jax
import numpy as np

from nos_optax.grammar import decode
from nos_optax.grammar.program import as_population
from nos_optax.population import Evaluation, PopulationTrainer
from nos_optax.population.accelerator import enable_compilation_cache, select_devices
from nos_optax.population.flags import thread_settings, use_own_flags
from nos_optax.population.loop import LANES as SUITE_LANES
from nos_optax.population.reference import Reference, from_fields
from nos_optax.population.suite import SuiteTrainer
from nos_optax.search.config import TaskConfig
from nos_optax.search.engines.cluster import RESOURCES, choose_accelerator, join, resources
from nos_optax.search.engines.trainers import begun_references, make_trainer, trainer_facts
from nos_optax.search.loading import is_own

LANES = 64  # on an accelerator, where none are asked for
DEATHS = 3  # of workers by one task, and for each worker before any result: no accident
SHOWN = 3  # rules in a message


class WorkerError(ConnectionError):
    """A task ended its workers each time, or none answered in time."""


class Part(NamedTuple):
    """What a task evaluates.

    Attributes:
        rows: of the population.
        deaths: how many workers have died at it.
    """

    rows: np.ndarray
    deaths: int = 0


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
        timeout: seconds without a result from any worker after which it gives up; None waits.

    Raises:
        AcceleratorError: no node has the accelerator.
        ConnectionError: there is no cluster at the address.
        DatasetError: a worker does not find the data.
        ImportError: Ray is missing, here or on a worker.
        WorkerError: loading the task ends its workers, or takes longer than the timeout.
    """

    def __init__(
        self,
        config: TaskConfig,
        iterations: int,
        address: str | None = None,
        workers: int | None = None,
        task_size: int | None = None,
        timeout: float | None = None,
    ):
        jax.config.update("jax_platforms", "cpu")  # the controller's; accelerators are for children
        self._joined = join(address, workers)
        try:
            self.accelerator = choose_accelerator(config.accelerator)
            settings = tuple(sorted(thread_settings().items()))
            self.task: WorkerTask = (
                _for_workers(config, self.accelerator),
                iterations,
                settings,
                _hashable(begun_references(config)),
            )
            self.lanes, self.task_size = config.lanes or _default_lanes(config), task_size
            self.timeout = timeout
            self._evaluate = _remote(_evaluate, self.accelerator)
            self.chance, self.facts = self._told()
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
        return max(1, int(resources().get(RESOURCES[self.accelerator], 0)))

    def evaluate(
        self,
        programs: np.ndarray,
        seed: int,
        epochs: int | None = None,
        rates: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, Evaluation]]:
        """Yield each task's rows and their evaluation when it is done; see `Engine.evaluate`.

        A task that ends its worker three times is taken apart, and each of its candidates evaluated
        alone. Where one of them ends its workers again, all others are evaluated first.

        Raises:
            ValueError: the population is empty or holds what is no program, or one is too long.
            WorkerError: a candidate ends its workers, or all do, or no result comes in time.
        """
        programs = as_population(programs)
        lanes = None if self.accelerator == "cpu" else self.lanes
        size = self.task_size or task_size(len(programs), self.workers, lanes)
        done, parts, fatal = SimpleQueue(), {}, []
        deaths, came = 0, False

        def start(part: Part) -> None:
            rows = part.rows
            chosen = None if rates is None else rates[rows]
            task = self._evaluate.remote(self.task, programs[rows], seed, epochs, chosen)
            parts[task] = part
            # One callback a task: ray.wait would look at all of them each time.
            task.future().add_done_callback(lambda _: done.put(task))

        for rows in np.split(np.arange(len(programs)), range(size, len(programs), size)):
            start(Part(rows))
        try:
            while parts:
                task = self._next(done, parts, programs)
                part = parts.pop(task)
                try:
                    evaluation = _result(task)
                except _lost() as loss:
                    deadly = isinstance(loss, _deadly())
                    again = _after_death(part) if deadly else [part]
                    fatal += [] if again else list(part.rows)
                    deaths += deadly
                    if not came and deaths >= DEATHS * max(2, self.workers):
                        raise WorkerError(_nothing_comes(deaths, programs[part.rows])) from loss
                    for each in again:
                        start(each)
                    continue
                came = True
                yield part.rows, evaluation
            if fatal:
                raise WorkerError(_ends_its_workers(programs[fatal]))
        finally:
            _cancel(parts)

    def _told(self) -> tuple[float, dict]:
        """Return what a worker tells of the task, once it has loaded it."""
        from ray.exceptions import GetTimeoutError

        describe, loss = _remote(_describe, self.accelerator), None
        for _ in range(DEATHS):
            told = describe.remote(self.task)
            try:
                return _result(told, self.timeout)
            except GetTimeoutError:
                _cancel([told], force=True)
                raise WorkerError(_too_late(self.timeout, "loading the task")) from None
            except _lost() as error:
                loss = error
        raise WorkerError(
            f"loading the task ended {DEATHS} workers: it leaves the process, or takes more memory "
            "than a worker has"
        ) from loss

    def _next(self, done: SimpleQueue, parts: dict[Any, Part], programs: np.ndarray):
        """Return the next task that is over."""
        try:
            return done.get(timeout=self.timeout)
        except Empty:
            late = np.concatenate([part.rows for part in parts.values()])
            _cancel(parts, force=True)
            raise WorkerError(_too_late(self.timeout, _rules(programs[late]))) from None

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
    return ray.remote(num_cpus=1, max_retries=0, max_calls=0, **needs)(function)


def _result(task, timeout: float | None = None):
    """Return what a task returned, or raise what it raised, without Ray's wrapping."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(task, timeout=timeout)
    except RayTaskError as error:
        cause = error.cause
        if "failed to import on the worker" in str(cause):
            reason = str(cause).strip().splitlines()[-1]
            raise ImportError(
                f"a Ray worker cannot import what it needs ({reason}): install the same "
                "nos_optax, with its extras, on every node"
            ) from error
        raise cause from error


def _after_death(part: Part) -> list[Part]:
    """Return what to try once more: a part, or each of its candidates alone; nothing in the end."""
    if part.deaths + 1 < DEATHS:
        return [part._replace(deaths=part.deaths + 1)]
    return [Part(np.array([row])) for row in part.rows] if len(part.rows) > 1 else []


def _lost() -> tuple[type[Exception], ...]:
    """Return Ray's errors of a task that is to run again."""
    from ray import exceptions

    return (*_deadly(), exceptions.NodeDiedError, exceptions.ObjectLostError)


def _deadly() -> tuple[type[Exception], ...]:
    """Return those of them that the task may have caused."""
    from ray import exceptions

    return exceptions.WorkerCrashedError, exceptions.OutOfMemoryError


def _cancel(tasks, force: bool = False) -> None:
    """Drop tasks that nobody waits for; those that run now come to their end, or are killed."""
    import ray

    if ray.is_initialized():
        for task in tasks:
            ray.cancel(task, force=force)


def _rules(programs: np.ndarray) -> str:
    """Return some of the rules, as a message names them."""
    shown = "; ".join(str(decode(program)) for program in programs[:SHOWN])
    more = len(programs) - SHOWN
    return shown + (f" and {more} more" if more > 0 else "")


def _ends_its_workers(programs: np.ndarray) -> str:
    return (
        f"evaluating these rules alone ended {DEATHS} workers each: {_rules(programs)}. All others "
        "of the population are evaluated. The task leaves the process, or takes more memory than "
        "a worker has: mend it, or give workers more memory, and go on by --resume"
    )


def _nothing_comes(deaths: int, programs: np.ndarray) -> str:
    return (
        f"{deaths} workers ended and none had a result, the last at {_rules(programs)}: the task "
        "leaves the process, or takes more memory than a worker has. Mend it, or give workers more "
        "memory, and go on by --resume"
    )


def _too_late(timeout: float | None, what: str) -> str:
    return (
        f"no worker had a result within {timeout:g} seconds (--ray-timeout), waiting for {what}. "
        "Give more time, or mend what hangs, and go on by --resume"
    )


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
    rates: np.ndarray | None,
) -> Evaluation:
    chosen = {} if rates is None else {"rates": rates}
    return _trainer(*task).evaluate(programs, seed, epochs, **chosen)


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
