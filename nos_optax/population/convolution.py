"""3x3 convolution for 2x2 pooling, as matrix products.

A vmapped `lax.conv` is a grouped convolution, slow on every accelerator, and inside a loop XLA's
CPU convolution falls off a cliff. So both layers of the child are written as matrix products over
4x4 *windows*, one around each 2x2 block that is pooled: all that the block's four results need.

- Images have few channels: a window times a wide kernel is all four results (`convolve_and_pool`).
- Features have many: Winograd's F(2x2, 3x3) has 16 products a channel, not 36 (`convolve`).

Both pad to the same size and take even heights and widths. On CPU they work on as many images at
once as fit in `cache_bytes` with all that is computed of them; None means all.

References:
    Lavin and Gray, `Fast Algorithms for Convolutional Neural Networks
    <https://arxiv.org/abs/1509.09308>`_, 2016
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

# F(2x2, 3x3): a window d and a kernel g give the 2x2 results A^T [(G g G^T) * (B^T d B)] A. Here
# the transforms are Kronecker products, which act on flattened windows, kernels and results.
_B = np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]], np.float32)
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
_A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]], np.float32)
_WINDOW_TRANSFORM = np.kron(_B.T, _B.T)  # [16, 16]
_KERNEL_TRANSFORM = np.kron(_G, _G)  # [16, 9]
_RESULT_TRANSFORM = np.kron(_A.T, _A.T)  # [4, 16]


def convolve(x: jax.Array, kernel: jax.Array, cache_bytes: int | None = None) -> jax.Array:
    """Convolve features; the four results of each pooling block come apart.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[9 C, F]`.
        cache_bytes: see the module.

    Returns:
        `[4, B, H / 2, W / 2, F]`.
    """
    batch, height, width, channels = x.shape
    image_bytes = height * width // 4 * 16 * max(channels, kernel.shape[-1]) * 4
    images = _images_at_a_time(batch, image_bytes, cache_bytes)
    if images == batch:
        return _convolve(x, kernel)
    results = _convolve_parts(x.reshape(-1, images, *x.shape[1:]), kernel)
    return results.swapaxes(0, 1).reshape(4, batch, height // 2, width // 2, -1)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    windows, (channels, filters) = _windows(x), (x.shape[-1], kernel.shape[-1])
    d = _transform(_WINDOW_TRANSFORM, windows.reshape(16, -1)).reshape(16, -1, channels)
    g = _transform(_KERNEL_TRANSFORM, kernel.reshape(9, -1)).reshape(16, channels, filters)
    results = _transform(_RESULT_TRANSFORM, (d @ g).reshape(16, -1))
    return results.reshape(4, *windows.shape[1:-1], filters)


def _transform(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """Multiply exactly but for rounding: a GPU's fast formats would spoil small differences."""
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def _convolve_parts(parts: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.map(lambda part: _convolve(part, kernel), parts)


def _convolve_parts_forward(parts, kernel):
    return _convolve_parts(parts, kernel), (parts, kernel)


def _convolve_parts_backward(residuals, gradient):
    """Transform the windows again, part by part, rather than keep them."""
    parts, kernel = residuals

    def part(kernel_gradient, xs):
        x, gradient = xs
        _, pullback = jax.vjp(_convolve, x, kernel)
        x_gradient, more = pullback(gradient)
        return kernel_gradient + more, x_gradient

    kernel_gradient, x_gradient = jax.lax.scan(part, jnp.zeros_like(kernel), (parts, gradient))
    return x_gradient, kernel_gradient


_convolve_parts.defvjp(_convolve_parts_forward, _convolve_parts_backward)


def _cells(x: jax.Array) -> jax.Array:
    """Return the 2x2 cells of padded images, `[B, H / 2 + 1, 2, W / 2 + 1, 2, C]`.

    A window is four neighbouring cells.
    """
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return padded.reshape(batch, height // 2 + 1, 2, width // 2 + 1, 2, channels)


@jax.custom_vjp
def _windows(x: jax.Array) -> jax.Array:
    """Return the 16 pixels of each window, row by row: `[16, B, H / 2, W / 2, C]`."""
    cells, height, width = _cells(x), x.shape[1] // 2, x.shape[2] // 2
    pixels = itertools.product(range(4), range(4))
    return jnp.stack(
        [cells[:, i // 2 :, i % 2, j // 2 :, j % 2][:, :height, :width] for i, j in pixels]
    )


def _windows_backward(_, gradient):
    """Add up the cells of the windows; JAX's own transpose, sixteen sums, takes far longer."""
    batch, height, width, channels = gradient.shape[1:]
    pixels = gradient.reshape(2, 2, 2, 2, *gradient.shape[1:])  # cell row, row, cell column, column
    shifted = [
        jnp.pad(pixels[i, :, j], ((0, 0),) * 3 + ((i, 1 - i), (j, 1 - j), (0, 0)))
        for i, j in itertools.product(range(2), range(2))
    ]
    cells = functools.reduce(jnp.add, shifted)
    padded = cells.transpose(2, 3, 0, 4, 1, 5).reshape(
        batch, 2 * height + 2, 2 * width + 2, channels
    )
    return (padded[:, 1:-1, 1:-1],)


_windows.defvjp(lambda x: (_windows(x), None), _windows_backward)


def _image_windows(x: jax.Array) -> jax.Array:
    """Return the windows of images as rows, cell by cell: `[B H W / 4, 16 C]`."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    cells = _cells(x).swapaxes(2, 3).reshape(len(x), height + 1, width + 1, -1)
    corners = itertools.product(range(2), range(2))
    windows = [cells[:, i:, j:][:, :height, :width] for i, j in corners]
    return jnp.concatenate(windows, axis=-1).reshape(len(x) * height * width, -1)


# Which pixel of a window, cell by cell, meets which tap of the kernel, for each of four results.
_AXIS = np.stack([np.eye(4, 3, -result) for result in range(2)], axis=1).reshape(2, 2, 2, 3)
_TAPS = np.einsum("cirt,djsu->cdijrstu", _AXIS, _AXIS).reshape(16, 4, 9).astype(np.float32)


def _widen(kernel: jax.Array) -> jax.Array:
    """Return what a window of an image is multiplied by: `[9 C, F] -> [16 C, 4 F]`."""
    filters = kernel.shape[-1]
    taps = kernel.reshape(9, -1, filters)
    wide = jnp.einsum("prt,tcf->pcrf", _TAPS, taps, precision=jax.lax.Precision.HIGHEST)
    return wide.reshape(-1, 4 * filters)


def image_moments(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance `[F]` of the convolution of images, without convolving them.

    The moments of a linear map follow from those of what it is applied to, which do not depend on
    the child: `y = k^T w` has the mean `k^T E[w]` and the mean square `k^T E[w w^T] k`.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[9 C, F]`.
    """
    windows, wide = _image_windows(x), _widen(kernel)
    first, second = windows.mean(0), windows.T @ windows / len(windows)
    mean = (first @ wide).reshape(4, -1).mean(0)
    mean_square = jnp.sum(wide * (second @ wide), axis=0).reshape(4, -1).mean(0)
    return mean, jnp.maximum(mean_square - jnp.square(mean), 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_and_pool(x: jax.Array, kernel: jax.Array, cache_bytes: int | None = None) -> jax.Array:
    """Convolve images and take 2x2 maxima; the convolution, ten images large, is never whole.

    Equal maxima share the gradient: the flat background of images has many. Images are data: `x`
    gets no gradient.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[9 C, F]`.
        cache_bytes: see the module.

    Returns:
        `[B, H / 2, W / 2, F]`.
    """
    return _convolve_and_pool(x, kernel, cache_bytes)[0]


def _convolve_and_pool(x, kernel, cache_bytes):
    """Return the maxima, and a bit for each of the four results that is one, `int32[...]`."""
    batch, height, width, _ = x.shape
    wide = _widen(kernel)

    def part(x):
        results = (_image_windows(x) @ wide).reshape(-1, 4, kernel.shape[-1])
        maxima = results.max(1)
        return maxima, jnp.sum((results == maxima[:, None]).astype(jnp.int32) << _BITS, axis=1)

    pooled = jax.lax.map(part, _parts(x, kernel, cache_bytes))
    return jax.tree.map(lambda a: a.reshape(batch, height // 2, width // 2, -1), pooled)


_BITS = np.arange(4, dtype=np.int32)[:, None]


def _parts(x: jax.Array, kernel: jax.Array, cache_bytes: int | None) -> jax.Array:
    image_bytes = x[0].size // x.shape[-1] // 4 * sum(jax.eval_shape(_widen, kernel).shape) * 4
    return x.reshape(-1, _images_at_a_time(len(x), image_bytes, cache_bytes), *x.shape[1:])


def _convolve_and_pool_forward(x, kernel, cache_bytes):
    maxima, bits = _convolve_and_pool(x, kernel, cache_bytes)
    return maxima, (x, kernel, bits)


def _convolve_and_pool_backward(cache_bytes, residuals, gradient):
    x, kernel, bits = residuals
    filters = kernel.shape[-1]

    def part(total, xs):
        x, bits, gradient = xs
        share, windows = gradient / jax.lax.population_count(bits), _image_windows(x).T
        # One result at a time: XLA's CPU loops are fast over whole rows of filters only.
        results = [windows @ jnp.where((bits >> i) & 1 == 1, share, 0) for i in range(4)]
        return total + jnp.concatenate(results, axis=1), None

    parts = _parts(x, kernel, cache_bytes)
    rows = [a.reshape(len(parts), -1, filters) for a in (bits, gradient)]
    wide, pullback = jax.vjp(_widen, kernel)
    wide_gradient, _ = jax.lax.scan(part, jnp.zeros_like(wide), (parts, *rows))
    return jnp.zeros_like(x), *pullback(wide_gradient)


convolve_and_pool.defvjp(_convolve_and_pool_forward, _convolve_and_pool_backward)


@jax.custom_vjp
def pool(results: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Take the maxima of pooling blocks, and the moments of all results.

    Equal maxima share the gradient.

    Args:
        results: `[4, ..., F]`, from `convolve`.

    Returns:
        Maxima `[..., F]`, and mean and variance `[F]`.
    """
    axes = tuple(range(results.ndim - 1))
    mean = results.mean(axes)
    variance = jnp.maximum(jnp.square(results).mean(axes) - jnp.square(mean), 0)
    return results.max(0), mean, variance


def _pool_forward(results):
    maxima, mean, variance = pool(results)
    return (maxima, mean, variance), (results, maxima, mean)


def _pool_backward(residuals, gradients):
    results, maxima, mean = residuals
    maxima_gradient, mean_gradient, variance_gradient = gradients
    count = results.size // results.shape[-1]
    slope = 2 / count * variance_gradient
    offset = mean_gradient / count - slope * mean
    share = maxima_gradient / sum((result == maxima).astype(jnp.int32) for result in results)
    # One result at a time: XLA's CPU loops are fast over whole rows of filters only.
    parts = [jnp.where(result == maxima, share, 0) + slope * result + offset for result in results]
    return (jnp.stack(parts),)


pool.defvjp(_pool_forward, _pool_backward)


def _images_at_a_time(batch: int, image_bytes: int, cache_bytes: int | None) -> int:
    """Return the largest divisor of the batch whose images fit in the cache; 1 if none does."""
    most = batch if cache_bytes is None else max(1, cache_bytes // image_bytes)
    return max(n for n in range(1, min(most, batch) + 1) if batch % n == 0)
