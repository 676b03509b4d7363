"""PowerSign on the matrices and Adam on the rest, by optax.partition.

    python partition.py

Prints the arrays of the optimizer's state, of which PowerSign has one a matrix and Adam two a
vector, and the accuracy on 360 digits that it did not train on; it must be above 0.9.
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nos_optax

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=360, random_state=0)

k1, k2 = jax.random.split(jax.random.key(0))
params = {
    "w1": jax.random.normal(k1, (64, 64)) / 8,
    "b1": jnp.zeros(64),
    "w2": jax.random.normal(k2, (64, 10)) / 8,
    "b2": jnp.zeros(10),
}


def logits(params, x):
    """Return logits `[B, 10]` of images `[B, 64]`."""
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def loss(params, x, y):
    """Return the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


def kinds(params):
    """Return which optimizer each array has."""
    return jax.tree.map(lambda w: "matrix" if w.ndim == 2 else "rest", params)


tx = optax.partition(
    {"matrix": nos_optax.powersign(learning_rate=0.1), "rest": optax.adam(1e-2)}, kinds
)
opt_state = tx.init(params)


@jax.jit
def train_step(params, opt_state, x, y):
    """Return parameters and state after a step of gradient descent."""
    updates, opt_state = tx.update(jax.grad(loss)(params, x, y), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


for _ in range(300):
    params, opt_state = train_step(params, opt_state, x, y)

for name, inner in opt_state.inner_states.items():
    print(name, [a.shape for a in jax.tree.leaves(inner) if a.ndim])
accuracy = (logits(params, x_test).argmax(axis=1) == y_test).mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9
