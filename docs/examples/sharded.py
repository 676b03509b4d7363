"""PowerSign on parameters that are sharded over devices: its state is sharded like them.

    python sharded.py

On a machine without accelerators four CPU devices stand for them. The hidden layer is split over
the devices, the minibatch is not. Prints where the moving averages are, and the accuracy on 360
digits that it did not train on; it must be above 0.9.
"""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nos_optax

jax.config.update("jax_num_cpu_devices", 4)  # before JAX is first used; no effect elsewhere

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=360, random_state=0)

mesh = jax.make_mesh((jax.device_count(),), ("model",), axis_types=(AxisType.Auto,))
specs = {"w1": P(None, "model"), "b1": P("model"), "w2": P("model", None), "b2": P()}
shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}

hidden = 16 * jax.device_count()
k1, k2 = jax.random.split(jax.random.key(0))
params = {
    "w1": jax.random.normal(k1, (64, hidden)) / 8,
    "b1": jnp.zeros(hidden),
    "w2": jax.random.normal(k2, (hidden, 10)) / hidden**0.5,
    "b2": jnp.zeros(10),
}
params = jax.device_put(params, shardings)


def logits(params, x):
    """Return logits `[B, 10]` of images `[B, 64]`."""
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def loss(params, x, y):
    """Return the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


tx = nos_optax.powersign(learning_rate=0.1)
opt_state = tx.init(params)  # zeros like the parameters, and where they are


@jax.jit
def train_step(params, opt_state, x, y):
    """Return parameters and state after a step of gradient descent."""
    updates, opt_state = tx.update(jax.grad(loss)(params, x, y), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def check_sharding(opt_state):
    """Raise unless each moving average is on the devices of its parameter."""
    for name, average in opt_state[0].mu.items():
        assert average.sharding.is_equivalent_to(shardings[name], average.ndim), name


check_sharding(opt_state)
for _ in range(300):
    # CPU devices share a pool of threads, in which several steps in flight may block each other.
    params, opt_state = jax.block_until_ready(train_step(params, opt_state, x, y))
check_sharding(opt_state)

for name, average in opt_state[0].mu.items():
    part = average.addressable_shards[0].data.shape
    print(f"{name}: {average.shape}, of which each of {jax.device_count()} devices has {part}")
accuracy = (logits(params, x_test).argmax(axis=1) == y_test).mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9
