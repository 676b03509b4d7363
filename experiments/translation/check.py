"""What a model of `table4_translation.py` needs: its size, its memory, and one step."""

import functools
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from data import EOS
from models.gnmt import GNMT
from rich.console import Console

from translation.training import Batch, Optimizer, Setup, State, start, step


def check_optimizer(model: GNMT, setup: Setup, name: str, console: Console) -> dict[str, float]:
    """Return and print what a training by an optimizer needs, and what one step does."""
    optimizer = Optimizer(name, setup.max_grad_norm, setup.replicas)
    which, key = (model, optimizer), jax.random.key(0)
    state = jax.eval_shape(functools.partial(start, *which), key)
    batch, few = (example(model, setup.length, rows) for rows in (setup.batch, 2))
    after, _ = jax.eval_shape(functools.partial(step, *which), state, batch)
    if jax.tree.map(jnp.shape, after) != jax.tree.map(jnp.shape, state):
        raise ValueError(f"a step by {name} changes the shapes of its state")
    facts = {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "parameters_bytes": size(state.params),
        "optimizer_bytes": size(state.optimizer),
        "scratch_bytes": scratch(step.lower(*which, state, batch).compile()),
    }
    console.print(describe(name, facts, batch.source.shape))
    compiled = step.lower(*which, state, few).compile()
    needed, free = size(state) + scratch(compiled), free_memory()
    if free is not None and needed > free:
        console.print(f"no step: it needs {gigabytes(needed)}, and {gigabytes(free)} are free")
        return facts
    facts |= one_step(compiled, start(*which, key), few)
    console.print(
        f"one step on 2 pairs of this length: {facts['seconds']:.1f} s, loss {facts['loss']:.3f} "
        f"(of a blind guess, {math.log(model.vocabulary):.3f})"
    )
    return facts


def one_step(compiled: Callable, state: State, batch: Batch) -> dict[str, float]:
    """Return the loss of a step, and its seconds."""
    begun = time.perf_counter()
    state, metrics = jax.block_until_ready(compiled(state, batch))
    seconds = time.perf_counter() - begun
    if not all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.params)):
        raise ValueError("a step makes parameters that are not finite")
    return {"loss": float(metrics["loss"]), "seconds": seconds}


def example(model: GNMT, length: int, rows: int) -> Batch:
    """Return a minibatch of the longest sentences, at random."""
    rng = np.random.default_rng(0)
    source, target = (
        rng.integers(EOS, model.vocabulary, (rows, width), np.int32)
        for width in (length, length + 1)
    )
    return Batch(source, target, np.float32(1e-3), np.int32(0), np.int32(0))


def describe(name: str, facts: dict[str, float], shape: tuple[int, int]) -> str:
    """Return what a training by an optimizer needs, as text."""
    parts = [facts[f"{part}_bytes"] for part in ("parameters", "optimizer", "scratch")]
    parameters, optimizer, rest = map(gigabytes, parts)
    return (
        f"{name}: {facts['parameters']:,} parameters, {parameters}; the optimizer's state "
        f"{optimizer}; gradients and activations of {shape[0]} x {shape[1]} tokens {rest}; "
        f"together {gigabytes(sum(parts))}"
    )


def scratch(compiled: jax.stages.Compiled) -> int:
    """Return the bytes that a program needs beside what it is given; 0 if XLA does not tell."""
    analysis = compiled.memory_analysis()
    return analysis.temp_size_in_bytes if analysis else 0


def size(tree: Any) -> int:
    """Return the bytes of a tree of arrays or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def gigabytes(number: float) -> str:
    """Return bytes as text."""
    return f"{number / 1e9:.2f} GB"


def free_memory() -> int | None:
    """Return the free bytes of the first device; None where it does not tell."""
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
