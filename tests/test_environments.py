"""Environments: few-bit arithmetic and exchange, against NumPy and the plain task."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_bits import compressed_exchange, fake_quantize, low_precision
from few_bits.activations import round_activations

from nos_optax.grammar import encode
from nos_optax.grammar.program import pad_programs
from nos_optax.population import (
    PartLoop,
    PopulationTrainer,
    Protocol,
    Task,
    TaskLoop,
    image_task,
    load_digits,
    paper_child,
)

KEY = jax.random.key(7)


def make_task(**options) -> Task:
    """Return a two-layer regression without batch statistics; its state is a mean and a count."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype(np.float32)
    y = np.tanh(x @ rng.normal(size=(5, 2))).astype(np.float32)

    def init(key):
        one, two = jax.random.split(key)
        params = {
            "w1": 0.5 * jax.random.normal(one, (5, 8)),
            "b1": jnp.full(8, 0.1),
            "w2": 0.5 * jax.random.normal(two, (8, 2)),
            "b2": jnp.zeros(2),
        }
        return params, (jnp.zeros(5), jnp.zeros([], int))

    def predict(params, x):
        return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]

    def loss(params, state, batch, key):
        x, y = batch
        return jnp.mean((predict(params, x) - y) ** 2), (x.mean(0), state[1] + 1)

    def metric(params, state, batch):
        return -jnp.mean((predict(params, batch[0]) - batch[1]) ** 2, axis=1)

    parts = {"train": (x[:80], y[:80]), "validation": (x[80:], y[80:]), "chance": -2.0}
    return Task("toy", init, loss, metric, **(parts | {"evaluation_batch": 20} | options))


def at_start(task: Task, examples: int = 20):
    """Return parameters, state and a minibatch."""
    params, state = task.init(jax.random.key(3))
    return params, state, jax.tree.map(lambda x: jnp.asarray(x[:examples]), task.train)


def gradient(task: Task, params, state, batch, key=KEY):
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    return jax.device_get(function(params, state, batch, key))


def rounded(x, bits: int):
    """Round as `fake_quantize` does, in NumPy."""
    x = np.asarray(x, np.float64)
    step = np.abs(x).max() / (2 ** (bits - 1) - 1)
    return np.round(x / step) * step


@pytest.fixture(scope="module")
def digits():
    dataset = load_digits()
    net = paper_child(dataset)
    return image_task(dataset, net), net


