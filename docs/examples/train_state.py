"""PowerSign in flax's TrainState, with linear cosine decay of the learning rate.

    python train_state.py

Prints the accuracy on 360 digits that it did not train on; it must be above 0.9.
"""

import flax.linen as nn
import jax
import optax
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nos_optax

STEPS = 300

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=360, random_state=0)

net = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
linear_cosine = nos_optax.linear_cosine(init_value=0.2, decay_steps=STEPS)
state = TrainState.create(
    apply_fn=net.apply,
    params=net.init(jax.random.key(0), x[:1]),
    tx=nos_optax.powersign(learning_rate=linear_cosine),
)


@jax.jit
def train_step(state, x, y):
    """Return the state after a step of gradient descent."""

    def loss(params):
        logits = state.apply_fn(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


for _ in range(STEPS):
    state = train_step(state, x, y)

accuracy = (state.apply_fn(state.params, x_test).argmax(axis=1) == y_test).mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9
