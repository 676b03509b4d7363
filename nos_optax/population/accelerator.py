"""Which devices a search runs on."""

import os
from pathlib import Path

import jax

KINDS = ("auto", "cpu", "gpu", "tpu")


class AcceleratorError(RuntimeError):
    """The accelerator that was asked for is not there."""


def select_devices(accelerator: str = "auto") -> list[jax.Device]:
    """Return all local devices of a kind, one per core on CPU; call it before JAX is first used.

    Args:
        accelerator: `cpu`, `gpu`, `tpu`, or `auto` for the best that is present.

    Raises:
        AcceleratorError: no such device, naming those that are there.
        ValueError: the kind is unknown.
    """
    if accelerator not in KINDS:
        raise ValueError(f"accelerator must be one of {', '.join(KINDS)}, got {accelerator!r}")
    try:
        cores = len(os.sched_getaffinity(0))
        if cores == 1:
            os.environ.setdefault("NPROC", "2")  # XLA rounds in another way without a thread pool
        jax.config.update("jax_num_cpu_devices", cores)
    except (RuntimeError, AttributeError):
        pass  # JAX is already running, or the system does not tell: the devices stay as they are
    if accelerator == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        return jax.local_devices(backend=None if accelerator == "auto" else accelerator)
    except (RuntimeError, AssertionError) as error:
        raise AcceleratorError(_absent(accelerator, error)) from None


def _absent(accelerator: str, error: Exception) -> str:
    try:
        present = ", ".join(sorted({f"{d.platform} ({d.device_kind})" for d in jax.devices()}))
    except (RuntimeError, AssertionError):
        reason = str(error) or "the plugin of the platform in JAX_PLATFORMS is not installed"
        return f"JAX found no device at all: {reason}"
    here = jax.devices()[0].platform
    extra = "cuda12" if accelerator == "gpu" else accelerator
    return (
        f"no {accelerator} here; JAX sees {present}. Run with --accelerator {here}, or install "
        f"JAX for the {accelerator}: pip install 'jax[{extra}]'"
    )


def enable_compilation_cache() -> None:
    """Keep compiled programs on disk, so that a second search starts at once.

    The folder is `JAX_COMPILATION_CACHE_DIR`, or `nos_optax` in the user's cache folder.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "nos_optax" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
