"""Which optimizer for my model? A flax network, its data, and eight rivals, in one file.

The network is a small convolutional one with batch norm and dropout, the data are scikit-learn's
handwritten digits. Each rival is tuned with the same rates, trains again with eight fresh seeds,
and is compared with Adam by the loss on images that were held out:
    python which_optimizer.py                  (two minutes on 2 cores)
    python which_optimizer.py --steps 20 --seeds 2
The folder runs/which_optimizer has the table, the picture and every training; the same command goes
on where an interrupted one stopped.
"""

import argparse

import flax.linen as nn
import numpy as np
import optax
from sklearn.datasets import load_digits

import nos_optax
from nos_optax.compare import Budget, Rival, compare
from nos_optax.population import Task, Workload


class Net(nn.Module):
    """Two convolutions with batch norm, then dropout; ten logits."""

    @nn.compact
    def __call__(self, images, train):
        """Return logits `[B, 10]` of images `[B, 8, 8, 1]`."""
        x = images
        for channels in (16, 32):
            x = nn.Conv(channels, (3, 3), strides=2, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(10)(x)


def task() -> Task:
    """Return the model and its data as four pure functions and arrays."""
    net = Net()
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    x, y = (x[rows].reshape(-1, 8, 8, 1) / 16).astype(np.float32), y[rows].astype(np.int32)

    def init(key):
        variables = net.init(key, x[:1], train=False)
        return variables["params"], variables["batch_stats"]

    def loss(params, statistics, batch, key):
        images, labels = batch
        logits, changed = net.apply(
            {"params": params, "batch_stats": statistics},
            images,
            train=True,
            mutable="batch_stats",
            rngs={"dropout": key},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), changed["batch_stats"]

    def log_likelihood(params, statistics, batch):
        images, labels = batch
        logits = net.apply({"params": params, "batch_stats": statistics}, images, train=False)
        return -optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    return Task(
        "my network",
        init,
        loss,
        log_likelihood,
        train=(x[:1000], y[:1000]),
        validation=(x[1000:1400], y[1000:1400]),
        test=(x[1400:], y[1400:]),
        chance=-float(np.log(10)),
        perfect=0.0,
    )


def adamw_with_cosine(rate, total_steps):
    """Return AdamW whose rate falls to 0 by half a cosine, over the length of a training."""
    return optax.adamw(optax.cosine_decay_schedule(rate, total_steps))


def momentum(rate):
    """Return SGD with Nesterov's momentum."""
    return optax.sgd(rate, momentum=0.9, nesterov=True)


CAUTIOUS = "(1 + sign(g) * sign(m)) * adam"
RIVALS = [
    "adam",  # the baseline
    "optax.nadam",
    "optax.lion",
    Rival("AdamW, cosine", "optax.adamw with cosine decay", adamw_with_cosine),
    Rival("Nesterov", "optax.sgd with Nesterov's momentum", momentum),
    "powersign",
    "addsign",
    Rival("cautious Adam", CAUTIOUS, nos_optax.parse(CAUTIOUS)),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", default="runs/which_optimizer")
    args = parser.parse_args()
    budget = Budget(rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), seeds=args.seeds)
    mine = Workload(task(), 50, args.steps)
    print(compare(RIVALS, mine, budget=budget, out=args.out).sentence("my network"))
