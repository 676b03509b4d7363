"""PowerSign and AddSign against TensorFlow's kernels and a float64 NumPy reference."""

import math
import pathlib
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from nos_optax.grammar import from_rule
from nos_optax.schedules import linear_cosine, linear_decay, noisy_linear_cosine
from nos_optax.transforms import addsign, powersign, scale_by_addsign, scale_by_powersign

GOLDEN = pathlib.Path(__file__).parents[2] / "shared" / "golden" / "optimizers.npz"
SCALE_BY = {"powersign": scale_by_powersign, "addsign": scale_by_addsign}


def partial_rule(text):
    return partial(from_rule, text)


each_method = pytest.mark.parametrize("method", SCALE_BY)


def linear_23(count):
    return linear_decay(count, 23)


def reference(method, gradients, f=lambda t: 1.0, b1=0.9, base=math.e, alpha=1.0):
    """Return the rule's value at each step, as the paper writes it, in float64."""
    m, values = np.zeros(gradients.shape[1:]), []
    for t, g in enumerate(np.asarray(gradients, np.float64)):
        m = b1 * m + (1 - b1) * g
        signs = f(t) * np.sign(g) * np.sign(m)
        values.append((base**signs if method == "powersign" else alpha + signs) * g)
    return np.stack(values)


def apply(tx, gradients, params=None):
    """Return the update of each step."""
    params = jnp.zeros_like(gradients[0]) if params is None else params

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, updates

    return jax.jit(lambda g: jax.lax.scan(step, tx.init(params), g)[1])(gradients)


