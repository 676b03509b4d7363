"""How large a rule's first updates are on each task: where its learning rates are centred.

Rules differ in scale by many powers of ten. A fixed grid of rates wastes most of its trainings, and
rules that fall between its rates look worse than they are.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nos_optax.grammar import apply_program, init_program_state, program_streams
from nos_optax.population.child import clip
from nos_optax.population.loop import Factory, make_optimizer
from nos_optax.population.task import Task

STEPS = 8
CHUNKS = {"cpu": 64}  # programs in one call of the compiled function
CHUNK = 1024  # elsewhere: there they run side by side
SEED: int = 2**31 - 13  # beside those of `reference`


class UpdateSizes:
    """Measures the updates of rules on the first gradients of some tasks.

    The gradients are those of untrained weights, which stay as they are: drawn once, the same for
    every rule.

    Args:
        tasks: the tasks.
        minibatch_sizes: of each task.
        horizons: T of the decays, of each task.
        device: where they are measured.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        minibatch_sizes: Sequence[int],
        horizons: Sequence[int],
        device: jax.Device,
    ):
        self._device, self._chunk = device, CHUNKS.get(device.platform, CHUNK)
        with jax.default_device(self._device):
            pairs = [_first_gradients(*x) for x in zip(tasks, minibatch_sizes, strict=True)]
        self._tasks = tuple(tasks)
        self._weights = [weights for weights, _ in pairs]
        self._gradients = [gradients for _, gradients in pairs]
        self._horizons = tuple(horizons)
        on_cpu = device.platform == "cpu"
        self._sizes = jax.jit(self._one_by_one if on_cpu else self._side_by_side)

    def __call__(self, programs: np.ndarray) -> np.ndarray:
        """Return the mean absolute entry of each rule's updates on each task.

        Args:
            programs: `int32[P, G, 5]`.

        Returns:
            `float32[P, tasks]`; nan or infinity where updates are not finite, 0 where all are 0.
        """
        parts = []
        with jax.default_device(self._device):
            for start in range(0, len(programs), self._chunk):
                part = programs[start : start + self._chunk]
                padding = ((0, self._chunk - len(part)), (0, 0), (0, 0))
                sizes = self._sizes(np.pad(part, padding), len(part))
                parts.append(np.asarray(sizes)[: len(part)])
        return np.concatenate(parts)

    def of_optimizer(self, factory: Factory, number: int) -> float:
        """Return the same of an optimizer that is no rule, at the rate 1, on one of the tasks."""
        weights, gradients = self._weights[number], self._gradients[number]
        tree = self._tasks[number].unflatten
        optimizer = make_optimizer(factory, jnp.float32(1), jax.random.key(SEED))

        def step(state, g):
            update, state = optimizer.update(tree(g), state, tree(weights), value=jnp.float32(1))
            return state, jnp.mean(jnp.abs(ravel_pytree(update)[0]))

        with jax.default_device(self._device):
            scan = jax.jit(lambda: jax.lax.scan(step, optimizer.init(tree(weights)), gradients)[1])
            return float(scan().mean())

    def _one_by_one(self, programs: jax.Array, count: jax.Array) -> jax.Array:
        """Measure the first `count`, so that the rule's switches are real branches."""
        nothing = jnp.zeros((len(programs), len(self._weights)))
        return jax.lax.fori_loop(
            0, count, lambda i, sizes: sizes.at[i].set(self._of_one(programs[i])), nothing
        )

    def _side_by_side(self, programs: jax.Array, count: jax.Array) -> jax.Array:
        return jax.vmap(self._of_one)(programs)

    def _of_one(self, program: jax.Array) -> jax.Array:
        streams, key = program_streams(program), jax.random.key(SEED)

        def of_task(weights, gradients, horizon):
            def step(state, g):
                update, state = apply_program(
                    program, streams, state, g, weights, jnp.int32(horizon), key
                )
                return state, jnp.mean(jnp.abs(update))

            return jax.lax.scan(step, init_program_state(weights), gradients)[1].mean()

        rows = zip(self._weights, self._gradients, self._horizons, strict=True)
        return jnp.stack([of_task(*row) for row in rows])


def _first_gradients(task: Task, minibatch_size: int) -> tuple[jax.Array, jax.Array]:
    """Return untrained weights `[D]` and their gradients on STEPS minibatches, `[STEPS, D]`."""
    init_key, loss_key = jax.random.split(jax.random.key(SEED))
    params, state = task.init_flat(init_key)
    rows = np.random.default_rng(SEED).integers(
        0, task.num_examples(task.train), (STEPS, minibatch_size)
    )

    def gradient(batch):
        def loss(params):
            return task.loss(task.unflatten(params), state, batch, loss_key)[0]

        return clip(jax.grad(loss)(params), task.max_grad_norm)

    gradients = jax.lax.map(gradient, jax.tree.map(lambda x: jnp.asarray(x)[rows], task.train))
    return params, gradients
