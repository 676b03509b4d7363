"""One step of a training at its full size: whether it fits, and how long it takes."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from nos_optax.grammar import apply_program, encode, program_streams
from nos_optax.population import Task
from nos_optax.population.child import Child, gradient, new_child
from nos_optax.population.task import Batch


class Sizes(NamedTuple):
    """What a training needs."""

    parameters: int
    training_bytes: int  # of its arrays
    step_bytes: int  # at the peak of a step, beside them
    compile_seconds: float
    step_seconds: float
    loss_before: float
    loss_after: float  # on the same minibatch


def step(
    task: Task, child: Child, program: jax.Array, rate: float, batch: Batch, total_steps: int
) -> tuple[Child, jax.Array]:
    """Return the child after a step of gradient descent by its rule, and the loss before it."""
    key = jax.random.key(0)
    value, state, g = gradient(task, child, batch, key)
    streams = program_streams(program)
    update, rule = apply_program(
        program, streams, child.rule, g, child.params, jnp.int32(total_steps), key
    )
    return Child(child.params - rate * update, state, rule, child.running), value


def one_step(
    task: Task, rule: str, rate: float, device: jax.Device, where: str, console: Console
) -> Sizes:
    """Compile a step on all training examples of a task, and take it; print what it needs.

    Raises:
        RuntimeError: the loss or a weight is not finite after the step, or no weight has changed.
    """
    program = encode(rule).array

    def taken(child, program, batch):  # the program is data, as in the loop
        after, loss = step(task, child, program, rate, batch, 2)
        return after, loss, jnp.all(after.params == child.params)

    with jax.default_device(device):
        child = jax.jit(functools.partial(new_child, task))(jax.random.key(0))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(child))
        start = time.perf_counter()
        compiled = jax.jit(taken, donate_argnums=0).lower(child, program, task.train).compile()
        compile_seconds = time.perf_counter() - start
        child, before, unchanged = compiled(child, program, task.train)
        start = time.perf_counter()
        child, after, _ = jax.block_until_ready(compiled(child, program, task.train))
        step_seconds = time.perf_counter() - start
    if unchanged or not np.isfinite(after) or not jnp.isfinite(child.params).all():
        raise RuntimeError(f"a step failed: loss {before}, weights unchanged: {unchanged}")
    memory: Any = compiled.memory_analysis()
    sizes = Sizes(
        task.num_params,
        size,
        memory.temp_size_in_bytes,
        compile_seconds,
        step_seconds,
        float(before),
        float(after),
    )
    console.print(
        f"{where} on {device.device_kind}: {sizes.parameters:,} parameters; {size / 2**20:,.0f} "
        f"MiB a training, {sizes.step_bytes / 2**20:,.0f} MiB more for a step, times those side by "
        f"side; compiled in {compile_seconds:.0f} s, {step_seconds:.2g} s a step; the loss on the "
        f"same minibatch goes from {before:.3f} to {after:.3f}"
    )
    return sizes
