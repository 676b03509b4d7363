"""Peer: PyTorch eager, one child after another.

Written to be fast: channels_last images, all parameters (and gradients) views of one flat tensor so
that the update rule is a handful of flat operations, no autograd through the update, and the same
short cuts as the population trainer takes: a child stops once it is not finite, and a candidate
whose sweep never left chance is not trained.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from nos_optax.grammar import decode
from nos_optax.grammar.expression import Binary, Constant, Expression, Operand, Unary
from nos_optax.population import Dataset, PopulationTrainer
from nos_optax.population.task import paper_child

DELTA = 1e-8


class Child(torch.nn.Module):
    """The paper's ConvNet."""

    def __init__(self, image_shape, num_classes, filters=32):
        super().__init__()
        height, width, channels = image_shape
        self.conv1 = torch.nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        self.norm1 = torch.nn.BatchNorm2d(filters)
        self.conv2 = torch.nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = torch.nn.BatchNorm2d(filters)
        self.linear = torch.nn.Linear(filters * (height // 4) * (width // 4), num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.linear(x.flatten(1))


def evaluate(e: Expression, env: dict):
    """Return the value of a rule on flat tensors."""
    match e:
        case Constant(value):
            return torch.full_like(env["g"], value)
        case Operand("adam"):
            return env["m"] / (env["v"].sqrt() + DELTA)
        case Operand("rmsprop"):
            return env["g"] / (env["v"].sqrt() + DELTA)
        case Operand("noise"):
            return torch.randn_like(env["g"]) * 0.1
        case Operand("annealed_noise"):
            return torch.randn_like(env["g"]) * (1 + env["t"]) ** -0.275
        case Operand("ld"):
            return torch.full_like(env["g"], 1 - env["t"] / env["T"])
        case Operand("cd", n):
            value = (1 + math.cos(2 * math.pi * n * env["t"] / env["T"])) / 2
            return torch.full_like(env["g"], value)
        case Operand("rd", n):
            value = (1 + math.cos(math.pi * (env["t"] * n % env["T"]) / env["T"])) / 2
            return torch.full_like(env["g"], value)
        case Operand(name):
            return env[name]
        case Unary("clip", x, c):
            return evaluate(x, env).clamp(-c, c)
        case Unary("drop", x, p):
            value = evaluate(x, env)
            return torch.where(torch.rand_like(value) >= p, value, 0.0)
        case Unary(function, x):
            return UNARY[function](evaluate(x, env))
        case Binary("^", x, Constant(k)) if k == int(k):
            return evaluate(x, env).pow(int(k))
        case Binary(function, x, y):
            return BINARY[function](evaluate(x, env), evaluate(y, env))
    raise TypeError(e)


UNARY = {
    "neg": torch.neg,
    "exp": torch.exp,
    "log": lambda x: x.abs().log(),
    "sqrt": lambda x: x.abs().sqrt(),
    "sign": torch.sign,
    "sigmoid": torch.sigmoid,
}
BINARY = {
    "+": torch.add,
    "-": torch.sub,
    "*": torch.mul,
    "/": lambda x, y: x / (y + DELTA),
    "^": torch.pow,
}


class FlatRule:
    """A rule's update of one flat tensor, with the moments that it reads.

    Args:
        expression: the rule.
        flat: the parameters, which change in place.
    """

    def __init__(self, expression: Expression, flat: torch.Tensor):
        self.expression, self.flat, self.count = expression, flat, 0
        self.m, self.v, self.gamma = (torch.zeros_like(flat) for _ in range(3))
        self.names = {e.name for e in _leaves(expression)}

    def __call__(self, grad: torch.Tensor, total_steps: int) -> torch.Tensor:
        """Return the next update, of a training of so many steps."""
        env = {"g": grad, "w": self.flat, "t": self.count, "T": total_steps}
        self.count += 1
        if self.names & {"m", "adam"}:
            env["m"] = self.m.lerp_(grad, 0.1) / (1 - 0.9**self.count)
        if self.names & {"v", "adam", "rmsprop"}:
            self.v.mul_(0.999).addcmul_(grad, grad, value=0.001)
            env["v"] = self.v / (1 - 0.999**self.count)
        if "gamma" in self.names:
            env["gamma"] = self.gamma.lerp_(grad**3, 0.001) / (1 - 0.999**self.count)
        return evaluate(self.expression, env)


class Loop:
    """Evaluates candidates one after another, by the protocol of a `PopulationTrainer`."""

    def __init__(
        self, trainer: PopulationTrainer, data: Dataset, device: str = "cpu", compile_child=False
    ):
        self.trainer, self.device, self.net = trainer, device, paper_child(data)
        self.train = self._load(data.train_images, data), torch.tensor(data.train_labels).long()
        self.valid = (
            self._load(data.validation_images, data),
            torch.tensor(data.validation_labels).long(),
        )
        self.train, self.valid = (
            tuple(x.to(device) for x in pair) for pair in (self.train, self.valid)
        )
        self.compile_child = compile_child

    def _load(self, images: np.ndarray, data: Dataset) -> torch.Tensor:
        standard = (images.astype(np.float32) - data.mean) / data.std
        x = torch.tensor(standard).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=torch.channels_last)

    def reward(self, program: np.ndarray, seed: int = 0) -> float:
        """Return a candidate's reward: sweep, then training with the best learning rate."""
        trainer, expression = self.trainer, decode(program).expression
        order = torch.tensor(trainer.order(seed)).long().to(self.device)
        sweep, training = order[: trainer.sweep_steps], order[trainer.sweep_steps :]
        rates = trainer.protocol.learning_rates
        scores = [self.train_child(expression, rate, sweep, seed) for rate in rates]
        best = max(range(len(scores)), key=scores.__getitem__)
        if scores[best] <= trainer.threshold:
            return trainer.chance
        accuracy = self.train_child(expression, rates[best], training, seed)
        return accuracy if accuracy >= 0 else trainer.chance

    def train_child(self, expression: Expression, rate: float, order, seed: int) -> float:
        """Train one child and return its validation accuracy; -1 if it diverges."""
        torch.manual_seed(seed)
        net = self.net
        child = Child(net.image_shape, net.num_classes, net.filters).to(self.device)
        child = child.to(memory_format=torch.channels_last)
        flat = torch.cat([p.detach().reshape(-1) for p in child.parameters()])
        grad = torch.zeros_like(flat)
        start = 0
        for p in child.parameters():
            p.data = flat[start : start + p.numel()].view_as(p)
            p.grad = grad[start : start + p.numel()].view_as(p)
            start += p.numel()
        forward = torch.compile(child) if self.compile_child else child
        update = FlatRule(expression, flat)
        for rows in order:
            loss = F.cross_entropy(forward(self.train[0][rows]), self.train[1][rows])
            if not torch.isfinite(loss):
                return -1.0
            grad.zero_()
            loss.backward()
            with torch.no_grad():
                flat -= rate * update(grad, len(order))
        if not torch.isfinite(flat).all():
            return -1.0
        child.eval()
        with torch.no_grad():
            correct = sum(
                (child(x).argmax(1) == y).sum()
                for x, y in zip(self.valid[0].split(250), self.valid[1].split(250), strict=True)
            )
        return float(correct) / len(self.valid[1])


def _leaves(e: Expression):
    match e:
        case Operand():
            yield e
        case Unary(_, x):
            yield from _leaves(x)
        case Binary(_, x, y):
            yield from _leaves(x)
            yield from _leaves(y)
