"""Convolution and pooling as matrix products and elementwise operations.

A vmapped `lax.conv` is a grouped convolution, slow on every accelerator, and inside a loop XLA's
CPU convolution falls off a cliff. Patches and one matrix product are fast in both places.
"""

from functools import partial

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, cache_bytes: int | None = None) -> jax.Array:
    """Convolve images with a 3x3 kernel, padded to the same size.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[9 C, F]`.
        cache_bytes: as many images at a time as have patches of this size, so that the patches,
            nine times the images, stay in the cache of a CPU; all at once if None.

    Returns:
        `[B, H, W, F]`.
    """
    patch_bytes = 9 * x[0].size * x.dtype.itemsize
    most = len(x) if cache_bytes is None else max(1, cache_bytes // patch_bytes)
    images = max(n for n in range(1, min(most, len(x)) + 1) if len(x) % n == 0)
    return _convolve(x, kernel) if images == len(x) else _convolve_parts(x, kernel, images)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    patches = _patches(x)
    return _matmul(patches.reshape(-1, patches.shape[-1]), kernel).reshape(*x.shape[:3], -1)


@jax.custom_vjp
def _matmul(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    return rows @ kernel


def _matmul_forward(rows, kernel):
    return rows @ kernel, (rows, kernel)


def _matmul_backward(residuals, gradient):
    """Transpose the narrower of two long matrices: on CPU the other way takes twice the time."""
    rows, kernel = residuals
    if rows.shape[1] <= gradient.shape[1]:
        kernel_gradient = rows.T @ gradient
    else:
        # Without the barrier XLA moves the outer transpose inwards, to the wide matrix.
        kernel_gradient = jax.lax.optimization_barrier(gradient.T @ rows).T
    return gradient @ kernel.T, kernel_gradient


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _patches(x: jax.Array) -> jax.Array:
    """Return the 3x3 neighbourhoods of a zero-padded image: `[B, H, W, C] -> [B, H, W, 9 C]`."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_parts(x: jax.Array, kernel: jax.Array, images: int) -> jax.Array:
    parts = x.reshape(-1, images, *x.shape[1:])
    return jax.lax.map(lambda part: _convolve(part, kernel), parts).reshape(*x.shape[:3], -1)


def _convolve_parts_forward(x, kernel, images):
    return _convolve_parts(x, kernel, images), (x, kernel)


def _convolve_parts_backward(images, residuals, gradient):
    """Make the patches again, part by part, rather than keep them."""
    x, kernel = residuals

    def part(kernel_gradient, xs):
        x, gradient = xs
        _, pullback = jax.vjp(_convolve, x, kernel)
        x_gradient, more = pullback(gradient)
        return kernel_gradient + more, x_gradient

    parts = (array.reshape(-1, images, *array.shape[1:]) for array in (x, gradient))
    kernel_gradient, x_gradient = jax.lax.scan(part, jnp.zeros_like(kernel), tuple(parts))
    return x_gradient.reshape(x.shape), kernel_gradient


_convolve_parts.defvjp(_convolve_parts_forward, _convolve_parts_backward)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Take the maximum of each 2x2 block; an odd last row or column is left out."""
    return _blocks(x).max((2, 4))


def _blocks(x: jax.Array) -> jax.Array:
    """Return the 2x2 blocks of an image, `[B, H // 2, 2, W // 2, 2, C]`."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _max_pool_forward(x):
    maxima = max_pool(x)
    return maxima, (x, maxima)


def _max_pool_backward(residuals, gradient):
    """Share the gradient among equal maxima, which the flat background of images has many of."""
    x, maxima = residuals
    largest = _blocks(x) == maxima[:, :, None, :, None]
    share = gradient / largest.sum((2, 4))
    blocks = jnp.where(largest, share[:, :, None, :, None], 0)
    height, width = x.shape[1:3]
    even = blocks.reshape(len(x), height // 2 * 2, width // 2 * 2, -1)
    return (jnp.pad(even, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
