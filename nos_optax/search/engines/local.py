"""Evaluation on this machine."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from nos_optax.population import Evaluation
from nos_optax.population.accelerator import select_devices
from nos_optax.population.flags import own_flags, thread_settings
from nos_optax.search.config import TaskConfig
from nos_optax.search.engines.trainers import make_trainer, trainer_facts
from nos_optax.search.loading import Given, is_own


class LocalEngine:
    """Evaluates on all devices of this machine.

    It compiles from the start, while its maker does something else, and in a thread of its own, so
    that Ctrl-C need not wait for the end of a population.

    Args:
        config: the tasks.
        iterations: the length of the longest program.
        tasks: what the children are, or the images that they train on, in place of the
            configuration's.

    Raises:
        AcceleratorError: the accelerator is absent.
        DatasetError: the data is missing.
        ValueError: the training examples do not fill a minibatch.
    """

    def __init__(self, config: TaskConfig, iterations: int, tasks: Sequence[Given] = ()):
        devices = select_devices(config.accelerator)
        with own_flags():
            self.trainer = make_trainer(config, iterations, devices, tasks)
            self.facts = trainer_facts(self.trainer, is_own(config, tasks))
        self.chance = self.trainer.chance
        self._settings = thread_settings()
        self._thread = ThreadPoolExecutor(1)
        self._compiled = self._thread.submit(self._under_settings, self.trainer.compile)

    def evaluate(
        self,
        programs: np.ndarray,
        seed: int,
        epochs: int | None = None,
        rates: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, Evaluation]]:
        """Yield all rows at once: the devices share them out among themselves."""
        self._compiled.result()
        chosen = {} if rates is None else {"rates": rates}
        evaluate = partial(self.trainer.evaluate, programs, seed, epochs, **chosen)
        done = self._thread.submit(self._under_settings, evaluate)
        yield np.arange(len(programs)), done.result()

    def _under_settings(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in another thread, where JAX's settings are those of this engine."""
        with own_flags(self._settings):
            return function(*arguments)

    def close(self) -> None:
        """Begin nothing more; the devices belong to the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
