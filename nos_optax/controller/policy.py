"""The LSTM policy that writes a rule token by token."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from nos_optax._arguments import check_counts, check_positive

MaskFn = Callable[[jax.Array, jax.Array], jax.Array]
"""`(tokens int32[L], step int32[]) -> bool[max(num_choices)]`, True where a choice is allowed.

One sequence at a time, in pure JAX (it is vmapped over the batch); `step` is traced. Entries of
`tokens` at `step` and after are to be ignored. At least one choice below `num_choices[step]` must
be allowed; choices at or above it are forbidden whatever the mask says.
"""


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Describe an LSTM policy.

    Args:
      num_choices: the number of choices at each of the L steps.
      hidden_size: units of the LSTM, and the width of the embeddings.
      init_scale: every weight starts uniform in [-init_scale, init_scale].

    Raises:
      ValueError: if a step has no choice, or a size is not positive.
    """

    num_choices: tuple[int, ...]
    hidden_size: int = 150
    init_scale: float = 0.08

    def __post_init__(self):
        if isinstance(self.num_choices, str) or not len(self.num_choices):
            raise ValueError(f"num_choices is {self.num_choices!r}, but must be whole numbers.")
        for choices in self.num_choices:
            check_counts(num_choices=choices)
        check_counts(hidden_size=self.hidden_size)
        check_positive(init_scale=self.init_scale)


class Scores(NamedTuple):
    """What a policy thinks of a batch of sequences."""

    log_prob: jax.Array  # float32[B], log-probability of the whole sequence
    entropy: jax.Array  # float32[B], entropies of the L softmaxes along the sequence, summed, nats


class Samples(NamedTuple):
    """A batch of sequences, and what the policy that drew them thinks of them."""

    tokens: jax.Array  # int32[B, L]
    log_prob: jax.Array  # float32[B]
    entropy: jax.Array  # float32[B]


class Policy(NamedTuple):
    """A distribution over token sequences, as pure functions."""

    init: Callable[..., Any]  # (key) -> params
    sample: Callable[..., Samples]  # (params, key, batch_size) -> Samples
    score: Callable[..., Scores]  # (params, tokens int32[B, L]) -> Scores


def lstm_policy(config: PolicyConfig, mask_fn: MaskFn | None = None) -> Policy:
    r"""Build the recurrent policy of neural optimizer search.

    A one-layer LSTM predicts one token per step through a softmax of that step's own, and reads
    each choice back through that step's own embedding:

    .. math::
      h_i = \mathrm{LSTM}(E_i[a_{i-1}], h_{i-1}), \qquad
      \pi(a_i \mid a_{<i}) = \mathrm{softmax}(W_i h_i + b_i)

    where forbidden choices have logit :math:`-\infty`. Three functions come back:

    - `init(key)` draws the parameters, a pytree.
    - `sample(params, key, batch_size)` draws sequences; compiled once per batch size.
    - `score(params, tokens)` is teacher forced, and differentiable in `params`; it gives sampled
      sequences their sampled log-probabilities, and forbidden ones minus infinity.

    The keys are consumed: pass each to one call only.

    Args:
      config: sizes and initial scale.
      mask_fn: which choices are allowed, given the tokens so far (see `MaskFn`); by default all.

    Returns:
      A `Policy`.

    References:
      Bello et al., `Neural Optimizer Search with Reinforcement Learning
      <https://arxiv.org/abs/1709.07417>`_, 2017, sections 3.2, 4.1 (the constraints) and 4.2
    """
    lstm = _LSTM(config, mask_fn or (lambda tokens, step: jnp.ones(max(config.num_choices), bool)))

    def init(key):
        # One draw for all weights: a draw per parameter compiles five times as long.
        shapes = jax.eval_shape(
            lambda: lstm.init(key, _given, jnp.zeros([len(config.num_choices), 1], jnp.int32))
        )
        flat, unflatten = ravel_pytree(jax.tree.map(jnp.zeros_like, shapes))
        return unflatten(config.init_scale * jax.random.uniform(key, flat.shape, flat.dtype, -1, 1))

    def unroll(params, choose, aids) -> Samples:
        return cast(Samples, lstm.apply(params, choose, aids))

    def sample(params, key, batch_size):
        shape = (len(config.num_choices), batch_size, max(config.num_choices))
        return unroll(params, _gumbel_max, jax.random.gumbel(key, shape, jnp.float32))

    def score(params, tokens):
        _, log_prob, entropy = unroll(params, _given, tokens.T)
        return Scores(log_prob, entropy)

    return Policy(jax.jit(init), jax.jit(sample, static_argnames="batch_size"), jax.jit(score))


class _LSTM(nn.Module):
    """Unroll the policy, with the way of choosing a token left to the caller.

    All steps are padded to the largest one, so that a scan can run over their heads and embeddings:
    compile time doesn't grow with the length.
    """

    config: PolicyConfig
    mask_fn: MaskFn

    @nn.compact
    def __call__(self, choose, aids):
        """Choose L tokens for each of B sequences.

        Args:
          choose: `(log_probs float32[B, K], aid [B, ...]) -> int32[B]`, the tokens of one step.
          aids: [L, B, ...], what `choose` needs beside the probabilities, per step.

        Returns:
          The tokens, and what the policy thinks of them.
        """
        length, batch_size = aids.shape[:2]
        hidden_size, most = self.config.hidden_size, max(self.config.num_choices)
        mask_fn = jax.vmap(self.mask_fn, (0, None))

        def step(cell, carry, xs):
            state, token, tokens = carry
            i, in_range, embedding, head, bias, aid = xs
            state, output = cell(state, embedding[token])
            allowed = mask_fn(tokens, i) & in_range
            log_probs, entropy = _masked_log_softmax(output @ head + bias, allowed)
            token = choose(log_probs, aid).astype(jnp.int32)
            log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
            return (state, token, tokens.at[:, i].set(token)), (log_prob, entropy)

        zeros = nn.initializers.zeros  # the policy's `init` draws the values
        xs = (
            jnp.arange(length),
            jnp.arange(most) < jnp.array(self.config.num_choices)[:, None],
            # The first token "follows token 0": row 0 of the first table is the start vector.
            self.param("embedding", zeros, (length, most, hidden_size), jnp.float32),
            self.param("head", zeros, (length, hidden_size, most), jnp.float32),
            self.param("bias", zeros, (length, most), jnp.float32),
            aids,
        )
        state = jnp.zeros((batch_size, hidden_size), jnp.float32)
        tokens = jnp.zeros((batch_size, length), jnp.int32)
        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        carry = ((state, state), tokens[:, 0], tokens)
        cell = nn.OptimizedLSTMCell(hidden_size)
        (_, _, tokens), (log_probs, entropies) = scan(cell, carry, xs)
        return Samples(tokens, log_probs.sum(axis=0), entropies.sum(axis=0))


def _gumbel_max(log_probs, gumbel):
    return jnp.argmax(log_probs + gumbel, axis=-1)


def _given(log_probs, token):
    del log_probs
    return token


def _masked_log_softmax(logits, allowed):
    """Return the log-probabilities, -inf where forbidden, and the entropy."""
    log_probs = jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf))
    # 0 * -inf is NaN, in the value and in the gradient: drop the -inf before the product.
    entropy = -jnp.sum(jnp.exp(log_probs) * jnp.where(allowed, log_probs, 0.0), axis=-1)
    return log_probs, entropy
