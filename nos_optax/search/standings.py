"""Which rules are best, as far as their seeds tell: means, bounds, and who is measured again.

The best of many noisy rewards flatters: it is the luckiest as often as the best. So the best rules
and those that may be better are trained with more seeds as a search goes on, a rule's mean is drawn
towards that of the others that are as good, and rules are ranked by what they surely have.
"""

import heapq
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ENOUGH_SEEDS = 16  # of a rule: beyond, its mean moves less than rules differ
CONTENDERS = 64  # the best so many rules, which may race
BOUND = 2.0  # standard errors of a bound
# What is believed of the noise before rules have several seeds: as much as so many seeds tell.
NOISE, BELIEF = 0.1, 4.0
LEAST_RULES = 8  # for a prior
ONE_DEVIATION = 0.8413  # the quantile of a normal variable that is one deviation above its median
LEAST_SPREAD = 0.05  # of the noise, where the rules differ by no more than that explains


class Estimate(NamedTuple):
    """What is known of a rule's mean reward.

    Attributes:
        mean: posterior mean.
        error: posterior standard deviation.
        seeds: how many were trained.
    """

    mean: float
    error: float
    seeds: int

    @property
    def low(self) -> float:
        """The bound from below, by which rules are ranked."""
        return self.mean - BOUND * self.error

    @property
    def high(self) -> float:
        """The bound from above, by which rules are worth another seed."""
        return self.mean + BOUND * self.error


class Standings:
    r"""The rewards of rules with one seed or several, and estimates of their means.

    Rewards of rule i are :math:`\mathcal N(\mu_i, \sigma_i^2)`, and the means of rules above their
    median :math:`\mu_0` are as those of :math:`\mathcal N(\mu_0, \tau^2)`; below, where rules fail
    in many ways, nothing is assumed, and slow ones (`SuiteTrainer`) are not among them. So the
    estimate of a rule with n rewards of mean :math:`\bar x` is

    .. math::
        \frac{n \bar x / \sigma^2 + \mu_0 / \tau^2}{n / \sigma^2 + 1 / \tau^2}, \quad
        \text{with the variance} \quad \frac{1}{n / \sigma^2 + 1 / \tau^2} .

    The variance of a rule's rewards is its own, weighed with that of all rules. Those that contend,
    the best 64 by their plain means, have estimates; the others keep their plain means.
    """

    def __init__(self):
        self._rewards: dict[str, list[float]] = {}
        self._means: dict[str, float] = {}
        self._squares: dict[str, float] = {}  # sums about the mean, of rules with several rewards

    def add(self, key: str, reward: float) -> None:
        """Add the reward of a rule's next seed."""
        rewards = self._rewards.setdefault(key, [])
        rewards.append(reward)
        self._means[key] = float(np.mean(rewards))
        if len(rewards) > 1:
            self._squares[key] = float(np.var(rewards)) * len(rewards)

    def seeds(self, key: str) -> int:
        """Return how many seeds a rule has."""
        return len(self._rewards.get(key, ()))

    def __len__(self) -> int:
        return len(self._rewards)

    def mean(self, key: str) -> float:
        """Return the plain mean of a rule's rewards: its estimate where it is no contender."""
        return self._means[key]

    def contenders(self) -> dict[str, Estimate]:
        """Return the estimates of the best rules by their plain means, the best estimate first.

        Rules that are equally good come in the order in which they were added.
        """
        keys = heapq.nlargest(CONTENDERS, self._means, key=self._means.__getitem__)
        if not keys:
            return {}
        n = np.array([self.seeds(key) for key in keys])
        means = np.array([self._means[key] for key in keys])
        noise = self._variances(keys)
        centre, spread = self._prior()
        precision = n / noise + 1 / spread
        drawn = (n * means / noise + centre / spread) / precision
        rows = zip(keys, drawn, precision**-0.5, n, strict=True)
        estimates = {key: Estimate(float(m), float(e), int(count)) for key, m, e, count in rows}
        return dict(sorted(estimates.items(), key=lambda item: -item[1].mean))

    def due(self, race: int, most: int = ENOUGH_SEEDS) -> list[str]:
        """Return the rules that are worth another seed now.

        Args:
            race: how many of the best are, and how many others at most whose bounds from above
                reach the least of the best.
            most: the seeds of a rule that needs no more.
        """
        estimates = self.contenders()
        leaders = list(itertools.islice(estimates, race))
        if not leaders:
            return []
        least = estimates[leaders[-1]].mean
        others = [key for key in estimates if key not in leaders and estimates[key].high >= least]
        challengers = sorted(others, key=lambda key: -estimates[key].high)[:race]
        return [key for key in leaders + challengers if estimates[key].seeds < most]

    def _prior(self) -> tuple[float, float]:
        """Return the prior's mean and variance, by two quantiles of all rules' first rewards.

        Of the means the best would be known better than others, and the quantiles too near.
        """
        if len(self._rewards) < LEAST_RULES:  # too few to tell
            return 0.0, np.inf
        firsts = [rewards[0] for rewards in self._rewards.values()]
        centre, above = np.quantile(firsts, (0.5, ONE_DEVIATION))
        noise = float(np.mean(self._variances(list(self._rewards))))
        return float(centre), max(float(above - centre) ** 2 - noise, LEAST_SPREAD * noise)

    def _variances(self, keys: Sequence[str]) -> np.ndarray:
        """Return the variances of rules' rewards; those of few seeds are near that of all rules."""
        squares = BELIEF * NOISE**2 + sum(self._squares.values())
        pooled = squares / (BELIEF + sum(len(self._rewards[key]) - 1 for key in self._squares))
        own = np.array([self._squares.get(key, 0.0) for key in keys])
        freedom = np.array([self.seeds(key) - 1 for key in keys])
        return (BELIEF * pooled + own) / (BELIEF + freedom)