# Rounding.


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_levels_are_on_the_grid(bits, scale):
    x = np.random.default_rng(bits).normal(size=(40, 50)).astype(np.float32) * np.float32(scale)
    most = 2 ** (bits - 1) - 1
    for key in (None, KEY):
        q = np.asarray(fake_quantize(jnp.asarray(x), bits, key), np.float64)
        step = np.abs(x).max() / most
        np.testing.assert_allclose(q / step, np.round(q / step), atol=1e-4)
        assert len(np.unique(q)) <= 2**bits - 1 and np.abs(q).max() == pytest.approx(
            np.abs(x).max()
        )
        assert np.abs(q - x).max() <= step * (1.0001 if key is KEY else 0.5001)
    nearest = fake_quantize(jnp.asarray(x), bits)
    np.testing.assert_allclose(nearest, rounded(x, bits), rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(fake_quantize(nearest, bits), nearest, rtol=1e-6)


def test_random_rounding_is_right_in_the_mean():
    x = jnp.array([1.0, 0.3, 0.05, -0.6, 0.0])
    draws = jax.vmap(lambda key: fake_quantize(x, 3, key))(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(draws.mean(0), x, atol=0.01)
    assert (draws[:, 4] == 0).all() and (draws[:, 0] == 1).all()
    assert set(np.unique(draws[:, 2])) == {np.float32(0), np.float32(1 / 3)}


def test_the_derivative_passes_straight_through():
    x = jnp.array([0.2, -0.6, 1.5])
    slopes = jax.grad(lambda x: jnp.sum(jnp.array([1.0, 2.0, 3.0]) * fake_quantize(x, 3)))(x)
    assert slopes.tolist() == [1, 2, 3]


def test_odd_arrays():
    assert fake_quantize(jnp.zeros((2, 3)), 4).tolist() == [[0] * 3] * 2
    assert fake_quantize(jnp.zeros(0), 4).shape == (0,)
    assert fake_quantize(jnp.array(-2.5), 4) == -2.5
    for bad in (jnp.nan, jnp.inf):
        assert np.isnan(fake_quantize(jnp.array([1.0, bad]), 4)).all()
    assert fake_quantize(jnp.ones(3, jnp.bfloat16), 4).dtype == jnp.bfloat16


# Arithmetic of few bits.


@pytest.mark.parametrize("options", [{}, {"activations": False}, {"weights": False}])
def test_forward_and_backward_by_hand(options):
    task = make_task()
    params, state, (x, y) = at_start(task)
    low = low_precision(task, 3, gradients=False, **options)
    (loss, _), g = gradient(low, params, state, (x, y))

    weights = (lambda w: rounded(w, 3)) if options.get("weights", True) else np.asarray
    inputs = (lambda h: rounded(h, 3)) if options.get("activations", True) else np.asarray
    w1, w2 = weights(params["w1"]), weights(params["w2"])
    h = np.tanh(x @ w1 + params["b1"])
    error = inputs(h) @ w2 + params["b2"] - y
    slope = 2 * error / error.size
    slope_h = slope @ w2.T * (1 - h**2)
    assert loss == pytest.approx(float(np.mean(error**2)), rel=1e-5)
    by_hand = {"w1": x.T @ slope_h, "b1": slope_h.sum(0), "w2": inputs(h).T @ slope}
    for name, value in (by_hand | {"b2": slope.sum(0)}).items():
        np.testing.assert_allclose(g[name], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(low.metric(params, state, (x, y)), -np.mean(error**2, 1), rtol=1e-4)


@pytest.mark.slow
def test_the_rule_sees_few_levels_of_each_array(digits):
    task, net = digits
    bits = 3
    params, state, batch = at_start(task)
    low = low_precision(task, bits, weights=False, activations=False, tensors=net.unflatten)
    g = net.unflatten(gradient(low, params, state, batch)[1])
    exact = net.unflatten(gradient(task, params, state, batch)[1])
    for name, array in g.items():
        step = float(np.abs(exact[name]).max()) / (2 ** (bits - 1) - 1)
        assert 1 < len(np.unique(array)) <= 2**bits - 1
        np.testing.assert_allclose(array / step, np.round(array / step), atol=1e-3)
        assert np.abs(array - exact[name]).max() < 1.001 * step
    again = gradient(low, params, state, batch, jax.random.key(8))[1]
    assert (np.asarray(again) != np.asarray(gradient(low, params, state, batch)[1])).any()


@pytest.mark.slow
def test_many_bits_equal_the_plain_task(digits):
    task, net = digits
    params, state, batch = at_start(task)
    low = low_precision(task, 24, tensors=net.unflatten)
    (loss, new_state), g = gradient(task, params, state, batch)
    (low_loss, low_state), low_g = gradient(low, params, state, batch)
    assert low_loss == pytest.approx(loss, rel=1e-5)
    assert jnp.linalg.norm(low_g - g) < 1e-4 * jnp.linalg.norm(g)
    np.testing.assert_allclose(low_state.moments, new_state.moments, rtol=1e-4, atol=1e-6)
    same = task.metric(params, new_state, batch) == low.metric(params, new_state, batch)
    assert same.mean() > 0.9
    assert (low.name, low.train) == ("digits in 24 bits", task.train)


@pytest.mark.slow
def test_few_bits_change_the_convnet(digits):
    task, net = digits
    params, state, batch = at_start(task)
    for part in ("weights", "activations", "gradients"):
        only = {name: name == part for name in ("weights", "activations", "gradients")}
        (loss, _), g = gradient(
            low_precision(task, 2, tensors=net.unflatten, **only), params, state, batch
        )
        (plain, _), plain_g = gradient(task, params, state, batch)
        assert (loss == plain) == (part == "gradients")
        assert not np.allclose(g, plain_g)
    none = low_precision(task, 2, weights=False, activations=False, gradients=False)
    assert (gradient(none, params, state, batch)[1] == plain_g).all()


# Which activations are rounded.


@pytest.mark.slow
def test_the_convnets_features_are_rounded_once_a_layer(digits):
    task, _ = digits
    params, state, batch = at_start(task, 10)
    _, state = task.loss(params, state, batch, KEY)
    for function, others in ((task.loss, (KEY,)), (task.metric, ())):
        shapes = []

        def record(x, shapes=shapes):
            shapes.append(x.shape)
            return x

        result = round_activations(function, record)(params, state, batch, *others)
        # The windows of the first layer's features, 10 x 2 x 2 with 16 pixels; the second's.
        assert shapes == [(16, 10 * 2 * 2 * 32), (10, 2 * 2 * 32)]
        expected = function(params, state, batch, *others)
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def half(x):
    """Stand for rounding: visible in values and derivatives."""
    return 0.5 * x


@jax.custom_vjp
def own_product(x, w):
    return x @ w


own_product.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (3 * g @ kept[1].T, kept[0].T @ g))
W = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
A = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)


def rnn(r, w, x, state):
    def cell(h, x):
        h = jnp.tanh(x @ w + r(h) @ w)
        return h, h

    # The first state is no activation: only what a step has computed is rounded.
    h, hs = jax.lax.scan(cell, jnp.tanh(x @ w + state @ w), jnp.stack([x, 2 * x]))
    return r(h) @ w + hs.sum(0)


def attention(r, w, x, state):
    h = jnp.sin(x @ w)
    q, k = r(h) @ w, r(h) @ w.T
    return jax.nn.softmax(r(q) @ r(k).T) @ x


def branches(r, w, x, state):
    h = jnp.exp(x @ w)
    return jax.lax.cond(x[0, 0] > 0, lambda h: r(h) @ w, lambda h: h, h)


def repeated(r, w, x, state):
    step = lambda i, h: jnp.sin(r(h) @ w)  # noqa: E731
    return jax.lax.fori_loop(0, 3, step, jnp.sin(x @ w))


CASES = {
    "first layer": lambda r, w, x, state: x @ w,
    "no nonlinearity between": lambda r, w, x, state: r(x @ w) @ w,
    "bias and moves": lambda r, w, x, state: r((x @ w + w[0]).T[::-1]) @ w,
    "rounded once before constants": lambda r, w, x, state: (r(jnp.sin(x @ w)) @ A).T @ w,
    "sums are gathered by constants": lambda r, w, x, state: jnp.sin((x @ w) @ A),
    "jit": lambda r, w, x, state: jax.jit(lambda h: r(h) @ w)(jnp.sin(x @ w)),
    "remat": lambda r, w, x, state: jax.checkpoint(lambda h, w: jnp.sin(r(h) @ w))(x @ w, w),
    "custom derivative": lambda r, w, x, state: own_product(r(jnp.sin(x @ w)), w),
    "custom activation": lambda r, w, x, state: r(jax.nn.relu(x @ w)) @ w,
    "graph": lambda r, w, x, state: r(jnp.sin((x @ x.T) @ (x @ w))) @ w,
    "embedding": lambda r, w, x, state: r(w[jnp.int32(x[:, 0] > 0)]) @ w,
    "weights alone": lambda r, w, x, state: x @ (w @ w) + jnp.sum(w * w),
    "state": lambda r, w, x, state: state @ w + x @ (w * state),
    "loop": rnn,
    "counted loop": repeated,
    "branches": branches,
    "attention": attention,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_enters_a_product_is_rounded(case):
    function = CASES[case]
    x, state = A + 0.1, W * 0.2

    def plain(w, state, batch):
        return function(lambda x: x, w, batch, state)

    by_hand = lambda w: jnp.sum(jnp.sin(function(half, w, x, state)))  # noqa: E731
    read = lambda w: jnp.sum(jnp.sin(round_activations(plain, half)(w, state, x)))  # noqa: E731
    np.testing.assert_allclose(read(W), by_hand(W), rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(jax.grad(read))(W), jax.grad(by_hand)(W), rtol=1e-4, atol=1e-6
    )
    many = jnp.stack([W, 2 * W])
    np.testing.assert_allclose(jax.vmap(read)(many), [by_hand(W), by_hand(2 * W)], rtol=1e-4)


def test_an_unbounded_loop_is_entered():
    def plain(w, state, x):
        return jax.lax.while_loop(
            lambda c: jnp.sum(c[1] ** 2) > state,
            lambda c: (c[0] + 1, c[1] @ w),
            (0, jnp.sin(x @ w)),
        )

    x, w, count, h = A[:2], 0.1 * W, 0, np.sin(A[:2] @ (0.1 * W))
    while np.sum(h**2) > 1e-6:
        count, h = count + 1, 0.5 * h @ w
    found = round_activations(plain, half)(w, jnp.float32(1e-6), x)
    assert found[0] == count
    np.testing.assert_allclose(found[1], h, rtol=1e-4)


@pytest.mark.slow
def test_a_flax_convolution_is_rounded():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3))(x))
            return nn.Dense(2)(nn.relu(nn.Conv(3, (3, 3))(x)).mean((1, 2)))

    net, x = Net(), jax.random.normal(KEY, (2, 6, 6, 1))
    params, shapes = net.init(KEY, x), []

    def record(x):
        shapes.append(x.shape)
        return x

    round_activations(lambda params, state, x: net.apply(params, x), record)(params, (), x)
    assert shapes == [(2, 6, 6, 4), (2, 3)]


