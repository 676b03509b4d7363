"""Trainings in parts: the trainings of the loop, each child by itself, kept and gone on from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_task import make_task

from nos_optax.grammar import encode, scale_by_rule
from nos_optax.grammar.program import pad_programs
from nos_optax.population import PartLoop, Task, TaskLoop

RULES = ("exp(sign(g) * sign(m)) * g", "adam", "ld * m + 1e-3 * w", "drop(g, 0.5) + noise")
STEPS = 8


def make_loop(task=None, lanes=1, devices=1, steps=STEPS, batch=8, decayed=None) -> PartLoop:
    local = jax.local_devices()[:devices]
    loop = TaskLoop(task or make_task(), batch, steps, 3, local, lanes, scores=True)
    return PartLoop(loop, decayed)


def programs(*rules: str) -> np.ndarray:
    return np.stack([pad_programs(encode(rule).array, 3) for rule in rules])


def train(loop: PartLoop, rules, rates, seeds, parts=2, decays=0.0):
    """Return the children, and what became of them in each part."""
    steps, results = loop.loop.max_steps, []
    rates = np.broadcast_to(
        np.asarray(rates, np.float32).reshape(len(seeds), -1), (len(seeds), steps)
    )
    children = loop.start(seeds)
    for first in range(0, steps, steps // parts):
        some = rates[:, first : first + steps // parts]
        children, part = loop.advance(children, programs(*rules), some, seeds, first, steps, decays)
        results.append(part)
    return children, results


def reference(task: Task, rule: str, rates, seed: int, order, total_steps: int):
    """Train one child by the static evaluator on the flat parameters; return its scores."""
    init_key, rule_key, loss_key = jax.random.split(jax.random.key(seed), 3)
    params, state = task.init_flat(init_key)
    tx = scale_by_rule(rule, total_steps=total_steps, key=rule_key)
    opt_state, losses = tx.init(params), []
    for i, rows in enumerate(order):
        batch = jax.tree.map(lambda x, rows=rows: x[rows], task.train)
        key = jax.random.fold_in(loss_key, i)
        (loss, state), g = jax.value_and_grad(
            lambda p, s, b, k: task.loss(task.unflatten(p), s, b, k), has_aux=True
        )(params, state, batch, key)
        if task.max_grad_norm is not None:
            g, _ = optax.clip_by_global_norm(task.max_grad_norm).update(g, optax.EmptyState())
        update, opt_state = tx.update(g, opt_state, params)
        params, losses = params - rates[i] * update, [*losses, loss]
    score = lambda batch: np.mean(task.metric(task.unflatten(params), state, batch))  # noqa: E731
    half = len(losses) // 2
    return np.mean(losses[:half]), np.mean(losses[half:]), score(task.validation), score(task.test)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lanes", "options"), [(1, {"max_grad_norm": 0.1, "shuffle": False}), (2, {})]
)
def test_trainings_in_parts_equal_single_trainings(lanes, options):
    task = make_task(**options)
    loop, seeds = make_loop(task, lanes, devices=2), [3, 3, 5, 5]
    rates = np.linspace(0.1, 0.01, STEPS) * np.array([1, 0.3, 0.5, 1])[:, None]
    hands = [slice(i, i + loop.seats) for i in range(0, 4, loop.seats)]
    trained = [train(loop, RULES[hand], rates[hand], seeds[hand])[1] for hand in hands]
    first, last = (
        type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))
        for parts in zip(*trained, strict=True)
    )
    for i, (rule, seed) in enumerate(zip(RULES, seeds, strict=True)):
        order = loop.loop.order(seed)
        assert task.shuffle or (order[:2].ravel() == np.arange(16)).all()
        early, late, validation, test = reference(task, rule, rates[i], seed, order, STEPS)
        np.testing.assert_allclose(last.validation[i], validation, rtol=1e-4)
        np.testing.assert_allclose(last.test[i], test, rtol=1e-4)
        np.testing.assert_allclose((first.loss[i], last.loss[i]), (early, late), rtol=1e-4)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_training_in_parts_is_that_of_the_loop(lanes):
    loop, rules, rates = make_loop(lanes=lanes, devices=2 // lanes), RULES[2:], [0.1, 0.01]
    _, results = train(loop, rules, rates, [4, 4], parts=4)
    whole = loop.loop.train(programs(*rules), np.array(rates), 4, STEPS)
    np.testing.assert_allclose(results[-1].validation, whole.validation_score, rtol=1e-6)
    np.testing.assert_allclose(results[-1].test, whole.test_score, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2])
def test_optimizers_that_are_no_rules_train_in_parts(lanes):
    loop, rates = make_loop(lanes=lanes, devices=2 // lanes), np.array([0.1, 0.01])
    children = loop.start([4, 4], optax.adam)
    for first in (0, 4):
        some = np.repeat(rates[:, None], 4, 1)
        children, part = loop.advance(children, optax.adam, some, [4, 4], first, STEPS)
    whole = loop.loop.train(optax.adam, rates, 4, STEPS)
    np.testing.assert_allclose(part.validation, whole.validation_score, rtol=1e-6)


@pytest.mark.slow
def test_a_factory_may_take_a_vector():
    def momentum(numbers):
        return optax.sgd(numbers[0], momentum=numbers[1])

    found = []
    for factory, numbers in ((momentum, 2), (lambda rate: optax.sgd(rate, momentum=0.5), None)):
        loop = make_loop()
        children, rates = loop.start([4], factory, numbers), np.full((1, STEPS), 0.1)
        if numbers:
            rates = np.stack([rates, np.full((1, STEPS), 0.5)], axis=1)
        found.append(loop.advance(children, factory, rates, [4], 0, STEPS)[1].validation)
    np.testing.assert_array_equal(*found)


def test_a_diverged_child_does_not_disturb_its_neighbours():
    for lanes in (1, 2):
        loop = make_loop(lanes=lanes, devices=2 // lanes)
        _, alone = train(loop, ["g"], [0.1], [1])
        _, pair = train(loop, ["g", "g"], [1e30, 0.1], [1, 1])
        for part, expected in zip(pair, alone, strict=True):
            assert np.isnan(part.validation[0]) and np.isnan(part.loss[0])
            assert part.validation[1] == expected.validation[0]


def test_it_is_compiled_once():
    traces, task = 0, make_task()

    def counted(*args):
        nonlocal traces
        traces += 1
        return task.loss(*args)

    loop = make_loop(dataclasses.replace(task, loss=counted), devices=2)
    traces = 0  # the look at the task is over
    for count in (1, 2, 1):
        train(loop, RULES[:count], [0.1] * count, range(count))
    assert traces == 1


@pytest.mark.slow
def test_children_that_were_kept_go_on_elsewhere():
    _, unbroken = train(make_loop(), ["adam"], [0.1], [2])
    first, other = make_loop(devices=2), make_loop(lanes=2)
    rates = np.full((1, 4), 0.1)
    children, _ = first.advance(first.start([2]), programs("adam"), rates, [2], 0, STEPS)
    _, part = other.advance(children, programs("adam"), rates, [2], 4, STEPS)
    np.testing.assert_allclose(part.validation, unbroken[1].validation, rtol=1e-6)


def test_without_a_test_set_its_score_is_nan():
    _, parts = train(make_loop(make_task(test=None)), ["g"], [0.1], [0])
    assert np.isnan(parts[1].test[0]) and np.isfinite(parts[1].validation[0])


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2])
def test_weight_decay_is_the_gradient_of_its_penalty(lanes):
    loop = make_loop(lanes=lanes, devices=2 // lanes)
    task, params = loop.task, np.asarray(loop.start([3]).params[0])
    state, loss_key = jnp.zeros([], int), jax.random.split(jax.random.key(3), 3)[2]
    for i, rows in enumerate(loop.loop.order(3)):
        batch, key = tuple(x[rows] for x in task.train), jax.random.fold_in(loss_key, i)

        def penalised(params, batch=batch, key=key):
            return task.loss(task.unflatten(params), state, batch, key)[0] + jnp.sum(params**2)

        params = params - 0.01 * jax.grad(penalised)(params)
    children, _ = train(loop, ["g", "g"], [0.01, 0.01], [3, 3], decays=[0.0, 2.0])
    np.testing.assert_allclose(children.params[1], params, rtol=1e-5)
    assert np.abs(children.params[0] - params).max() > 1e-2, "its neighbour has none"


def test_weight_decay_leaves_out_what_is_masked():
    task = Task(
        "two",
        init=lambda key: ({"w": jnp.ones(2), "b": jnp.ones(1)}, ()),
        loss=lambda p, s, batch, key: (0.0 * (p["w"].sum() + p["b"].sum()) * batch.sum(), s),
        metric=lambda p, s, batch: batch[:, 0],
        train=np.ones((4, 1), np.float32),
        validation=np.ones((2, 1), np.float32),
    )
    loop = make_loop(task, steps=2, batch=2, decayed=lambda p: {"w": True, "b": False})
    children, _ = train(loop, ["g"], [0.1], [0], parts=1, decays=[0.5])
    left = task.unflatten(jnp.asarray(children.params[0]))
    np.testing.assert_allclose(left["w"], 0.95**2 * np.ones(2), rtol=1e-6)
    np.testing.assert_allclose(left["b"], 1.0)


def test_mistakes_are_named():
    loop, pair = make_loop(), make_loop(lanes=2)
    rates = np.full((1, 4), 0.1)
    with pytest.raises(ValueError, match="1 to 1 children, got 2"):
        loop.start([0, 1])
    with pytest.raises(ValueError, match="children, got 0"):
        loop.start([])
    with pytest.raises(ValueError, match=r"2 neighbours must share a seed, got \[0, 1\]"):
        pair.start([0, 1])
    with pytest.raises(ValueError, match="steps 6 to 10 are no part of a training of 8"):
        loop.advance(loop.start([0]), programs("g"), rates, [0], 6, 8)
    with pytest.raises(ValueError, match="which may have 8"):
        loop.advance(loop.start([0]), programs("g"), rates, [0], 0, 9)
    with pytest.raises(ValueError, match="scores=True"):
        PartLoop(TaskLoop(make_task(), 8, 8, 1))
