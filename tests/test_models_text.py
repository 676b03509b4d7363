"""The networks of the text experiments: the LSTM language model and GNMT."""

import functools
import itertools
import math

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from data import BOS, EOS, PAD
from models.gnmt import GNMT, beam_search, greedy_decode
from models.ptb_lstm import State, WordLSTM

pytestmark = pytest.mark.slow  # networks that take seconds to compile

# The default generator takes several times as long to compile.
key = functools.partial(jax.random.key, impl="rbg")


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def assert_gradients_reach_all(gradients) -> None:
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


# The language model.

SMALL = WordLSTM(vocabulary=7, units=5, embedding_ratio=0.6, init_scale=0.8)


@functools.partial(jax.jit, static_argnames="model")
def log_likelihoods(params, carry, text, key=None, model=SMALL):
    return model.log_likelihoods(params, carry, text[:, :-1], text[:, 1:], key)


@pytest.fixture(scope="module")
def small_params():
    flat, unravel = jax.flatten_util.ravel_pytree(jax.jit(SMALL.init)(key(0)))
    # Biases that are not 0, so that leaving one out would show.
    return unravel(flat + 0.3 * jax.random.normal(key(1), flat.shape))


def words(rows: int, length: int, vocabulary: int = 7) -> jax.Array:
    return jax.random.randint(key(9), (rows, length), 0, vocabulary)


@pytest.mark.parametrize("ratio", [1.0, 0.5, 1.5])
def test_parameters_by_the_embedding_s_ratio(ratio):
    model = WordLSTM(embedding_ratio=ratio)
    v, h, e = 10_000, 650, round(650 * ratio)
    expected = v * e + v + 4 * h * (e + h) + 4 * h + (h * e if ratio != 1 else 0)
    assert count(jax.eval_shape(model.init, key(0))) == expected


def test_default_has_10_million_parameters():
    found = count(jax.eval_shape(WordLSTM().init, key(0)))
    assert found == 9_892_600 == pytest.approx(1e7, rel=0.02)


