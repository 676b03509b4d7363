"""The arithmetic and the memory traffic of one child's gradient step, worked out on paper.

Numbers are per child and step. Sizes: a minibatch of B images, H x W x C, F filters, K classes.
"""

from typing import NamedTuple

import jax

from nos_optax.population import ConvNet

FLOAT = 4  # bytes


class Step(NamedTuple):
    """What a gradient step takes."""

    product_flops: float  # of matrix products
    elementwise_flops: float
    patch_bytes: float  # moved if patches lie in memory and every product is a pass of its own
    direct_bytes: float  # moved if patches are made on the fly, inside the product
    least_bytes: float  # moved if only what lies between the layers is in memory

    @property
    def flops(self) -> float:
        return self.product_flops + self.elementwise_flops


def on_paper(net: ConvNet, batch_size: int) -> Step:
    """Return the work of the loss and its gradient with respect to the parameters."""
    height, width, channels = net.image_shape
    first = _layer(batch_size, height, width, channels, net.filters, first=True)
    second = _layer(batch_size, height // 2, width // 2, net.filters, net.filters, first=False)
    features = (height // 4) * (width // 4) * net.filters
    # The linear layer: forward, gradient of the matrix, gradient of the features.
    linear = Step(
        product_flops=3 * 2 * batch_size * features * net.num_classes,
        elementwise_flops=10 * batch_size * net.num_classes,  # softmax, cross-entropy
        patch_bytes=FLOAT * 3 * batch_size * features,
        direct_bytes=FLOAT * 3 * batch_size * features,
        least_bytes=FLOAT * 3 * batch_size * features,
    )
    return Step(*map(sum, zip(first, second, linear, strict=True)))


def _layer(b: int, h: int, w: int, c: int, f: int, *, first: bool) -> Step:
    """Return the work of a 3x3 convolution, batch normalisation, pooling and ReLU.

    The images need no gradient, and their patches are the same for every child.
    """
    x, y, patches = b * h * w * c, b * h * w * f, b * h * w * 9 * c
    pooled = y / 4
    product = 2 * (b * h * w) * (9 * c) * f  # [BHW, 9C] @ [9C, F]; the two gradients are as large

    forward = (
        1  # y = patches @ kernel
        * product
    )
    backward = (
        1  # gradient of the kernel = patches.T @ gradient of y
        + (0 if first else 1)  # gradient of the patches = gradient of y @ kernel.T
    ) * product
    elementwise = (
        3 * y  # sums of y and of its square, for the moments
        + 3 * pooled  # maxima of 2x2 blocks: three comparisons each
        + 3 * pooled  # scale, shift, ReLU
        + 2 * pooled  # back through ReLU and scale
        + 3 * y  # which of a block is largest, among how many, its share
        + 4 * y  # gradients by way of mean and variance
        + (0 if first else 9 * x)  # sum of the nine shifted gradients of the patches
    )

    # Floats read and written. Elementwise steps are fused with one another, not with products.
    common = (
        y  # the product writes y
        + y  # read for the moments
        + (y + pooled)  # pool and normalise
        + (pooled + y + y)  # back through pooling and normalisation: read y, write its gradient
        + y  # read for the kernel's gradient
        + (0 if first else y)  # read for the patches' gradient
    )
    patched = (
        0
        if first  # shared by all lanes
        else x  # read to make the patches
        + patches  # write them
        + patches  # read for y
        + patches  # read for the kernel's gradient
        + patches  # write their gradient
        + (patches + x)  # sum it to the gradient of x
    )
    images = 0 if first else 3 * x  # read for y and for the kernel's gradient, write its gradient
    return Step(
        product_flops=forward + backward,
        elementwise_flops=elementwise,
        patch_bytes=FLOAT * (common + patched),
        direct_bytes=FLOAT * (common + images),
        # y is made again for the backward pass, which then takes another product.
        least_bytes=FLOAT * (images + 2 * pooled),
    )


def compile_gradient(
    net: ConvNet, batch_size: int, lanes: int
) -> tuple[jax.stages.Compiled, tuple]:
    """Return the compiled gradient step of `lanes` children on one minibatch, and its arguments."""
    keys = jax.random.split(jax.random.key(0), 3)
    params, statistics = jax.vmap(net.init)(jax.random.split(keys[0], lanes))
    images = jax.random.normal(keys[1], (batch_size, *net.image_shape))
    labels = jax.random.randint(keys[2], (batch_size,), 0, net.num_classes)
    arguments = params, statistics, images, labels
    gradient = jax.vmap(jax.grad(net.loss, has_aux=True), (0, 0, None, None))
    return jax.jit(gradient).lower(*arguments).compile(), jax.block_until_ready(arguments)


def by_xla(compiled: jax.stages.Compiled, lanes: int) -> dict[str, float]:
    """Return what XLA counts in a compiled gradient step, per child."""
    cost = compiled.cost_analysis()
    if not cost:
        raise RuntimeError("XLA does not count the cost of compiled programs on this device")
    return {"flops": cost["flops"] / lanes, "bytes": cost["bytes accessed"] / lanes}
