"""Rules as Optax transformations, and as exported Python."""

import ast
import pickle
import subprocess
import sys
from functools import partial

import flax.serialization
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_cases import PARAMS, gradients
from test_evaluators import random_programs

import nos_optax
from nos_optax.grammar import (
    RuleError,
    decode,
    encode,
    from_rule,
    parse,
    rules,
    scale_by_rule,
    to_python,
)
from nos_optax.grammar.expression import structural_hash

BUSY = "exp(ld * sign(g) * sign(m)) * adam + 1e-3 * w + noise + drop(gamma, 0.3)"


def run(tx, params=PARAMS, steps=5, state=None, jit=True):
    """Return the updates of some steps, and the last state."""
    update = jax.jit(tx.update) if jit else tx.update
    state = tx.init(params) if state is None else state
    updates = []
    for g in gradients(steps, like=params):
        u, state = update(g, state, params)
        updates.append(u)
    return updates, state


def assert_close(actual, expected, rtol=1e-5):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(e, np.float64), rtol=rtol, atol=rtol
        ),
        *(jax.tree.leaves(optax.tree.unwrap_random_key_data(tree)) for tree in (actual, expected)),
    )


def assert_equal(actual, expected):
    assert_close(actual, expected, rtol=0)


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": "0.1"}, "learning_rate is '0.1', but must be a finite number, or a sch"),
        ({"b1": None}, "b1 is None, but must be in"),
        ({"weight_decay": [1]}, r"weight_decay is \[1\]"),
        ({"total_steps": "100"}, "total_steps is '100', but must be a whole number"),
    ],
)
def test_what_is_no_number_is_refused_at_once(arguments, message):
    with pytest.raises(TypeError, match=message):
        from_rule("ld * m", **({"total_steps": 10} | arguments))


@pytest.mark.parametrize("rate", [1.0, np.float32(1.5), float("nan"), -0.1])
def test_decay_rates_are_below_1(rate):
    with pytest.raises(ValueError, match=r"b2 is .*, but must be in"):
        scale_by_rule("v", b2=rate)


@pytest.mark.parametrize("text", ["adam", "g", "exp(sign(g) * sign(m)) * g"])
def test_complex_parameters_are_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match="split_real_and_imaginary"):
        scale_by_rule(text).init(jnp.ones(2, jnp.complex64))


@pytest.mark.parametrize("key", [1.5, True])
def test_other_keys_are_refused(key):
    with pytest.raises(TypeError, match=r"key is .*, but must be a key of jax.random"):
        scale_by_rule("noise", key=key).init(PARAMS)


# Parameters and keys of all kinds


def test_averages_of_squares_grow_in_half_precision():
    """At a rate of 0.999, a bfloat16 average would stay where it is."""
    for text in ("v", "gamma", "adam"):
        tx = scale_by_rule(text)
        ones = jnp.ones(3, jnp.bfloat16)
        step = jax.jit(lambda _, state, tx=tx, ones=ones: tx.update(ones, state))
        updates, _ = jax.lax.fori_loop(
            0, 2000, lambda i, s, step=step: step(s[0], s[1]), (ones, tx.init(ones))
        )
        assert updates.dtype == jnp.bfloat16
        np.testing.assert_allclose(updates.astype(jnp.float32), 1.0, rtol=0.02)  # m is half


def test_a_parameter_may_be_a_number():
    tx = from_rule("m * g + noise", 0.1)
    state = tx.init(1.0)
    for _ in range(2):
        updates, state = tx.update(2.0, state)
    assert updates.shape == () and jnp.isfinite(updates)
    module = {}
    exec(to_python("adam + noise", "scale_by_it"), module)
    tx = module["scale_by_it"]()
    assert jnp.isfinite(tx.update(2.0, tx.init(1.0))[0])


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_the_state_does_not_hold_the_callers_key(make):
    key = make(3)
    tx = scale_by_rule("noise", key=key)
    step = jax.jit(lambda state, g: tx.update(g, state), donate_argnums=0)
    first, _ = step(tx.init(jnp.ones(3)), jnp.ones(3))
    again, _ = step(tx.init(jnp.ones(3)), jnp.ones(3))  # the first state is gone, the key is not
    np.testing.assert_array_equal(first, again)
    jax.random.normal(key)