def numpy_log_likelihoods(params, state, inputs, targets):
    """Follow the definition word by word, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    h, c = (np.array(part, np.float64) for part in state)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    out = np.empty(inputs.shape)
    for t in range(inputs.shape[1]):
        x = p["embedding"][inputs[:, t]]
        gates = np.concatenate([x, h], 1) @ p["lstm"]["kernel"] + p["lstm"]["bias"]
        i, f, o, update = np.split(gates, 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(update)
        h = sigmoid(o) * np.tanh(c)
        scores = np.exp(h @ p["projection"] @ p["embedding"].T + p["bias"])
        row = np.arange(len(inputs))
        out[:, t] = np.log(scores[row, targets[:, t]] / scores.sum(1))
    return out, State(h, c)


def test_language_model_is_its_definition(small_params):
    carry = State(*(jax.random.normal(key, (3, 5)) for key in jax.random.split(key(2))))
    text = words(3, 7)
    actual = log_likelihoods(small_params, carry, text)
    expected = numpy_log_likelihoods(small_params, carry, text[:, :-1], text[:, 1:])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), actual, expected)


def test_segments_go_on_where_the_last_one_ended(small_params):
    text = words(2, 13)
    start = SMALL.zero_carry(2)
    whole, end = log_likelihoods(small_params, start, text)
    first, carry = log_likelihoods(small_params, start, text[:, :6])
    second, last = log_likelihoods(small_params, carry, text[:, 5:])
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), last, end)
    alone, _ = log_likelihoods(small_params, start, text[:, 5:])
    assert np.abs(alone - second).max() > 1e-3


DROPOUTS = ("embedding_dropout", "state_dropout", "output_dropout")


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_the_same_units_are_dropped_at_every_time_step(dropout):
    off = dict.fromkeys(DROPOUTS, 0.0)
    model = WordLSTM(vocabulary=7, units=16, init_scale=0.5, **{**off, dropout: 0.5})
    params = model.init(key(0))
    # Fed one word for ever, the network settles: masks that changed would keep it moving.
    same, start = jnp.full((4, 150), 3), model.zero_carry(4)

    def score(key):
        return log_likelihoods(params, start, same, key, model)

    dropped, _ = score(key(1))
    np.testing.assert_allclose(dropped[:, -1], dropped[:, -2], rtol=1e-5)
    assert len(np.unique(np.round(dropped[:, -1], 5))) == 4  # but every row has its own
    assert np.abs(dropped - score(key(2))[0]).max() > 1e-3
    np.testing.assert_array_equal(dropped, score(key(1))[0])


def test_masks_keep_the_mean():
    model = WordLSTM(
        units=400, embedding_ratio=0.5, embedding_dropout=0.5, state_dropout=0.2, output_dropout=0.3
    )
    masks = model._masks(key(0), 50)
    assert [mask.shape for mask in masks] == [(50, 200), (50, 400), (50, 400)]
    for mask, rate in zip(masks, (0.5, 0.2, 0.3), strict=True):
        np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], rtol=1e-6)
        assert mask.mean() == pytest.approx(1, abs=0.03)
    for mask in WordLSTM(7, 5, 1.0, 0.0, 0.0, 0.0)._masks(key(0), 3):
        np.testing.assert_array_equal(mask, 1)


def test_language_model_gradients_reach_every_parameter(small_params):
    text = words(3, 8)

    def loss(params):
        out, _ = log_likelihoods(params, SMALL.zero_carry(3), text, key(3))
        return -out.mean()

    assert_gradients_reach_all(jax.jit(jax.grad(loss))(small_params))


def test_language_model_learns_a_cycle():
    model = WordLSTM(vocabulary=6, units=16, init_scale=0.3)
    # The word after 0 depends on the one before it: 1 0 2, 3 0 4.
    text = jnp.tile(jnp.array([1, 0, 2, 3, 0, 4]), 3)[None]
    optimizer = optax.adam(0.03)

    def loss(params):
        return -log_likelihoods(params, model.zero_carry(1), text, None, model)[0].mean()

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[1]

    losses = train(jax.jit(model.init)(key(0)))
    assert losses[0] > 1.5
    assert losses[-1] < 0.1


# GNMT.

TINY = GNMT(vocabulary=11, units=6, layers=3, init_scale=0.6)


@functools.partial(jax.jit, static_argnames="model")
def init(model: GNMT, seed: int = 0):
    source, target = jnp.full((1, 2), EOS), jnp.full((1, 3), EOS)
    return model.init(key(seed), source, target, False)["params"]


@functools.partial(jax.jit, static_argnames="model")
def encode(params, source, model=TINY):
    return model.apply({"params": params}, source, method="encode")


@jax.jit
def gradients(params, source, target):
    return jax.grad(lambda params: score(params, source, target).sum())(params)


@pytest.fixture(scope="module")
def tiny_params():
    return init(TINY)


@functools.partial(jax.jit, static_argnames="model")
def score(params, source, target, model=TINY):
    return model.apply({"params": params}, source, target, False)


def pairs(rows: int = 4, source_length: int = 5, target_length: int = 4, vocabulary: int = 11):
    """Return sentences without padding."""
    one, two = jax.random.split(key(5))
    source = jax.random.randint(one, (rows, source_length), 3, vocabulary)
    target = jax.random.randint(two, (rows, target_length), 3, vocabulary)
    return (
        jnp.pad(source, ((0, 0), (0, 1)), constant_values=EOS),
        jnp.pad(
            jnp.pad(target, ((0, 0), (1, 0)), constant_values=BOS),
            ((0, 0), (0, 1)),
            constant_values=EOS,
        ),
    )


def test_full_size():
    model, v, h = GNMT(), 32_000, 1024
    source, target = jnp.zeros((2, 9), jnp.int32), jnp.zeros((2, 8), jnp.int32)
    initial = functools.partial(model.init, train=False)
    params = jax.eval_shape(initial, key(0), source, target)["params"]

    def lstm(inputs):
        return 4 * h * (inputs + h + 1)

    encoder = 2 * lstm(h) + lstm(2 * h) + 6 * lstm(h)
    decoder = 8 * lstm(2 * h)
    attention = 2 * h**2 + h
    assert count(params) == v * h + encoder + attention + decoder + v * h + v == 248_090_880
    out = jax.eval_shape(functools.partial(score, model=model), params, source, target)
    assert out.shape == (2, 7)
    translate = functools.partial(beam_search, model, max_length=12)
    assert jax.eval_shape(translate, params, source).shape == (2, 12)


def test_padding_changes_nothing(tiny_params):
    source, target = pairs()
    expected = score(tiny_params, source, target)
    longer = jnp.pad(source, ((0, 0), (0, 3))), jnp.pad(target, ((0, 0), (0, 2)))
    out = score(tiny_params, *longer)
    np.testing.assert_allclose(out[:, : expected.shape[1]], expected, rtol=1e-5)
    np.testing.assert_array_equal(out[:, expected.shape[1] :], 0)
    # Nor does what its neighbours in the batch are.
    other = score(tiny_params, source.at[1:].set(EOS), target.at[1:].set(EOS))
    np.testing.assert_allclose(other[0], expected[0], rtol=1e-6)


def test_rows_of_padding_have_no_loss_and_no_gradient(tiny_params):
    batch = pairs(rows=4)
    padded = [x.at[2:].set(PAD) for x in batch]
    twice = [x.at[2:].set(x[:2]) for x in batch]

    def same(half, whole):
        np.testing.assert_allclose(2 * half, whole, rtol=1e-4, atol=1e-4)

    jax.tree.map(same, gradients(tiny_params, *padded), gradients(tiny_params, *twice))
    np.testing.assert_array_equal(score(tiny_params, *padded)[2:], 0)


def test_a_later_target_token_changes_no_earlier_prediction(tiny_params):
    source, target = pairs()
    out = score(tiny_params, source, target)
    other = score(tiny_params, source, target.at[:, 3].set(3 + (target[:, 3] - 2) % 8))
    np.testing.assert_array_equal(other[:, :2], out[:, :2])
    assert (np.abs(other - out)[:, 2:] > 1e-6).all()  # the token itself, and all after it


def test_every_source_token_counts_for_every_prediction(tiny_params):
    source, target = pairs()
    out = score(tiny_params, source, target)
    for i in range(source.shape[1] - 1):
        other = score(tiny_params, source.at[:, i].set(3 + (source[:, i] - 2) % 8), target)
        assert (np.abs(other - out) > 1e-7).mean() > 0.95, i


def test_the_first_encoder_layer_alone_reads_backwards(tiny_params):
    source, _ = pairs()
    other = source.at[:, -2].set(3 + (source[:, -2] - 2) % 8)
    first, changed = (encode(tiny_params, x).values[:, 0] for x in (source, other))
    assert (np.abs(first - changed).max(-1) > 1e-6).all()
    one_way = jax.tree.map(lambda x: x, tiny_params)
    one_way["backwards"] = jax.tree.map(jnp.zeros_like, one_way["backwards"])
    unchanged, same = (encode(one_way, x).values[:, :-2] for x in (source, other))
    np.testing.assert_array_equal(unchanged, same)


def test_residual_connections_begin_at_the_third_layer(tiny_params):
    source, target = pairs()
    two = GNMT(vocabulary=11, units=6, layers=2)

    def without(*names):
        # A layer without weights has the output 0.
        return {
            name: jax.tree.map(jnp.zeros_like, value) if name in names else value
            for name, value in tiny_params.items()
        }

    third = without("encoder_1", "decoder_1")
    shorter = {k: v for k, v in third.items() if k not in ("encoder_1", "decoder_1")}
    np.testing.assert_allclose(
        score(third, source, target), score(shorter, source, target, two), rtol=1e-6
    )
    second = {k: v for k, v in without("encoder_0").items() if k not in ("encoder_1", "decoder_1")}
    np.testing.assert_array_equal(encode(second, source, two).values, 0)


def test_gnmt_gradients_reach_every_parameter(tiny_params):
    assert_gradients_reach_all(gradients(tiny_params, *pairs()))


def test_dropout_is_for_training_only(tiny_params):
    @functools.partial(jax.jit, static_argnames="train")
    def run(train, seed):
        rngs = {"dropout": key(seed)}
        return TINY.apply({"params": tiny_params}, *pairs(), train, rngs=rngs)

    np.testing.assert_array_equal(run(False, 0), run(False, 1))
    np.testing.assert_array_equal(run(True, 0), run(True, 0))
    assert np.abs(run(True, 0) - run(True, 1)).max() > 1e-3
    assert np.abs(run(True, 0) - run(False, 0)).max() > 1e-3


def test_decoding_step_by_step_is_teacher_forcing(tiny_params):
    source, target = pairs()
    memory, states = encode(tiny_params, source), TINY.zero_states(len(source))
    method = functools.partial(TINY.apply, method="next_log_probabilities")
    step = jax.jit(functools.partial(method, {"params": tiny_params}))
    steps = []
    for t in range(target.shape[1] - 1):
        out, states = step(memory, states, target[:, t])
        assert (out[:, jnp.array([PAD, BOS])] == -jnp.inf).all()
        steps.append(out[jnp.arange(len(source)), target[:, t + 1]])
    np.testing.assert_allclose(jnp.stack(steps, 1), score(tiny_params, source, target), rtol=1e-5)


LONGEST = [(a, b, c) for a, b, c in itertools.product((3, 4), (3, 4), (EOS, 3, 4))]


@functools.cache
def trained_to_reverse():
    """Train a tiny network to write the source backwards; 3 or 4 letters out of 8."""
    model = GNMT(vocabulary=11, units=32, layers=2, dropout=0.0, init_scale=0.2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))

    def draw(key):
        letters, lengths = jax.random.split(key)
        source = jax.random.randint(letters, (32, 4), 3, 11)
        length = jax.random.randint(lengths, (32, 1), 3, 5)
        place = jnp.arange(5)
        backwards = jnp.take_along_axis(source, jnp.clip(length - 1 - place, 0), 1)
        source = jnp.pad(source, ((0, 0), (0, 1)))

        def end(x):
            return jnp.where(place < length, x, jnp.where(place == length, EOS, PAD))

        return end(source), jnp.pad(end(backwards), ((0, 0), (1, 0)), constant_values=BOS)

    def loss(params, source, target):
        return -score(params, source, target, model).sum() / (target[:, 1:] != PAD).sum()

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, *draw(key))
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        keys = jax.random.split(key(1), 350)
        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params, losses

    params, losses = train(init(model))
    return model, params, losses, draw(key(2))


def test_learns_to_reverse_and_decodes_it():
    model, params, losses, (source, target) = trained_to_reverse()
    assert losses[0] > 2
    assert losses[-20:].mean() < 0.1
    written = greedy_decode(model, params, source, max_length=7)
    np.testing.assert_array_equal(written[:, 5:], PAD)
    assert (written[:, :5] == target[:, 1:]).all(1).mean() > 0.9


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_1_is_greedy(seed, alpha):
    params = jax.tree.map(lambda p: 3 * p, init(TINY, seed))
    source, _ = pairs(rows=16)
    greedy = greedy_decode(TINY, params, source, 6)
    np.testing.assert_array_equal(beam_search(TINY, params, source, 6, 1, alpha), greedy)
    ended = np.cumsum(greedy == EOS, axis=1) - (greedy == EOS)
    np.testing.assert_array_equal(greedy == PAD, ended > 0)


def test_a_wide_beam_finds_the_best_translation_of_all():
    model = GNMT(vocabulary=5, units=4, layers=2)
    source, _ = pairs(rows=8, vocabulary=5)
    every = np.array([(EOS, PAD, PAD), (3, EOS, PAD), (4, EOS, PAD), *LONGEST])
    target = np.pad(every, ((0, 0), (1, 0)), constant_values=BOS)
    rows = [np.broadcast_to(row, (len(every), len(row))) for row in source]
    written = {0.0: 0, 3.0: 0}
    for seed in range(8):
        params = jax.tree.map(lambda p: 80 * p, init(model, seed))
        scores = np.array([score(params, row, target, model).sum(1) for row in rows])
        for alpha in written:
            normalised = scores / ((5 + (every != PAD).sum(1)) / 6) ** alpha
            found = beam_search(model, params, source, 3, width=27, alpha=alpha)
            np.testing.assert_array_equal(found, every[normalised.argmax(1)])
            written[alpha] += (found != PAD).sum()
    assert written[0.0] < written[3.0]
