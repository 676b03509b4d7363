"""Trainings in parts: scored after each, and kept meanwhile as arrays that they go on from."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from nos_optax.grammar import ProgramState
from nos_optax.population.child import Child, new_child
from nos_optax.population.loop import Factory, TaskLoop
from nos_optax.population.task import Params


class Part(NamedTuple):
    """What a part came to, of N children; nan from the part on in which one diverged."""

    loss: np.ndarray | jax.Array  # float32[N]: mean over the minibatches, no weight decay in it
    validation: np.ndarray | jax.Array  # float32[N]: mean score at the part's end
    test: np.ndarray | jax.Array  # float32[N]; nan where the task has no test set


class PartLoop:
    """Trains the children of a `TaskLoop` by the same steps, for a part of a training at a time.

    `TaskLoop.train` is for many short trainings: it says how they ended. These may be long, and
    each has rates that change from step to step, and a weight decay.

    Args:
        loop: of the task, with scores.
        decayed: which parameters the weight decay applies to, as a function from the parameters to
            the same tree of booleans, like the mask of `optax.add_decayed_weights`; all of them
            where None.

    Raises:
        ValueError: the loop has no scores.

    Example:
        >>> from nos_optax.grammar import encode
        >>> from nos_optax.population import TaskLoop, image_task, load_digits, paper_child
        >>> digits = load_digits()
        >>> task = image_task(digits, paper_child(digits))
        >>> loop = PartLoop(TaskLoop(task, 50, max_steps=20, iterations=1, scores=True))
        >>> child, programs = loop.start([0]), encode("g", 1).array[None]
        >>> rates = np.full((1, 20), 0.1)
        >>> child, part = loop.advance(child, programs, rates, [0], first=0, steps=20)
        >>> bool((part.validation > 0.5).all())
        True
    """

    def __init__(self, loop: TaskLoop, decayed: Callable[[Params], Any] | None = None):
        if not loop.scores:
            raise ValueError(f"{loop.task.name}: give a loop with scores=True")
        self.loop, self.task = loop, loop.task
        self._decayed = _ones(decayed, loop.task)
        self._compiled: dict[Factory | None, tuple[Any, Any]] = {}

    @property
    def seats(self) -> int:
        """Children that train together."""
        return self.loop.lanes * self.loop.devices

    def start(
        self, seeds: Sequence[int], factory: Factory | None = None, numbers: int | None = None
    ) -> Child:
        """Return N children before their first step.

        Args:
            seeds: of each child. The `lanes` that sit on one device, neighbours, share a seed.
            factory: where they train by an optimizer that is no rule.
            numbers: M, where the factory takes a vector: see `advance`.

        Raises:
            ValueError: there are no children, or too many, or neighbours have two seeds.
        """
        if not 0 < len(seeds) <= self.seats:
            raise ValueError(f"there is room for 1 to {self.seats} children, got {len(seeds)}")
        _, keys = self.loop.orders(self._of_devices(seeds))
        rates = np.zeros((self.seats,) if numbers is None else (self.seats, numbers), np.float32)
        return _head(self._programs(factory)[0](keys, rates), len(seeds))

    def advance(
        self,
        children: Child,
        programs: np.ndarray | Factory,
        learning_rates: np.ndarray,
        seeds: Sequence[int],
        first: int,
        steps: int,
        weight_decays: Sequence[float] | float = 0.0,
    ) -> tuple[Child, Part]:
        """Train children for a part of their training.

        Args:
            children: from `start` or from here, on whatever number of devices.
            programs: `int32[N, G, 5]`, or the factory.
            learning_rates: `float32[N, K]`, of each child at each of this part's K steps. With
                `[N, M, K]` the factory takes a vector: a rate, and other numbers that are data.
            seeds: as in `start`.
            first: steps before this part.
            steps: of the whole training, T of the decays.
            weight_decays: c of each child's L2 penalty c / 2 * sum(w^2). Its gradient is added to
                that of the loss before the rule sees it.

        Raises:
            ValueError: the part reaches beyond the training, or that beyond the loop's `max_steps`.
        """
        count, rates = len(seeds), np.asarray(learning_rates, np.float32)
        end = first + rates.shape[-1]
        if not end <= steps <= self.loop.max_steps:
            raise ValueError(
                f"steps {first} to {end} are no part of a training of {steps}, which may have "
                f"{self.loop.max_steps}"
            )
        factory = None
        if not isinstance(programs, np.ndarray):
            factory, programs = programs, np.zeros((count, 1, 5), np.int32)
        decays = np.broadcast_to(np.asarray(weight_decays, np.float32), count)
        seated = jax.tree.map(self._seat, (children, programs, rates, decays))
        order, keys = self.loop.orders(self._of_devices(seeds))
        children, part = self._programs(factory)[1](
            *seated,
            np.arange(self.seats) < count,
            order,
            keys,
            np.int32(first),
            np.int32(steps),
            self.loop.data,
            self._decayed,
        )
        return _head(children, count), _head(part, count)

    def _seat(self, x: Any) -> np.ndarray:
        """Return as many rows as there are seats; copies of the last one do not train."""
        return np.asarray(x)[np.minimum(np.arange(self.seats), len(x) - 1)]

    def _of_devices(self, seeds: Sequence[int]) -> tuple[int, ...]:
        of_devices = self._seat(seeds).reshape(self.loop.devices, self.loop.lanes)
        if (of_devices != of_devices[:, :1]).any():
            raise ValueError(f"{self.loop.lanes} neighbours must share a seed, got {list(seeds)}")
        return tuple(of_devices[:, 0].tolist())

    def _programs(self, factory: Factory | None) -> tuple[Any, Any]:
        """Return what starts children and what advances them, compiled."""
        if factory not in self._compiled:
            split, whole = PartitionSpec("device"), PartitionSpec()
            self._compiled[factory] = (
                self.loop.on_devices(partial(self._start_share, factory), (split, split)),
                self.loop.on_devices(
                    partial(self._advance_share, factory), (split,) * 7 + (whole,) * 4
                ),
            )
        return self._compiled[factory]

    def _start_share(self, factory, keys, rates) -> Child:
        """Return one device's children."""
        init_key, rule_key, _ = jax.random.split(keys[0], 3)
        start, rates = new_child(self.task, init_key), self._lanes_of(rates)
        child = self.loop.each(lambda _: start)(rates)
        if factory is not None:
            child, _ = self.loop.optimizer(child, factory, rates, rule_key)
        return self._rows_of(child)

    def _advance_share(
        self,
        factory,
        children,
        programs,
        rates,
        decays,
        real,
        order,
        keys,
        first,
        steps,
        data,
        ones,
    ) -> tuple[Child, Part]:
        """Train one device's children, of which those that are not real do not run."""
        loop, (train, _, scored) = self.loop, data
        _, rule_key, loss_key = jax.random.split(keys[0], 3)
        child, programs, rates, decays, real = map(
            self._lanes_of, (children, programs, rates, decays, real)
        )
        child = child._replace(running=child.running & real)
        decay = loop.each(lambda c: c * ones)(decays)

        def unfinished(carry):
            i, child, _ = carry
            return (i < rates.shape[-1]) & jnp.any(child.running)

        def train_step(carry):
            i, child, total = carry
            batch = jax.tree.map(lambda x: x[order[0, first + i]], train)
            key = jax.random.fold_in(loss_key, first + i)
            value, child, g = loop.gradients(child, batch, key, decay)
            if factory is None:
                _, update = loop.rules(child, programs, rates[..., i], steps, rule_key)
            else:
                _, update = loop.optimizer(child, factory, rates[..., i], rule_key)
            return i + 1, update(child, value, g), total + value

        zeros = jnp.zeros_like(decays)
        _, child, total = jax.lax.while_loop(unfinished, train_step, (0, child, zeros))
        child = child._replace(running=loop.finite(child))
        loss = jnp.where(child.running, total / rates.shape[-1], jnp.nan)
        part = Part(loss, *loop.both_scores(child, child.running, scored))
        return self._rows_of(child), self._rows_of(part)

    def _lanes_of(self, rows: Any) -> Any:
        """Return a device's rows as the loop takes them: without the axis of a single lane."""
        if self.loop.lanes == 1:
            return jax.tree.map(lambda x: x[0], rows)
        return _with_count(rows, lambda count: count[0])

    def _rows_of(self, lanes: Any) -> Any:
        """Return them with the axis."""
        if self.loop.lanes == 1:
            return jax.tree.map(lambda x: jnp.asarray(x)[None], lanes)
        return _with_count(lanes, lambda count: jnp.broadcast_to(count, (self.loop.lanes,)))


def _with_count(lanes: Any, change: Callable[[jax.Array], jax.Array]) -> Any:
    """Return children with another count of their rules' steps; anything else as it is."""
    if not (isinstance(lanes, Child) and isinstance(lanes.rule, ProgramState)):
        return lanes
    return lanes._replace(rule=lanes.rule._replace(count=change(lanes.rule.count)))


def _head(rows: Any, count: int) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[:count], rows)


def _ones(decayed: Callable[[Params], Any] | None, task: Any) -> np.ndarray:
    """Return 1 for each parameter that weight decay applies to, 0 for the others: `[D]`."""
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    mask = jax.tree.map(lambda x: True, params) if decayed is None else decayed(params)
    full = jax.tree.map(lambda x, chosen: np.full(x.shape, chosen, np.float32), params, mask)
    return np.asarray(ravel_pytree(full)[0])