# Exchange of few bits.


def by_workers(task, params, state, batch, workers):
    """Return the gradient of each worker, `[W, ...]`."""
    parts, size = [], len(batch[0]) // workers
    for i in range(workers):
        part = jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], batch)
        parts.append(gradient(task, params, state, part)[1])
    return jax.tree.map(lambda *gs: np.stack(gs), *parts)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [4, 20])
def test_the_mean_of_the_workers_by_hand(workers):
    task = make_task()
    params, state, batch = at_start(task)
    (loss, new), g = gradient(compressed_exchange(task, workers), params, state, batch)
    gs = by_workers(task, params, state, batch, workers)
    for name, each in gs.items():
        magnitude = np.abs(each).mean(axis=tuple(range(1, each.ndim)), keepdims=True)
        expected = np.mean(np.sign(each) * magnitude, axis=0)
        np.testing.assert_allclose(g[name], expected, rtol=1e-4, atol=1e-7)
    assert loss == pytest.approx(float(task.loss(params, state, batch, KEY)[0]), rel=1e-5)
    np.testing.assert_allclose(new[0], batch[0].mean(0), rtol=1e-4, atol=1e-6)
    assert new[1] == 1 and new[1].dtype == state[1].dtype


@pytest.mark.slow
def test_several_bits_are_right_in_the_mean_and_few():
    task = make_task()
    params, state, batch = at_start(task)
    exchange = compressed_exchange(task, workers=1, bits=3)
    one = gradient(exchange, params, state, batch)[1]
    assert len(np.unique(one["w1"])) <= 7
    both = compressed_exchange(task, workers=4, bits=3)
    keys = jax.random.split(KEY, 400)
    draws = jax.vmap(lambda key: jax.grad(both.loss, has_aux=True)(params, state, batch, key)[0])
    plain = gradient(task, params, state, batch)[1]
    for name, each in jax.jit(draws)(keys).items():
        error = np.abs(each.mean(0) - plain[name]).max()
        assert 0 < error < 0.1 * np.abs(plain[name]).max()