def draw_gradients(dtype, steps=30, size=64):
    """Return gradients that drift, so that signs agree and disagree, with exact zeros."""
    rng = np.random.default_rng(0)
    g = rng.normal(size=(steps, size)) + np.sin(np.arange(steps) / 3)[:, None]
    return jnp.asarray(g * rng.integers(0, 4, g.shape), dtype)


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "tx"),
    [
        ("powersign_e_b0.9", powersign(0.1)),
        ("addsign_a1_b0.9", addsign(0.1)),
        ("powersign_e_b0.9_ld_T23", powersign(0.1, sign_decay=linear_23)),
        ("addsign_a1_b0.9_ld_T23", addsign(0.1, sign_decay=linear_23)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_tensorflow_golden_values(name, tx, x64):
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is absent")
    golden = np.load(GOLDEN)
    with jax.enable_x64(x64):
        for sequence, g in enumerate(golden["grads__f32"]):
            start = golden["params0__f32"][sequence]
            updates = np.asarray(apply(tx, jnp.asarray(g), jnp.asarray(start)), np.float64)
            difference = np.abs(updates - golden[f"updates__f32__{name}"][sequence])
            assert (difference <= 2e-5 * 0.1 * np.abs(g)).all()
            params = start + np.cumsum(updates, axis=0)
            scale = np.abs(start) + np.cumsum(np.abs(updates), axis=0)
            difference = np.abs(params - golden[f"params__f32__{name}"][sequence][1:])
            assert (difference <= 1e-5 * scale).all()


@each_method
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("decayed", [False, True])
def test_is_the_formula_rounded_once(method, dtype, decayed):
    """The update is the float64 value up to one rounding to the gradient's dtype."""
    with jax.enable_x64(dtype == "float64"):
        g = draw_gradients(dtype)
        f = {"f": lambda t: max(0.0, 1 - t / 23)} if decayed else {}
        tx = SCALE_BY[method](**({"sign_decay": linear_23} if decayed else {}))
        updates = apply(tx, g, jnp.zeros(g.shape[1:], jnp.promote_types(dtype, jnp.float32)))
        assert updates.dtype == g.dtype
        computed = np.abs(np.asarray(g, np.float64)) * 4 * jnp.finfo("float32").eps
        rounded = jnp.finfo(dtype).eps / 2
        expected = reference(method, g, **f)
        difference = np.abs(np.asarray(updates, np.float64) - expected)
        if dtype == "float64":
            computed, rounded = 1e-15, 1e-15
        tiny = float(jnp.finfo(dtype).smallest_subnormal)
        assert (difference <= computed + rounded * np.abs(expected) + tiny).all()


def test_hand_computed_steps():
    """The averages are 0.5, -1.75, -0.875, 0.5625, -0.21875, -0.009375: the last disagrees."""
    g = jnp.array([[1.0], [-4.0], [0.0], [2.0], [-1.0], [0.2]])
    power = apply(scale_by_powersign(b1=0.5, base=2.0, sign_decay=2.0), g)
    np.testing.assert_allclose(power[:, 0], [4.0, -16.0, 0.0, 8.0, -4.0, 0.05], rtol=1e-6)
    add = apply(scale_by_addsign(b1=0.5, alpha=3.0, sign_decay=0.5), g)
    np.testing.assert_allclose(add[:, 0], [3.5, -14.0, 0.0, 7.0, -3.5, 0.5], rtol=1e-6)


@each_method
def test_where_the_average_is_zero_the_multiplier_is_neutral(method):
    """With b1 = 0.5, g = 2, -1 gives m = 1, 0."""
    updates = apply(SCALE_BY[method](b1=0.5), jnp.array([[2.0], [-1.0]]))
    assert updates[1, 0] == -1.0


@each_method
def test_sign_decay_is_read_at_the_count_before_the_step(method):
    seen = apply(SCALE_BY[method](sign_decay=lambda count: count), jnp.ones((3, 1)))[:, 0]
    expected = [1, math.e, math.e**2] if method == "powersign" else [1, 2, 3]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


@each_method
def test_integer_hyperparameters(method):
    constant = {"powersign": {"base": 3}, "addsign": {"alpha": 3}}[method]
    g = draw_gradients("float32")
    expected = reference(method, g, lambda t: 2, **constant)
    for number in (int, jnp.asarray):
        arguments = {name: number(value) for name, value in constant.items()}
        updates = apply(SCALE_BY[method](sign_decay=number(2), **arguments), g)
        np.testing.assert_allclose(updates, expected, rtol=1e-5)


@each_method
def test_nan_is_not_swallowed(method):
    tx = SCALE_BY[method]()
    g = jnp.array([jnp.nan, 1.0, jnp.inf])
    state = tx.init(g)
    updates, state = tx.update(g, state)
    np.testing.assert_array_equal(jnp.isnan(updates), [True, False, False])
    assert jnp.isinf(updates[2])
    # As in the formula, an average that has become NaN stays NaN, and so do the updates.
    updates, _ = tx.update(jnp.ones(3), state)
    np.testing.assert_array_equal(jnp.isnan(updates), [True, False, False])


@each_method
def test_small_half_precision_gradients_keep_their_sign(method):
    """0.1 g underflows in float16, where g itself does not."""
    g = jnp.full((1, 1), 6e-8, jnp.float16)
    assert g[0, 0] > 0
    assert apply(SCALE_BY[method](), g)[0, 0] > g[0, 0]


@each_method
@pytest.mark.parametrize("params_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("grads_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mu_dtype", [None, "float16"])
def test_dtypes_of_average_and_update(method, params_dtype, grads_dtype, mu_dtype):
    tx = SCALE_BY[method](mu_dtype=mu_dtype)
    state = tx.init(jnp.ones(3, params_dtype))
    for _ in range(2):
        updates, state = tx.update(jnp.ones(3, grads_dtype), state)
        assert updates.dtype == grads_dtype
        assert state.mu.dtype == (mu_dtype or params_dtype)
        assert state.count.dtype == jnp.int32


@each_method
def test_state_is_one_average(method):
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones(5)}
    state = SCALE_BY[method]().init(params)
    assert optax.tree.size(state) == optax.tree.size(params) + 1


@each_method
def test_absent_gradient_leaves_the_average_alone(method):
    tx = SCALE_BY[method]()
    state = tx.init({"a": jnp.ones(2), "b": jnp.ones(2)})
    updates, after = tx.update({"a": jnp.ones(2), "b": None}, state)
    assert updates["b"] is None
    np.testing.assert_array_equal(after.mu["b"], state.mu["b"])
    assert after.mu["a"].all()


@each_method
@pytest.mark.parametrize("decay", [1.0, linear_23], ids=["number", "schedule"])
def test_no_element_is_raised_to_a_power(method, decay):
    """Powers are taken of scalars, once per step."""
    tx = SCALE_BY[method](sign_decay=decay)
    g = {"a": jnp.ones((3, 4)), "b": jnp.ones(5)}
    jaxpr = jax.make_jaxpr(tx.update)(g, tx.init(g))
    costly = {"exp", "exp2", "pow", "log", "cos", "sin", "div", "sqrt", "integer_pow"}
    wide = {eqn.primitive.name for eqn in equations(jaxpr.jaxpr) if eqn.outvars[0].aval.shape}
    assert "mul" in wide
    assert not wide & costly


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def is_jaxpr(x):
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


@each_method
@pytest.mark.parametrize("x64", [False, True])
def test_only_wide_gradients_are_computed_wide(method, x64):
    """In x64 mode, float32 gradients are not computed in float64."""
    tx = SCALE_BY[method]()
    with jax.enable_x64(x64):
        g = jnp.ones(3, "float32")
        jaxpr = jax.make_jaxpr(tx.update)(g, tx.init(g))
        wide = [eqn.outvars[0].aval for eqn in equations(jaxpr.jaxpr)]
        assert all(aval.dtype != "float64" for aval in wide if aval.shape)


@pytest.mark.parametrize("alias", [powersign, addsign])
def test_default_learning_rate_points_downhill(alias):
    g = jnp.array([1.0, -2.0])
    scaled, _ = SCALE_BY[alias.__name__]().update(g, SCALE_BY[alias.__name__]().init(g))
    tx = alias()
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(updates, -scaled)
    cosine = linear_cosine(0.5, 100)
    chained = optax.chain(tx, optax.scale_by_schedule(cosine))
    updates, _ = chained.update(g, chained.init(g))
    np.testing.assert_allclose(updates, -0.5 * scaled, rtol=1e-6)


@pytest.mark.parametrize("alias", [powersign, addsign])
@pytest.mark.parametrize("decay", [0.1, jnp.float32(0.1), lambda count: 0.1])
def test_weight_decay_is_added_before_the_learning_rate(alias, decay):
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    g = optax.tree.ones_like(params)
    plain, decayed = alias(0.5), alias(0.5, weight_decay=decay, mask={"w": True, "b": False})
    expected, _ = plain.update(g, plain.init(params), params)
    updates, _ = decayed.update(g, decayed.init(params), params)
    np.testing.assert_allclose(updates["w"], expected["w"] - 0.5 * 0.1 * params["w"], rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], expected["b"])


@pytest.mark.parametrize("alias", [powersign, addsign])
def test_state_does_not_depend_on_weight_decay(alias):
    """So a checkpoint of a run without it can be continued with it."""
    params = jnp.ones(3)
    structure = jax.tree.structure(alias().init(params))
    assert jax.tree.structure(alias(weight_decay=0.1).init(params)) == structure


@pytest.mark.parametrize("alias", [powersign, addsign])
def test_injected_schedules(alias):
    """A schedule that `inject_hyperparams` reads is one that the optimizer reads itself."""
    g = draw_gradients("float32")
    read = alias(0.1, sign_decay=linear_23)
    injected = optax.inject_hyperparams(alias)(0.1, sign_decay=linear_23)
    state, expected = injected.init(g[0]), apply(read, g)
    for step in range(5):
        updates, state = injected.update(g[step], state, g[step])
        np.testing.assert_allclose(updates, expected[step], rtol=1e-5)


def test_hyperparameters_can_be_vmapped():
    g = draw_gradients("float32", steps=5)
    b1, base, f = jnp.array([0.5, 0.9]), jnp.array([2.0, 3.0]), jnp.array([1.0, 0.3])
    rows = jax.vmap(lambda *h: apply(scale_by_powersign(*h), g))(b1, base, f)
    for row, h in enumerate(zip(b1, base, f, strict=True)):
        expected = reference("powersign", g, lambda t, h=h: float(h[2]), float(h[0]), float(h[1]))
        np.testing.assert_allclose(rows[row], expected, rtol=1e-5)


@pytest.mark.parametrize("b1", [-0.1, 1.0, 1, float("nan")])
@pytest.mark.parametrize("factory", [powersign, addsign, *SCALE_BY.values()])
def test_decay_rates_outside_the_interval_are_refused(factory, b1):
    with pytest.raises(ValueError, match=rf"b1 is {b1}, but must be in \[0, 1\)"):
        factory(b1=b1)


@pytest.mark.parametrize("base", [0, -2.0, float("nan")])
def test_bases_that_are_not_positive_are_refused(base):
    with pytest.raises(ValueError, match=rf"base is {base}, but must be positive"):
        powersign(base=base)


@each_method
def test_complex_parameters_are_refused_with_the_remedy(method):
    params = jnp.ones(2, "complex64")
    with pytest.raises(ValueError, match="split_real_and_imaginary"):
        SCALE_BY[method]().init(params)
    wrapped = optax.contrib.split_real_and_imaginary(SCALE_BY[method]())
    updates, _ = wrapped.update(params, wrapped.init(params))
    assert updates.dtype == params.dtype


# Dtypes, and numbers in arrays

FACTORIES = {
    "powersign": powersign,
    "addsign": addsign,
    "rule": partial_rule("m + 1e-3 * w"),
    "random rule": partial_rule("drop(adam, 0.3)"),
}
each_factory = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
RATES = {
    "numbers": (0.1, 0.1),
    "arrays": (jnp.float32(0.1), np.float64(0.1)),
    "schedules": (linear_cosine(0.1, 100), lambda count: np.float64(0.1)),
}
WRAPPERS = {
    "alone": lambda tx: tx,
    "finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": False}),
    "partition": lambda tx: optax.partition({"a": tx, "b": tx}, {"w": "a", "b": "b"}),
    "steps": lambda tx: optax.MultiSteps(tx, 2),
}


