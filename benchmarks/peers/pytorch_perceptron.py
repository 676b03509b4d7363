"""Peer: the suite's perceptron on digits in PyTorch, one child, Adam on one flat tensor."""

import time

import numpy as np
import torch

from nos_optax.population.tasks.digits import _pixels

WIDTHS = (64, 32, 10)
BATCH = 32


def step_seconds(device: str, compiled: bool, steps: int) -> tuple[float, float]:
    """Return the median seconds of a step and the seconds of the first call, compiling included.

    Compiled means `torch.compile` of the whole step with CUDA graphs, PyTorch's fastest way for
    small networks that train one at a time.
    """
    (images, labels), _ = _pixels()
    images = torch.from_numpy(images).to(device)
    labels = torch.from_numpy(labels).long().to(device)
    shapes = [(64, 32), (32,), (32, 10), (10,)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    w = (0.1 * torch.randn(sum(sizes), device=device)).requires_grad_()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    count = torch.zeros([], device=device)

    def step(x, y):
        w1, b1, w2, b2 = (p.view(s) for p, s in zip(w.split(sizes), shapes, strict=True))
        logits = torch.relu(x @ w1 + b1) @ w2 + b2
        loss = torch.nn.functional.cross_entropy(logits, y)
        (g,) = torch.autograd.grad(loss, w)
        with torch.no_grad():
            count.add_(1)
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            mean, square = m / (1 - 0.9**count), v / (1 - 0.999**count)
            w.sub_(0.01 * mean / (square.sqrt() + 1e-8))
        return loss.detach()

    if compiled:
        step = torch.compile(step, mode="reduce-overhead")
    rows = torch.randint(0, len(images), (steps, BATCH), device=device)
    start = time.perf_counter()
    for _ in range(3):
        step(images[rows[0]], labels[rows[0]])
    _wait(device)
    warm_up = time.perf_counter() - start
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for row in rows:
            step(images[row], labels[row])
        _wait(device)
        times.append((time.perf_counter() - start) / steps)
    return float(np.median(times)), warm_up


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
