"""The loop that trains children and says what losses they had."""

import dataclasses
import sys
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nos_optax import from_rule
from nos_optax.grammar import encode
from nos_optax.grammar.fused import fused_update
from nos_optax.population import Task
from nos_optax.population.kernel import kernel_works
from nos_optax.population.loop import TaskLoop, child_bytes

ITERATIONS = 3
KERNEL = "nos_optax.grammar.fused.fused_update"
RULES = ("adam", "g", "drop(m, 0.3) + noise", "cd * rmsprop", "log(g - g)")


def line_task(**changes) -> Task:
    """Return a regression whose loss has noise from the key, and a state that counts the steps."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)).astype(np.float32)
    y = (x @ rng.normal(size=6) + 1).astype(np.float32)

    def init(key):
        return {"w": 0.1 * jax.random.normal(key, (6,)), "b": jnp.zeros([])}, jnp.zeros([])

    def loss(params, state, batch, key):
        x, y = batch
        x = x + 0.01 * jax.random.normal(key, x.shape)
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2), state + 1

    def metric(params, state, batch):
        return -jnp.abs(batch[0] @ params["w"] + params["b"] - batch[1])

    sets = {"train": (x[:40], y[:40]), "validation": (x[40:], y[40:])}
    return Task("line", init, loss, metric, chance=-9.0, **(sets | changes))


def programs(*rules: str) -> np.ndarray:
    return np.stack([encode(rule, ITERATIONS).array for rule in rules])


@pytest.fixture(scope="module")
def loop() -> TaskLoop:
    return TaskLoop(line_task(), 8, max_steps=30, iterations=ITERATIONS)


def by_optax(loop: TaskLoop, make, seed: int, steps: int):
    """Return one child's losses and parameters by a plain Optax loop.

    `make` takes the key of the rule's random numbers and returns the optimizer, and whether it has
    the parameters as one flat vector, as rules do.
    """
    task = loop.task
    init_key, rule_key, loss_key = jax.random.split(jax.random.key(seed), 3)
    tx, flat = make(rule_key)
    params, state = (task.init_flat if flat else task.init)(init_key)
    tree = task.unflatten if flat else lambda params: params
    opt_state, order, losses = tx.init(params), loop.order(seed), []

    @jax.jit
    def step(params, state, opt_state, batch, key):
        def loss(params):
            return task.loss(tree(params), state, batch, key)

        (value, state), g = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(g, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, value

    for i in range(steps):
        batch = jax.tree.map(lambda x: x[order[i]], task.train)  # noqa: B023
        key = jax.random.fold_in(loss_key, i)
        params, state, opt_state, value = step(params, state, opt_state, batch, key)
        losses.append(float(value))
    final = task.loss(tree(params), state, task.validation, loss_key)[0]
    return np.array(losses), float(final), (tree(params), state)


@pytest.mark.parametrize("rule", ["adam", "drop(m, 0.3) + noise", "cd * rmsprop"])
@pytest.mark.parametrize("steps", [1, 7])
def test_losses_are_those_of_a_plain_optax_loop(loop, rule, steps):
    found = loop.train(programs(rule), np.array([0.05]), seed=3, steps=steps)
    losses, final, _ = by_optax(
        loop, lambda key: (from_rule(rule, 0.05, total_steps=steps, key=key), True), 3, steps
    )
    capped = np.minimum(losses, found.initial)
    np.testing.assert_allclose(found.train[0], capped.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.late[0], capped[steps // 2 :].mean(), rtol=1e-5)
    np.testing.assert_allclose(found.validation[0], min(final, found.initial[0]), rtol=1e-5)


def by_rows(rate) -> optax.GradientTransformation:
    """Return an optimizer that sees the shapes of the parameters, and needs the loss."""

    def update(updates, state, params=None, *, value, **extra):
        scale = rate * jnp.minimum(value, 1)
        return jax.tree.map(lambda g: -scale * g / (1 + jnp.linalg.norm(g)), updates), state + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros([], int), update)


@pytest.mark.slow
@pytest.mark.parametrize("factory", [optax.lion, optax.nadam, optax.lamb])
def test_optimizers_that_are_no_rules_train_as_in_a_plain_loop(factory):
    task = line_task(test=(np.ones((5, 6), np.float32), np.zeros(5, np.float32)))
    loop = TaskLoop(task, 8, 30, ITERATIONS, scores=True)
    found = loop.train(factory, np.array([0.05, 0.01]), seed=3, steps=7)
    losses, final, (params, state) = by_optax(loop, lambda _: (factory(0.01), False), 3, 7)
    capped = np.minimum(losses, found.initial[1])
    np.testing.assert_allclose(found.train[1], capped.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.validation[1], min(final, found.initial[1]), rtol=1e-5)
    for name, batch in (("validation_score", task.validation), ("test_score", task.test)):
        score = task.metric(params, state, batch).mean()
        np.testing.assert_allclose(getattr(found, name)[1], score, rtol=1e-5)


def test_optimizers_may_need_the_loss_and_the_shapes(loop):
    found = loop.train(by_rows, np.array([0.1]), seed=0, steps=20)
    assert found.validation[0] < found.initial[0]


def test_seeds_on_their_own_devices_have_the_same_losses(loop):
    rules, rates = programs(*RULES), np.full(len(RULES), 0.05, np.float32)
    for seeds in ((4,), (4, 7), (1, 2, 3)):
        found = loop.train_seeds(rules, rates, seeds, 9)
        for i, seed in enumerate(seeds):
            for a, b in zip(found, loop.train(rules, rates, seed, 9), strict=True):
                np.testing.assert_array_equal(a[:, i], b)


@pytest.mark.slow
@pytest.mark.parametrize("factory", [None, optax.adam])
def test_a_child_that_diverges_has_no_score(factory):
    loop = TaskLoop(line_task(), 8, 30, ITERATIONS, scores=True)
    rules = factory or programs("adam", "log(g - g)")
    found = loop.train(rules, np.array([0.1, np.nan]), 0, 10)
    assert found.validation_score[0] > -9 and np.isnan(found.validation_score[1])
    assert np.isnan(found.test_score).all()


def test_a_child_depends_on_nothing_but_itself(loop):
    rates = np.full(len(RULES), 0.05, np.float32)
    together = loop.train(programs(*RULES), rates, 1, 9)
    for i, rule in enumerate(RULES):
        alone = loop.train(programs(rule), rates[:1], 1, 9)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[i], b[0], rule)
    order = [3, 4, 0, 2, 1]
    shuffled = loop.train(programs(*RULES)[order], rates, 1, 9)
    for a, b in zip(together, shuffled, strict=True):
        np.testing.assert_array_equal(a[order], b)


def test_a_child_that_is_not_finite_has_learned_nothing_since(loop):
    found = loop.train(programs("log(g - g)", "adam"), np.array([0.1, 0.1]), 0, 10)
    assert found.validation[0] == found.initial[0] and found.late[0] == found.initial[0]
    assert found.validation[1] < found.initial[1]


def test_a_rate_that_is_nan_trains_nothing(loop):
    found = loop.train(programs("adam"), np.array([np.nan]), 0, 10)
    np.testing.assert_array_equal(
        [found.train[0], found.late[0], found.validation[0]], found.initial[0]
    )


def test_steps_seeds_and_numbers_of_children_compile_once(loop):
    loop.train(programs("g"), np.array([0.1]), 0, 1)
    before = loop._program(None)._cache_size()
    for count, seed, steps in ((1, 1, 30), (5, 2, 3), (loop.capacity + 3, 0, 2)):
        rules = np.resize(programs("g", "adam"), (count, ITERATIONS, 5))
        found = loop.train(rules, np.full(count, 0.01), seed, steps)
        assert found.train.shape == (count,)
    assert loop._program(None)._cache_size() == before


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_lanes_side_by_side_equal_children_one_after_another(loop, fused):
    rates = np.full(len(RULES), 0.05, np.float32)
    kernel = partial(fused_update, interpret=True)
    with mock.patch(KERNEL, kernel):
        lanes = TaskLoop(loop.task, 8, 30, ITERATIONS, lanes=3, fused=fused)
        found = lanes.train(programs(*RULES), rates, 1, 6)
    for a, b in zip(found, loop.train(programs(*RULES), rates, 1, 6), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5)


@pytest.mark.slow
def test_gradients_are_clipped(loop):
    task = dataclasses.replace(loop.task, max_grad_norm=1e-3)
    clipped = TaskLoop(task, 8, 30, ITERATIONS).train(programs("g"), np.array([0.1]), 0, 20)
    free = loop.train(programs("g"), np.array([0.1]), 0, 20)
    assert free.validation[0] < 0.5 * free.initial[0] < clipped.validation[0]


def test_a_task_in_order_is_trained_in_order():
    task = line_task(shuffle=False)
    order = TaskLoop(task, 8, 7, 1).order(0)
    np.testing.assert_array_equal(order.ravel(), np.arange(7 * 8) % 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minibatch_size": 41}, "from 1 to the 40 training examples, got 41"),
        ({"minibatch_size": 0}, "got 0"),
        ({"max_steps": 0}, "at least 1, got 0"),
        ({"lanes": 0}, "and 0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    given = {"minibatch_size": 8, "max_steps": 5, "iterations": 1} | options
    with pytest.raises(ValueError, match=message):
        TaskLoop(line_task(), **given)


def test_no_child_at_all_is_refused(loop):
    with pytest.raises(ValueError, match="no child to train"):
        loop.train(np.zeros((0, ITERATIONS, 5), np.int32), np.zeros(0), 0, 5)


@pytest.mark.parametrize("steps", [0, 31])
def test_steps_outside_their_range_are_refused(loop, steps):
    with pytest.raises(ValueError, match=f"from 1 to max_steps=30, got {steps}"):
        loop.train(programs("g"), np.array([0.1]), 0, steps)


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_lanes_are_halved_where_the_memory_does_not_suffice(loop, fused):
    lanes = TaskLoop(loop.task, 8, 30, ITERATIONS, lanes=4, fused=fused)
    train = TaskLoop._train_all

    def small(self, *args):
        if self.lanes > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return train(self, *args)

    with mock.patch.object(TaskLoop, "_train_all", small):
        with pytest.warns(UserWarning, match="line: out of memory: going on with [12] lanes"):
            found = lanes.train(programs("g"), np.array([0.1]), 0, 5)
    assert lanes.lanes == 1
    expected = loop.train(programs("g"), np.array([0.1]), 0, 5)
    np.testing.assert_allclose(found.train, expected.train, rtol=1e-6)


def test_the_estimate_of_memory_grows_with_what_a_child_computes():
    task = line_task()
    small, large = child_bytes(task, 8), child_bytes(task, 32)
    assert 10 * 4 * task.num_params < small < large < 100 * small


class Card:
    """A device that says it is a GPU."""

    platform = "gpu"

    def __init__(self, memory=None):
        self.memory = memory

    def memory_stats(self):
        return self.memory and {"bytes_limit": self.memory}


@pytest.mark.parametrize(("memory", "lanes"), [(None, 1024), (2**50, 1024), (1000, 1), ("some", 4)])
def test_as_many_lanes_as_the_memory_holds(loop, memory, lanes):
    if memory == "some":
        memory = 5.9 * child_bytes(loop.task, 8) / 0.7
    assert loop._most_lanes(Card(memory)) == lanes
    assert loop._most_lanes(jax.devices("cpu")[0]) == 1


@pytest.fixture
def here():
    """Let what asks for a device stay on this one, and forget what is known of others."""
    kernel_works.cache_clear()
    with mock.patch.object(jax, "default_device", lambda _: jax.default_matmul_precision(None)):
        yield
    kernel_works.cache_clear()


@pytest.mark.slow
def test_the_kernel_is_for_a_gpu_that_runs_it(here):
    assert not kernel_works(jax.devices("cpu")[0])
    with mock.patch(KERNEL, partial(fused_update, interpret=True)):
        assert kernel_works(Card())


@pytest.mark.slow
def test_a_kernel_that_fails_gives_way_with_a_warning(here):
    with pytest.warns(UserWarning, match="without the kernel, slowly: ValueError"):
        assert not kernel_works(Card())


@pytest.mark.slow
def test_a_kernel_with_other_numbers_gives_way_with_a_warning(here):
    def wrong(*args):
        w, state = fused_update(*args, interpret=True)
        return w + 1, state

    with mock.patch(KERNEL, wrong):
        with pytest.warns(UserWarning, match="without the kernel, slowly: they differ by 1"):
            assert not kernel_works(Card())


def test_without_pallas_rules_are_interpreted(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "nos_optax.grammar.fused", None)
    with pytest.warns(UserWarning, match="without the kernel, slowly: ModuleNotFoundError"):
        assert not kernel_works(Card())
