"""What every optimizer here must do wherever Optax's own optimizers do it."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from contract_cases import OPTIMIZERS, PARAMS, gradients

each_optimizer = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)


def run(tx, start=None, params=PARAMS):
    """Return the parameters and the state after four jitted steps from those given."""
    update = jax.jit(tx.update)
    names = params.keys()
    params, state = start or (params, tx.init(params))
    for g in gradients(4):
        g = {name: g[name] for name in names}
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def specs(tree):
    """Return the structure of a tree with the shape and dtype of each leaf."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def assert_close(actual, expected, rtol=1e-6):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(e, np.float64), rtol=rtol, atol=rtol
        ),
        jax.tree.leaves(actual),
        jax.tree.leaves(expected),
    )


def parabola(w):
    return jnp.sum((w - jnp.array([1.0, -1.0])) ** 2)


def rosenbrock(w):
    return (1.0 - w[0]) ** 2 + 100.0 * (w[1] - w[0] ** 2) ** 2


@each_optimizer
@pytest.mark.parametrize(
    ("loss", "start", "minimum"),
    [(parabola, [-1.0, 10.0], [1.0, -1.0]), (rosenbrock, [0.0, 0.0], [1.0, 1.0])],
)
def test_converges(case, loss, start, minimum):
    tx = case.make()

    @jax.jit
    def minimize(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=20_000)[0][0]

    assert_close(minimize(jnp.array(start)), jnp.array(minimum), rtol=1e-2)


@pytest.mark.slow
@each_optimizer
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_keeps_dtypes(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), dtype), PARAMS)
        tx = case.make()
        state = tx.init(params)
        before = specs(state)
        for g in gradients(2, like=params):
            updates, state = jax.jit(tx.update)(g, state, params)
            assert specs(updates) == specs(g)
            assert specs(state) == before


@each_optimizer
def test_traces_once(case):
    tx = case.make()
    traces = 0

    @jax.jit
    def update(g, state, params):
        nonlocal traces
        traces += 1
        return tx.update(g, state, params)

    state = tx.init(PARAMS)
    for g in gradients(3):
        _, state = update(g, state, PARAMS)
    assert traces == 1


@pytest.mark.slow
@each_optimizer
def test_jit_equals_no_jit(case):
    tx = case.make()
    params, state = PARAMS, tx.init(PARAMS)
    for g in gradients(4):
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    assert_close(run(tx), (params, state))


@each_optimizer
def test_constant_schedule_equals_float(case):
    learning_rate = case.kwargs["learning_rate"]
    scheduled = case.make(learning_rate=optax.constant_schedule(learning_rate))
    assert_close(run(scheduled)[0], run(case.make())[0])


@pytest.mark.slow
@each_optimizer
def test_inject_hyperparams(case):
    injected = optax.inject_hyperparams(case.factory, case.static_args)(**case.kwargs)
    params, state = run(injected)
    assert_close((params, state.inner_state), run(case.make()))


@each_optimizer
def test_injected_learning_rate_can_be_set(case):
    injected = optax.inject_hyperparams(case.factory, case.static_args)(**case.kwargs)
    state = injected.init(PARAMS)
    (g,) = gradients(1)
    updates, _ = injected.update(g, state, PARAMS)
    state.hyperparams["learning_rate"] *= 2
    doubled, _ = injected.update(g, state, PARAMS)
    assert_close(doubled, jax.tree.map(lambda u: 2 * u, updates))


@pytest.mark.slow
@each_optimizer
def test_multi_steps(case):
    tx = case.make()
    wrapped = optax.MultiSteps(tx, every_k_schedule=2)
    first, second = gradients(2)
    state = wrapped.init(PARAMS)
    updates, state = wrapped.update(first, state, PARAMS)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    updates, state = wrapped.update(second, state, PARAMS)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    assert_close(updates, tx.update(mean, tx.init(PARAMS), PARAMS)[0])


