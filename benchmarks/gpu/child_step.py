"""The arithmetic and the memory traffic of one child's gradient step, worked out on paper.

Layer 1 multiplies 4x4 windows of the images with a widened kernel, and takes its moments from the
windows' Gram matrix. Layer 2 is Winograd's F(2x2, 3x3): transforms around 16 products of matrices.
Numbers are per child and step. Left out: traffic of parameters, a few dozen kilobytes; and that a
CPU transforms layer 2's windows once more on the way back, where a minibatch exceeds its cache.

Command:  python benchmarks/gpu/child_step.py     (prints the totals for digits and CIFAR-10)
"""

from typing import NamedTuple

import jax

from nos_optax.population import ConvNet

FLOAT = 4  # bytes


class Step(NamedTuple):
    """What a gradient step takes."""

    products: dict[str, float]  # FLOPs of matrix products, at the precision that is asked for
    transforms: dict[str, float]  # FLOPs of those that are always float32
    elementwise_flops: float
    pass_bytes: float  # moved if each product and transform is a pass of its own over memory
    least_bytes: float  # moved if only what lies between the layers is in memory

    @property
    def product_flops(self) -> float:
        return sum(self.products.values()) + sum(self.transforms.values())

    @property
    def flops(self) -> float:
        return self.product_flops + self.elementwise_flops

    def seconds(self, rate: float, float32_rate: float) -> float:
        """Return the time of the arithmetic alone, the products at `rate` FLOPs a second."""
        products = sum(self.products.values())
        return products / rate + (self.flops - products) / float32_rate


def on_paper(net: ConvNet, batch_size: int, lanes: int = 1) -> Step:
    """Return the work of the loss and its gradient, where `lanes` children share the minibatch."""
    (height, width, c), f, k = net.image_shape, net.filters, net.num_classes
    blocks1 = -(-height // 2) * -(-width // 2)  # windows of an image, one for each pooled result
    blocks2 = -(-height // 4) * -(-width // 4)  # windows of its features
    n1, n2 = batch_size * blocks1, batch_size * blocks2

    products = {
        "layer 1, Gram matrix": _product(16 * c, n1, 16 * c) / lanes,  # of windows [n1, 16 c]
        # Gram matrix @ wide kernel [16 c, 4 f], and the gradient of that.
        "layer 1, moments": 2 * _product(16 * c, 16 * c, 4 * f) + 2 * _product(1, 16 * c, 4 * f),
        # Taps [16 x 4, 9] by kernel [9, c f]; the moments and the product each have a gradient.
        "layer 1, wide kernel": 3 * _product(16 * 4, 9, c * f),
        "layer 1, forward": _product(n1, 16 * c, 4 * f),
        "layer 1, backward": _product(16 * c, n1, 4 * f),  # to the kernel: images are data
        "layer 2, forward": 16 * _product(n2, f, f),
        "layer 2, backward": 2 * 16 * _product(n2, f, f),  # to the kernel and to the features
        "linear layer": 3 * _product(batch_size, blocks2 * f, k),
    }
    # The way back through a transform is its transpose.
    transforms = {
        "layer 2, windows": 2 * _product(16, 16, n2 * f),
        "layer 2, kernel": 2 * _product(16, 9, f * f),
        "layer 2, results": 2 * _product(4, 16, n2 * f),
    }

    images = batch_size * height * width * c / lanes
    windows1, results1, pooled1 = n1 * 16 * c / lanes, 4 * n1 * f, n1 * f
    windows2, results2, pooled2 = 16 * n2 * f, 4 * n2 * f, n2 * f
    elementwise = (
        (3 + 4) * results1  # which are maxima, as bits; the gradient's share by them
        + (3 + 3 + 3 + 7) * pooled1  # maxima, bits; normalise, there and back
        + (3 + 8) * results2  # sums of results and squares; maxima and moments on the way back
        + (3 + 3 + 6) * pooled2  # maxima; normalise, there and back
        + 3 * windows2 / 4  # a feature's gradient is the sum of four windows'
        + 10 * batch_size * k  # softmax, cross-entropy
    )
    # Floats read and written. Elementwise steps are fused with one another, not with products.
    passes = (
        (images + windows1)  # layer 1: make the windows,
        + windows1  # multiply them by themselves
        + (windows1 + results1)  # and by the kernel,
        + (results1 + 2 * pooled1)  # pool to maxima and bits
        + (pooled1 + windows2)  # layer 2: normalise, make the windows,
        + 2 * windows2  # transform,
        + 2 * windows2  # multiply,
        + (windows2 + results2)  # transform the results,
        + (results2 + pooled2)  # pool
        + (pooled2 + pooled2 + pooled2)  # linear layer: normalise and multiply, there and back
        + (pooled2 + results2 + results2)  # layer 2 back: pooling, moments,
        + (results2 + windows2)  # transform,
        + 2 * windows2  # gradient of the kernel
        + 2 * windows2  # and of the transformed windows,
        + 2 * windows2  # transform,
        + (windows2 + pooled1)  # add up the windows
        + (3 * pooled1 + results1)  # layer 1 back: normalisation, shares,
        + (windows1 + results1)  # gradient of the kernel
    )
    least = (
        2 * images  # there and back: windows, products and results are made again, in the caches
        + pooled1  # maxima of layer 1
        + 3 * pooled1  # layer 2 reads them there and back, and writes their gradient,
        + pooled1  # which layer 1 reads
        + 5 * pooled2  # the same between layer 2 and the linear layer
    )
    return Step(products, transforms, elementwise, FLOAT * passes, FLOAT * least)


def _product(rows: int, inner: int, columns: int) -> float:
    """Return the FLOPs of a matrix product, two for a multiply-add."""
    return 2 * rows * inner * columns


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


if __name__ == "__main__":
    for name, shape in (("digits", (8, 8, 1)), ("CIFAR-10", (32, 32, 3))):
        step = on_paper(ConvNet(shape, 10), 100)
        print(f"{name}, {shape[0]}x{shape[1]}x{shape[2]}, minibatches of 100, one child a step:")
        for part, flops in (step.products | step.transforms).items():
            print(f"{flops / 1e6:10.2f} MFLOP  {part}")
        print(f"{step.product_flops / 1e6:10.2f} MFLOP  all matrix products")
        print(f"{step.elementwise_flops / 1e6:10.2f} MFLOP  elementwise, about")
        print(f"{step.pass_bytes / 1e6:10.2f} MB     moved, each product a pass over memory")
        print(f"{step.least_bytes / 1e6:10.2f} MB     moved at least\n")