@pytest.mark.parametrize("workers", [1, 5])
def test_many_bits_exchange_equals_the_plain_task(workers):
    task = make_task()
    params, state, batch = at_start(task)
    g = gradient(compressed_exchange(task, workers, bits=24), params, state, batch)[1]
    for name, exact in gradient(task, params, state, batch)[1].items():
        np.testing.assert_allclose(g[name], exact, rtol=1e-3, atol=1e-5)


def test_one_worker_has_the_random_numbers_of_the_plain_task():
    task = make_task()

    def noisy(params, state, batch, key):
        loss, state = task.loss(params, state, batch, key)
        return loss + jax.random.normal(key), state

    noisy_task = dataclasses.replace(task, loss=noisy)
    params, state, batch = at_start(task)
    one, many = (compressed_exchange(noisy_task, workers) for workers in (1, 4))
    plain = float(noisy(params, state, batch, KEY)[0])
    assert one.loss(params, state, batch, KEY)[0] == pytest.approx(plain, rel=1e-5)
    assert many.loss(params, state, batch, KEY)[0] != pytest.approx(plain, rel=1e-3)


def test_a_bit_has_two_values_even_where_the_gradient_is_zero():
    def loss(params, state, batch, key):
        return jnp.mean(batch * params["w"][0]), state

    x = np.ones((8, 1), np.float32)
    init = lambda key: ({"w": jnp.zeros(400)}, ())  # noqa: E731
    task = Task("flat", init, loss, lambda p, s, b: b[:, 0], train=x, validation=x)
    exchange = compressed_exchange(task, workers=1)
    g = gradient(exchange, *at_start(task, 8))[1]["w"]
    np.testing.assert_allclose(np.abs(g), 1 / 400, rtol=1e-5)
    assert g[0] > 0 and 150 < (g[1:] > 0).sum() < 250


@pytest.mark.slow
def test_arrays_inside_a_flat_vector_have_their_own_magnitudes(digits):
    task, net = digits
    params, state, batch = at_start(task)
    exchange = compressed_exchange(task, workers=1, tensors=net.unflatten)
    g = net.unflatten(gradient(exchange, params, state, batch)[1])
    exact = net.unflatten(gradient(task, params, state, batch)[1])
    for name, array in g.items():
        np.testing.assert_allclose(np.abs(array), np.abs(exact[name]).mean(), rtol=1e-3)


# In training.

