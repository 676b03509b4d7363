"""Proximal policy optimization of a sequence policy, from one reward per sequence."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import jax
import jax.numpy as jnp
import optax

from nos_optax._arguments import check_counts, check_number, check_positive
from nos_optax.controller.objectives import OBJECTIVES
from nos_optax.controller.policy import Policy, Samples, Scores


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Describe how the policy learns.

    Args:
      learning_rate: of Adam.
      clip_ratio: how far from 1 the ratio of new to old probability may move before its gradient
        is cut.
      objective: what is climbed: `mean` is the expected reward; `max` the expected maximum of a
        quarter of a batch, `quantile` the mean of its best tenth, `rank` the ranks in it; see
        `nos_optax.controller.objectives`. The others need no baseline.
      entropy_coefficient: weight of the entropy bonus, in units of (scaled) advantage per nat.
      baseline_decay: decay rate of the moving average of rewards; 0 is the last batch's mean.
      advantage_unit: what the advantages are divided by: `reward` leaves them, `range` takes the
        range of all rewards so far, so that the scale of a task's rewards does not matter, and
        `batch` takes their own root mean square, so that equal rewards count as much as others.
      epochs: passes over each batch.
      minibatch_size: the most sequences per Adam step; None takes the whole batch. A batch is cut
        into minibatches that differ by at most one sequence.
      max_grad_norm: clip the gradient to this global norm; None doesn't.

    Raises:
      ValueError: if a number is out of range.
    """

    learning_rate: float
    objective: Literal["mean", "max", "quantile", "rank"] = "mean"
    clip_ratio: float = 0.2
    entropy_coefficient: float = 0.0015
    baseline_decay: float = 0.95
    advantage_unit: Literal["reward", "range", "batch"] = "batch"
    epochs: int = 2
    minibatch_size: int | None = 16
    max_grad_norm: float | None = None

    def __post_init__(self):
        for name in ("objective", "advantage_unit"):
            choices = get_args(get_type_hints(PPOConfig)[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: give one of {choices}.")
        check_counts(epochs=self.epochs)
        if self.minibatch_size is not None:
            check_counts(minibatch_size=self.minibatch_size)
        check_positive(learning_rate=self.learning_rate)
        limit = "a positive number, infinity for no limit"
        check_number("clip_ratio", self.clip_ratio, limit, lambda x: x > 0)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, limit, lambda x: x > 0)
        entropy, decay = self.entropy_coefficient, self.baseline_decay
        check_number(
            "entropy_coefficient", entropy, "0 or a positive number", lambda x: 0 <= x < math.inf
        )
        check_number("baseline_decay", decay, "in [0, 1)", lambda x: 0 <= x < 1)


PRESETS = {
    # Learning rate, minibatch size and entropy coefficient of Bello et al., section 4.2. They state
    # neither the clip ratio, nor the decay of the baseline, nor the passes over a batch.
    "paper": PPOConfig(learning_rate=1e-5, epochs=1, minibatch_size=5, advantage_unit="reward"),
    # Tuned on digits to learn from tens of batches of 32 without settling on one rule: the unit of
    # the advantages does not shrink with them, so that the entropy bonus gains weight as rewards
    # become equal.
    "default": PPOConfig(
        learning_rate=3e-3,
        entropy_coefficient=0.04,
        epochs=2,
        minibatch_size=16,
        baseline_decay=0.5,
        advantage_unit="range",
    ),
}

# In one step over the whole batch every ratio is 1: the update is the plain policy gradient.
REINFORCE_PRESETS = {
    name: dataclasses.replace(preset, clip_ratio=math.inf, epochs=1, minibatch_size=None)
    for name, preset in PRESETS.items()
}


class PPOState(NamedTuple):
    """What learning carries from batch to batch; a pytree of arrays."""

    params: Any  # the policy's
    opt_state: optax.OptState
    baseline: jax.Array  # float32[], moving average of rewards
    lowest: jax.Array  # float32[], of all rewards so far; inf before the first
    highest: jax.Array  # float32[]; -inf before the first
    count: jax.Array  # int32[], updates so far


class PPOMetrics(NamedTuple):
    """What happened in one update; all float32[], means over its optimizer steps."""

    loss: jax.Array
    entropy: jax.Array  # of the policy, nats per sequence
    approx_kl: jax.Array  # estimate of KL(old || new), nats per sequence
    clip_fraction: jax.Array  # part of the sequences with a clipped ratio
    grad_norm: jax.Array  # before any clipping


class Controller(NamedTuple):
    """A policy and the way it learns, as pure functions."""

    init: Callable[..., PPOState]  # (key) -> state
    sample: Callable[..., Samples]  # (params, key, batch_size) -> Samples
    score: Callable[..., Scores]  # (params, tokens) -> Scores
    update: Callable[..., tuple[PPOState, PPOMetrics]]
    # (state, key, tokens int32[B, L], old_log_prob [B], rewards [B]) -> (state, metrics)


def ppo_controller(policy: Policy, config: PPOConfig = PRESETS["default"]) -> Controller:
    r"""Train a policy by proximal policy optimization.

    Each update climbs, by Adam, over minibatches of the sampled batch,

    .. math::
      \operatorname{mean}\big[\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A)
      + \beta H\big], \qquad
      \rho = \frac{\pi(a)}{\pi_{\mathrm{old}}(a)}, \qquad A = R - b

    with one ratio per sequence. The baseline :math:`b` is a moving average of rewards: the
    first batch is judged against its own mean, and every batch joins the average after it has
    been judged.

    `update` is one compiled call per batch shape. The keys are consumed: pass each to one call
    only. Rewards must be finite; give a child that diverged its chance-level reward.

    Args:
      policy: what to train.
      config: how; see `PRESETS`.

    Returns:
      A `Controller`: `init(key) -> state`, the policy's `sample` and `score`, and
      `update(state, key, tokens, old_log_prob, rewards) -> (state, metrics)`, whose middle
      arguments are int32[B, L], float32[B] and float32[B]; it raises ValueError on other shapes.

    Examples:
      >>> from nos_optax.controller import PolicyConfig, lstm_policy
      >>> policy = lstm_policy(PolicyConfig(num_choices=(2, 3)))
      >>> controller = ppo_controller(policy)
      >>> state = controller.init(jax.random.key(0))
      >>> samples = controller.sample(state.params, jax.random.key(1), batch_size=8)
      >>> rewards = samples.tokens[:, 0].astype(float)  # prefer a 1 in front
      >>> state, metrics = controller.update(
      ...     state, jax.random.key(2), samples.tokens, samples.log_prob, rewards
      ... )

    References:
      Schulman et al., `Proximal Policy Optimization Algorithms
      <https://arxiv.org/abs/1707.06347>`_, 2017

      Bello et al., `Neural Optimizer Search with Reinforcement Learning
      <https://arxiv.org/abs/1709.07417>`_, 2017, sections 3.2 and 4.2
    """
    optimizer = optax.adam(config.learning_rate)
    if config.max_grad_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)

    def init(key):
        params = policy.init(key)
        return PPOState(
            params,
            optimizer.init(params),
            baseline=jnp.zeros([], jnp.float32),
            lowest=jnp.full([], jnp.inf, jnp.float32),
            highest=jnp.full([], -jnp.inf, jnp.float32),
            count=jnp.zeros([], jnp.int32),
        )

    def update(state, key, tokens, old_log_prob, rewards):
        _check_shapes(tokens, old_log_prob, rewards)
        rewards = rewards.astype(jnp.float32)
        mean_reward = rewards.mean()
        baseline = jnp.where(state.count == 0, mean_reward, state.baseline)
        if config.objective == "mean":
            advantages = rewards - baseline
        else:
            advantages = OBJECTIVES[config.objective](rewards)
        lowest = jnp.minimum(state.lowest, rewards.min())
        highest = jnp.maximum(state.highest, rewards.max())
        unit = {
            "reward": 1.0,
            "range": highest - lowest,
            "batch": jnp.sqrt(jnp.mean(advantages**2)),
        }[config.advantage_unit]
        advantages /= jnp.where(unit > 0, unit, 1)

        def loss_fn(params, rows, weights):
            log_prob, entropy = policy.score(params, tokens[rows])
            log_ratio = log_prob - old_log_prob[rows]
            ratio = jnp.exp(log_ratio)
            objective = _clipped(ratio, advantages[rows], config.clip_ratio)
            objective += config.entropy_coefficient * entropy
            clipped = jnp.abs(ratio - 1) > config.clip_ratio
            terms = (-objective, entropy, ratio - 1 - log_ratio, clipped)
            means = [jnp.sum(weights * term) for term in terms]
            return means[0], means

        def step(carry, minibatch):
            params, opt_state = carry
            grads, means = jax.grad(loss_fn, has_aux=True)(params, *minibatch)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            metrics = PPOMetrics(*means, grad_norm=optax.tree.norm(grads))
            return (optax.apply_updates(params, updates), opt_state), metrics

        (params, opt_state), metrics = jax.lax.scan(
            step, (state.params, state.opt_state), _minibatches(key, len(rewards), config)
        )
        decay = config.baseline_decay
        baseline = decay * baseline + (1 - decay) * mean_reward
        state = PPOState(params, opt_state, baseline, lowest, highest, state.count + 1)
        return state, jax.tree.map(jnp.mean, metrics)

    return Controller(jax.jit(init), policy.sample, policy.score, jax.jit(update))


