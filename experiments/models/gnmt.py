"""GNMT, Google's neural machine translation system: a deep LSTM encoder and decoder.

Encoder: the first layer reads in both directions, the others forwards. Decoder: an additive
attention asks by the first layer's output of the step before; the context it finds goes to every
layer. From the third layer on, a layer's input is added to its output.

Chosen here: source and target share their embeddings, as they share the subwords; the decoder
starts at zero; decoding has no coverage penalty.

References:
    Wu et al., `Google's Neural Machine Translation System: Bridging the Gap between Human and
    Machine Translation <https://arxiv.org/abs/1609.08144>`_, 2016
    Bahdanau et al., `Neural Machine Translation by Jointly Learning to Align and Translate
    <https://arxiv.org/abs/1409.0473>`_, 2015
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from data import BOS, EOS, PAD

from models.ptb_lstm import State, lstm_step, zero_state

_CLOSED = -1e9  # a gate's or an attention's score that lets nothing pass


class Memory(NamedTuple):
    """An encoded source sentence.

    Attributes:
        values: outputs of the encoder, `[B, S, H]`.
        keys: what the attention compares with its query, `[B, S, H]`.
        mask: `bool[B, S]`, False at padding.
    """

    values: jax.Array
    keys: jax.Array
    mask: jax.Array


class GNMT(nn.Module):
    """The network.

    Attributes:
        vocabulary: V, the number of subwords.
        units: H, of every layer, of the embedding and of the attention.
        layers: of the encoder, and as many of the decoder.
        dropout: share of every layer's inputs and of the softmax's that is dropped in training.
        init_scale: parameters start uniform in +- this; 0.04 is small for few units.
    """

    vocabulary: int = 32_000
    units: int = 1024
    layers: int = 8
    dropout: float = 0.2
    init_scale: float = 0.04

    def setup(self):
        h, init = self.units, functools.partial(_uniform, scale=self.init_scale)
        self.embedding = self.param("embedding", init, (self.vocabulary, h))
        self.forwards = LSTM(h, self.init_scale)
        self.backwards = LSTM(h, self.init_scale, reverse=True)
        self.encoder = [LSTM(h, self.init_scale) for _ in range(1, self.layers)]
        self.attention_key = self.param("attention_key", init, (h, h))
        self.first_decoder = AttentiveLSTM(h, self.init_scale)
        self.decoder = [LSTM(h, self.init_scale) for _ in range(1, self.layers)]
        self.softmax = self.param("softmax", init, (self.vocabulary, h))
        self.bias = self.param("bias", init, (self.vocabulary,))
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, source: jax.Array, target: jax.Array, train: bool) -> jax.Array:
        """Return the log-likelihood of every target token given those before it, in nats.

        Args:
            source: sentences and EOS, then PAD: `int32[B, S]`.
            target: BOS, translations and EOS, then PAD: `int32[B, T + 1]`.
            train: drop out by the key `dropout`.

        Returns:
            `[B, T]`, for the tokens after BOS; 0 at padding.
        """
        memory = self.encode(source, train)
        inputs, outputs = target[:, :-1], target[:, 1:]
        x, _ = self._decode(memory, self.zero_states(len(source)), inputs, train)
        score = jnp.sum(x * self.softmax[outputs], axis=-1) + self.bias[outputs]
        log_likelihoods = score - jax.nn.logsumexp(x @ self.softmax.T + self.bias, axis=-1)
        return jnp.where(outputs == PAD, 0.0, log_likelihoods)

    def encode(self, source: jax.Array, train: bool = False) -> Memory:
        """Read source sentences, `int32[B, S]`."""
        mask = source != PAD
        x = self.drop(self.embedding[source], deterministic=not train)
        start = zero_state(len(source), self.units)
        # A padded step closes all gates and so leaves the state at zero: backwards, a sentence
        # starts at its own end. Forwards, padding comes after all that counts.
        x = jnp.concatenate([self.forwards(start, x)[0], self.backwards(start, x, mask)[0]], -1)
        for i, layer in enumerate(self.encoder, 2):
            output, _ = layer(start, self.drop(x, deterministic=not train))
            x = x + output if i >= 3 else output
        return Memory(x, x @ self.attention_key, mask)

    def zero_states(self, batch: int) -> list[State]:
        """Return the decoder's states before BOS."""
        return [zero_state(batch, self.units)] * self.layers

    def next_log_probabilities(
        self, memory: Memory, states: list[State], tokens: jax.Array
    ) -> tuple[jax.Array, list[State]]:
        """Take one step of decoding.

        Args:
            memory: of the source.
            states: of the decoder's layers.
            tokens: the last ones, `int32[B]`.

        Returns:
            Log-probabilities of the next tokens, `[B, V]`, -inf for PAD and BOS; and the states.
        """
        x, states = self._decode(memory, states, tokens[:, None], train=False)
        scores = x[:, 0] @ self.softmax.T + self.bias
        return jax.nn.log_softmax(scores).at[:, jnp.array([PAD, BOS])].set(-jnp.inf), states

    def _decode(
        self, memory: Memory, states: list[State], tokens: jax.Array, train: bool
    ) -> tuple[jax.Array, list[State]]:
        """Return the inputs of the softmax, `[B, T, H]`, and the states after the last token."""
        x = self.drop(self.embedding[tokens], deterministic=not train)
        x, context, state = self.first_decoder(states[0], x, memory)
        after = [state]
        for i, (layer, state) in enumerate(zip(self.decoder, states[1:], strict=True), 2):
            both = self.drop(jnp.concatenate([x, context], -1), deterministic=not train)
            output, state = layer(state, both)
            x = x + output if i >= 3 else output
            after.append(state)
        return self.drop(x, deterministic=not train), after


