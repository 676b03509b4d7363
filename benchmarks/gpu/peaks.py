"""What a card can do: by its data sheet, and measured."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from timing import seconds_of


class Peak(NamedTuple):
    """Operations and bytes a second."""

    float32: float
    tf32: float
    bf16: float
    bandwidth: float


# By JAX's device_kind. Dense rates (without sparsity) of the SXM parts; source: NVIDIA's data
# sheets "H100 Tensor Core GPU", "H200 Tensor Core GPU" and "A100 Tensor Core GPU".
DATA_SHEETS = {
    "NVIDIA H100 80GB HBM3": Peak(66.9e12, 494.7e12, 989.4e12, 3.35e12),
    "NVIDIA H200": Peak(66.9e12, 494.7e12, 989.4e12, 4.8e12),
    "NVIDIA A100-SXM4-80GB": Peak(19.5e12, 156e12, 312e12, 2.039e12),
    "NVIDIA A100-SXM4-40GB": Peak(19.5e12, 156e12, 312e12, 1.555e12),
}

# How JAX is told: by an algorithm's name, because on a GPU the level "bfloat16" means tf32 too.
PRECISIONS = {
    "default": None,
    "float32": "highest",
    "tf32": "TF32_TF32_F32",
    "bf16": "BF16_BF16_F32",
}


def measure_peaks(side: int, copied_bytes: int, repeats: int) -> dict[str, float | str]:
    """Measure large matrix products and a large copy on random numbers.

    Args:
        side: rows and columns of the matrices.
        copied_bytes: size of the array that is read and written.
        repeats: measurements; the median counts.
    """
    peaks: dict[str, float | str] = {}
    a, b = jax.random.normal(jax.random.key(0), (2, side, side))
    for name, precision in PRECISIONS.items():
        try:
            with jax.default_matmul_precision(precision):
                seconds = _call_seconds(jax.jit(jnp.matmul), (a, b), repeats)
            peaks[name] = 2 * side**3 / seconds
        except Exception as error:  # A device that lacks the algorithm says so in its own way.
            peaks[f"{name} left out"] = f"{type(error).__name__}: {error}"
    x = jax.random.uniform(jax.random.key(1), (copied_bytes // 4,))
    seconds = _call_seconds(jax.jit(lambda x: x + 1), (x,), repeats)
    peaks["bandwidth"] = 2 * x.nbytes / seconds
    return peaks


def _call_seconds(function: Callable, arguments: tuple, repeats: int) -> float:
    jax.block_until_ready(function(*arguments))  # compiles
    return seconds_of(lambda: function(*arguments), repeats, calls=5)["seconds"]