@pytest.mark.parametrize("text", ["ld * g", "cd", "g * rd(10)"])
def test_a_decay_needs_the_length_of_the_run(text):
    with pytest.raises(RuleError, match=r"total_steps=\.\.\."):
        scale_by_rule(text)
    scale_by_rule(text, total_steps=1)


@pytest.mark.parametrize(
    "total_steps", [0, -1, float("nan"), float("inf"), 0.5, np.int64(0), 2**31]
)
def test_the_length_of_the_run_is_positive(total_steps):
    with pytest.raises(RuleError, match=r"total_steps is .*, but must be a whole number"):
        scale_by_rule("ld * g", total_steps)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["b1", "b2", "b3"])
def test_rates_are_below_one(name, rate):
    with pytest.raises(ValueError, match=f"{name} is {rate}, but must be in"):
        scale_by_rule("g", **{name: rate})


def test_a_rule_of_the_weights_needs_them():
    tx = scale_by_rule("1e-3 * w + g")
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="not passing `params`"):
        tx.update(PARAMS, state)
    scale_by_rule("g").update(PARAMS, scale_by_rule("g").init(PARAMS))


def test_nonsense():
    with pytest.raises(RuleError, match="unknown operand"):
        scale_by_rule("grad")
    with pytest.raises(RuleError, match="expected a rule or its text"):
        from_rule(3.0)


# What Optax users expect


def test_from_rule_descends():
    params = jnp.array([1.0, -2.0])
    updates, _ = run(from_rule("g", learning_rate=0.5), params, steps=1)
    (g,) = gradients(1, like=params)
    assert_close(updates, [-0.5 * g])
    decayed, _ = run(from_rule("g", 0.5, weight_decay=0.1), params, steps=1)
    assert_close(decayed, [-0.5 * (g + 0.1 * params)])
    masked, _ = run(from_rule("g", 0.5, weight_decay=0.1, mask=lambda p: False), params, steps=1)
    assert_close(masked, updates)


def test_programs_text_rules_and_catalogue_entries_are_the_same():
    entry = rules["powersign"]
    expected = run(scale_by_rule(entry.rule))
    for rule in (entry, str(entry.rule), encode(entry)):
        assert_equal(run(scale_by_rule(rule)), expected)


def test_the_state_has_only_what_the_rule_reads():
    state = scale_by_rule("exp(sign(g) * sign(m)) * g", mu_dtype="bfloat16").init(PARAMS)
    assert (state.nu, state.gamma, state.key) == (None, None, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.mu)} == {jnp.dtype("bfloat16")}
    assert len(jax.tree.leaves(scale_by_rule("g").init(PARAMS))) == 1
    for entry in rules.values():
        state = scale_by_rule(entry, total_steps=10).init(jnp.ones(3))
        arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3,)]
        assert len(arrays) == entry.rule.state_slots


@pytest.mark.slow
@pytest.mark.parametrize("text", [BUSY, "exp(sign(g) * sign(m)) * g", "1", "ld", "rmsprop"])
def test_jit_equals_no_jit(text):
    tx = scale_by_rule(text, total_steps=4)
    assert_close(run(tx), run(tx, jit=False))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_are_kept(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    tx = scale_by_rule(BUSY, total_steps=4)
    before = tx.init(params)
    updates, after = run(tx, params)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert jax.tree.map(jnp.result_type, before) == jax.tree.map(jnp.result_type, after)


def test_half_precision_is_rounded_once():
    params = jnp.ones(1000, jnp.bfloat16)
    (g,) = gradients(1, like=params)
    tx = scale_by_rule("exp(g) * g^3 / (1 + g^2)")
    half, _ = tx.update(g, tx.init(params))
    full, _ = tx.update(g.astype(jnp.float32), tx.init(params.astype(jnp.float32)))
    np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))


