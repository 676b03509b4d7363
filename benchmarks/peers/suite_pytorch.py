"""Peer: the suite's tasks in PyTorch eager, one child after another."""

import itertools
import math
from collections.abc import Callable

import jax
import numpy as np
import torch
import torch.nn.functional as F

from nos_optax.grammar import UpdateRule
from nos_optax.population import Workload
from nos_optax.population.convnet import ConvNet
from nos_optax.population.tasks.text import EMBEDDING
from peers.pytorch_loop import FlatRule
from peers.suite_optax import Train, late_loss, order_of


def pytorch_loop(workload: Workload, rule: UpdateRule) -> Train:
    """Return a loop whose parameters are views of one flat tensor."""
    task, size = workload.task, workload.minibatch_size
    loss_of, shapes = _network(task)
    sizes = [math.prod(shape) for shape in shapes]
    data = [torch.as_tensor(np.asarray(x)) for x in jax.tree.leaves(task.train)]
    data = [x.long() if not x.is_floating_point() and x.ndim < 3 else x.float() for x in data]

    def train(rate: float, seed: int, steps: int) -> float:
        torch.manual_seed(seed)
        parts = [torch.randn(shape) / math.sqrt(math.prod(shape[:-1]) or 1) for shape in shapes]
        flat = torch.cat([x.reshape(-1) for x in parts]).requires_grad_()
        update, losses = FlatRule(rule.expression, flat), []
        for rows in order_of(len(data[0]), size, steps, seed):
            views = [x.view(s) for x, s in zip(flat.split(sizes), shapes, strict=True)]
            loss = loss_of(views, *(x[rows] for x in data))
            (grad,) = torch.autograd.grad(loss, flat)
            with torch.no_grad():
                flat -= rate * update(grad, steps)
            losses.append(loss.detach())
        return late_loss(torch.stack(losses).tolist())

    return train


def _network(task) -> tuple[Callable, list[tuple[int, ...]]]:
    """Return the loss of one of the suite's tasks, of views and a batch, and the views' shapes."""
    match task.name:
        case "digits-mlp":
            return _perceptron, [(64, 32), (32,), (32, 10), (10,)]
        case "digits-autoencoder":
            widths = (64, 32, 8, 32, 64)
            pairs = itertools.pairwise(widths)
            return _autoencoder, [shape for a, b in pairs for shape in ((a, b), (b,))]
        case "characters":
            return _symbols, [(32, EMBEDDING), (8 * EMBEDDING, 32), (32,), (32, 32), (32,)]
        case "words":
            return _symbols, [(256, EMBEDDING), (2 * EMBEDDING, 16), (16,), (16, 256), (256,)]
        case "digits-convnet":
            filters = ConvNet((8, 8, 1), 10).filters
            block = [(filters,), (filters,)]
            return _convnet, [
                (filters, 1, 3, 3),
                *block,
                (filters, filters, 3, 3),
                *block,
                (4 * filters, 10),
                (10,),
            ]
    raise ValueError(f"there is no PyTorch network of {task.name}")


def _perceptron(w, images, labels):
    scales = (0.5, 2.0, 1.5, 0.7)  # any: the task draws them
    w1, b1, w2, b2 = (x * s for x, s in zip(w, scales, strict=True))
    return F.cross_entropy(torch.addmm(b2, torch.relu(torch.addmm(b1, images, w1)), w2), labels)


def _autoencoder(w, images):
    w1, b1, w2, b2, w3, b3, w4, b4 = w
    code = torch.addmm(b2, torch.tanh(torch.addmm(b1, images, w1)), w2)
    restored = torch.addmm(b4, torch.tanh(torch.addmm(b3, torch.tanh(code), w3)), w4)
    return (restored - images).square().sum(-1).mean()


def _symbols(w, before, following):
    embedding, w1, b1, w2, b2 = w
    hidden = torch.tanh(torch.addmm(b1, embedding[before].flatten(1), w1))
    return F.cross_entropy(torch.addmm(b2, hidden, w2), following)


def _convnet(w, images, labels):
    k1, scale1, shift1, k2, scale2, shift2, out, bias = w
    x = images.permute(0, 3, 1, 2) / 255
    for kernel, scale, shift in ((k1, scale1, shift1), (k2, scale2, shift2)):
        x = F.conv2d(x, kernel, padding=1)
        x = F.batch_norm(x, None, None, scale, shift, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return F.cross_entropy(torch.addmm(bias, x.flatten(1), out), labels)
