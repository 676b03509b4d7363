"""Where candidates are evaluated: on this machine, or by a class with the same methods elsewhere.

A candidate's reward depends on the seed and its program alone, so a search does not notice which
engine it has, nor in which order the parts come back.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from nos_optax.population import Evaluation
from nos_optax.search.config import SearchConfig
from nos_optax.search.engines.local import LocalEngine
from nos_optax.search.engines.ray import RayEngine
from nos_optax.search.loading import Given


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
        rates: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, Evaluation]]:
        """Yield the evaluation in parts, as they are done.

        Args:
            programs: `int32[P, 5 G]` or `int32[P, G, 5]`.
            seed: as in `PopulationTrainer.evaluate`, like what follows.
            epochs: of the training; those of the configuration where None.
            rates: as in `SuiteTrainer.evaluate`; where None they are chosen anew.

        Yields:
            Rows of `programs`, `int[K]`, and their evaluation. Each row comes exactly once.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds; it evaluates nothing afterwards."""
        ...


def make_engine(config: SearchConfig, iterations: int, tasks: Sequence[Given] = ()) -> Engine:
    """Return the engine that a configuration names.

    Args:
        config: what is searched.
        iterations: the length of the longest program.
        tasks: as for `LocalEngine`; with Ray they are the configuration's.
    """
    if config.engine == "local":
        return LocalEngine(config, iterations, tasks)
    return RayEngine(config, iterations, config.ray_address, timeout=config.ray_timeout)