RULES = ("g", "adam", "drop(g, 0.5)")
ENVIRONMENTS = {
    "four bits": lambda task: low_precision(task, 4),
    "one bit": lambda task: compressed_exchange(task, workers=4),
    "both": lambda task: low_precision(compressed_exchange(task, workers=2, bits=4), 6),
}


def programs(*rules):
    return np.concatenate([pad_programs(encode(rule).array[None], 2) for rule in rules])


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_rewards_in_an_environment(environment):
    task = ENVIRONMENTS[environment](make_task())
    protocol = Protocol((1e-2, 1e-1), batch_size=20, epochs=10)
    options = {"iterations": 2, "devices": jax.local_devices()[:1]}
    trainer = PopulationTrainer(task, protocol, **options)
    reward = trainer.evaluate(programs(*RULES), seed=1).reward
    assert (reward > -0.5).all() and len(set(reward)) == 3
    # Row by row, whatever the neighbours.
    other = trainer.evaluate(programs("g", "exp(exp(g)) * 2", "drop(g, 0.5)"), seed=1)
    assert (other.reward[[0, 2]] == reward[[0, 2]]).all()
    lanes = PopulationTrainer(task, protocol, lanes=2, **options)
    # A rounding that falls the other way is a whole level.
    np.testing.assert_allclose(lanes.evaluate(programs(*RULES), seed=1).reward, reward, atol=0.03)


@pytest.mark.slow
def test_trainings_in_parts_in_an_environment():
    scores = []
    for one in (low_precision(make_task(), 24), make_task()):
        steps = 3 * (one.num_examples(one.train) // 20)
        inner = TaskLoop(one, 20, steps, 1, jax.local_devices()[:1], scores=True)
        loop, rates = PartLoop(inner), np.full((1, steps), 0.1)
        found = [
            loop.advance(loop.start([seed]), programs(rule)[:, :1], rates, [seed], 0, steps)[1]
            for seed, rule in ((1, "g"), (2, "adam"))
        ]
        scores.append(np.concatenate([part.validation for part in found]))
    np.testing.assert_allclose(*scores, rtol=1e-2)
    assert (scores[0] > -0.8).all()


@pytest.mark.slow
def test_a_child_that_diverges_in_few_bits_is_alone():
    protocol = Protocol((1e30,), batch_size=20, epochs=2)
    options = {"iterations": 2, "devices": jax.local_devices()[:1]}
    trainer = PopulationTrainer(low_precision(make_task(), 4), protocol, **options)
    result = trainer.evaluate(programs("exp(exp(g))", "1e-3*w"), seed=0)
    assert (result.reward == -2).all() and np.isnan(result.learning_rate).any()


# Mistakes.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: low_precision(t, 1), "bits must be from 2 to 24, got 1"),
        (lambda t: low_precision(t, 25), "bits must be from 2 to 24, got 25"),
        (lambda t: compressed_exchange(t, bits=0), "bits must be from 1 to 24, got 0"),
        (lambda t: compressed_exchange(t, workers=0), "workers must be at least 1, got 0"),
        (lambda t: low_precision(t, tensors=lambda p: p["w1"]), "each of the 66 parameters once"),
        (lambda t: low_precision(t, tensors=lambda p: [p, p]), "each of the 66 parameters once"),
        (
            lambda t: compressed_exchange(dataclasses.replace(t, shuffle=False)),
            "cannot be split among workers: give a task with shuffle=True",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(make_task())


def test_a_flat_vector_needs_its_arrays_named(digits):
    task, _ = digits
    with pytest.raises(ValueError, match=r"tensors=net\.unflatten, or give weights=False"):
        low_precision(task)
    low_precision(task, weights=False)


def test_workers_must_divide_the_minibatch():
    task = compressed_exchange(make_task(), workers=8)
    message = "8 workers do not divide a minibatch of 20; give a multiple of 8"
    with pytest.raises(ValueError, match=message):
        PopulationTrainer(task, Protocol(batch_size=20), iterations=2).evaluate(programs("g"))


@pytest.mark.slow
def test_an_optax_training_in_an_environment():
    task = low_precision(make_task(), 4)
    params, state, batch = at_start(task, 80)
    tx = optax.adam(0.02)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, key):
        (loss, _), g = jax.value_and_grad(task.loss, has_aux=True)(params, state, batch, key)
        updates, opt_state = tx.update(g, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    losses = []
    for key in jax.random.split(KEY, 100):
        params, opt_state, loss = step(params, opt_state, key)
        losses.append(float(loss))
    assert losses[-1] < 0.4 * losses[0]
