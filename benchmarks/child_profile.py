"""What does a child's step spend its time on, and how near is it to the core's arithmetic?

Question: the time of a gradient step's parts, of the rule and of validation on one CPU core, for
          digits (8x8x1) and CIFAR-10 (32x32x3), and the share of the core's matrix-product peak.
Method:   each part is a loop of steps inside one compiled program, on random images, with weights
          that change from step to step so that nothing can be taken out of the loop; the parts take
          turns, round after round, and the median over rounds counts. What goes backward is the
          difference, within a round, between a part there and back and the part there. Layer 2
          includes the normalisation before it; the rest is the gradient step less its parts. FLOPs
          are those of matrix products on paper (benchmarks/gpu/child_step.py). The step in the
          trainer is a check of all this: it should be the child step, which is minibatch, gradient
          step and rule.
Command:  python benchmarks/child_profile.py
Time:     2 minutes.
Writes:   benchmarks/results/child_profile.json
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gpu.child_step import on_paper
from gpu.short_trainer import short_trainer

from nos_optax.grammar import (
    ProgramState,
    apply_program,
    encode,
    init_program_state,
    program_streams,
)
from nos_optax.population import ConvNet, Dataset, PopulationTrainer, Protocol
from nos_optax.population.convnet import Statistics
from nos_optax.population.convolution import (
    _convolve_and_pool,
    convolve,
    convolve_and_pool,
    image_moments,
    pool,
)
from nos_optax.population.task import Batch, paper_child

BATCH = 100
RULE = "exp(sign(g) * sign(m)) * g"
SHAPES = {"digits": ((8, 8, 1), 200), "cifar10": ((32, 32, 3), 10)}  # and steps in a loop
MATRIX = 1024


class Data(NamedTuple):
    """What the parts work on; arguments of the compiled programs, lest XLA computes with them."""

    train: Batch
    order: jax.Array  # int32[S, B]
    images: jax.Array  # [2, B, H, W, C], standardised
    labels: jax.Array  # int32[B]
    maxima: jax.Array  # [B, H / 2, W / 2, F], of layer 1
    gradient1: jax.Array  # the same, of these maxima
    gradient2: tuple[jax.Array, ...]  # of what layer 2 returns
    statistics: Statistics
    rule: tuple[jax.Array, jax.Array, ProgramState]  # program, streams, state


def standardise(dataset: Dataset, images: jax.Array) -> jax.Array:
    """Return images as the network takes them."""
    return (images.astype(jnp.float32) - dataset.mean) / dataset.std


def parts(net: ConvNet, dataset: Dataset) -> dict[str, Callable]:
    """Return what is timed, functions of the parameters, the data and the number of the step."""

    def minibatch(params, data, i):
        rows = data.order[i]
        return standardise(dataset, data.train[0][rows])

    def layer1(params, data, i):
        return _convolve_and_pool(
            data.images[i % 2], net.unflatten(params)["conv1"], net.cache_bytes
        )

    def layer1_and_back(params, data, i):
        kernel, images = net.unflatten(params)["conv1"], data.images[i % 2]
        y, pullback = jax.vjp(lambda k: convolve_and_pool(images, k, net.cache_bytes), kernel)
        return y, pullback(data.gradient1)

    def moments_and_back(params, data, i):
        kernel, images = net.unflatten(params)["conv1"], data.images[i % 2]
        y, pullback = jax.vjp(lambda k: image_moments(images, k), kernel)
        return y, pullback(y)

    def normalised_layer2(maxima, params):
        p = net.unflatten(params)
        x = jax.nn.relu(maxima * p["scale1"] + p["shift1"])
        return pool(convolve(x, p["conv2"], net.cache_bytes))

    def layer2(params, data, i):
        return normalised_layer2(data.maxima, params)

    def layer2_and_back(params, data, i):
        y, pullback = jax.vjp(normalised_layer2, data.maxima, params)
        return y, pullback(data.gradient2)

    def gradient_step(params, data, i):
        loss = jax.value_and_grad(net.loss, has_aux=True)
        return loss(params, data.statistics, data.images[i % 2], data.labels)

    def rule(params, data, i):
        # The parameters are the gradient too: it must change from step to step.
        w = g = params
        update, state = apply_program(*data.rule, g, w, jnp.int32(100), jax.random.key(0))
        return w - 1e-3 * update, state

    def validation(params, data, i):
        images = jax.lax.dynamic_slice_in_dim(data.train[0], i % 2 * 250, 250)
        return net.logits(params, data.statistics, standardise(dataset, images))

    functions = (minibatch, layer1, layer1_and_back, moments_and_back, layer2, layer2_and_back)
    return {f.__name__: f for f in (*functions, gradient_step, rule, validation)}


def looped(part: Callable, steps: int) -> Callable:
    """Return `steps` calls of a part as one program; each call's result moves the parameters."""

    @jax.jit
    def run(params, data):
        def step(i, state):
            out = part(state[0], data, i)
            return state[0] + 1e-30 * jax.tree.leaves(out)[0].ravel()[0], out

        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(part, params, data, 0))
        return jax.lax.fori_loop(0, steps, step, (params, nothing))

    return run


