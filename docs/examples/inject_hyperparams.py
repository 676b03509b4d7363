"""Change PowerSign's learning_rate and sign_decay by hand while it runs, by inject_hyperparams.

    python inject_hyperparams.py

The signs fade out: with sign_decay = 0 the last third is plain gradient descent, at a tenth of the
learning rate. The step is compiled once. Prints the loss after each third, and the accuracy on 360
digits that it did not train on; it must be above 0.9.
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


# Every number among the arguments, given or default, becomes an array of opt_state.hyperparams.
tx = optax.inject_hyperparams(nos_optax.powersign)(learning_rate=0.2, sign_decay=1.0)
opt_state = tx.init(params)


@jax.jit
def train_step(params, opt_state, x, y):
    """Return parameters, state and loss after a step of gradient descent."""
    value, gradient = jax.value_and_grad(loss)(params, x, y)
    updates, opt_state = tx.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value


for learning_rate, sign_decay in [(0.2, 1.0), (0.1, 0.5), (0.02, 0.0)]:
    opt_state.hyperparams["learning_rate"] = jnp.float32(learning_rate)
    opt_state.hyperparams["sign_decay"] = jnp.float32(sign_decay)
    for _ in range(100):
        params, opt_state, value = train_step(params, opt_state, x, y)
    print(f"learning_rate {learning_rate}, sign_decay {sign_decay}: loss {value:.3f}")

accuracy = (logits(params, x_test).argmax(axis=1) == y_test).mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9
