"""A grid of trainings: rules x learning rates x seeds, epoch by epoch, in one compiled program.

The population trainer evaluates candidates by a search's protocol; this trains each for as long as
one likes, with its own seed, schedule and weight decay, reports after every epoch, and its children
are a pytree of arrays that can be kept and gone on from.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, PartitionSpec

from nos_optax.grammar import program_streams
from nos_optax.grammar.program import MAX_ITERATIONS, Program, pad_programs
from nos_optax.population.task import Params, Task
from nos_optax.population.task_check import check_task
from nos_optax.population.training import (
    Candidate,
    Child,
    cut,
    mean_score,
    new_child,
    step,
)


class Children(NamedTuple):
    """Networks in training; P of them."""

    child: Child  # arrays [P, ...]
    program: jax.Array  # int32[P, G, 5]
    seed: jax.Array  # uint32[P]
    weight_decay: jax.Array  # float32[P]


class Epoch(NamedTuple):
    """What an epoch came to; nan where a child has diverged."""

    loss: np.ndarray | jax.Array  # float32[P]: mean over the minibatches, no weight decay in it
    validation: np.ndarray | jax.Array  # float32[P]: mean score
    test: np.ndarray | jax.Array  # float32[P]: mean score; nan where the task has no test set


class TrainingGrid:
    """Trains children, each with its own rule, learning rates, weight decay and seed.

    A child's training depends on these alone, not on its neighbours.

    Args:
        task: the model and its data, which is kept on the devices.
        batch_size: examples in a minibatch; the incomplete last one of an epoch is left out.
        capacity: children that are trained at a time, the most that `start` takes; fewer leave
            room, which costs next to nothing.
        iterations: the length of the longest program.
        lanes: children that train side by side on a device; with 1 they train one after another,
            which is fastest on CPU.
        devices: the devices to use; all local ones where None.
        weight_decay_mask: which parameters weight decay applies to, as a function from the
            parameters to the same tree of booleans, like that of `optax.add_decayed_weights`; all
            of them where None.

    Raises:
        ValueError: the task has fewer training examples than a minibatch, its functions do not fit
            together, or a number is not positive.

    Example:
        >>> from nos_optax.grammar import encode
        >>> from nos_optax.population import image_task, load_digits, paper_child
        >>> digits = load_digits()
        >>> grid = TrainingGrid(image_task(digits, paper_child(digits)), batch_size=50, capacity=2)
        >>> children = grid.start([encode("g", 1).array] * 2, seeds=[0, 1])
        >>> rates = np.full((2, grid.epoch_steps), 0.1)
        >>> children, epoch = grid.advance(children, rates, epoch=0, total_steps=grid.epoch_steps)
        >>> bool((epoch.validation > 0.5).all())
        True
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        capacity: int,
        iterations: int = MAX_ITERATIONS,
        lanes: int = 1,
        devices: list[jax.Device] | None = None,
        weight_decay_mask: Callable[[Params], Any] | None = None,
    ):
        devices = devices or jax.local_devices()
        examples = task.num_examples(task.train)
        if not 1 <= batch_size <= examples:
            raise ValueError(
                f"batch_size must be from 1 to the {examples} training examples, got {batch_size}"
            )
        if min(capacity, iterations, lanes) < 1:
            raise ValueError(
                "capacity, iterations and lanes must be at least 1, got "
                f"{capacity}, {iterations} and {lanes}"
            )
        check_task(task, batch_size)
        self.task, self.batch_size, self.iterations = task, batch_size, iterations
        self.lanes, self.epoch_steps, self.capacity = lanes, examples // batch_size, capacity
        # Dealt out to the devices like cards: which child sits at each place.
        group = lanes * len(devices)
        places = np.arange(math.ceil(capacity / group) * group)
        self._child_at = places.reshape(-1, len(devices)).T.ravel()
        self._place_of = np.argsort(self._child_at)
        self._mesh = Mesh(np.array(devices), ("device",), axis_types=(AxisType.Auto,))
        self._split = jax.NamedSharding(self._mesh, PartitionSpec("device"))
        sets = [
            cut(x, task.evaluation_batch) for x in (task.validation, task.test) if x is not None
        ]
        replicated = jax.NamedSharding(self._mesh, PartitionSpec())
        self._data = jax.device_put((task.train, tuple(sets)), replicated)
        self._decayed = jax.device_put(_decayed(task, weight_decay_mask), replicated)
        share, whole = PartitionSpec("device"), PartitionSpec()
        on_cpu = devices[0].platform == "cpu"

        def compiled(function, *specs, **options):
            mapped = jax.shard_map(
                function, mesh=self._mesh, in_specs=specs, out_specs=share, check_vma=False
            )
            # A device is a core: to split its products among more changes how they are rounded.
            flags = {"xla_cpu_multi_thread_eigen": False} if on_cpu else None
            return jax.jit(mapped, compiler_options=flags, **options)

        self._start = compiled(self._start_share, share, share, share, share)
        self._advance = compiled(
            self._advance_share, share, share, share, *[whole] * 4, donate_argnums=0
        )

    def start(
        self,
        programs: Sequence[np.typing.ArrayLike],
        seeds: Sequence[int],
        weight_decays: Sequence[float] | None = None,
    ) -> Children:
        """Return children before their first step.

        Args:
            programs: P of `int32[G, 5]`, at most the capacity.
            seeds: P numbers: of the initial weights, the order of the examples and all random
                numbers of the rule and the loss.
            weight_decays: P coefficients of L2 penalties: the gradient of c / 2 * sum(w^2), over
                the parameters of the mask, is added to that of the loss before the rule sees it.
                None is none.

        Raises:
            ValueError: there are none or too many, or not as many seeds or weight decays as
                programs.
        """
        if not 0 < len(programs) == len(seeds) <= self.capacity:
            raise ValueError(
                f"give from 1 to {self.capacity} programs and a seed for each, got "
                f"{len(programs)} programs and {len(seeds)} seeds"
            )
        decays = [0.0] * len(programs) if weight_decays is None else weight_decays
        if len(decays) != len(programs):
            raise ValueError(
                f"give a weight decay for each of the {len(programs)} programs, got {len(decays)}"
            )
        rows = [Program.from_array(program).array for program in programs]
        padded = np.stack([pad_programs(row, self.iterations) for row in rows])
        return self._start(
            self._deal(padded),
            self._deal(np.asarray(seeds, np.uint32)),
            self._deal(np.asarray(decays, np.float32)),
            self._real(len(programs)),
        )

    def advance(
        self, children: Children, learning_rates: np.ndarray, epoch: int, total_steps: int
    ) -> tuple[Children, Epoch]:
        """Train every child for an epoch.

        Args:
            children: from `start` or from here; consumed.
            learning_rates: `[P, epoch_steps]`, of each child at each step of this epoch; P as in
                `start`.
            epoch: its number, from 0, which decides the order of the examples.
            total_steps: of the whole training, T of the decays.

        Returns:
            The children and what the epoch came to.

        Raises:
            ValueError: the learning rates have another shape.
        """
        count = len(learning_rates)
        expected = f"[P, {self.epoch_steps}], P at most {self.capacity}"
        if np.shape(learning_rates) != (count, self.epoch_steps) or count > self.capacity:
            raise ValueError(
                f"learning_rates must be {expected}, got the shape {np.shape(learning_rates)}"
            )
        seeds = np.asarray(children.seed)
        shuffles = {seed: self._order(seed, epoch) for seed in np.unique(seeds)}
        orders = np.stack([shuffles[seed] for seed in seeds])
        rates = self._deal(np.asarray(learning_rates, np.float32))
        first = np.int32(epoch * self.epoch_steps)
        orders = jax.device_put(orders, self._split)
        children, result = self._advance(
            children, rates, orders, first, np.int32(total_steps), self._decayed, self._data
        )
        return children, Epoch(*(np.asarray(x)[self._place_of[:count]] for x in result))

    def gather(self, children: Children, count: int) -> Children:
        """Return the first `count` children as NumPy arrays, in the order of `start`.

        That order is the same on any devices: what is kept on a disk is kept so.
        """
        return jax.tree.map(lambda x: np.asarray(x)[self._place_of[:count]], children)

    def seat(self, children: Children) -> Children:
        """Return children for `advance` from those that `gather` returned, of any grid's devices.

        Raises:
            ValueError: they are more than the capacity.
        """
        count = len(children.seed)
        if count > self.capacity:
            raise ValueError(f"there is room for {self.capacity} children, got {count}")
        seated: Children = jax.tree.map(self._deal, children)
        running = seated.child.running & self._real(count)
        return seated._replace(child=seated.child._replace(running=running))

    def _deal(self, x: np.ndarray) -> jax.Array:
        """Put each child's row at its place; the last one's fill the empty places."""
        return jax.device_put(x[np.minimum(self._child_at, len(x) - 1)], self._split)

    def _real(self, count: int) -> jax.Array:
        """Return which places have a child."""
        return jax.device_put(self._child_at < count, self._split)

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the examples of each minibatch of an epoch, `int32[S, B]`."""
        examples = self.task.num_examples(self.task.train)
        order = np.arange(examples)
        if self.task.shuffle:
            order = np.random.default_rng([seed, epoch]).permutation(examples)
        full = self.epoch_steps * self.batch_size
        return order[:full].reshape(-1, self.batch_size).astype(np.int32)

    def _start_share(self, programs, seeds, decays, real) -> Children:
        """Return one device's children; those that are not real do not run."""

        def one(row):
            seed, real = row
            init_key, _, _ = jax.random.split(jax.random.key(seed), 3)
            return new_child(self.task, init_key)._replace(running=real)

        return Children(jax.lax.map(one, (seeds, real)), programs, seeds, decays)

    def _advance_share(self, children, rates, orders, first, total_steps, decayed, data):
        """Train one device's children for an epoch, a group of lanes at a time."""
        train, sets = data

        def one(row):
            children, rates, order = row
            program, seed = children.program, children.seed
            _, rule_key, loss_key = jax.random.split(jax.random.key(seed), 3)
            streams = program_streams(program)
            decay = children.weight_decay * decayed

            def train_step(state):
                i, child, total = state
                batch = jax.tree.map(lambda x: x[order[i]], train)
                key = jax.random.fold_in(loss_key, first + i)
                candidate = Candidate(program, streams, rates[i], decay)
                child, loss = step(self.task, child, candidate, batch, total_steps, rule_key, key)
                return i + 1, child, total + loss

            def going(state):
                return (state[0] < self.epoch_steps) & state[1].running

            start = 0, children.child, jnp.zeros([])
            _, child, total = jax.lax.while_loop(going, train_step, start)
            nan = jnp.full([], jnp.nan)

            def scored():
                scores = [mean_score(self.task, child, chunks) for chunks in sets]
                return Epoch(*[total / self.epoch_steps, *scores, nan][:3])

            epoch = jax.lax.cond(child.running, scored, lambda: Epoch(nan, nan, nan))
            return children._replace(child=child), epoch

        lanes = None if self.lanes == 1 else self.lanes  # 1 would be a vmap
        return jax.lax.map(one, (children, rates, orders), batch_size=lanes)


def _decayed(task: Task, mask: Callable[[Params], Any] | None) -> np.ndarray:
    """Return 1 for each parameter that weight decay applies to, 0 for the others: `[D]`."""
    if mask is None:
        return np.ones(task.num_params, np.float32)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    full = jax.tree.map(
        lambda x, chosen: np.full(x.shape, chosen, np.float32), params, mask(params)
    )
    return np.asarray(ravel_pytree(full)[0])
