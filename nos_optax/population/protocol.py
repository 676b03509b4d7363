"""How a candidate earns its reward, and what is known of it afterwards."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from nos_optax._arguments import check_counts, check_number, check_positive

STATUSES = ("trained", "dead", "diverged", "slow")
TRAINED, DEAD, DIVERGED, SLOW = range(4)


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

    Raises:
        TypeError: what should be a number is none.
        ValueError: a number is out of range.

    References:
        Bello et al., 2017, section 4.2.
    """

    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)
    batch_size: int = 100
    sweep_examples: int = 10_000
    epochs: int = 5
    margin: float = 6.0

    def __post_init__(self):
        if isinstance(self.learning_rates, str) or not len(self.learning_rates):
            raise ValueError(f"learning_rates is {self.learning_rates!r}, but must be numbers.")
        for rate in self.learning_rates:
            check_positive(learning_rates=rate)
        check_number("margin", self.margin, "0 or a positive number", lambda x: 0 <= x < math.inf)
        check_counts(
            batch_size=self.batch_size, sweep_examples=self.sweep_examples, epochs=self.epochs
        )


class Evaluation(NamedTuple):
    """What became of each candidate."""

    reward: np.ndarray  # float32[P]: validation accuracy; chance for the dead and the diverged
    learning_rate: np.ndarray  # float32[P]: the sweep's choice; nan where every rate diverged
    status: np.ndarray  # int32[P]: index in STATUSES
    sweep: np.ndarray  # float32[P, L]: validation accuracy of each rate; nan where it diverged
    # float32[P, 1]: the reward of what trained, else nan; a suite's `evaluate` has its own
    curve: np.ndarray