def test_absent_leaves():
    params = {"w": PARAMS["w"], "frozen": None}
    for text in ("adam", BUSY):
        tx = scale_by_rule(text, total_steps=4)
        updates, _ = tx.update(params, tx.init(params), params)
        assert updates["frozen"] is None
        # A parameter without a gradient keeps its averages.
        state = tx.init(PARAMS)
        updates, after = tx.update({"w": PARAMS["w"], "b": None}, state, PARAMS)
        assert updates["b"] is None
        assert_equal(after.mu["b"], state.mu["b"])
        assert tx.update({}, tx.init({}), {})[0] == {}


def test_masked():
    updates, _ = run(optax.masked(scale_by_rule(BUSY, 4), {"w": True, "b": False}))
    alone, _ = run(scale_by_rule(BUSY, 4), {"w": PARAMS["w"]})
    assert_equal([u["b"] for u in updates], [g["b"] for g in gradients(5)])
    assert np.isfinite(jax.tree.leaves(updates)[0]).all() and len(alone) == len(updates)


def test_vmap():
    tx = scale_by_rule("adam * exp(ld)", total_steps=4)
    g = jnp.array([[1.0, -2.0], [0.5, 0.0]])
    states = jax.vmap(tx.init)(g)
    updates, _ = jax.vmap(lambda g, s: tx.update(g, s))(g, states)
    for row in range(2):
        assert_close(updates[row], tx.update(g[row], tx.init(g[row]))[0])


def test_inject_hyperparams():
    injected = optax.inject_hyperparams(from_rule)(
        rule=parse(BUSY), learning_rate=0.1, total_steps=4, b1=0.8, key=jax.random.key(3)
    )
    updates, state = run(injected)
    assert {"learning_rate", "total_steps", "b1", "b2", "b3", "key"} <= set(state.hyperparams)
    plain = from_rule(BUSY, 0.1, total_steps=4, b1=0.8, key=3)
    # A traced b2 is a float32, of which 1 - b2 keeps four digits.
    assert_close(updates, run(plain)[0], rtol=1e-3)


def test_traces_once():
    tx = scale_by_rule(BUSY, total_steps=4)
    traces = []

    @jax.jit
    def update(g, state, params):
        traces.append(1)
        return tx.update(g, state, params)

    state = tx.init(PARAMS)
    for g in gradients(3):
        _, state = update(g, state, PARAMS)
    assert len(traces) == 1


def test_multi_steps():
    tx = from_rule("adam * exp(sign(g) * sign(m))", 0.1)
    wrapped = optax.MultiSteps(tx, every_k_schedule=2)
    first, second = gradients(2)
    state = wrapped.init(PARAMS)
    _, state = wrapped.update(first, state, PARAMS)
    updates, _ = wrapped.update(second, state, PARAMS)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    assert_close(updates, tx.update(mean, tx.init(PARAMS), PARAMS)[0])


@pytest.mark.parametrize(
    "key", [5, np.int64(5), jnp.int32(5), jax.random.key(5), jax.random.PRNGKey(5)], ids=repr
)
def test_keys_of_every_kind_are_the_same(key):
    assert_equal(run(scale_by_rule("noise", key=key))[0], run(scale_by_rule("noise", key=5))[0])


def test_large_seeds_and_default_key():
    assert_equal(run(scale_by_rule("noise"))[0], run(scale_by_rule("noise"))[0])
    run(scale_by_rule("noise", key=2**40), steps=1)


def test_a_resumed_run_is_the_unbroken_run():
    tx = scale_by_rule(BUSY, total_steps=6, key=1)
    update = jax.jit(tx.update)
    state, updates = tx.init(PARAMS), []
    for step, g in enumerate(gradients(6)):
        if step == 3:  # through the host, into a fresh transformation
            data = jax.tree.map(np.asarray, optax.tree.unwrap_random_key_data(state))
            state = jax.tree.map(jnp.asarray, data)._replace(key=jax.random.wrap_key_data(data.key))
            update = jax.jit(scale_by_rule(BUSY, total_steps=6, key=1).update)
        u, state = update(g, state, PARAMS)
        updates.append(u)
    assert_equal(updates, run(tx, steps=6)[0])


