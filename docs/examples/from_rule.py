"""Use a rule that a search found: its formula by from_rule, or its Python without nos_optax.

    python from_rule.py

A search prints the formula and the learning rate of its best rules, and writes each of them as a
module that imports only jax and optax, which may be copied into any project. Prints the accuracy of
both on 360 digits that they did not train on; it must be above 0.9.
"""

import importlib.util
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nos_optax
from nos_optax.grammar import to_python

RULE, LEARNING_RATE = "drop(rmsprop, 0.3)", 1e-2

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=360, random_state=0)


def logits(params, x):
    """Return logits `[B, 10]` of images `[B, 64]`."""
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def loss(params, x, y):
    """Return the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


def accuracy(tx):
    """Return the accuracy after 100 steps with an optimizer."""

    @jax.jit
    def train_step(params, opt_state, x, y):
        updates, opt_state = tx.update(jax.grad(loss)(params, x, y), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    k1, k2 = jax.random.split(jax.random.key(0))
    params = {
        "w1": jax.random.normal(k1, (64, 64)) / 8,
        "b1": jnp.zeros(64),
        "w2": jax.random.normal(k2, (64, 10)) / 8,
        "b2": jnp.zeros(10),
    }
    opt_state = tx.init(params)
    for _ in range(100):
        params, opt_state = train_step(params, opt_state, x, y)
    return (logits(params, x_test).argmax(axis=1) == y_test).mean()


def import_file(path):
    """Return the module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


by_formula = accuracy(nos_optax.from_rule(RULE, learning_rate=LEARNING_RATE))
print(f"accuracy {by_formula:.3f}: {RULE}")

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "found_rule.py"
    file.write_text(to_python(RULE), encoding="utf-8")
    scale_by_found_rule = import_file(file).scale_by_found_rule
alone = optax.chain(scale_by_found_rule(), optax.scale_by_learning_rate(LEARNING_RATE))
by_file = accuracy(alone)
print(f"accuracy {by_file:.3f}: the same rule, from its file")

assert min(by_formula, by_file) > 0.9