@each_factory
@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_updates_keep_the_dtype_of_the_gradient(factory, rates, wrapper):
    """One tree has all dtypes of a training; of float8, Optax's wrappers know nothing."""
    for dtype in ("float16", "bfloat16", "float32", "float8_e4m3fn"):
        if dtype.startswith("float8") and wrapper is not WRAPPERS["alone"]:
            continue
        with jax.enable_x64(dtype == "float32"):
            params = {"w": jnp.ones((2, 2), dtype), "b": jnp.ones(3, dtype)}
            tx = wrapper(factory(rates[0], weight_decay=rates[1]))
            state = tx.init(params)
            before = jax.tree.map(jnp.result_type, state)
            for _ in range(2):
                updates, state = tx.update(params, state, params)
                assert {str(u.dtype) for u in jax.tree.leaves(updates)} == {dtype}
                assert all(jnp.isfinite(u.astype(float)).all() for u in jax.tree.leaves(updates))
            assert jax.tree.map(jnp.result_type, state) == before


@each_factory
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_injected_numbers_in_half_precision_are_rates(factory, dtype):
    """Optax casts them to the dtype of the parameters: 0.999 to 1, in bfloat16."""
    g = jnp.array([0.5, -1.0, 2.0], dtype)
    plain, injected = factory(0.125), optax.inject_hyperparams(factory)(0.125)
    state, expected = injected.init(g), plain.init(g)
    update = jax.jit(injected.update)
    for _ in range(3):
        updates, state = update(g, state, g)
        wanted, expected = plain.update(g, expected, g)
        np.testing.assert_allclose(*(np.asarray(x, float) for x in (updates, wanted)), rtol=1e-2)
    for rate in (0.99, 0.9999, 0.997):  # a tracer is below 1, if it is not what was meant
        traced = jax.jit(lambda rate: factory(0.1, b1=rate).update(g, plain.init(g), g)[0])
        assert jnp.isfinite(traced(jnp.asarray(rate, dtype)).astype(float)).all()


