"""A step of AddSign for every four minibatches, by optax.MultiSteps.

    python gradient_accumulation.py

Four minibatches of 25 digits make one step as on 100. Prints the steps that were taken, and the
accuracy on 360 digits that it did not train on; it must be above 0.9.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nos_optax

MINIBATCH, ACCUMULATE, EPOCHS = 25, 4, 15

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


# Schedules inside count the steps that are taken, not the minibatches.
steps = EPOCHS * len(x) // (MINIBATCH * ACCUMULATE)
linear_cosine = nos_optax.linear_cosine(init_value=0.2, decay_steps=steps)
tx = optax.MultiSteps(nos_optax.addsign(learning_rate=linear_cosine), every_k_schedule=ACCUMULATE)
opt_state = tx.init(params)


@jax.jit
def train_step(params, opt_state, x, y):
    """Return parameters and state after a minibatch; every fourth one changes the parameters."""
    updates, opt_state = tx.update(jax.grad(loss)(params, x, y), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


rng = np.random.default_rng(0)
for _ in range(EPOCHS):
    rows = rng.permutation(len(x))[: len(x) // MINIBATCH * MINIBATCH]
    for minibatch in rows.reshape(-1, MINIBATCH):
        params, opt_state = train_step(params, opt_state, x[minibatch], y[minibatch])

accuracy = (logits(params, x_test).argmax(axis=1) == y_test).mean()
print(f"{opt_state.gradient_step} steps of {ACCUMULATE} minibatches")
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9
