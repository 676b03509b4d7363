"""A word-level LSTM language model with variational dropout and tied embeddings.

The paper's model is a single layer of 10M parameters; it states no further sizes. With V = 10,000
words, H units and embeddings of as many numbers it has V H + V + 8 H^2 + 4 H of them: 9.89M for 650
units, the usual medium width for this text, which is the default.

References:
    Gal and Ghahramani, `A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks <https://arxiv.org/abs/1512.05287>`_, 2016
    Inan et al., `Tying Word Vectors and Word Classifiers <https://arxiv.org/abs/1611.01462>`_, 2016
    Melis et al., `On the State of the Art of Evaluation in Neural Language Models
    <https://arxiv.org/abs/1707.05589>`_, 2017
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = dict[str, Any]


class State(NamedTuple):
    """Of an LSTM layer, both `[B, H]`."""

    hidden: jax.Array
    cell: jax.Array


def zero_state(batch: int, units: int) -> State:
    """Return the state before the first word."""
    return State(jnp.zeros((batch, units)), jnp.zeros((batch, units)))


def lstm_step(cell: jax.Array, gates: jax.Array) -> State:
    """Return the next state.

    Args:
        cell: `[B, H]`.
        gates: weighted sums of input and hidden state, `[B, 4 H]`: input, forget, output, update.
    """
    i, f, o, update = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(update)
    return State(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)


@dataclasses.dataclass(frozen=True)
class WordLSTM:
    """The model; its parameters are a dictionary.

    The paper tuned the dropout and the embedding's size with a black-box tuner and does not state
    them (section 6.5); nor does it state the initial weights.

    Attributes:
        vocabulary: V, the number of words.
        units: H, of the LSTM.
        embedding_ratio: size of the embedding, E, as a share of the units. Where they differ, the
            LSTM's outputs are projected to E numbers, because the embedding is the softmax' too.
        embedding_dropout: share of an embedded word's numbers that is dropped.
        state_dropout: share of the hidden state that is dropped on its way to the next time step.
        output_dropout: share of the outputs that is dropped.
        init_scale: weights start uniform in +- this; biases at 0.
    """

    vocabulary: int = 10_000
    units: int = 650
    embedding_ratio: float = 1.0
    embedding_dropout: float = 0.35
    state_dropout: float = 0.2
    output_dropout: float = 0.35
    init_scale: float = 0.05

    @property
    def embedding_size(self) -> int:
        """E, at least 1."""
        return max(1, round(self.embedding_ratio * self.units))

    def init(self, key: jax.Array) -> Params:
        """Return random parameters; the key is consumed."""
        h, e = self.units, self.embedding_size
        embedding, kernel, projection = jax.random.split(key, 3)
        params = {
            "embedding": self._uniform(embedding, (self.vocabulary, e)),
            "bias": jnp.zeros(self.vocabulary),
            "lstm": {"kernel": self._uniform(kernel, (e + h, 4 * h)), "bias": jnp.zeros(4 * h)},
        }
        if e != h:
            params["projection"] = self._uniform(projection, (h, e))
        return params

    def zero_carry(self, batch: int) -> State:
        """Return the state before the first segment."""
        return zero_state(batch, self.units)

    def log_likelihoods(
        self,
        params: Params,
        carry: State,
        inputs: jax.Array,
        targets: jax.Array,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, State]:
        """Score a segment, and return the state to begin the next one with.

        Args:
            params: from `init`.
            carry: state at the end of the segment before; no gradient flows beyond the segment.
            inputs: `int32[B, T]`.
            targets: the word after each input, `int32[B, T]`.
            key: draws one dropout mask per row, the same at every time step; None drops nothing.

        Returns:
            Logarithms of the targets' probabilities in nats, `[B, T]`, and the state.
        """
        embedding_mask, state_mask, output_mask = self._masks(key, len(inputs))
        x = params["embedding"][inputs] * embedding_mask[:, None]
        x, carry = _lstm(params["lstm"], carry, x, state_mask)
        x = x * output_mask[:, None]
        if "projection" in params:
            x = x @ params["projection"]
        return _softmax_log_likelihoods(params, x, targets), carry

    def _masks(self, key: jax.Array | None, batch: int) -> list[jax.Array]:
        """Return masks of the embedding, `[B, E]`, of the state and of the output, `[B, H]`.

        What is kept grows by as much as is dropped.
        """
        sizes = self.embedding_size, self.units, self.units
        if key is None:
            return [jnp.ones((batch, size)) for size in sizes]
        kept = 1 - self.embedding_dropout, 1 - self.state_dropout, 1 - self.output_dropout
        return [
            jax.random.bernoulli(key, share, (batch, size)) / share
            for key, share, size in zip(jax.random.split(key, 3), kept, sizes, strict=True)
        ]

    def _uniform(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-self.init_scale, maxval=self.init_scale)


def _lstm(
    lstm: Params, state: State, x: jax.Array, state_mask: jax.Array
) -> tuple[jax.Array, State]:
    """Run the layer over `x`, `[B, T, E]`; return its outputs and its last state."""
    from_input, from_hidden = jnp.split(lstm["kernel"], [x.shape[-1]])
    # The inputs' share of all time steps is one matrix product; only the rest must wait its turn.
    gates = x @ from_input + lstm["bias"]

    def step(state: State, gates: jax.Array) -> tuple[State, jax.Array]:
        state = lstm_step(state.cell, gates + (state.hidden * state_mask) @ from_hidden)
        return state, state.hidden

    state, outputs = jax.lax.scan(step, state, gates.swapaxes(0, 1))
    return outputs.swapaxes(0, 1), state


def _softmax_log_likelihoods(params: Params, x: jax.Array, targets: jax.Array) -> jax.Array:
    """Return x . E[y] + b[y] - log sum_v exp(x . E[v] + b[v]), `[B, T]`."""
    embedding, bias = params["embedding"], params["bias"]
    score = jnp.sum(x * embedding[targets], axis=-1) + bias[targets]
    return score - jax.nn.logsumexp(x @ embedding.T + bias, axis=-1)
