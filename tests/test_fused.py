"""The kernel of `fused_update`, interpreted, against `apply_program` side by side."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_evaluators import random_programs

from nos_optax.grammar import Program, SearchSpace, apply_program, program_streams
from nos_optax.grammar.program import pad_programs
from nos_optax.grammar.traced import ProgramState
from nos_optax.grammar.vocabulary import BINARY, OPERANDS, UNARY

fused = pytest.importorskip(
    "nos_optax.grammar.fused", reason="this jaxlib has no Triton", exc_type=ImportError
)

ITERATIONS = 3
BLOCK = 8
TOTAL_STEPS = 4

# Code that runs six times need not be good.
_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
_fused = _jit(fused.fused_update, static_argnames=("block", "interpret"))


@_jit
def _reference(programs, streams, state, g, w, learning_rate, total_steps, keys):
    axes = jax.tree.map(lambda x: 0 if x.ndim else None, state)
    step = jax.vmap(apply_program, (0, 0, axes, 0, 0, None, 0), (0, axes))
    update, state = step(programs, streams, state, g, w, total_steps, keys)
    return w - learning_rate[:, None] * update, state


def every_word():
    """Return programs `int32[N, ITERATIONS, 5]`: each word in each place, results of each age."""
    lines = (
        [f"{word} g x x left" for word in OPERANDS]
        + [f"m {word} x -x +" for word in OPERANDS]
        + [f"{word} g {u} x left" for u in UNARY for word in ("1", "g", "1e-1*w", "noise")]
        + [f"g m x {u} *" for u in UNARY]
        + [f"g 1e-1*w x x {b}" for b in BINARY]
        + [f"g m x -x *  r1 v x sqrt|x| {b}  r1 r2 sign x *" for b in BINARY]
        + ["g m x x *  g v x x +  r1 r2 drop(x,0.5) drop(x,0.1) +"]
        + ["g^2 m sign x ^  noise r1 x drop(x,0.3) -  r2 r1 exp clip(x,1e-3) /"]
        # Infinities of both signs, at zeros of both signs.
        + [f"1 g -x x left  g r1 {u} x ^" for u in ("x", "-x", "sign")]
    )
    return np.stack([pad_programs(Program.from_words(x).array, ITERATIONS) for x in lines])


def arrays(children, size, seed=0):
    """Return gradients and parameters `float32[children, size]`, with zeros of both signs.

    No cube of a gradient is subnormal: devices differ in what those are.
    """
    rng = np.random.default_rng(seed)
    scale = np.resize([0.0, -0.0, 1e-8, 1e-5, 1e-3, 0.1, 1.0, 2.0, 30.0, 1e4], size)
    signs = rng.choice([-1, 1], size=(2, children, size))
    g, w = scale * signs * rng.uniform(0.1, 2.0, size=signs.shape)
    return g.astype(np.float32), rng.permuted(w, axis=1).astype(np.float32)


def steps(programs, size, per_child_count=False):
    """Yield the results of both, `[N, size]`, at steps 0 to 5, and check the averages.

    Each step starts from the reference's state, so that differences do not add up.
    """
    children = len(programs)
    programs = jnp.asarray(programs)
    streams = jax.jit(jax.vmap(program_streams))(programs)
    keys = jax.random.split(jax.random.key(1), children)
    rates = jnp.linspace(0.1, 1.0, children)
    zeros = jnp.zeros((children, size))
    count = jnp.zeros([children] if per_child_count else [], jnp.int32)
    state = ProgramState(count, zeros, zeros, zeros)
    for t in range(6):
        g, w = arrays(children, size, seed=t)
        inputs = programs, streams, state, g, w, rates, jnp.int32(TOTAL_STEPS), keys
        expected, state = _reference(*inputs)
        found, found_state = _fused(*inputs, block=BLOCK, interpret=True)
        np.testing.assert_array_equal(found_state.count, state.count)
        for a, b in zip(found_state[1:], state[1:], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        yield np.asarray(found), np.asarray(expected)


def close(a, b):
    """Whether entries are equal, nan and infinities too, up to rounding."""
    with np.errstate(invalid="ignore"):
        return (a == b) | (np.isnan(a) & np.isnan(b)) | (abs(a - b) <= 2e-5 * abs(b) + 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "per_child_count"),
    [(2 * BLOCK + 5, False), (BLOCK - 3, True)],
)
def test_every_word_is_what_apply_program_makes_of_it(size, per_child_count):
    programs = every_word()
    for t, (found, expected) in enumerate(steps(programs, size, per_child_count)):
        for n, d in np.argwhere(~close(found, expected))[:1]:
            raise AssertionError(
                f"{Program.from_array(programs[n])} at step {t}, entry {d}: "
                f"{found[n, d]} is not {expected[n, d]}"
            )


@pytest.mark.slow
def test_random_programs_are_what_apply_program_makes_of_them():
    sampled = np.asarray(SearchSpace(ITERATIONS).sample(jax.random.key(0), 300))
    programs = np.concatenate(
        [sampled.reshape(-1, ITERATIONS, 5), random_programs(300, ITERATIONS)]
    )
    for found, expected in steps(programs, 2 * BLOCK):
        # Some rules ask for the sign of a rounding error, or divide by one.
        assert (~close(found, expected)).mean() < 1e-3
        assert (np.isnan(found) != np.isnan(expected)).mean() < 1e-4


def test_random_numbers_are_those_of_jax():
    key = jax.random.key(3)
    inputs = *jax.random.key_data(key), jnp.arange(20_000)
    np.testing.assert_array_equal(
        jax.jit(fused._uniform)(*inputs), jax.random.uniform(key, (20_000,))
    )
    np.testing.assert_allclose(
        jax.jit(fused._normal)(*inputs), jax.random.normal(key, (20_000,)), rtol=1e-6
    )


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("per_child_count", [False, True])
def test_lowers_for_cuda(per_child_count):
    children, size = 64, 2410
    array = jnp.zeros((children, size))
    count = jnp.zeros([children] if per_child_count else [], jnp.int32)
    inputs = (
        jnp.zeros((children, ITERATIONS, 5), jnp.int32),
        jnp.zeros((children, ITERATIONS, 2), jnp.uint32),
        ProgramState(count, array, array, array),
        array,
        array,
        jnp.ones(children),
        jnp.int32(TOTAL_STEPS),
        jax.random.split(jax.random.key(0), children),
    )
    with an_h100():
        traced = jax.jit(fused.fused_update).trace(*inputs)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 1


def an_h100():
    """Return a context in which Triton's lowering finds a device, where it asks for one."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))