WRONG = {
    (powersign, "learning_rate"): np.nan,
    (powersign, "weight_decay"): np.inf,
    (powersign, "base"): -1.0,
    (addsign, "alpha"): np.inf,
    (addsign, "sign_decay"): np.nan,
    (addsign, "b1"): 1.5,
    (FACTORIES["rule"], "b2"): -0.5,
    (FACTORIES["rule"], "b3"): np.nan,
    (FACTORIES["rule"], "learning_rate"): -np.inf,
}
ARRAYS = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "array": np.array,
    "vector": lambda x: np.array([0.5, x]),
    "jax": jnp.float32,
    "jax bfloat16": jnp.bfloat16,
}


@pytest.mark.parametrize("argument", WRONG, ids=lambda row: row[1])
@pytest.mark.parametrize("kind", ARRAYS.values(), ids=ARRAYS)
def test_concrete_arrays_are_checked_like_numbers(argument, kind):
    factory, name = argument
    with pytest.raises(ValueError, match=f"{name} is .*, but must be"):
        factory(**{name: kind(WRONG[argument])})
    for other in (np.array("a"), np.array(1j), jax.random.key(0)):
        with pytest.raises(TypeError, match=f"(?s){name} is .*, but must be"):
            factory(**{name: other})


MASKS = {
    "dimensions": lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
    "none": lambda p: jax.tree.map(lambda x: False, p),
    "array": lambda p: jax.tree.map(lambda x: jnp.ones([], bool), p),
}