@pytest.mark.slow
@each_optimizer
def test_masked(case):
    params, _ = run(optax.masked(case.make(), {"w": True, "b": False}))
    w = {"w": PARAMS["w"]}  # alone, as the numbers that a rule draws belong to an array's position
    alone, _ = run(case.make(), params=w)
    raw, _ = run(optax.identity())
    assert_close(params["w"], alone["w"])
    assert_close(params["b"], raw["b"])


@each_optimizer
def test_partition(case):
    transforms = {"ours": case.make(), "sgd": optax.sgd(0.1)}
    params, _ = run(optax.partition(transforms, {"w": "ours", "b": "sgd"}))
    assert_close(params["w"], run(case.make(), params={"w": PARAMS["w"]})[0]["w"])
    assert_close(params["b"], run(optax.sgd(0.1))[0]["b"])


@each_optimizer
def test_apply_if_finite(case):
    wrapped = optax.apply_if_finite(case.make(), max_consecutive_errors=5)
    update = jax.jit(wrapped.update)
    first, second = gradients(2)
    state = wrapped.init(PARAMS)
    _, state = update(first, state, PARAMS)
    updates, skipped = update(optax.tree.full_like(PARAMS, jnp.nan), state, PARAMS)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    assert_close(skipped.inner_state, state.inner_state)
    assert_close(update(second, skipped, PARAMS)[0], update(second, state, PARAMS)[0])


@pytest.mark.slow
@each_optimizer
def test_vmap(case):
    tx = case.make()
    stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    params = stack(PARAMS, jax.tree.map(lambda p: 2 * p, PARAMS))
    (a, b) = gradients(2)
    updates, states = jax.vmap(tx.update)(stack(a, b), jax.vmap(tx.init)(params), params)
    for row, g in enumerate((a, b)):
        p = jax.tree.map(lambda x, row=row: x[row], params)
        expected = tx.update(g, tx.init(p), p)
        assert_close(jax.tree.map(lambda x, row=row: x[row], (updates, states)), expected)


@each_optimizer
def test_init_needs_only_shapes(case):
    tx = case.make()
    state = tx.init(PARAMS)
    assert specs(tx.init(specs(PARAMS))) == specs(state)
    assert specs(jax.eval_shape(tx.init, specs(PARAMS))) == specs(state)


@each_optimizer
def test_absent_leaves_and_empty_trees(case):
    tx = case.make()
    params = {"w": PARAMS["w"], "frozen": None}
    state = tx.init(params)
    updates, after = tx.update({"w": PARAMS["w"], "frozen": None}, state, params)
    assert updates["frozen"] is None
    assert specs(after) == specs(state)
    assert tx.update({}, tx.init({}), {})[0] == {}


@each_optimizer
def test_ignores_extra_arguments_and_maps_over_its_parameters(case):
    tx = case.make()
    (g,) = gradients(1)
    state = tx.init(PARAMS)
    tx.update(g, state, PARAMS, value=1.0, unexpected=2.0)
    assert_close(optax.tree.map_params(tx, lambda x: x, state), state)


@pytest.mark.slow
@each_optimizer
def test_orbax_round_trip_continues_the_run(case, tmp_path):
    tx = case.make()
    saved = run(tx)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "checkpoint", specs(saved))
    assert_close(run(tx, restored), run(tx, saved), rtol=0)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from contract_cases import OPTIMIZERS

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))
whole = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)
split = jax.device_put(whole, rows)
for case in OPTIMIZERS:
    tx = case.make()
    state = tx.init(split)
    averages = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == split.shape]
    assert averages and all(leaf.sharding == rows for leaf in averages), case.name
    updates, state = jax.jit(tx.update)(split, state, split)
    assert updates.sharding.is_equivalent_to(rows, 2), case.name
    expected, _ = tx.update(whole, tx.init(whole), whole)
    np.testing.assert_allclose(updates, expected, rtol=1e-6, err_msg=case.name)
print("sharded", len(OPTIMIZERS))
"""


@pytest.mark.slow
def test_sharded_parameters():
    tests = pathlib.Path(__file__).parent
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == f"sharded {len(OPTIMIZERS)}", done.stderr
