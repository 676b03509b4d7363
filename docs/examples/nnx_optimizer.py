"""AddSign in flax's nnx.Optimizer, on a network with batch norm.

    python nnx_optimizer.py

Prints the accuracy on 360 digits that it did not train on; it must be above 0.9.
"""

import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nos_optax

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=360, random_state=0)

rngs = nnx.Rngs(0)
model = nnx.Sequential(
    nnx.Linear(64, 64, rngs=rngs),
    nnx.BatchNorm(64, momentum=0.9, rngs=rngs),
    nnx.relu,
    nnx.Linear(64, 10, rngs=rngs),
)
optimizer = nnx.Optimizer(model, nos_optax.addsign(learning_rate=0.1), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, y):
    """Take a step of gradient descent, which changes the model and the optimizer."""

    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    optimizer.update(model, nnx.grad(loss)(model))


model.train()
for _ in range(200):
    train_step(model, optimizer, x, y)

model.eval()
accuracy = (model(x_test).argmax(axis=1) == y_test).mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9