def _clipped(ratio, advantages, clip_ratio):
    clipped = jnp.clip(ratio, 1 - clip_ratio, 1 + clip_ratio)
    return jnp.minimum(ratio * advantages, clipped * advantages)


def _minibatches(key, batch_size, config):
    """Cut shuffled batches into minibatches that weigh every sequence equally.

    Returns:
      Rows int32[S, M] for S optimizer steps, -1 where there is none, and their weights
      float32[S, M], 0 where there is none.
    """
    count = math.ceil(batch_size / (config.minibatch_size or batch_size))
    size = math.ceil(batch_size / count)
    order = jnp.argsort(jax.random.uniform(key, (config.epochs, batch_size)))
    padded = jnp.pad(order, ((0, 0), (0, count * size - batch_size)), constant_values=-1)
    # Dealt out like cards, so that no minibatch lacks more than one row.
    rows = padded.reshape(-1, size, count).swapaxes(1, 2).reshape(-1, size)
    return rows, jnp.where(rows >= 0, count / batch_size, 0.0)


def _check_shapes(tokens, old_log_prob, rewards):
    shapes = tokens.shape, old_log_prob.shape, rewards.shape
    if tokens.ndim != 2 or not shapes[0][:1] == shapes[1] == shapes[2]:
        raise ValueError(
            "tokens, old_log_prob and rewards have shapes {}, {}, {}: give [B, L], [B], [B], "
            "one row per sampled sequence.".format(*shapes)
        )