class LSTM(nn.Module):
    """One layer, over a whole sequence."""

    units: int
    init_scale: float
    reverse: bool = False

    @nn.compact
    def __call__(
        self, state: State, x: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Return outputs `[B, T, H]` and the last state.

        Args:
            state: to begin with.
            x: `[B, T, inputs]`.
            mask: `bool[B, T]`; after a step where it is False the state is zero.
        """
        init = functools.partial(_uniform, scale=self.init_scale)
        from_input = self.param("from_input", init, (x.shape[-1], 4 * self.units))
        from_hidden = self.param("from_hidden", init, (self.units, 4 * self.units))
        bias = self.param("bias", init, (4 * self.units,))
        gates = x @ from_input + bias  # of all steps in one matrix product
        if mask is not None:
            gates = jnp.where(mask[..., None], gates, _CLOSED)

        def step(state: State, gates: jax.Array) -> tuple[State, jax.Array]:
            state = lstm_step(state.cell, gates + state.hidden @ from_hidden)
            return state, state.hidden

        state, outputs = jax.lax.scan(step, state, gates.swapaxes(0, 1), reverse=self.reverse)
        return outputs.swapaxes(0, 1), state


class AttentiveLSTM(nn.Module):
    """One layer that looks at the source before every step."""

    units: int
    init_scale: float

    @nn.compact
    def __call__(
        self, state: State, x: jax.Array, memory: Memory
    ) -> tuple[jax.Array, jax.Array, State]:
        """Return outputs and contexts, both `[B, T, H]`, and the last state."""
        h, init = self.units, functools.partial(_uniform, scale=self.init_scale)
        from_input = self.param("from_input", init, (x.shape[-1], 4 * h))
        from_context = self.param("from_context", init, (h, 4 * h))
        from_hidden = self.param("from_hidden", init, (h, 4 * h))
        bias = self.param("bias", init, (4 * h,))
        query = self.param("query", init, (h, h))
        score = self.param("score", init, (h,))

        def step(state: State, gates: jax.Array) -> tuple[State, tuple[jax.Array, jax.Array]]:
            context = _attend(state.hidden @ query, score, memory)
            gates = gates + context @ from_context + state.hidden @ from_hidden
            state = lstm_step(state.cell, gates)
            return state, (state.hidden, context)

        gates = (x @ from_input + bias).swapaxes(0, 1)
        state, (outputs, contexts) = jax.lax.scan(step, state, gates)
        return outputs.swapaxes(0, 1), contexts.swapaxes(0, 1), state


@jax.checkpoint  # else every step would keep a tanh for every source position
def _attend(query: jax.Array, score: jax.Array, memory: Memory) -> jax.Array:
    """Return contexts `[B, H]`: values weighted by softmax_s(score . tanh(query + key_s))."""
    scores = jnp.tanh(query[:, None] + memory.keys) @ score
    weights = jax.nn.softmax(jnp.where(memory.mask, scores, _CLOSED))
    return jnp.einsum("bs,bsh->bh", weights, memory.values)


@functools.partial(jax.jit, static_argnames=("model", "max_length"))
def greedy_decode(model: GNMT, params: Any, source: jax.Array, max_length: int) -> jax.Array:
    """Translate by the most probable token at every step.

    Args:
        model: the network.
        params: its parameters.
        source: sentences and EOS, then PAD: `int32[B, S]`.
        max_length: most tokens to write, with EOS.

    Returns:
        `int32[B, max_length]`: EOS where the translation ended, PAD after it.
    """
    apply = functools.partial(model.apply, {"params": params})
    memory = apply(source, method="encode")

    def step(carry, _):
        states, last, finished = carry
        scores, states = apply(memory, states, last, method="next_log_probabilities")
        token = jnp.where(finished, PAD, jnp.argmax(scores, -1))
        return (states, token, finished | (token == EOS)), token

    batch = len(source)
    start = (model.zero_states(batch), jnp.full(batch, BOS), jnp.zeros(batch, bool))
    _, tokens = jax.lax.scan(step, start, length=max_length)
    return tokens.T


class _Beam(NamedTuple):
    """K hypotheses for each sentence, the best first."""

    states: list[State]  # [B K, H]
    tokens: jax.Array  # int32[B, K, max_length]
    last: jax.Array  # int32[B, K]
    log_likelihood: jax.Array  # [B, K]
    length: jax.Array  # int32[B, K], with EOS
    finished: jax.Array  # bool[B, K]


@functools.partial(jax.jit, static_argnames=("model", "max_length", "width"))
def beam_search(
    model: GNMT,
    params: Any,
    source: jax.Array,
    max_length: int,
    width: int = 4,
    alpha: float = 0.2,
) -> jax.Array:
    """Translate by a beam: the hypotheses of the highest normalised log-likelihood survive.

    Finished hypotheses stay in the beam and compete with the others; log-likelihoods are divided by
    ((5 + length) / 6)^alpha.

    Args:
        model: the network.
        params: its parameters.
        source: sentences and EOS, then PAD: `int32[B, S]`.
        max_length: most tokens to write, with EOS.
        width: K, hypotheses that are kept for each sentence; 1 is greedy decoding.
        alpha: of the length normalisation.

    Returns:
        The best hypotheses, `int32[B, max_length]`: EOS where they ended, PAD after it.
    """
    apply = functools.partial(model.apply, {"params": params})
    memory = apply(source, method="encode")
    memory = jax.tree.map(lambda x: jnp.repeat(x, width, axis=0), memory)

    def step(beam: _Beam, position: jax.Array) -> tuple[_Beam, None]:
        last = beam.last.reshape(-1)
        scores, states = apply(memory, beam.states, last, method="next_log_probabilities")
        scores = scores.reshape(*beam.last.shape, -1)
        return _extend(beam, states, scores, position, alpha), None

    start = _first_beam(model, len(source), width, max_length)
    beam, _ = jax.lax.scan(step, start, jnp.arange(max_length))
    return beam.tokens[:, 0]


def _first_beam(model: GNMT, batch: int, width: int, max_length: int) -> _Beam:
    # All hypotheses are the same at first: one of them is alive.
    alive = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)
    return _Beam(
        states=model.zero_states(batch * width),
        tokens=jnp.full((batch, width, max_length), PAD),
        last=jnp.full((batch, width), BOS),
        log_likelihood=jnp.broadcast_to(alive, (batch, width)),
        length=jnp.zeros((batch, width), jnp.int32),
        finished=jnp.zeros((batch, width), bool),
    )


def _extend(
    beam: _Beam, states: Any, scores: jax.Array, position: jax.Array, alpha: float
) -> _Beam:
    """Choose K of the K V hypotheses that are one token longer.

    Args:
        beam: the hypotheses so far.
        states: of the decoder after their last tokens, `[B K, H]`.
        scores: log-probabilities of the next tokens, `[B, K, V]`.
        position: of the next token.
        alpha: of the length normalisation.
    """
    batch, width, vocabulary = scores.shape
    # A finished hypothesis goes on in one way only, by PAD at no cost.
    stay = jnp.where(jnp.arange(vocabulary) == PAD, 0.0, -jnp.inf)
    scores = jnp.where(beam.finished[..., None], stay, scores)
    log_likelihood = beam.log_likelihood[..., None] + scores
    length = beam.length + ~beam.finished
    normalised = log_likelihood / (((5 + length) / 6) ** alpha)[..., None]
    _, chosen = jax.lax.top_k(normalised.reshape(batch, -1), width)
    parent, token = jnp.divmod(chosen, vocabulary)
    row = (jnp.arange(batch)[:, None] * width + parent).reshape(-1)  # the parent's, of B K rows

    def of_parent(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, parent, axis=1)

    history = jnp.take_along_axis(beam.tokens, parent[..., None], axis=1)
    return _Beam(
        states=jax.tree.map(lambda x: x[row], states),
        tokens=history.at[:, :, position].set(token),
        last=token,
        log_likelihood=jnp.take_along_axis(log_likelihood.reshape(batch, -1), chosen, axis=1),
        length=of_parent(length),
        finished=of_parent(beam.finished) | (token == EOS),
    )


def _uniform(key: jax.Array, shape: tuple[int, ...], scale: float) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-scale, maxval=scale)