def test_construction_starts_no_backend():
    code = (
        "import nos_optax\n"
        f"nos_optax.from_rule({BUSY!r}, total_steps=10)\n"
        "from nos_optax.grammar import SearchSpace, to_python\n"
        f"to_python({BUSY!r}, 'f')\n"
        "SearchSpace()\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Random numbers: which they are, how they are drawn, how they are saved

SHAPES = {  # of one shape, of one size, small and large, with and without axes
    "alike": [(3, 4), (3, 4), (3, 4)],
    "of one size": [(12,), (3, 4), (2, 2, 3)],
    "mixed": [(5,), (), (70, 80), (3, 4), (0,), (600,), (5,)],
    "large": [(1000, 300), (1000, 300), (7,)],  # one after the other, beside a small one
}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("shapes", "dtype", "generator", "counted"),
    [
        ("alike", "float32", "threefry2x32", True),
        ("of one size", "float32", "threefry2x32", True),
        slow("mixed", "float32", "threefry2x32", True),
        slow("large", "float32", "threefry2x32", True),
        slow("mixed", "float32", "threefry2x32", False),
        slow("mixed", "float32", "rbg", True),
        slow("mixed", "bfloat16", "threefry2x32", True),
        slow("mixed", "float64", "threefry2x32", True),
    ],
)
def test_arrays_that_draw_together_draw_what_each_would_alone(shapes, dtype, generator, counted):
    """The numbers are those of a key folded with the count, the position and the subexpression."""
    shapes = SHAPES[shapes]
    texts = ["noise", "drop(g, 0.3)", "drop(1, 0.5)"]
    rule = parse(" + ".join(texts))
    start = jax.random.key(3, impl=generator)
    with jax.enable_x64(dtype == "float64"), jax.threefry_partitionable(counted):
        g = [jnp.ones(shape, dtype) for shape in shapes]
        tx = scale_by_rule(rule, key=start)
        state = tx.init(g)._replace(count=jnp.int32(2))
        updates, _ = tx.update(g, state)
        jitted, _ = jax.jit(tx.update)(g, state)
        theirs, _ = exported(rule)[0](key=start).update(g, state)
        wide = "float64" if dtype == "float64" else "float32"
        for leaf, shape in enumerate(shapes):
            key = jax.random.fold_in(jax.random.fold_in(start, 2), leaf)
            keys = [
                jax.random.fold_in(key, structural_hash(parse(text).expression)) for text in texts
            ]
            a, b = (jax.random.uniform(k, shape, wide) for k in keys[1:])
            noise = 0.1 * jax.random.normal(keys[0], shape, wide)
            expected = noise + jnp.where(a >= 0.3, 1, 0) + jnp.where(b >= 0.5, 1, 0)
            np.testing.assert_array_equal(updates[leaf], expected.astype(dtype))
            np.testing.assert_array_equal(theirs[leaf], updates[leaf])
            close = {"rtol": 1e-2} if dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-7}
            np.testing.assert_allclose(
                *(np.asarray(x[leaf], float) for x in (jitted, updates)), **close
            )


@pytest.mark.parametrize("text", ["drop(g, 0.3)", "noise", "drop(m, 0.1) + drop(g, 0.2) * noise"])
def test_more_arrays_and_equal_draws_are_not_more_to_compile(text):
    def draws(text, arrays):
        g = [jnp.ones(1 + i % 7) for i in range(arrays)]
        tx = scale_by_rule(text)
        text = jax.jit(tx.update).lower(g, tx.init(g)).as_text()
        return text.count("call @_uniform") + text.count("call @_normal_real")

    few = draws(text, 2)
    assert few > 0
    assert draws(text, 40) == few
    assert draws(f"({text}) * 2 - ({text}) * m + exp({text})", 2) == few


