"""Rules as Optax transformations, and as exported Python."""

import ast
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_cases import PARAMS, gradients
from test_evaluators import random_programs

import nos_optax
from nos_optax.grammar import RuleError, decode, from_rule, parse, rules, scale_by_rule

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
    exec(parse("adam + noise").to_python("scale_by_it"), module)
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
    for rule in (entry, str(entry.rule), entry.rule.encode()):
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
    assert_equal(run(scale_by_rule("noise"))[0], run(scale_by_rule("noise", key=0))[0])
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
        f"nos_optax.parse({BUSY!r}).to_python('f')\n"
        "from nos_optax.grammar import SearchSpace\n"
        "SearchSpace()\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Exported Python


def exported(rule, name="scale_by_found_rule"):
    """Return the exported function, with the imports that its module has."""
    source = rule.to_python(name)
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
    assert signature("ld * gamma + noise") == (("total_steps", "b3", "key"), (0.999, 0))


def test_exported_half_precision_and_absent_leaves():
    function, _ = exported(parse("exp(g) * m"))
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "frozen": None}
    tx, ours = function(), scale_by_rule("exp(g) * m")
    assert_equal(tx.update(params, tx.init(params))[0], ours.update(params, ours.init(params))[0])


@pytest.mark.parametrize("text", [BUSY, "g", *(str(entry.rule) for entry in rules.values())])
def test_exported_source_is_tidy(text, tmp_path):
    source = parse(text).to_python("scale_by_mine")
    assert str(parse(text))[:40] in source and nos_optax.__version__ in source
    assert max(map(len, source.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in source.splitlines())
    assert source.endswith("\n") and not source.endswith("\n\n")


@pytest.mark.parametrize("name", ["", "2x", "a b", "lambda", "jax", "jnp", "optax", "_map", "x;y"])
def test_exported_name(name):
    with pytest.raises(ValueError, match="cannot name the function"):
        parse("g").to_python(name)