def random_dataset(name: str, shape: tuple[int, int, int], steps: int) -> Dataset:
    rng = np.random.default_rng(0)

    def draw(count):
        images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        return images, rng.integers(0, 10, count, dtype=np.int32)

    return Dataset.from_images(name, *draw(BATCH * steps), *draw(250), 10)


def make_data(
    trainer: PopulationTrainer,
    net: ConvNet,
    dataset: Dataset,
    params: jax.Array,
    statistics: Statistics,
) -> Data:
    train = trainer.loop.data[0]
    order = jnp.asarray(trainer.order(0))
    images = standardise(dataset, train[0][order[:2]])
    labels = train[1][order[0]]
    p = net.unflatten(params)
    maxima = convolve_and_pool(images[0], p["conv1"])
    _, statistics = net.loss(params, statistics, images[0], labels)
    keys = iter(jax.random.split(jax.random.key(1), 4))
    normal = lambda x: 1e-3 * jax.random.normal(next(keys), x.shape)  # noqa: E731
    gradient2 = jax.tree.map(
        normal, jax.eval_shape(lambda x: pool(convolve(x, p["conv2"])), maxima)
    )
    program = jnp.asarray(encode(RULE, 2).array)
    rule = program, program_streams(program), init_program_state(params)
    gradients = normal(maxima), gradient2
    return Data(train, order, images, labels, maxima, *gradients, statistics, rule)


def profile(name: str, rounds: int) -> dict:
    """Return the rows of one shape's table."""
    shape, steps = SHAPES[name]
    dataset = random_dataset(name, shape, steps)
    device = jax.devices()[0]
    trainer = short_trainer(dataset, Protocol(batch_size=BATCH), 2, device, 1, steps)
    net = paper_child(dataset, device)
    params, statistics = net.init(jax.random.key(0))
    data = make_data(trainer, net, dataset, params, statistics)
    matrices = jax.random.normal(jax.random.key(2), (2, MATRIX, MATRIX))
    product = jax.jit(jnp.matmul)
    calls: dict[str, Callable] = {
        key: partial(looped(part, steps), params, data) for key, part in parts(net, dataset).items()
    }
    calls["trainer"] = lambda: trainer.evaluate(encode(RULE, 2).array[None])
    calls["peak"] = lambda: product(*matrices)

    seconds: dict[str, list[float]] = {key: [] for key in calls}
    for i in range(1 + rounds):
        for key, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if i > 0:  # the first round compiles
                seconds[key].append((time.perf_counter() - start) / (steps if key != "peak" else 1))
    return rows(net, steps, {key: np.array(values) for key, values in seconds.items()})


def rows(net: ConvNet, steps: int, s: dict[str, np.ndarray]) -> dict:
    """Return time, FLOPs a second and share of the peak of each row of the table."""
    paper = on_paper(net, BATCH)
    flops, transforms = paper.products, sum(paper.transforms.values()) / 2
    parts = s["layer1_and_back"] + s["moments_and_back"] + s["layer2_and_back"]
    child_step = s["minibatch"] + s["gradient_step"] + s["rule"]
    table = {
        "minibatch": (s["minibatch"], 0),
        "layer 1, forward": (s["layer1"], flops["layer 1, forward"]),
        "layer 1, moments, there and back": (
            s["moments_and_back"],
            flops["layer 1, Gram matrix"] + flops["layer 1, moments"],
        ),
        "layer 1, backward": (s["layer1_and_back"] - s["layer1"], flops["layer 1, backward"]),
        "layer 2, forward": (s["layer2"], flops["layer 2, forward"] + transforms),
        "layer 2, backward": (
            s["layer2_and_back"] - s["layer2"],
            flops["layer 2, backward"] + transforms,
        ),
        "rest of the gradient step": (s["gradient_step"] - parts, flops["linear layer"]),
        "rule": (s["rule"], 0),
        "child step": (child_step, paper.product_flops),
        "child step in the trainer": (s["trainer"] - s["validation"] / steps, paper.product_flops),
        "validation of 250 images": (s["validation"], 0),
    }
    peak = 2 * MATRIX**3 / float(np.median(s["peak"]))
    return {"peak_gflops": peak / 1e9} | {
        key: {
            "milliseconds": 1e3 * float(np.median(seconds)),
            "range": [1e3 * float(seconds.min()), 1e3 * float(seconds.max())],
            "share": float(np.median(seconds / child_step)),
            "gflops": work / 1e9 / float(np.median(seconds)),
            "of_peak": work / float(np.median(seconds)) / peak,
        }
        for key, (seconds, work) in table.items()
    }


def main() -> None:
    """Measure on one core and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    os.environ["NPROC"] = "1"  # XLA's threads
    jax.config.update("jax_platforms", "cpu")

    content: dict = {"jax": jax.__version__, "minibatch": BATCH, "rule": RULE}
    for name in SHAPES:
        table = content[name] = profile(name, args.rounds)
        print(f"{name}, one core; matrix products at most {table['peak_gflops']:.0f} GFLOP/s")
        print(f"{'':34}{'ms':>8}{'share':>8}{'GFLOP/s':>9}{'of peak':>9}")
        for key, row in table.items():
            if key != "peak_gflops":
                rate = f"{row['gflops']:9.0f}{row['of_peak']:9.0%}" if row["gflops"] else ""
                print(f"{key:34}{row['milliseconds']:8.3f}{row['share']:8.0%}{rate}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "child_profile.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
