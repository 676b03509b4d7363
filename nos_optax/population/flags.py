"""JAX under settings of the search's own, and a record of those that decide its numbers.

A child that diverges is normal here, and the search's own code promotes types and ranks as JAX does
by default. A user who debugs another program by JAX's flags should not see the search fail by them.
"""

import contextlib
import os
import shlex
from collections.abc import Generator, Mapping
from typing import Any

import jax

# Checks that stop on what is normal in a search, with the value that lets it pass.
CHECKS: Mapping[str, Any] = {
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_check_tracer_leaks": False,
    "jax_debug_key_reuse": False,
    "jax_disable_jit": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_transfer_guard": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
}
# Settings by which the same program on the same machine comes to other numbers.
ARITHMETIC = (
    "jax_enable_x64",
    "jax_explicit_x64_dtypes",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_default_matmul_precision",
    "jax_softmax_custom_jvp",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_disable_most_optimizations",
)
# Environment variables with options of XLA, and those of them that change no number.
OPTIONS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
HARMLESS = ("--xla_force_host_platform_device_count", "--xla_dump", "--xla_hlo_profile")


@contextlib.contextmanager
def own_flags(settings: Mapping[str, Any] = CHECKS) -> Generator[None]:
    """Run what is inside under settings of JAX; it holds for this thread, and ends with it."""
    with contextlib.ExitStack() as stack:
        for name, value in settings.items():
            # JAX has a context for some settings only; the others are of the whole process.
            context = getattr(jax, name.removeprefix("jax_"), None)
            if context is not None and getattr(jax.config, name, value) != value:
                stack.enter_context(context(value))
        yield


def thread_settings() -> dict[str, Any]:
    """Return what another thread needs to compute as this one: JAX's contexts hold for one."""
    present = {name: getattr(jax.config, name) for name in ARITHMETIC if hasattr(jax.config, name)}
    return {**CHECKS, **present}


def use_own_flags(settings: Mapping[str, Any] = CHECKS) -> None:
    """Set settings of JAX for the rest of a process that does nothing but search."""
    for name, value in settings.items():
        if getattr(jax.config, name, value) != value:
            jax.config.update(name, value)


def arithmetic() -> dict[str, str]:
    """Return what decides the numbers, by the names that JAX and XLA have for it."""
    jax_ones = {n: str(getattr(jax.config, n)) for n in ARITHMETIC if hasattr(jax.config, n)}
    return jax_ones | {name: _options(os.environ.get(name, "")) for name in OPTIONS}


def _options(text: str) -> str:
    """Return options that may change numbers, in an order of their own."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    return " ".join(sorted(word for word in words if not word.startswith(HARMLESS)))
