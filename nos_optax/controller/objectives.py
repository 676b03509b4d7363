r"""What a batch of rewards says of each sample: objectives for the mean, and for the best.

A search shows its best rule and forgets the others, so a policy that raises the mean reward learns
the wrong thing: it settles on one good rule. Each function returns advantages `float32[N]` for
which :math:`\frac1N \sum_i A_i \nabla \log \pi(a_i)` climbs its objective.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def max_at_k(rewards: jax.Array, k: int) -> jax.Array:
    r"""Return advantages for the expected maximum of k samples, without bias.

    What sample i adds to the maximum of a subset of k, itself among them, is its reward less the
    second best of the subset where it is the best, and else 0. Averaged over all subsets, with the
    rewards :math:`R_1 \le \dots \le R_N`, that is

    .. math::
        A_i = \frac{N}{\binom N k} \sum_{j < i} \binom{j - 1}{k - 2} (R_i - R_j) .

    Args:
        rewards: `float32[N]`, in any order.
        k: from 2 to N.

    References:
        Walder and Karkhanis, `Pass@K Policy Optimization <https://arxiv.org/abs/2505.15201>`_, 2025
    """
    n = len(rewards)
    if not 2 <= k <= n:
        raise ValueError(f"k={k}: give a number from 2 to the {n} samples")
    shares = np.array([math.comb(j, k - 2) / math.comb(n, k) for j in range(n)], np.float32)
    order = jnp.argsort(rewards)
    ascending = rewards[order] - rewards.min()  # the differences alone count; sums of small numbers

    def before(x):
        return jnp.cumsum(x) - x

    advantages = n * (ascending * before(jnp.asarray(shares)) - before(shares * ascending))
    return jnp.zeros_like(rewards).at[order].set(advantages)


def above_quantile(rewards: jax.Array, share: float) -> jax.Array:
    r"""Return advantages for the mean of the best share of samples.

    .. math:: A_i = \frac{\max(R_i - q_{1 - \epsilon}, 0)}{\epsilon}

    with the quantile of the batch, which makes it slightly biased.

    Args:
        rewards: `float32[N]`.
        share: :math:`\epsilon`.

    References:
        Petersen et al., `Deep symbolic regression: recovering mathematical expressions from data
        via risk-seeking policy gradients <https://arxiv.org/abs/1912.04871>`_, 2021
    """
    return jnp.maximum(rewards - jnp.quantile(rewards, 1 - share), 0) / share


def by_rank(rewards: jax.Array) -> jax.Array:
    r"""Return the ranks from -1/2 to 1/2, the same for equal rewards.

    .. math::
        A_i = \frac{\#\{j : R_j < R_i\} + \frac12 \#\{j \ne i : R_j = R_i\}}{N - 1} - \frac12

    References:
        Salimans et al., `Evolution Strategies as a Scalable Alternative to Reinforcement Learning
        <https://arxiv.org/abs/1703.03864>`_, 2017, section 2.1
    """
    less = jnp.sum(rewards < rewards[:, None], axis=1)
    same = jnp.sum(rewards == rewards[:, None], axis=1) - 1
    return (less + same / 2) / max(len(rewards) - 1, 1) - 0.5


OBJECTIVES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "max": lambda rewards: max_at_k(rewards, max(2, len(rewards) // 4)),
    "quantile": partial(above_quantile, share=0.1),
    "rank": by_rank,
}
"""By name; the mean, which needs a baseline from batch to batch, is `ppo_controller`'s own."""
