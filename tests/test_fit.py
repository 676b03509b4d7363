"""The training loop for large models: resumed equals unbroken, and a divergence is told."""

import io
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import checkpoints
from harness.fit import DIVERGED, FINISHED, fit
from rich.console import Console
from rich.progress import Progress

# Its state has what Orbax would change: named tuples, an empty one, integers.
TX = optax.MultiSteps(optax.chain(optax.clip(1.0), optax.adam(0.1)), 2)


class Killed(Exception):
    pass


@jax.jit
def step(state, batch):
    params, optimizer, key = state
    key, noise = jax.random.split(key)

    def loss(params):
        return jnp.sum((params - batch) ** 2) + 0.1 * params[0] * jax.random.normal(noise)

    value, gradient = jax.value_and_grad(loss)(params)
    updates, optimizer = TX.update(gradient, optimizer, params)
    return (params + updates, optimizer, key), {"loss": value, "first": batch[0]}


def start():
    params = jnp.zeros(3)
    return params, TX.init(params), jax.random.PRNGKey(0)


def batches(first):
    for number in itertools.count(first):
        yield np.random.default_rng(number).normal(size=3).astype(np.float32)


def largest(state):
    return {"largest": jnp.max(jnp.abs(state[0]))}


def quiet():
    return Progress(console=Console(file=io.StringIO()), disable=True)


def train(folder, step=step, state=None, batches=batches, steps=20, **changes):
    options = {"evaluate": largest, "evaluate_every": 4, "record_every": 3} | changes
    return fit(step, state or start(), batches, steps, folder, quiet(), **options)


def assert_equal(a, b):
    assert a.curve == b.curve
    assert jax.tree.structure(a.state) == jax.tree.structure(b.state)
    jax.tree.map(np.testing.assert_array_equal, a.state, b.state)


def test_the_curve_has_means_and_evaluations(tmp_path):
    state, curve = train(tmp_path / "a")
    assert [entry["step"] for entry in curve] == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20]
    evaluated = [entry["step"] for entry in curve if "largest" in entry]
    assert evaluated == [4, 8, 12, 16, 20]
    assert curve[-1]["largest"] == float(largest(state)["largest"])
    stream = [batch[0] for batch in itertools.islice(batches(0), 20)]
    assert curve[0]["first"] == pytest.approx(np.mean(stream[:3]), rel=1e-6)
    assert curve[-1]["first"] == pytest.approx(np.mean(stream[18:]), rel=1e-6)
    lines = (tmp_path / "a" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == curve


def test_without_an_evaluation_period_only_the_end_is_evaluated(tmp_path):
    curve = train(tmp_path / "a", evaluate_every=None).curve
    assert [entry["step"] for entry in curve if "largest" in entry] == [20]
    assert all("largest" not in entry for entry in train(tmp_path / "b", evaluate=None).curve)


@pytest.mark.slow
@pytest.mark.parametrize("last", [2, 7, 16, 19])
def test_killed_and_resumed_equals_unbroken(tmp_path, monkeypatch, last):
    unbroken = train(tmp_path / "unbroken")
    assert unbroken.status == FINISHED
    monkeypatch.setattr(checkpoints, "SHARE", np.inf)  # a checkpoint with every entry

    def killed_batches(first):
        yield from itertools.islice(batches(first), last - first)
        raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "killed", batches=killed_batches)
    curve = tmp_path / "killed" / "curve.jsonl"
    if curve.exists():  # a line that was not written to its end, and one after the checkpoint
        curve.write_text(curve.read_text() + '{"step": 19, "loss": 7.0}\n{"st')
    firsts = []

    def recorded_batches(first):
        firsts.append(first)
        return batches(first)

    resumed = train(tmp_path / "killed", batches=recorded_batches)
    assert_equal(resumed, unbroken)
    ends = [0, *(entry["step"] for entry in unbroken.curve)]
    assert firsts == [max(end for end in ends if end <= last)]


def test_a_finished_training_is_not_repeated(tmp_path):
    first = train(tmp_path / "a")

    def no_step(state, batch):
        raise AssertionError("trained again")

    assert_equal(train(tmp_path / "a", step=no_step), first)


def test_more_steps_go_on_from_the_end(tmp_path):
    train(tmp_path / "a", steps=12)
    assert_equal(train(tmp_path / "a"), train(tmp_path / "b"))


def test_a_donated_state_is_restored_where_it_was(tmp_path):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    donating = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
    placed = [jax.device_put(start(), everywhere) for _ in range(3)]
    whole = train(tmp_path / "whole", donating, placed[0])
    train(tmp_path / "part", donating, placed[1], steps=12)
    rest = train(tmp_path / "part", donating, placed[2])
    assert_equal(rest, whole)
    assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(rest.state))


@pytest.mark.parametrize("bad", [0, 4, 5, 19])
def test_a_divergence_ends_the_training_and_is_told(tmp_path, bad):
    told = io.StringIO()

    def poisoned(first):
        for number, batch in enumerate(batches(first), first):
            yield batch * np.float32(np.nan if number == bad else 1)

    progress = Progress(console=Console(file=told, width=200), disable=True)
    done = fit(step, start(), poisoned, 20, tmp_path / "rate 3", progress, largest, None, 3)
    assert done.status == DIVERGED
    assert done.curve[-1]["step"] == bad + 1 and np.isnan(done.curve[-1]["loss"])
    assert "largest" not in done.curve[-1]
    assert f"rate 3: diverged at step {bad + 1}, its loss is nan" in told.getvalue()
    assert all(np.isfinite(entry["loss"]) for entry in done.curve[:-1])
    # A second attempt comes to the same end.
    again = fit(step, start(), poisoned, 20, tmp_path / "rate 3", quiet(), largest, None, 3)
    assert (again.status, again.curve[-1]["step"]) == (DIVERGED, bad + 1)


def test_batches_that_end_too_early_are_told(tmp_path):
    with pytest.raises(ValueError, match="batches ended after 7 steps; 8 are needed"):
        train(tmp_path / "a", batches=lambda first: itertools.islice(batches(first), 7))


def test_progress_shows_loss_and_steps(tmp_path):
    progress = quiet()
    fit(step, start(), batches, 4, tmp_path / "my run", progress)
    (task,) = progress.tasks
    assert task.finished and task.completed == 4
    assert task.description.startswith("my run: loss ") and "steps/s" in task.description
