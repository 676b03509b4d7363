"""Laws of the population trainer: independence, isolation, one compile, and a plain reference."""

import dataclasses
import json
import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nos_optax.grammar import SearchSpace, decode, encode, scale_by_rule
from nos_optax.population import STATUSES, ConvNet, Dataset, PopulationTrainer, Protocol, image_task
from nos_optax.population.convnet import DECAY, EPSILON
from nos_optax.population.convolution import convolve, convolve_and_pool, image_moments, pool

PROTOCOL = Protocol(
    learning_rates=(1e-2, 1e-1, 1e1), batch_size=20, epochs=2, sweep_examples=100, margin=3
)
RULES = (
    "adam",
    "exp(sign(g) * sign(m)) * g",
    "drop(g, 0.5) * exp(noise)",
    "ld * m",
    "1 - 2",
    "exp(exp(1e-1 * w) / v)",
    "g^3 * cd",
    "1 / (m - m)",
)


def blobs(train=200, validation=110, shape=(8, 8, 1), classes=4, seed=0) -> Dataset:
    """Return images of a class-dependent pattern under noise: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (classes, *shape))
    labels = rng.integers(0, classes, train + validation)
    images = patterns[labels] * 0.4 + rng.integers(0, 256, (len(labels), *shape)) * 0.6
    images = images.astype(np.uint8)
    return Dataset.from_images(
        "blobs", images[:train], labels[:train], images[train:], labels[train:], classes
    )


def make_child(dataset: Dataset) -> ConvNet:
    return ConvNet(
        dataset.train_images.shape[1:], dataset.num_classes, filters=8, cache_bytes=2**20
    )


def make_trainer(**options) -> PopulationTrainer:
    dataset = options.pop("dataset", None) or blobs()
    protocol = options.pop("protocol", PROTOCOL)
    task = image_task(dataset, make_child(dataset))
    return PopulationTrainer(task, protocol, iterations=3, **options)


@pytest.fixture(scope="module")
def trainer() -> PopulationTrainer:
    return make_trainer()


@pytest.fixture(scope="module")
def programs() -> np.ndarray:
    return np.stack([encode(rule, 3).array for rule in RULES])


@pytest.fixture(scope="module")
def evaluation(trainer, programs):
    return trainer.evaluate(programs, seed=3)


def rows(evaluation, index):
    return type(evaluation)(*(x[index] for x in evaluation))


@pytest.mark.slow
def test_statuses(evaluation):
    named = dict(zip(RULES, (STATUSES[s] for s in evaluation.status), strict=True))
    assert named["adam"] == "trained"
    assert named["1 - 2"] == "dead"
    assert named["1 / (m - m)"] in ("dead", "diverged")
    assert named["exp(exp(1e-1 * w) / v)"] == "diverged"
    trained = evaluation.status == STATUSES.index("trained")
    assert np.all(evaluation.reward[~trained] == np.float32(1 / 4))
    assert np.all(np.isfinite(evaluation.reward))
    assert evaluation.reward[0] > 0.7
    assert np.isnan(evaluation.sweep[RULES.index("exp(exp(1e-1 * w) / v)")]).all()
    assert np.isnan(evaluation.learning_rate[RULES.index("exp(exp(1e-1 * w) / v)")])


def test_each_row_equals_the_single_child(trainer, programs, evaluation):
    for i in range(len(programs)):
        chex.assert_trees_all_equal(
            trainer.evaluate(programs[i : i + 1], seed=3), rows(evaluation, [i])
        )


def test_place_neighbours_and_size_do_not_matter(trainer, programs, evaluation):
    order = np.array([5, 3, 0, 7, 1, 1, 6, 2, 4, 0, 5, 5, 5, 2, 3, 1, 7, 6, 0, 4, 4])
    chex.assert_trees_all_equal(trainer.evaluate(programs[order], seed=3), rows(evaluation, order))


def test_changing_one_row_leaves_the_others_bitwise_equal(trainer, programs, evaluation):
    changed = programs.copy()
    changed[2] = encode("1 / (v - v)", 3).array
    others = [i for i in range(len(programs)) if i != 2]
    chex.assert_trees_all_equal(
        rows(trainer.evaluate(changed, seed=3), others), rows(evaluation, others)
    )


def test_padding_a_program_changes_nothing(trainer, evaluation):
    short = np.stack([encode("adam", 1).array, encode("exp(g) - exp(m)", 1).array])
    chex.assert_trees_all_equal(rows(trainer.evaluate(short, seed=3), [0]), rows(evaluation, [0]))


@pytest.mark.slow
def test_longer_training_is_an_argument(programs, evaluation):
    longer = make_trainer(max_epochs=6)
    chex.assert_trees_all_equal(longer.evaluate(programs, seed=3), evaluation)
    six = longer.evaluate(programs, seed=3, epochs=6)
    np.testing.assert_array_equal(six.sweep, evaluation.sweep)
    protocol = dataclasses.replace(PROTOCOL, epochs=6)
    chex.assert_trees_all_equal(make_trainer(protocol=protocol).evaluate(programs, seed=3), six)
    with pytest.raises(ValueError, match="max_epochs=6, got 7"):
        longer.evaluate(programs, epochs=7)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        make_trainer(max_epochs=1)


def test_the_seed_matters(trainer, programs, evaluation):
    other = trainer.evaluate(programs, seed=4)
    assert not np.array_equal(other.sweep, evaluation.sweep, equal_nan=True)
    chex.assert_trees_all_equal(trainer.evaluate(programs, seed=3), evaluation)


def test_a_second_population_compiles_nothing(trainer, programs, evaluation):
    compiles = []
    listener = lambda event, duration, **_: compiles.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        trainer.evaluate(programs[:5][::-1].copy(), seed=9)
        random = np.asarray(SearchSpace(iterations=3).sample(jax.random.key(0), 12))
        compiled_by_sampling = len(compiles)
        trainer.evaluate(random, seed=10)
        assert len(compiles) == compiled_by_sampling
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert trainer.loop._program(None)._cache_size() == 1


@pytest.mark.slow
def test_lanes_change_rounding_only(programs, evaluation):
    wide = make_trainer(lanes=5).evaluate(programs, seed=3)
    np.testing.assert_array_equal(wide.status, evaluation.status)
    np.testing.assert_allclose(wide.reward, evaluation.reward, atol=0.05)
    # At the other rates, and where rules descend nowhere, a rounding decides what they learn.
    trained = evaluation.status == STATUSES.index("trained")
    np.testing.assert_array_equal(wide.learning_rate[trained], evaluation.learning_rate[trained])
    chosen = np.nanargmax(evaluation.sweep[trained], axis=1)[:, None]
    np.testing.assert_allclose(
        np.take_along_axis(wide.sweep[trained], chosen, 1),
        np.take_along_axis(evaluation.sweep[trained], chosen, 1),
        atol=0.05,
    )


_ON_DEVICES = """
import json, sys, jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from tests.test_population import make_trainer, RULES
from nos_optax.grammar import encode
import numpy as np
programs = np.stack([encode(rule, 3).array for rule in RULES])
trainer = make_trainer()
assert trainer.loop.devices == int(sys.argv[1])
evaluation = trainer.evaluate(programs, seed=3)
print(json.dumps([np.asarray(x).view(np.int32).tolist() for x in evaluation]))
"""


@pytest.mark.slow
def test_the_number_of_devices_does_not_matter(evaluation, pytestconfig):
    """Three share eight programs unevenly; here there are two."""
    out = subprocess.run(
        [sys.executable, "-c", _ON_DEVICES, "3"],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for x, bits in zip(evaluation, json.loads(out.splitlines()[-1]), strict=True):
        np.testing.assert_array_equal(np.asarray(x).view(np.int32), bits)


def test_a_training_never_leaves_the_device(trainer):
    loop = trainer.loop
    programs, rates = np.zeros((loop.capacity, 3, 5), np.int32), np.ones(loop.capacity, np.float32)
    counts = np.ones(loop.devices, np.int32)
    order, keys = loop.orders((0,) * loop.devices)
    part = np.int32(0), np.int32(5)
    lowered = loop._program(None).lower(programs, rates, counts, order, *part, keys, loop.data)
    text = lowered.as_text()
    for word in ("callback", "infeed", "outfeed", "send", "all_reduce", "all_gather", "collective"):
        assert word not in text


class ReferenceNet(nn.Module):
    """The paper's child in flax's own layers."""

    filters: int
    classes: int

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
            x = nn.Conv(self.filters, (3, 3), use_bias=False)(x)
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=DECAY,
                epsilon=EPSILON,
            )(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


def reference_variables(child: ConvNet, params) -> dict:
    p = child.unflatten(params)
    kernel = lambda k: k.reshape(3, 3, -1, child.filters)  # noqa: E731
    zeros = jnp.zeros(child.filters)
    return {
        "params": {
            "Conv_0": {"kernel": kernel(p["conv1"])},
            "Conv_1": {"kernel": kernel(p["conv2"])},
            "BatchNorm_0": {"scale": p["scale1"], "bias": p["shift1"]},
            "BatchNorm_1": {"scale": p["scale2"], "bias": p["shift2"]},
            "Dense_0": {"kernel": p["linear"], "bias": p["bias"]},
        },
        "batch_stats": {
            "BatchNorm_0": {"mean": zeros, "var": zeros},
            "BatchNorm_1": {"mean": zeros, "var": zeros},
        },
    }


def reference_accuracies(data, rule, rates, order, seed):
    """Train children with flax layers and the static evaluator, one jitted step a minibatch."""
    child = make_child(data)
    init_key, rule_key = jax.random.split(jax.random.key(seed))
    start = reference_variables(child, child.init(init_key)[0])
    net = ReferenceNet(child.filters, child.num_classes)
    tx = scale_by_rule(rule, total_steps=len(order), key=rule_key)
    standard = lambda images: (images.astype(np.float32) - data.mean) / data.std  # noqa: E731

    @jax.jit
    def step(variables, state, rate, images, labels):
        def loss(params):
            logits, updated = net.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated["batch_stats"]

        grads, stats = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = tx.update(grads, state, variables["params"])
        params = jax.tree.map(lambda w, u: w - rate * u, variables["params"], updates)
        return {"params": params, "batch_stats": stats}, state

    found, weight = [], 1 - DECAY ** len(order)
    for rate in rates:
        variables, state = start, tx.init(start["params"])
        for batch in order:
            images, labels = standard(data.train_images[batch]), data.train_labels[batch]
            variables, state = step(variables, state, rate, images, labels)
        variables["batch_stats"] = jax.tree.map(lambda x: x / weight, variables["batch_stats"])
        logits = net.apply(variables, standard(data.validation_images), train=False)
        found.append(float(jnp.mean(logits.argmax(-1) == data.validation_labels)))
    return found


@pytest.mark.slow
def test_the_trainer_equals_a_plain_reference():
    dataset = blobs(100, 60, (9, 7, 2))  # odd sides, which pooling pads
    trainer = make_trainer(dataset=dataset)
    rules = ["adam", "exp(sign(g) * sign(m)) * g", "ld * (m + 1e-3 * w)"]
    evaluation = trainer.evaluate(np.stack([encode(rule, 3).array for rule in rules]), seed=1)
    order = trainer.order(1)
    sweep, training = order[: trainer.sweep_steps], order[trainer.sweep_steps :]
    for i, rule in enumerate(rules):
        expected = reference_accuracies(dataset, rule, PROTOCOL.learning_rates, sweep, 1)
        # An image on the edge between two classes may fall to either side: rounding, not logic.
        np.testing.assert_allclose(evaluation.sweep[i], expected, atol=2.1 / 60)
        if STATUSES[evaluation.status[i]] == "trained":
            rate = evaluation.learning_rate[i]
            assert rate == np.float32(PROTOCOL.learning_rates[np.argmax(evaluation.sweep[i])])
            (reward,) = reference_accuracies(dataset, rule, [rate], training, 1)
            assert abs(evaluation.reward[i] - reward) <= 2.1 / 60


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(9, 7, 2), (4, 4, 1)])
def test_convnet_equals_flax_layers(shape):
    child = ConvNet(shape, 5, filters=6)
    params, statistics = child.init(jax.random.key(0))
    assert params.shape == (child.num_params,)
    images = jax.random.normal(jax.random.key(1), (7, *shape))
    labels = jnp.arange(7) % 5
    net, variables = ReferenceNet(6, 5), reference_variables(child, params)

    def loss(variables):
        logits, updated = net.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated["batch_stats"]

    (value, new), g = jax.jit(jax.value_and_grad(child.loss, has_aux=True))(
        params, statistics, images, labels
    )
    (expected, stats), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for i in range(2):
        mean, variance = new.moments[i]
        np.testing.assert_allclose(mean, stats[f"BatchNorm_{i}"]["mean"], atol=1e-5)
        np.testing.assert_allclose(variance, stats[f"BatchNorm_{i}"]["var"], atol=1e-4)
    g, grads = child.unflatten(g), grads["params"]
    for name, expected in (
        ("conv1", grads["Conv_0"]["kernel"]),
        ("scale1", grads["BatchNorm_0"]["scale"]),
        ("shift1", grads["BatchNorm_0"]["bias"]),
        ("conv2", grads["Conv_1"]["kernel"]),
        ("scale2", grads["BatchNorm_1"]["scale"]),
        ("shift2", grads["BatchNorm_1"]["bias"]),
        ("linear", grads["Dense_0"]["kernel"]),
        ("bias", grads["Dense_0"]["bias"]),
    ):
        np.testing.assert_allclose(g[name].ravel(), expected.ravel(), atol=2e-5, err_msg=name)
    variables["batch_stats"] = jax.tree.map(lambda x: x / (1 - DECAY), stats)
    np.testing.assert_allclose(
        child.logits(params, new, images), net.apply(variables, images, train=False), atol=1e-4
    )


def test_paper_child_has_the_paper_shape():
    child = ConvNet((32, 32, 3), 10)
    shapes = {k: v.shape for k, v in child.unflatten(jnp.zeros(child.num_params)).items()}
    assert shapes["conv1"] == (27, 32) and shapes["conv2"] == (288, 32)
    assert shapes["linear"] == (8 * 8 * 32, 10)


def test_order_is_epochs_of_distinct_examples(trainer):
    order = trainer.order(0)
    assert order.shape == (5 + 2 * 10, 20)
    assert len(np.unique(order[:5])) == 100 and order[:5].max() < 100
    for epoch in (order[5:15], order[15:]):
        assert len(np.unique(epoch)) == 200
    assert not np.array_equal(order[5:15], order[15:])


def test_random_programs_give_finite_rewards(trainer):
    space = SearchSpace(iterations=3)
    programs = np.asarray(space.sample(jax.random.key(5), 16))
    evaluation = trainer.evaluate(programs)
    assert np.isfinite(evaluation.reward).all()
    assert ((evaluation.reward >= 0) & (evaluation.reward <= 1)).all()
    for i in (0, 7):
        assert decode(programs[i]) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lanes": 0}, "lanes.*0"),
        ({"dataset": blobs(train=10)}, "10 training examples.*20"),
    ],
)
def test_bad_trainers(options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rates": ()},
        {"learning_rates": (-1.0,)},
        {"margin": float("nan")},
        {"learning_rates": (float("inf"),)},
    ],
)
def test_bad_protocols(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Protocol(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rates": ("a",)},
        {"learning_rates": "0.1"},
        {"learning_rates": (0.1, True)},
        {"batch_size": 2.5},
        {"epochs": True},
        {"sweep_examples": None} | {"batch_size": "3"},
        {"margin": "wide"},
        {"margin": False},
    ],
)
def test_protocols_of_what_is_no_number(options):
    with pytest.raises((TypeError, ValueError), match=f"({'|'.join(options)}) is .*must be"):
        Protocol(**options)


def test_small_images_and_empty_populations(trainer):
    with pytest.raises(ValueError, match="3x8"):
        ConvNet((3, 8, 1), 10)
    with pytest.raises(ValueError, match="empty"):
        trainer.evaluate(np.zeros((0, 3, 5), np.int32))


def plain_convolution(x, kernel):
    kernel = kernel.reshape(3, 3, x.shape[-1], -1)
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def plain_pool(results):
    """Return maxima, mean and variance of a convolution `[B, H, W, F]`."""
    maxima = nn.max_pool(results, (2, 2), strides=(2, 2))
    return maxima, results.mean((0, 1, 2)), results.var((0, 1, 2))


def waves(trees):
    """Return a number that every entry of a tree has its own influence on."""
    leaves = jax.tree.leaves(trees)
    return sum(jnp.sum(jnp.sin(x + jnp.arange(x.size).reshape(x.shape))) for x in leaves)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [6, 7])
def test_layers_equal_a_plain_convolution_whole_and_in_parts(batch):
    x = jax.random.normal(jax.random.key(0), (batch, 6, 4, 3))
    kernel = jax.random.normal(jax.random.key(1), (27, 4))

    def image_layer(x, kernel, cache_bytes):
        return waves((convolve_and_pool(x, kernel, cache_bytes), *image_moments(x, kernel)))

    def feature_layer(x, kernel, cache_bytes):
        return waves(pool(convolve(x, kernel, cache_bytes)))

    def plain_layer(x, kernel):
        return waves(plain_pool(plain_convolution(x, kernel)))

    plain = jax.jit(jax.value_and_grad(plain_layer, (0, 1)))
    value, (x_gradient, kernel_gradient) = plain(x, kernel)
    images_layer = jax.jit(jax.value_and_grad(image_layer, 1), static_argnums=2)
    features_layer = jax.jit(jax.value_and_grad(feature_layer, (0, 1)), static_argnums=2)
    image_bytes = 6 * (16 * 3 + 4 * 4) * 4
    for cache_bytes in (None, 1, image_bytes, 3 * image_bytes, 1000 * image_bytes):
        images = images_layer(x, kernel, cache_bytes)
        chex.assert_trees_all_close(images, (value, kernel_gradient), rtol=1e-3, atol=1e-3)
        features = features_layer(x, kernel, cache_bytes)
        expected = (value, (x_gradient, kernel_gradient))
        chex.assert_trees_all_close(features, expected, rtol=1e-3, atol=1e-3)


def test_equal_maxima_share_the_gradient():
    results = jnp.array([1.0, 1.0, 0.0, 1.0]).reshape(4, 1)
    g = jax.grad(lambda results: 3 * pool(results)[0].sum())(results)
    np.testing.assert_allclose(g.ravel(), [1.0, 1.0, 0.0, 1.0])

    image = jnp.ones((1, 6, 6, 1)).at[0, 0, 0].set(5.0)  # its middle block has four equal results
    kernel = jax.random.normal(jax.random.key(0), (9, 1))
    g = jax.grad(lambda k: convolve_and_pool(image, k)[0, 1, 1, 0])(kernel)
    np.testing.assert_allclose(g, np.ones((9, 1)))
    patches = jnp.ones((1, 6, 6, 1))  # one in the corner of a larger flat image, by hand
    g = jax.grad(lambda k: convolve_and_pool(patches, k)[0, 0, 0, 0])(jnp.zeros((9, 1)))
    np.testing.assert_allclose(g.reshape(3, 3), [[0.25, 0.5, 0.5], [0.5, 1, 1], [0.5, 1, 1]])


@pytest.mark.slow
def test_falling_scales_pool_minima():
    child = ConvNet((8, 8, 1), 3, filters=2)
    params, statistics = child.init(jax.random.key(0))
    flipped = params.at[9 * 2 : 9 * 2 + 2].set(jnp.array([-1.5, 0.5]))  # scale1
    assert child.unflatten(flipped)["scale1"].tolist() == [-1.5, 0.5]
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    labels = jnp.arange(6) % 3
    net, variables = ReferenceNet(2, 3), reference_variables(child, flipped)
    logits, _ = net.apply(variables, images, train=True, mutable=["batch_stats"])
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    value, new = jax.jit(child.loss)(flipped, statistics, images, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(jax.jit(child.logits)(flipped, new, images)).all()


@pytest.mark.slow
def test_lanes_are_halved_until_they_fit(programs, monkeypatch):
    trainer = make_trainer(lanes=8)
    compiled_for = trainer.loop._program

    def limited(factory):
        program = compiled_for(factory)

        def run(*args):
            if trainer.lanes > 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return program(*args)

        return run

    monkeypatch.setattr(trainer.loop, "_program", limited)
    with pytest.warns(UserWarning, match="out of memory: going on with") as warned:
        evaluation = trainer.evaluate(programs, seed=3)
    assert [str(w.message)[-7:] for w in warned] == ["4 lanes", "2 lanes"]
    assert trainer.lanes == 2 and len(evaluation.reward) == len(programs)

    def broken(*args):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(trainer.loop, "_program", lambda factory: broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        trainer.evaluate(programs)


_WITH_LITTLE_MEMORY = """
import resource, sys, warnings, jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 1)
from tests.test_population import blobs, make_trainer
from nos_optax.grammar import encode
from nos_optax.population import Protocol
protocol = Protocol(learning_rates=(0.1,), batch_size=50, epochs=1, sweep_examples=50)
trainer = make_trainer(dataset=blobs(50, 60, (16, 16, 1)), protocol=protocol, lanes=2**11)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    evaluation = trainer.evaluate([encode("adam", 1).array, encode("g", 1).array])
assert caught and all("out of memory: going on with" in str(w.message) for w in caught), caught
assert len(evaluation.reward) == 2
print(trainer.lanes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_far_too_many_lanes_finish_in_little_memory(pytestconfig):
    out = subprocess.run(
        [sys.executable, "-c", _WITH_LITTLE_MEMORY],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert 1 <= int(out.stdout.split()[-1]) < 2**11


@pytest.mark.slow
def test_it_trains_where_jax_counts_in_double_precision(programs):
    """Its random numbers are others there."""
    with jax.enable_x64(True):
        found = make_trainer().evaluate(programs[:4], seed=1)
    assert {x.dtype for x in (found.reward, found.sweep, found.curve)} == {np.dtype("float32")}
    assert found.reward.max() > 0.7


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        (np.full((1, 2, 5), 99), "token 99 in iteration 1 is not one of"),
        (encode("exp(sign(g) * sign(m)) * g", 2).array.reshape(-1), "give programs in an array"),
        (np.zeros((0, 5)), "the population is empty"),
        (np.zeros((1, 5, 5)), "a program has 1 to 4 iterations"),
    ],
)
def test_what_is_no_program_is_refused(trainer, programs, message):
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(programs)


def test_no_epochs_are_refused(trainer, programs):
    with pytest.raises(ValueError, match="epochs must be 1 to max_epochs=2, got 0"):
        trainer.evaluate(programs, epochs=0)
