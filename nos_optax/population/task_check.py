"""A look at a task before anything is compiled: a mistake in it is one message, not a trace."""

import hashlib
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nos_optax.population.task import Batch, Params, State, Task


def check_task(task: Task, batch_size: int) -> None:
    """Raise unless the functions of a task fit together and its data are numbers.

    The functions are traced for shapes and types; nothing is computed or compiled.

    Args:
        task: the model and its data.
        batch_size: examples in a minibatch.

    Raises:
        ValueError: what does not fit, naming the task, the function, what it returned and what is
            expected.
    """
    for part in ("train", "validation", "test"):
        _check_numbers(task, part, getattr(task, part))
    params, state = check_init(task)
    _check_loss(task, params, state, _examples(task.train, batch_size))
    for batch in (task.validation, task.test):
        if batch is not None:
            size = min(task.evaluation_batch, task.num_examples(batch))
            _check_metric(task, params, state, _examples(batch, size), size)


def check_direction(task: Task, batch_size: int) -> None:
    """Warn if a small step down the loss also lowers the metric, as it does that of an error.

    At the initial weights, on the first minibatch. A metric without a slope, such as an accuracy,
    or one that JAX cannot differentiate, tells nothing.
    """
    key = jax.random.key(0)
    batch = jax.tree.map(lambda x: jnp.asarray(x[:batch_size]), task.train)

    @jax.jit
    def cosine(key):
        params, state = task.init(key)
        loss = jax.grad(lambda p: task.loss(p, state, batch, key)[0])(params)
        mean = lambda p: jnp.mean(jnp.asarray(task.metric(p, state, batch), float))  # noqa: E731
        score = jax.grad(mean)(params)
        return optax.tree.vdot(loss, score) / (optax.tree.norm(loss) * optax.tree.norm(score))

    try:
        found = float(cosine(key))
    except Exception:  # whatever a metric raises that need not be differentiable: it is but a hint
        return
    if found > 0.5:
        warnings.warn(
            f"{task.name}: a step that lowers the loss lowers the metric too (the cosine of their "
            f"gradients is {found:.2f}); the metric must be higher for better examples: negate an "
            "error",
            stacklevel=2,
        )


def task_digest(task: Task, batch_size: int) -> str:
    """Return a hash of what a task's functions compute, as JAX traces them.

    Other code or constants have another hash; so may another version of JAX, or another device.
    """
    return jaxpr_digest(*_traced(task, batch_size).values())


def function_digests(task: Task, batch_size: int) -> dict[str, str]:
    """Return the hash of `init`, `loss` and `metric` each, as `task_digest` takes them together."""
    return {name: jaxpr_digest(jaxpr) for name, jaxpr in _traced(task, batch_size).items()}


def _traced(task: Task, batch_size: int) -> dict[str, Any]:
    """Return what each function of a task computes, by its name."""
    key = jax.random.key(0)
    params, state = jax.eval_shape(task.init, key)
    train = _examples(task.train, batch_size)
    size = min(task.evaluation_batch, task.num_examples(task.validation))
    validation = _examples(task.validation, size)
    loss = jax.value_and_grad(task.loss, has_aux=True)
    return {
        "init": jax.make_jaxpr(task.init)(key),
        "loss": jax.make_jaxpr(loss)(params, state, train, key),
        "metric": jax.make_jaxpr(task.metric)(params, state, validation),
    }


def jaxpr_digest(*traced: Any) -> str:
    """Return a hash of what traced functions compute, and of the arrays that they hold."""
    digest = hashlib.sha256()
    for jaxpr in traced:
        digest.update(re.sub(r"0x[0-9a-f]+", "", str(jaxpr)).encode())  # addresses of functions
        for constant in _constants(jaxpr):
            digest.update(np.asarray(constant).tobytes())
    return digest.hexdigest()[:16]


def _constants(jaxpr: Any) -> Iterator[jax.Array | np.ndarray]:
    """Yield the arrays that a traced function, and those that it calls, hold."""
    for constant in getattr(jaxpr, "consts", ()):
        is_key = jnp.issubdtype(jnp.result_type(constant), jax.dtypes.prng_key)
        yield jax.random.key_data(constant) if is_key else constant
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(value, "eqns"):
                yield from _constants(value)


