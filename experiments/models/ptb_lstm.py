"""A word-level LSTM language model with variational dropout and tied embeddings.

The paper's model has 10M parameters and no further sizes. With V = 10,000 words, n layers of H
units and tied embeddings it has V H + V + n (8 H^2 + 4 H) of them: 9.89M for one layer of 650
units, the usual medium width for this text, which is the default; 13.28M for two layers of 650, and
9.33M for two of 512.

References:
    Gal and Ghahramani, `A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks <https://arxiv.org/abs/1512.05287>`_, 2016
    Inan et al., `Tying Word Vectors and Word Classifiers <https://arxiv.org/abs/1611.01462>`_, 2016
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

    The paper states neither the rates of dropout nor the initial weights.

    Attributes:
        vocabulary: V, the number of words.
        units: H, of every layer and of the embedding.
        layers: LSTM layers.
        input_dropout: share of a layer's inputs that is dropped.
        recurrent_dropout: share of a layer's hidden state that is dropped on its way to the next
            time step.
        output_dropout: share of the last layer's outputs that is dropped.
        init_scale: weights start uniform in +- this; biases at 0.
    """

    vocabulary: int = 10_000
    units: int = 650
    layers: int = 1
    input_dropout: float = 0.35
    recurrent_dropout: float = 0.2
    output_dropout: float = 0.35
    init_scale: float = 0.05

    def init(self, key: jax.Array) -> Params:
        """Return random parameters; the key is consumed."""
        h = self.units
        embedding, *layers = jax.random.split(key, 1 + self.layers)
        return {
            "embedding": self._uniform(embedding, (self.vocabulary, h)),
            "bias": jnp.zeros(self.vocabulary),
            "layers": [
                {"kernel": self._uniform(layer, (2 * h, 4 * h)), "bias": jnp.zeros(4 * h)}
                for layer in layers
            ],
        }

    def zero_carry(self, batch: int) -> list[State]:
        """Return the layers' states before the first segment."""
        return [zero_state(batch, self.units)] * self.layers

    def log_likelihoods(
        self,
        params: Params,
        carry: list[State],
        inputs: jax.Array,
        targets: jax.Array,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[State]]:
        """Score a segment, and return the states to begin the next one with.

        Args:
            params: from `init`.
            carry: states at the end of the segment before; no gradient flows beyond the segment.
            inputs: `int32[B, T]`.
            targets: the word after each input, `int32[B, T]`.
            key: draws one dropout mask per row, the same at every time step; None drops nothing.

        Returns:
            Logarithms of the targets' probabilities in nats, `[B, T]`, and the states.
        """
        input_masks, recurrent_masks, output_mask = self._masks(key, len(inputs))
        x = params["embedding"][inputs]
        after = []
        layers = zip(params["layers"], carry, input_masks, recurrent_masks, strict=True)
        for layer, state, input_mask, recurrent_mask in layers:
            x, state = _lstm(layer, state, x * input_mask[:, None], recurrent_mask)
            after.append(state)
        x = x * output_mask[:, None]
        return _softmax_log_likelihoods(params, x, targets), after

    def _masks(self, key: jax.Array | None, batch: int) -> list[jax.Array]:
        """Return masks of the inputs and states, `[layers, B, H]`, and of the output, `[B, H]`.

        What is kept grows by as much as is dropped.
        """
        shape = (batch, self.units)
        shapes = [(self.layers, *shape), (self.layers, *shape), shape]
        if key is None:
            return [jnp.ones(shape) for shape in shapes]
        kept = [1 - self.input_dropout, 1 - self.recurrent_dropout, 1 - self.output_dropout]
        return [
            jax.random.bernoulli(key, share, shape) / share
            for key, share, shape in zip(jax.random.split(key, 3), kept, shapes, strict=True)
        ]

    def _uniform(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-self.init_scale, maxval=self.init_scale)


def _lstm(
    layer: Params, state: State, x: jax.Array, recurrent_mask: jax.Array
) -> tuple[jax.Array, State]:
    """Run a layer over `x`, `[B, T, H]`; return its outputs and its last state."""
    from_input, from_hidden = jnp.split(layer["kernel"], 2)
    # The inputs' share of all time steps is one matrix product; only the rest must wait its turn.
    gates = x @ from_input + layer["bias"]

    def step(state: State, gates: jax.Array) -> tuple[State, jax.Array]:
        state = lstm_step(state.cell, gates + (state.hidden * recurrent_mask) @ from_hidden)
        return state, state.hidden

    state, outputs = jax.lax.scan(step, state, gates.swapaxes(0, 1))
    return outputs.swapaxes(0, 1), state


def _softmax_log_likelihoods(params: Params, x: jax.Array, targets: jax.Array) -> jax.Array:
    """Return x . E[y] + b[y] - log sum_v exp(x . E[v] + b[v]), `[B, T]`."""
    embedding, bias = params["embedding"], params["bias"]
    score = jnp.sum(x * embedding[targets], axis=-1) + bias[targets]
    return score - jax.nn.logsumexp(x @ embedding.T + bias, axis=-1)