@pytest.mark.parametrize("part", ["drop(g, 0.{i:03})", "drop(g + {i}, 0.5)", "drop({i} * m, 0.1)"])
def test_a_rule_has_a_bounded_number_of_different_draws(part):
    few = [part.format(i=i + 1) for i in range(32)]
    equal = "(" + " + ".join(few[:16]) + ") * (" + " + ".join(few[:16]) + ")"
    for text in (" + ".join(few), equal):
        parse(text)
    with pytest.raises(RuleError, match="33 different random parts"):
        parse(" + ".join([*few, part.format(i=99)]))


SAVERS = {
    "flax": lambda state: flax.serialization.from_bytes(
        jax.tree.map(jnp.zeros_like, state), flax.serialization.to_bytes(state)
    ),
    "numpy": lambda state: jax.tree.map(np.asarray, state),
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "cast": lambda state: jax.tree.map(
        lambda x: (
            x.astype(jnp.promote_types(x.dtype, jnp.float32))
            if jnp.issubdtype(x.dtype, jnp.floating)
            else x
        ),
        state,
    ),
    "vector": lambda state: (
        lambda flat, back: back(flat)  # of unsigned and signed integers and floats
    )(*jax.flatten_util.ravel_pytree(state)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("text", ["drop(m, 0.3)", "noise + g", "rmsprop * annealed_noise"])
def test_a_state_with_randomness_is_saved_as_numbers(name, text):
    tx = scale_by_rule(text, key=jax.random.key(5))
    _, state = run(tx, steps=2)
    assert all(isinstance(np.asarray(leaf), np.ndarray) for leaf in jax.tree.leaves(state))
    if name == "vector":  # float32 holds no key: what is left is that it does not fail
        return SAVERS[name](state)
    back = SAVERS[name](state)
    np.testing.assert_equal(*(jax.tree.map(np.asarray, tuple(x)) for x in (back, state)))
    assert_equal(run(tx, state=back)[0], run(tx, state=state)[0])


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_the_generator_of_the_key_is_that_of_the_draws(generator):
    key = jax.random.key(5, impl=generator)
    tx = scale_by_rule("noise", key=key)
    state = tx.init(PARAMS)
    np.testing.assert_array_equal(state.key, jax.random.key_data(key))
    typed = state._replace(key=key)  # of a checkpoint of earlier versions
    assert_equal(tx.update(PARAMS, typed)[0], tx.update(PARAMS, state)[0])


@pytest.mark.parametrize(
    ("one", "other"), [("noise", "2 * noise"), ("drop(g, 0.5)", "drop(g, 0.5) * 1")]
)
def test_different_rules_in_a_partition_draw_differently(one, other):
    g = {"a": jnp.ones(500), "b": jnp.ones(500)}

    def correlation(one, other):
        tx = optax.partition(
            {"a": scale_by_rule(one), "b": scale_by_rule(other)}, {"a": "a", "b": "b"}
        )
        updates, _ = tx.update(g, tx.init(g), g)
        return abs(np.corrcoef(updates["a"], updates["b"])[0, 1])

    assert correlation(one, other) < 0.2 < correlation(one, one)


# Derivatives through the optimizer


ROOTS = ["sqrt(g) * m", "g^0.5", "m / sqrt(v)", "exp(log(g))", "exp(2 * log(g)) + g^0.3 * m^0.7"]


@pytest.mark.parametrize(
    "text", [*ROOTS, "sqrt(sqrt(v))", *sorted({str(entry.rule) for entry in rules.values()})]
)
def test_derivatives_by_the_rate_are_finite_where_the_value_is(text):
    assert_derivatives_are_finite(text, scale_by_rule)


@pytest.mark.parametrize("text", [*ROOTS, "adam"])
def test_derivatives_of_exported_rules_are_finite_too(text):
    assert_derivatives_are_finite(text, lambda rule, **arguments: exported(rule)[0](**arguments))


def assert_derivatives_are_finite(text, make):
    """Of three entries, one has no gradient at all and one has none at first."""
    rule = parse(text)
    arguments = {"total_steps": 4} if rule.needs_total_steps else {}
    scaling = make(rule, **arguments)

    def loss(w):
        return jnp.sum(w * jnp.array([0.0, 1.0, 1.0]) * w)

    def end(rate):
        w = jnp.array([0.7, 0.0, 0.4])
        state = scaling.init(w)
        for _ in range(3):
            updates, state = scaling.update(jax.grad(loss)(w), state, w)
            w = w - rate * updates
        return w

    value, slope = jax.jit(lambda rate: jax.jvp(end, (rate,), (1.0,)))(1e-3)
    assert np.isfinite(slope[np.isfinite(value)]).all(), (value, slope)


@pytest.mark.parametrize("name", ["b1", "b2", "b3"])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.5, 0.999])
def test_derivatives_by_the_decay_rates_are_those_of_differences(name, rate):
    g = jnp.array([0.5, -2.0])

    def value(rate):
        tx = scale_by_rule("m + v + gamma", **{name: rate})
        state = tx.init(g)
        for k in (1.0, 3.0, -2.0):
            updates, state = tx.update(k * g, state)
        return updates

    with jax.enable_x64(True):
        g, h = jnp.asarray(g, float), 1e-7
        slope = jax.jvp(value, (rate,), (1.0,))[1]
        np.testing.assert_allclose(slope, (value(rate + h) - value(rate)) / h, rtol=1e-4, atol=1e-5)


