"""Convolution as one matrix product, for XLA's CPU backend.

`jax.lax.conv_general_dilated` inside a loop is several times slower there than the same product
over patches, which need memory for all the kernel's taps instead.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

LAYOUT = ("NHWC", "HWIO", "NHWC")


def patches_convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Convolve images; a stand-in for `jax.lax.conv_general_dilated` and flax's `nn.Conv`.

    Args:
        lhs: images, `[B, H, W, C]`.
        rhs: kernel, `[h, w, C, F]`.
        window_strides: 1 or 2 in each direction.
        padding: "SAME".
        lhs_dilation: None or ones.
        rhs_dilation: None or ones.
        dimension_numbers: those of NHWC images and an HWIO kernel.
        feature_group_count: 1.
        batch_group_count: 1.
        precision: of the matrix product.
        preferred_element_type: of the matrix product.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), F]`.

    Raises:
        ValueError: another kind of convolution is asked for.
    """
    layouts = [
        jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
        for numbers in (dimension_numbers, LAYOUT)
    ]
    _require(layouts[0] == layouts[1], "dimension_numbers", dimension_numbers, LAYOUT)
    _require(padding == "SAME", "padding", padding, "SAME")
    _require(set(window_strides) <= {1, 2}, "window_strides", window_strides, "1 or 2")
    dilations = {*(lhs_dilation or ()), *(rhs_dilation or ())}
    _require(dilations <= {1}, "dilations", (lhs_dilation, rhs_dilation), 1)
    groups = (feature_group_count, batch_group_count)
    _require(groups == (1, 1), "group counts", groups, 1)

    height, width, channels, filters = rhs.shape
    return jnp.matmul(
        _patches(lhs, (height, width), window_strides),
        rhs.reshape(height * width * channels, filters),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _require(condition: bool, name: str, value: object, wanted: object) -> None:
    if not condition:
        raise ValueError(
            f"{name} must be {wanted} in a convolution by patches, got {value}; "
            "use jax.lax.conv_general_dilated"
        )


def _patches(x: jax.Array, window: Sequence[int], strides: Sequence[int]) -> jax.Array:
    """Return what each position of a window sees, row by row: `[B, H', W', h w C]`."""
    rows, columns = (-(-size // stride) for size, stride in zip(x.shape[1:3], strides, strict=True))
    pads = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, "SAME")
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return jnp.concatenate(
        [
            padded[:, i :: strides[0], j :: strides[1]][:, :rows, :columns]
            for i, j in itertools.product(*map(range, window))
        ],
        axis=-1,
    )
