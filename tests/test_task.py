"""A task of one's own, in a search's protocol."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nos_optax.grammar import encode
from nos_optax.population import STATUSES, PopulationTrainer, Protocol, Task
from nos_optax.search import SearchConfig, TaskConfig, run_search
from nos_optax.search.loading import load_task

RULES = ("exp(sign(g) * sign(m)) * g", "adam", "ld * m + 1e-3 * w", "drop(g, 0.5) + noise")


def make_task(**options) -> Task:
    """Return a regression on a hidden linear map, with a state that counts and a noisy loss."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32)

    def init(key):
        return {"w": 0.1 * jax.random.normal(key, (3,)), "b": jnp.zeros([])}, jnp.zeros([], int)

    def loss(params, count, batch, key):
        x, y = batch
        x = x + 1e-3 * jax.random.normal(key, x.shape)
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2), count + 1

    def metric(params, count, batch):
        return -jnp.abs(batch[0] @ params["w"] + params["b"] - batch[1]) + 0 * count

    parts = {"train": (x[:60], y[:60]), "validation": (x[60:77], y[60:77])}
    parts |= {"test": (x[77:], y[77:]), "chance": -2.0, "evaluation_batch": 5}
    return Task("line", init, loss, metric, **(parts | options))


def test_a_task_of_ones_own_is_searched_with_the_protocol():
    task = make_task(baseline=-2.0, baseline_error=0.05, perfect=0.0)
    trainer = PopulationTrainer(task, Protocol((1e-2, 1e-1), batch_size=10, epochs=4), iterations=2)
    programs = np.stack([encode(rule, 2).array for rule in ("adam", "g - g", "g / (g - g)")])
    evaluation = trainer.evaluate(programs, seed=0)
    assert [STATUSES[s] for s in evaluation.status][:2] == ["trained", "dead"]
    assert -0.5 < evaluation.reward[0] <= 0 and evaluation.reward[1] == -2


def test_few_validation_examples_do_not_condemn_every_child():
    task = make_task(baseline=0.5, baseline_error=0.2, perfect=1.0)
    assert task.threshold(margin=6) == 0.75  # not 1.7
    assert task.threshold(margin=1) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": (np.zeros((3, 2)), np.zeros(4))}, r"line: the arrays of train .* \[3, 4\]"),
        ({"validation": (np.zeros((0, 3)), np.zeros(0))}, "validation"),
        ({"test": {"x": np.zeros(3)}}, "test is .* but train is"),
    ],
)
def test_bad_data_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(**options)


OWN = """
import numpy as np
from test_task import make_task
number, few = 3, lambda: make_task(evaluation_batch=3)
whole = make_task()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_task.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["whole", "few"])
def test_a_task_is_named_on_the_command_line(own, name):
    config = TaskConfig(protocol="paper", task=(f"own_task:{name}",), train_examples=20)
    task = load_task(config, jax.devices()[0])
    assert (task.name, task.num_examples(task.train)) == ("line", 20)
    np.testing.assert_array_equal(task.train[0], make_task().train[0][:20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": ("imagenet",)}, "one of characters, .*cifar10, or module:name, got 'imagenet'"),
        ({"task": ("own_task:nothing",)}, "own_task has no 'nothing'; it has"),
        ({"task": ("own_task:number",)}, "is a int; give a nos_optax.population.Task"),
        ({"task": ("own_task:few",), "train_examples": 61}, "is 61; line has 60"),
    ],
)
def test_what_is_no_task_is_named(own, options, message):
    with pytest.raises(ValueError, match=message):
        load_task(TaskConfig(protocol="paper", **options), jax.devices()[0])


def test_a_search_on_a_task_of_ones_own(own, tmp_path):
    config = SearchConfig(
        protocol="paper",
        task=("own_task:few",),
        samples=6,
        batch_size=3,
        minibatch_size=10,
        epochs=1,
        strategy="random",
        finalists=1,
        final_seeds=1,
        out=tmp_path / "run",
    )
    result = run_search(config)
    assert len(result.candidates) == 6
    dead = [c for c in result.candidates if c.status != "trained"]
    assert dead and all(c.reward == -2 for c in dead)
    assert {r.name for r in result.results} >= {"Adam", "PowerSign"}
    assert all(-2 <= r.mean <= 0 for r in result.results)


# Numbers and arrays that are not plain.

NUMBERS = ("chance", "baseline", "baseline_error", "perfect", "max_grad_norm")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "kind", [np.float16, np.float32, np.float64, np.int8, np.longdouble, jnp.float32, np.array]
)
def test_numbers_of_any_library_become_plain(name, kind):
    """So that a run folder can hold them."""
    values = {"chance": -3.0, "baseline": -1.5, "perfect": 4.0}
    value = kind(values.get(name, 2.0))
    task = dataclasses.replace(make_task(), **{name: value})
    assert type(getattr(task, name)) is float and getattr(task, name) == float(value)
    json.dumps({name: getattr(task, name)})


@pytest.mark.parametrize("name", [*NUMBERS, "evaluation_batch", "shuffle"])
@pytest.mark.parametrize(
    "value",
    [np.ones(1), np.ones((2, 2)), jnp.ones(3), "1", 1j, [1.0], {}, object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_single_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^line: {name} is "):
        dataclasses.replace(make_task(), **{name: value})


KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "f2", "f4", "f8")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["plain", "matrix", "memory map", "strided", "read only"])
def test_data_of_any_order_of_bytes_is_the_same_data(order, kind, layout, tmp_path):
    values = np.arange(60).reshape(30, 2) % 2
    x = values.astype(np.dtype(kind).newbyteorder(order))
    if layout == "matrix":
        x = x.view(np.matrix)
    if layout == "memory map":
        np.save(tmp_path / "x.npy", x)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    if layout == "strided":
        x = np.repeat(x, 2, axis=0)[::-2][::-1]
    x.flags.writeable = layout != "read only" and x.flags.writeable
    task = dataclasses.replace(make_task(), train=(x, x), validation=(x, x), test=None)
    for taken in task.train:
        assert taken.dtype.isnative and not isinstance(taken, np.matrix)
        np.testing.assert_array_equal(taken, values)
        jnp.asarray(taken)


@pytest.mark.parametrize(
    "x",
    [
        np.ma.masked_array(np.ones(4), [0, 1, 0, 0]),
        np.ones(4, np.longdouble),
        np.ones(4, np.clongdouble),
        np.zeros(4, "datetime64[s]"),
        np.zeros(4, "timedelta64[s]"),
        np.array(["a", "b"]),
        np.array([b"a", b"b"]),
        np.array([1, "x"], object),
        np.zeros(4, [("a", "f4"), ("b", "i4")]),
        np.rec.array(np.zeros(4, [("a", "f4")])),
        [1.0, 2.0],
        "text",
    ],
    ids=lambda x: str(getattr(x, "dtype", type(x))),
)
def test_data_that_no_device_holds_is_refused_by_name(x):
    for part in ("train", "validation", "test"):
        with pytest.raises(ValueError, match=f"^line: {part}"):
            dataclasses.replace(make_task(), **{part: (x, x)})