@each_factory
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_function_that_is_called_as_a_schedule_is_refused(factory, mask):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(3)}
    arguments = {"learning_rate": 0.1, "weight_decay": 0.5, "mask": mask}
    with pytest.raises(TypeError, match='static_args="mask"'):
        optax.inject_hyperparams(factory)(**arguments).init(params)
    injected = optax.inject_hyperparams(factory, static_args="mask")(**arguments)
    plain = factory(**arguments)
    if mask is not MASKS["array"]:  # which is no mask for Optax
        updates, _ = injected.update(params, injected.init(params), params)
        expected, _ = plain.update(params, plain.init(params), params)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), updates, expected)


@each_factory
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (jnp.ones(3), r"are an array of shape \(3,\), but"),
        ({"v": jnp.ones(3)}, r"are a dict of \['v'\] \(3,\), but"),
        ({"w": jnp.ones(2)}, r"\['w'\] \(2,\), but"),
        ({"w": (jnp.ones(3),)}, r"\['w'\]\[0\]"),
        ([jnp.ones(3)], "are a list"),
        ({"w": jnp.ones(3), "b": jnp.ones(1)}, r"\['b'\] \(1,\)"),
    ],
    ids=["array", "name", "shape", "nested", "list", "more"],
)
def test_gradients_that_do_not_fit_are_named(factory, given, words):
    params = {"w": jnp.ones(3)}
    tx = factory(0.1)
    with pytest.raises(ValueError, match=f"(?s){words}.*is a dict of .'w'. .3,"):
        tx.update(given, tx.init(params), params)


# Training a small network, as a user would.


def data():
    x = jax.random.normal(jax.random.key(0), (64, 3))
    return x, jnp.sin(x.sum(axis=1, keepdims=True))


def descending(method, schedule):
    alias = {"powersign": powersign, "addsign": addsign}[method]
    return optax.chain(alias(), optax.scale_by_schedule(schedule(0.1, 60)))


each_schedule = pytest.mark.parametrize(
    "schedule",
    [linear_cosine, partial(noisy_linear_cosine, initial_variance=0.1)],
    ids=["linear_cosine", "noisy_linear_cosine"],
)


@each_method
@each_schedule
def test_training_with_train_state(method, schedule):
    x, y = data()
    model = nn.Sequential([nn.Dense(16), nn.tanh, nn.Dense(1)])
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(1), x),
        tx=descending(method, schedule),
    )

    @jax.jit
    def step(state):
        def loss(params):
            return jnp.mean((state.apply_fn(params, x) - y) ** 2)

        value, g = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=g), value

    losses = []
    for _ in range(60):
        state, value = step(state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]


@each_method
@each_schedule
def test_training_with_nnx(method, schedule):
    x, y = data()
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(3, 16, rngs=rngs), nnx.tanh, nnx.Linear(16, 1, rngs=rngs))
    optimizer = nnx.Optimizer(model, descending(method, schedule), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, g = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
        optimizer.update(model, g)
        return value

    losses = [float(step(model, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@each_factory
@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ({"w": True}, ValueError),
        ({"w": True, "c": False}, ValueError),
        ([True, False], ValueError),
        ("w", TypeError),
        ({"w": np.ones((2, 2), bool), "b": False}, TypeError),
        ({"w": 1, "b": 0}, TypeError),
        (lambda params: {"w": True}, ValueError),
        (lambda params: {"w": "yes", "b": "no"}, TypeError),
    ],
)
def test_a_mask_that_does_not_fit_is_named(factory, mask, error):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(3)}
    with pytest.raises(error, match=r"^mask "):
        factory(0.1, weight_decay=0.5, mask=mask).init(params)


@each_factory
def test_a_mask_may_be_of_subtrees(factory):
    params = {"layer": {"w": jnp.ones(2), "b": jnp.ones(2)}, "head": jnp.ones(2)}
    gradients = jax.tree.map(jnp.ones_like, params)

    def first(**arguments):
        tx = factory(0.1, **arguments)
        return tx.update(gradients, tx.init(params), params)[0]

    decayed, plain = first(weight_decay=0.5, mask={"layer": False, "head": True}), first()
    same = jax.tree.map(lambda x, y: bool((x == y).all()), decayed, plain)
    assert same == {"layer": {"w": True, "b": True}, "head": False}