def _check_numbers(task: Task, part: str, batch: Batch) -> None:
    for path, x in jax.tree.leaves_with_path(batch):
        kind = _device_dtype(x)
        if jnp.issubdtype(kind, np.bool_) or jnp.issubdtype(kind, jnp.complexfloating):
            continue
        real = jnp.issubdtype(kind, jnp.floating)
        if x.dtype == kind and not real:  # such as images: a device holds them as they are
            continue
        info = jnp.finfo(kind) if real else jnp.iinfo(kind)
        x = np.asarray(x)
        held = (x >= info.min) & (x <= info.max)  # nan is neither
        bad = ~held.reshape(len(x), -1).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{task.name}: {part}{jax.tree_util.keystr(path)} has "
                f"{'nan, infinity or ' if real else ''}numbers beyond {kind} in {bad.sum()} of "
                f"{len(x)} examples, first in example {bad.argmax()}; replace them, or leave these "
                "examples out"
            )


def check_init(task: Task) -> tuple[Params, State]:
    """Return the shapes and types of parameters and state, and raise as `check_task`."""
    result = _trace(task, "init", task.init, jax.random.key(0))
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ValueError(
            f"{task.name}: init returned {_describe(result)}; expected (params, state), with () "
            "for a state where there is none"
        )
    params, state = result
    leaves = jax.tree.leaves(params)
    real = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
    if not sum(x.size for x in leaves) or not all(real):
        raise ValueError(
            f"{task.name}: init returned the params {_describe(params)}; expected arrays of real "
            "floating-point numbers, at least one (what has no gradient belongs into the state)"
        )
    if jnp.result_type(*leaves) not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"{task.name}: init returned the params {_describe(params)}; expected float32: keep "
            "params in float32, and cast them to half precision inside loss and metric"
        )
    return params, state


def _check_loss(task: Task, params: Params, state: State, batch: Batch) -> None:
    result = _trace(task, "loss", task.loss, params, state, batch, jax.random.key(0))
    expected = "expected (loss, state), the loss a real floating-point number of shape []"
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ValueError(f"{task.name}: loss returned {_describe(result)}; {expected}")
    value, after = result
    if not (_is_array(value) and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating)):
        raise ValueError(f"{task.name}: loss returned the loss {_describe(value)}; {expected}")
    if _types(after) != _types(state):
        raise ValueError(
            f"{task.name}: loss returned the state {_describe(after)}; expected a state like the "
            f"one that it got, {_describe(state)}"
        )
    gradient = jax.grad(task.loss, has_aux=True)
    _trace(task, "the gradient of loss", gradient, params, state, batch, jax.random.key(0))


def _check_metric(task: Task, params: Params, state: State, batch: Batch, size: int) -> None:
    scores = _trace(task, "metric", task.metric, params, state, batch)
    kinds = np.bool_, np.integer, jnp.floating
    real = _is_array(scores) and any(jnp.issubdtype(scores.dtype, kind) for kind in kinds)
    if not real or scores.shape != (size,):
        raise ValueError(
            f"{task.name}: metric returned {_describe(scores)} for {size} examples; expected a "
            f"score for each of them, real numbers of shape [{size}]: average over all other axes"
        )


def _trace(task: Task, name: str, function: Callable, *args: Any) -> Any:
    """Return the shapes and types that a function of the user's returns."""
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"{task.name}: {name} failed{_place(error)}: {type(error).__name__}: {lines[0]} "
            f"(the arguments were {', '.join(map(_describe, args))})"
        ) from error


def _place(error: Exception) -> str:
    """Return the line of the user's that an error comes from, if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = ("site-packages", "dist-packages", str(Path(jax.__file__).parent), __file__)
    own = [f for f in frames if not any(library in f.filename for library in libraries)]
    return f" at {own[-1].filename}, line {own[-1].lineno}" if own else ""


def _examples(batch: Batch, size: int) -> Batch:
    """Return the shapes and types of a batch as a device will hold it."""

    def some(x):
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), _device_dtype(x))

    return jax.tree.map(some, batch)


def _device_dtype(x: np.ndarray | jax.Array) -> np.dtype:
    """Return the type that a device will hold: float32 for float64, unless JAX is told not to."""
    return jax.dtypes.canonicalize_dtype(x.dtype)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def _types(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype) for x in leaves]


def _describe(tree: Any) -> str:
    """Return a tree with its arrays as in float32[20,30], cut where it is long."""

    def short(x):
        return _Text(f"{x.dtype}[{','.join(map(str, x.shape))}]") if hasattr(x, "shape") else x

    text = repr(jax.tree.map(short, tree))
    return text if len(text) <= 300 else text[:300] + "..."


class _Text(str):
    """Text that shows no quotes inside a container."""

    def __repr__(self):
        return str(self)
