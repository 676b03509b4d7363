"""How a candidate earns its reward, and what is known of it afterwards."""

import dataclasses
import itertools
import math
from typing import NamedTuple

import numpy as np

STATUSES = ("trained", "dead", "diverged", "stopped")
TRAINED, DEAD, DIVERGED, STOPPED = range(4)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The paper's protocol.

    Each learning rate trains a child for one epoch on the first `sweep_examples`; the best one
    trains a fresh child for `epochs` epochs on all training examples; its validation accuracy is
    the reward.

    Attributes:
        learning_rates: the sweep.
        batch_size: examples in a minibatch; the incomplete last one of an epoch is left out.
        sweep_examples: how many examples the sweep's epoch has; all, where the dataset has fewer,
            and at least one minibatch.
        epochs: how long the best learning rate trains.
        margin: a child leaves chance if a learning rate of the sweep is better than the commonest
            class by this many standard errors of the validation accuracy. One that does not is
            dead: it isn't trained. The paper has no such margin. (Three would do for blind guesses,
            but the random features of an untrained network already see more than that.)
        hurdle_epochs: epochs of the training after which a child must have reached a given
            accuracy to go on; none in the paper's search.

    Raises:
        ValueError: a number is out of range.

    References:
        Bello et al., 2017, section 4.2.
    """

    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)
    batch_size: int = 100
    sweep_examples: int = 10_000
    epochs: int = 5
    margin: float = 6.0
    hurdle_epochs: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.learning_rates or not all(0 < r < math.inf for r in self.learning_rates):
            raise ValueError(f"learning_rates must be positive, got {self.learning_rates}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin must be finite and not negative, got {self.margin}")
        for name in ("batch_size", "sweep_examples", "epochs"):
            if not isinstance(getattr(self, name), int | np.integer):
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        rounds = (0, *self.hurdle_epochs, self.epochs)
        if any(later <= earlier for earlier, later in itertools.pairwise(rounds)):
            raise ValueError(
                f"hurdle_epochs must rise from 1 to less than the {self.epochs} epochs, "
                f"got {self.hurdle_epochs}"
            )


class Evaluation(NamedTuple):
    """What became of each candidate."""

    reward: np.ndarray  # float32[P]: last accuracy measured; chance for the dead and the diverged
    learning_rate: np.ndarray  # float32[P]: the sweep's choice; nan where every rate diverged
    status: np.ndarray  # int32[P]: index in STATUSES
    sweep: np.ndarray  # float32[P, L]: validation accuracy of each rate; nan where it diverged
    curve: np.ndarray  # float32[P, R]: accuracy at the R - 1 hurdles and the end; nan where not met