# Exported Python


def exported(rule, name="scale_by_found_rule"):
    """Return the exported function, with the imports that its module has."""
    source = to_python(rule, name)
    tree = ast.parse(source)
    imports = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports.add(node.module)
    namespace = {"__name__": name}
    exec(compile(source, f"<{rule}>", "exec"), namespace)
    return namespace[name], imports


def assert_export_agrees(rule, jit=False):
    function, imports = exported(rule)
    assert imports <= {"jax", "jax.numpy", "optax", "typing"}
    arguments = {"total_steps": 4} if rule.needs_total_steps else {}
    arguments |= {"key": 3} if rule.needs_key else {}
    theirs, state = run(function(**arguments), jit=jit)
    ours, expected = run(scale_by_rule(rule, **arguments), jit=jit)
    assert_equal(theirs, ours)
    kept = [x for x in expected if x is not None]
    assert_equal(jax.tree.leaves(tuple(state)), jax.tree.leaves(tuple(kept)))


@pytest.mark.parametrize("name", list(rules))
def test_exported_rules_of_the_paper(name):
    assert_export_agrees(rules[name].rule)


@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
def test_exported_random_rules(iterations):
    for program in random_programs(15, iterations, seed=200):
        assert_export_agrees(decode(program))


@pytest.mark.parametrize(
    "text",
    [
        BUSY,
        "1",
        "ld",
        "-2",
        "1 / -1e-8 + 2^0.5 + (-1)^0.5 + g",
        "(2^3)^2 * (1e7 * 1e5)^2 * g + 100000 * 100000 * (100000 * g)",
        "drop(2, 0.5) + drop(ld, 0.1) + drop(g - 1, 0.3)",
        "--g - -(-m)^2 - (-(g + m))^-3 / (g / (m / v))",
        "cd(2.5) + cd + rd(1e-3) + rd(10) * g",
        "exp(log(sqrt(sigmoid(g * m * v * gamma * w)))) + exp(exp(g * m * v + gamma * w + noise))"
        " * exp(exp(g * m * v + gamma * w + noise)) / clip(annealed_noise, 1e-22)",
    ],
)
@pytest.mark.parametrize("jit", [True, False])
def test_exported_corners(text, jit):
    assert_export_agrees(parse(text), jit)


