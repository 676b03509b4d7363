"""A user's mistake in a task is one clear message, before anything is compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_bits import compressed_exchange, low_precision
from test_task import make_task

from nos_optax.grammar import encode
from nos_optax.population import (
    PopulationTrainer,
    Protocol,
    TaskLoop,
)
from nos_optax.population.task_check import (
    check_direction,
    check_task,
    function_digests,
    task_digest,
)
from nos_optax.search import LocalEngine, SearchConfig

TASK = make_task()
X, Y = TASK.train


def mean_score(params, count, batch):
    return jnp.mean(TASK.metric(params, count, batch))


def score_of_a_pair(params, count, batch):
    return jnp.stack([TASK.metric(params, count, batch)] * 2, axis=1)


def text_score(params, count, batch):
    return "good"


def loss_alone(params, count, batch, key):
    return TASK.loss(params, count, batch, key)[0]


def loss_by_example(params, count, batch, key):
    return -TASK.metric(params, count, batch), count


def whole_loss(params, count, batch, key):
    return jnp.int32(3), count


def loss_without_key(params, count, batch):
    return TASK.loss(params, count, batch, jax.random.key(0))


def other_state(params, count, batch, key):
    return TASK.loss(params, count, batch, key)[0], {"count": count}


def other_type_of_state(params, count, batch, key):
    return TASK.loss(params, count, batch, key)[0], count + 0.5


def branching_loss(params, count, batch, key):
    value, count = TASK.loss(params, count, batch, key)
    return (value if value > 0 else -value), count


def no_gradient(params, count, batch, key):
    value, count = TASK.loss(params, count, batch, key)
    return jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, value), count


def params_alone(key):
    return {"w": jnp.zeros(3), "b": jnp.zeros([])}


LINE = branching_loss.__code__.co_firstlineno + 2


def start(params):
    return lambda key: (params, jnp.zeros([], int))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": mean_score}, r"line: metric returned float32\[\] for 5 .* shape \[5\]"),
        ({"metric": score_of_a_pair}, r"metric returned float32\[5,2\] for 5 examples"),
        ({"metric": text_score}, "metric failed: TypeError"),
        ({"metric": lambda *args: None}, "metric returned None for 5 examples"),
        ({"loss": loss_alone}, r"loss returned float32\[\]; expected \(loss, state\)"),
        ({"loss": loss_by_example}, r"loss returned the loss float32\[8\]; expected .* \[\]"),
        ({"loss": whole_loss}, r"loss returned the loss int32\[\]"),
        ({"loss": other_state}, r"the state \{'count': int32\[\]\}; expected .*got, int32\[\]"),
        ({"loss": other_type_of_state}, r"the state float32\[\]; expected .*got, int32\[\]"),
        ({"loss": loss_without_key}, "loss failed: TypeError.*3 positional"),
        ({"loss": branching_loss}, rf"loss failed at .*errors\.py, line {LINE}: .*Bool"),
        ({"loss": no_gradient}, "the gradient of loss failed: .*while_loop"),
        ({"loss": None}, "loss failed: .*a callable"),
        ({"init": params_alone}, r"init returned \{'b': float32\[\], .*; expected \(params, state"),
        ({"init": start({})}, r"init returned the params \{\}; .*at least one"),
        ({"init": start({"w": jnp.zeros(3, int), "b": 0.0})}, r"params .*'w': int32\[3\].*real"),
        ({"init": start({"w": jnp.zeros(3, jnp.bfloat16)})}, "bfloat16.*expected float32: keep"),
        ({"init": start({"w": jnp.zeros(3, complex)})}, "complex64.*real floating-point"),
        ({"init": start({"w": jnp.zeros(4), "b": 0.0})}, "loss failed at .*line.*TypeError: dot"),
        ({"train": (X,), "validation": (X,), "test": None}, r"loss failed at .*float32\[8,3\]"),
        ({"train": (X, None), "validation": (X, None), "test": None}, "loss failed at"),
        ({"validation": (X[:, :2], Y)}, r"metric failed at .*float32\[5,2\]"),
        ({"test": (X[:, :2], Y)}, r"metric failed at .*float32\[5,2\]"),
    ],
)
def test_functions_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message) as error:
        check_task(dataclasses.replace(TASK, **options), batch_size=8)
    assert str(error.value).startswith("line: ") and "\n" not in str(error.value)


def bad(value, dtype=np.float32, at=7):
    y = Y.astype(dtype)
    y[at] = value
    return X, y


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": bad(np.nan)}, r"line: train\[1\] has nan.* in 1 of 60 examples, .*example 7"),
        ({"validation": bad(-np.inf)}, r"validation\[1\] has nan, infinity"),
        ({"test": bad(np.nan)}, r"test\[1\] has nan"),
        ({"train": bad(1e300, float)}, r"train\[1\] has .* beyond float32 in 1 of 60"),
        ({"train": bad(2**40, np.int64)}, r"train\[1\] has numbers beyond int32 in 1 of 60"),
    ],
)
def test_numbers_that_no_child_can_use_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        check_task(dataclasses.replace(TASK, **options), batch_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": (X.tolist(), Y)}, r"line: train\[0\]\[0\]\[0\] is a float; give NumPy or JAX"),
        ({"train": (X, np.array(["a"] * 60))}, r"train\[1\] is an array of <U1"),
        ({"train": (X, np.array([None] * 60))}, r"train\[1\] is an array of object"),
        ({"train": (X, np.float32(1))}, r"train\[1\] is a float32"),
        ({"train": None}, r"the arrays of train have the lengths \[\]"),
        ({"validation": [X, Y]}, "validation is .* but train is"),
        ({"chance": 2.0, "perfect": 1.0}, "chance is 2.0; .* less than the perfect score, 1.0"),
        ({"baseline": 1.0, "perfect": 1.0}, "baseline is 1.0"),
        ({"chance": float("nan")}, "chance is nan"),
        ({"baseline_error": -0.1}, "baseline_error is -0.1"),
        ({"baseline_error": float("nan")}, "baseline_error is nan"),
        ({"evaluation_batch": 0}, "evaluation_batch must be positive, got 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive, got 0.0"),
    ],
)
def test_a_task_of_wrong_parts_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TASK, **options)


def test_both_trainers_look_at_the_task():
    task = dataclasses.replace(TASK, metric=mean_score)
    with pytest.raises(ValueError, match="metric returned"):
        PopulationTrainer(task, Protocol(batch_size=8))
    with pytest.raises(ValueError, match="metric returned"):
        TaskLoop(task, 8, max_steps=1, iterations=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint8", "int64", "bool"])
def test_data_of_any_number_type_pass(dtype):
    x, y = (np.abs(a).round().astype(jnp.dtype(dtype)) for a in (X, Y))
    check_task(dataclasses.replace(TASK, train=(x, y), validation=(x, y)), batch_size=8)


def test_an_odd_but_right_task_trains():
    """Its data are float64, its state has a key and a Python number, its scores are booleans."""

    def init(key):
        params = {"w": jnp.zeros(3), "b": 0.0}
        return params, {"key": key, "none": None, "steps": 0}

    def loss(params, state, batch, key):
        value, steps = TASK.loss(params, state["steps"], batch, state["key"])
        return value, {"key": jax.random.split(state["key"])[0], "none": None, "steps": steps}

    def metric(params, state, batch):
        return TASK.metric(params, state["steps"], batch) > -0.5

    sets = {"train": (X.astype(float), Y.astype(float)), "validation": (X[:1], Y[:1])}
    sets |= {"chance": 0.0, "perfect": 1.0}
    task = dataclasses.replace(TASK, init=init, loss=loss, metric=metric, test=None, **sets)
    trainer = PopulationTrainer(task, Protocol((0.3,), batch_size=6, epochs=5), 1)
    assert trainer.evaluate(encode("g", 1).array[None]).reward[0] == 1


def test_messages_have_an_end():
    def loss(params, state, batch, key):
        return params, state

    params = {f"layer {i} of many": jnp.zeros(3) for i in range(1000)}
    task = dataclasses.replace(TASK, init=start(params), loss=loss)
    with pytest.raises(ValueError, match=r"loss returned the loss .*\.\.\.; expected") as error:
        check_task(task, batch_size=8)
    assert len(str(error.value)) < 600


def looped_score(params, count, batch):
    """A score that JAX cannot differentiate backwards."""
    start = jnp.int32(0), TASK.metric(params, count, batch)
    return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, 2 * s[1]), start)[1]


def test_a_metric_needs_no_derivative():
    check_direction(dataclasses.replace(TASK, metric=looped_score), 10)


def with_constants(offset, slope=1.0, key=0):
    """A task whose functions hold arrays: directly, in a compiled function, going backwards."""
    held = jax.random.key(key)
    add = jax.jit(lambda x: x + offset)
    scale = jax.custom_vjp(lambda x: x)
    scale.defvjp(lambda x: (x, None), lambda _, g: (slope * g,))

    def loss(params, count, batch, key):
        value, count = TASK.loss(jax.tree.map(scale, params), count, batch, key)
        return value + 0 * jax.random.normal(held), count

    return dataclasses.replace(TASK, loss=loss, metric=lambda *a: add(TASK.metric(*a)))


def test_a_digest_knows_code_and_constants():
    zero, one = np.zeros(()), np.ones(())
    first = task_digest(with_constants(zero), 10)
    assert first == task_digest(with_constants(zero), 10)
    others = [with_constants(one), with_constants(zero, slope=2.0), with_constants(zero, key=1)]
    assert len({first, *(task_digest(other, 10) for other in others)}) == 4


def test_a_task_that_needs_its_whole_minibatch_can_be_searched():
    """The digest and the facts ask for nothing else."""
    workers = compressed_exchange(TASK, workers=5)
    engine = LocalEngine(SearchConfig(protocol="paper", minibatch_size=10), 1, [workers])
    assert engine.facts["functions"] == function_digests(workers, 10)
    engine.close()


@pytest.mark.parametrize("make", [low_precision, compressed_exchange])
def test_a_wrong_init_is_one_message_everywhere(make):
    with pytest.raises(ValueError, match=r"init returned .*; expected \(params, state\)"):
        make(dataclasses.replace(TASK, init=lambda key: jnp.zeros(3)))
