"""A rule of the paper, Adam times PowerSign's multiplier, on an Equinox model.

    python equinox_mlp.py

Prints the accuracy on 360 digits that it did not train on; it must be above 0.9.
"""

import equinox as eqx
import jax
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nos_optax

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=360, random_state=0)

model = eqx.nn.MLP(64, 10, width_size=64, depth=1, key=jax.random.key(0))
tx = nos_optax.from_rule("exp(sign(g) * sign(m)) * adam", learning_rate=1e-3)
# The optimizer sees the arrays of the model, not its activation function.
opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))


@eqx.filter_jit
def train_step(model, opt_state, x, y):
    """Return the model and the optimizer's state after a step of gradient descent."""

    @eqx.filter_grad
    def gradient(model):
        logits = jax.vmap(model)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    params = eqx.filter(model, eqx.is_inexact_array)
    updates, opt_state = tx.update(gradient(model), opt_state, params)
    return eqx.apply_updates(model, updates), opt_state


for _ in range(300):
    model, opt_state = train_step(model, opt_state, x, y)

accuracy = (jax.vmap(model)(x_test).argmax(axis=1) == y_test).mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9