def test_exported_signature():
    def signature(text):
        function, _ = exported(parse(text))
        code = function.__code__
        return code.co_varnames[: code.co_argcount], function.__defaults__

    assert signature("g") == ((), None)
    assert signature("adam") == (("b1", "b2"), (0.9, 0.999))
    rule = parse("ld * gamma + noise")
    seed = structural_hash(rule.expression)  # the default of `scale_by_rule` is the same
    assert signature(str(rule)) == (("total_steps", "b3", "key"), (0.999, seed))


def test_exported_half_precision_and_absent_leaves():
    function, _ = exported(parse("exp(g) * m"))
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "frozen": None}
    tx, ours = function(), scale_by_rule("exp(g) * m")
    assert_equal(tx.update(params, tx.init(params))[0], ours.update(params, ours.init(params))[0])


@pytest.mark.parametrize("text", [BUSY, "g", *(str(entry.rule) for entry in rules.values())])
def test_exported_source_is_tidy(text, tmp_path):
    source = to_python(text, "scale_by_mine")
    assert str(parse(text))[:40] in source and nos_optax.__version__ in source
    assert max(map(len, source.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in source.splitlines())
    assert source.endswith("\n") and not source.endswith("\n\n")


@pytest.mark.parametrize("name", ["", "2x", "a b", "lambda", "jax", "jnp", "optax", "_map", "x;y"])
def test_exported_name(name):
    with pytest.raises(ValueError, match="cannot name the function"):
        to_python("g", name)


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (2**70, ValueError),
        (-(2**64), ValueError),
        ("a", TypeError),
        (jnp.ones(2), TypeError),
        (jnp.arange(3), TypeError),
        (np.zeros((2, 2), np.uint32), ValueError),
        (jax.random.split(jax.random.key(0), 2), ValueError),
    ],
)
def test_what_is_no_single_key_is_refused_at_once(key, error):
    for make in (
        lambda: scale_by_rule("drop(g, 0.3)", key=key),
        lambda: nos_optax.from_rule("noise * g", 0.1, key=key),
        lambda: nos_optax.noisy_linear_cosine(0.1, 10, key=key),
    ):
        with pytest.raises(error, match=r"^key .*must be a key of jax.random or an integer seed"):
            make()


@pytest.mark.parametrize("dtype", ["int8", "foo", int, jnp.complex64, bool, 3])
def test_averages_are_of_real_numbers(dtype):
    for factory in (nos_optax.powersign, nos_optax.addsign, partial(nos_optax.from_rule, "adam")):
        with pytest.raises(TypeError, match=r"^mu_dtype is .*must be a floating dtype"):
            factory(0.1, mu_dtype=dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, jnp.float32])
def test_a_dtype_that_is_taken_for_a_schedule_is_refused_with_the_remedy(dtype):
    for factory in (nos_optax.powersign, nos_optax.addsign):
        with pytest.raises(TypeError, match='static_args="mu_dtype"'):
            optax.inject_hyperparams(factory)(learning_rate=0.1, mu_dtype=dtype).init(PARAMS)
        tx = optax.inject_hyperparams(factory, static_args="mu_dtype")
        state = tx(learning_rate=0.1, mu_dtype=dtype).init(PARAMS)
        assert jax.tree.leaves(state.inner_state)[1].dtype == dtype


@pytest.mark.parametrize(
    ("ours", "others"),
    [
        (scale_by_rule("adam"), scale_by_rule("rmsprop")),
        (scale_by_rule("m"), scale_by_rule("v")),
        (scale_by_rule("drop(g, 0.3)"), scale_by_rule("rmsprop")),
        (scale_by_rule("gamma"), nos_optax.scale_by_powersign()),
        (nos_optax.scale_by_powersign(), nos_optax.powersign(0.1)),
        (nos_optax.scale_by_addsign(), scale_by_rule("v")),
    ],
)
def test_a_state_of_another_transformation_is_named(ours, others):
    with pytest.raises(
        ValueError, match=r"^The state is .*without the .*pass the state that `init`"
    ):
        ours.update(PARAMS, others.init(PARAMS), PARAMS)
