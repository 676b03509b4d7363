"""One loop that trains children of a task, each by its own rule, and says what losses they had.

What is done with the losses (which rates are tried, which are kept, what a rule earns) is decided
on the host, in `nos_optax.population.suite` and `nos_optax.compare`. Children are data: their
number, their rules, their rates and the length of their training may change from call to call and
nothing compiles again. Optimizers that are no rules, such as `optax.lion`, train in the same loop,
with one program for each of them.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, PartitionSpec

from nos_optax.grammar import ProgramState, apply_program, program_streams
from nos_optax.population.child import Child, Chunks, cut, gradient, new_child, total_score
from nos_optax.population.kernel import kernel_works
from nos_optax.population.task import Batch, Task
from nos_optax.population.task_check import check_task

CHILDREN_ON_CPU = 256  # of one device in one call of the compiled program
LANES = 1024  # side by side on an accelerator, where the memory suffices
MEMORY = 0.7  # the part of an accelerator's memory that the children may take, as estimated

Factory = Callable[..., optax.GradientTransformation]
"""From a learning rate, which is a tracer, to an optimizer: `optax.lion`, for example. One that has
an argument `key` is given the training's own, so that its random numbers are the seed's."""
Update = Callable[[Child, jax.Array, jax.Array], Child]
"""From children, the losses before the step and the gradients to the children after it."""
Hand = tuple[np.ndarray, int]
"""The children of one device in one call: their rows, and which seed they have."""


class Losses(NamedTuple):
    """What became of N children. No loss counts for more than that of untrained weights.

    So a child that diverges has a loss like any other: that of having learned nothing from then on.
    """

    train: (
        np.ndarray | jax.Array
    )  # float32[N]: mean over the steps of a minibatch's loss before the step
    late: np.ndarray | jax.Array  # float32[N]: the same over the second half of the steps
    validation: np.ndarray | jax.Array  # float32[N]: the task's loss there, after the last step
    initial: np.ndarray | jax.Array  # float32[N]: validation loss of the untrained weights
    # float32[N]: mean scores after the last step, of a loop that was asked for them; else nan, as
    # is that of a child that diverged.
    validation_score: np.ndarray | jax.Array = np.asarray(np.nan)
    test_score: np.ndarray | jax.Array = np.asarray(np.nan)


class TaskLoop:
    """Trains children of one task.

    A child's losses depend on its program, rate, seed and number of steps alone, not on its
    neighbours. All children of a call share the seed: their initial weights, their minibatches and
    the random numbers of their rules, so that their differences are those of the rules.

    Args:
        task: the model and its data, which is kept on the devices.
        minibatch_size: examples in a minibatch.
        max_steps: the longest training that `train` may be asked for.
        iterations: the length of the longest program.
        devices: the devices to use; all local ones where None.
        lanes: children that train side by side on a device. Where None: 1 on a CPU, so that the
            rule's switches are real branches; elsewhere 1024, or as many as fit into the memory by
            an estimate. Halved, with a warning, while they do not fit.
        fused: whether a rule's step is one kernel; where None, if `kernel_works` on the device.
        scores: whether to score the children by the task's metric too.
        losses: whether to take losses on the validation set; where not, all losses are nan.
        order: returns the examples of each minibatch, `int32[max_steps, B]`, of a seed; those of
            whole epochs where None.

    Raises:
        ValueError: the task has fewer training examples than a minibatch, its functions do not fit
            together, or a number is not positive.
    """

    def __init__(
        self,
        task: Task,
        minibatch_size: int,
        max_steps: int,
        iterations: int,
        devices: list[jax.Device] | None = None,
        lanes: int | None = None,
        fused: bool | None = None,
        scores: bool = False,
        losses: bool = True,
        order: Callable[[int], np.ndarray] | None = None,
    ):
        devices = devices or jax.local_devices()
        examples = task.num_examples(task.train)
        if not 1 <= minibatch_size <= examples:
            raise ValueError(
                f"{task.name}: minibatch_size must be from 1 to the {examples} training examples, "
                f"got {minibatch_size}"
            )
        if min(max_steps, iterations, 1 if lanes is None else lanes) < 1:
            raise ValueError(
                "max_steps, iterations and lanes must be at least 1, got "
                f"{max_steps}, {iterations} and {lanes}"
            )
        check_task(task, minibatch_size)
        self.task, self.minibatch_size, self.max_steps = task, minibatch_size, max_steps
        self.iterations, self.scores, self.losses = iterations, scores, losses
        self.order = order or self._epochs
        self.fused = kernel_works(devices[0]) if fused is None else fused
        self.lanes = self._most_lanes(devices[0]) if lanes is None else lanes
        self._mesh = Mesh(np.array(devices), ("device",), axis_types=(AxisType.Auto,))
        replicated = jax.NamedSharding(self._mesh, PartitionSpec())
        size = min(task.evaluation_batch, task.num_examples(task.validation))
        sets = [x for x in (task.validation, task.test) if scores and x is not None]
        scored = [cut(x, task.evaluation_batch) for x in sets]
        self._examples = [task.num_examples(x) for x in sets]
        parts = _equal_parts(task.validation, size) if losses else ()
        self.data = jax.device_put((task.train, parts, tuple(scored)), replicated)
        self.orders = lru_cache(maxsize=8)(self._draw_orders)
        self._compiled: dict[Factory | None, Any] = {}

    def _most_lanes(self, device: jax.Device) -> int:
        """Return the lanes of a device that was not told."""
        if device.platform == "cpu":
            return 1
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit is None:
            return LANES
        fitting = max(1, int(MEMORY * limit / child_bytes(self.task, self.minibatch_size)))
        return min(LANES, 2 ** (fitting.bit_length() - 1))

    def _program(self, factory: Factory | None) -> Any:
        """Return the one program for rules, or that of an optimizer, for the present lanes."""
        if factory not in self._compiled:
            split, whole = PartitionSpec("device"), PartitionSpec()
            specs = split, split, split, split, whole, whole, split, whole
            self._compiled[factory] = self.on_devices(partial(self._train_share, factory), specs)
        return self._compiled[factory]

    def on_devices(self, function: Callable, specs: tuple[PartitionSpec, ...]) -> Any:
        """Return a function of what one device has, compiled for all devices together."""
        on_cpu = self.platform == "cpu"
        return jax.jit(
            jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=specs,
                out_specs=PartitionSpec("device"),
                check_vma=False,
            ),
            # A device is a core: to split its products among more changes how they are rounded.
            compiler_options={"xla_cpu_multi_thread_eigen": False} if on_cpu else None,
        )

    @property
    def devices(self) -> int:
        """On how many devices it trains."""
        return self._mesh.size

    @property
    def platform(self) -> str:
        """What kind of devices these are: `cpu`, `gpu` or `tpu`."""
        return self._mesh.devices.flat[0].platform

    @property
    def _share(self) -> int:
        """Children of one device in a call of the compiled program."""
        return CHILDREN_ON_CPU if self.lanes == 1 else self.lanes

    @property
    def capacity(self) -> int:
        """Children of one call of the compiled program; more take several calls."""
        return self._share * self._mesh.size

    def compile(self) -> None:
        """Compile now, rather than at the first training."""
        program = np.zeros((1, self.iterations, 5), np.int32)
        self.train(program, np.zeros(1, np.float32), 0, 1)

    def train(
        self,
        programs: np.ndarray | Factory,
        learning_rates: np.ndarray,
        seed: int,
        steps: int,
        first: int = 0,
    ) -> Losses:
        """Train N children and return their losses.

        Args:
            programs: `int32[N, G, 5]`, of `iterations` each; or an optimizer that is no rule, which
                trains all N.
            learning_rates: `float32[N]`; a child whose rate is nan never learns.
            seed: of the initial weights, the minibatches and all random numbers.
            steps: the length of the training, T of the decays too.
            first: minibatches that are passed over.

        Raises:
            ValueError: `first` and `steps` exceed `max_steps`, or there are no steps or children.
        """
        found = self.train_seeds(programs, learning_rates, (seed,), steps, first)
        return Losses(*(x[:, 0] for x in found))

    def train_seeds(
        self,
        programs: np.ndarray | Factory,
        learning_rates: np.ndarray,
        seeds: Sequence[int],
        steps: int,
        first: int = 0,
    ) -> Losses:
        """Train N children with each of S seeds, and return losses `[N, S]`.

        The numbers are those of `train` with each seed; but the devices have seeds of their own, so
        that a few children keep all devices busy.

        Raises:
            ValueError: as `train`.
        """
        if not len(learning_rates) or not len(seeds):
            raise ValueError("there is no child to train: give at least one program and seed")
        if not 1 <= steps <= self.max_steps - first:
            after = f" after the first {first}" if first else ""
            raise ValueError(
                f"steps must be from 1 to max_steps={self.max_steps}, got {steps}{after}"
            )
        rates, factory = np.asarray(learning_rates, np.float32), None
        if not isinstance(programs, np.ndarray):
            factory, programs = programs, np.zeros((len(rates), 1, 5), np.int32)
        while True:
            try:
                return self._train_all(factory, programs, rates, seeds, steps, first)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or self.lanes == 1:
                    raise
            self.lanes //= 2
            warnings.warn(
                f"{self.task.name}: out of memory: going on with {self.lanes} lanes", stacklevel=2
            )
            self._compiled.clear()

    def _train_all(self, factory, programs, rates, seeds, steps: int, first: int) -> Losses:
        """Train all children with all seeds; no call waits for the one before."""
        calls = [
            (hand, self._dispatch(factory, programs, rates, hand, seeds, steps, first))
            for hand in self._deal(len(rates), len(seeds))
        ]
        found = np.empty((len(Losses._fields), len(rates), len(seeds)), np.float32)
        for hands, wait in calls:
            for (rows, column), losses in zip(hands, wait(), strict=True):
                found[:, rows, column] = losses
        return Losses(*found)

    def _deal(self, count: int, seeds: int) -> Iterator[list[Hand]]:
        """Yield the hands of all devices, call by call; the devices of a seed take turns."""
        devices = self._mesh.size
        for first in range(0, seeds, devices):
            columns = range(first, min(first + devices, seeds))
            each = devices // len(columns)  # devices of a seed
            for start in range(0, count, self._share * each):
                rows = np.arange(start, min(start + self._share * each, count))
                hands = [(rows[d::each], column) for column in columns for d in range(each)]
                yield hands + [(rows[:0], first)] * (devices - len(hands))

    def _dispatch(self, factory, programs, rates, hands: list[Hand], seeds, steps, first):
        """Start one call's trainings; return a function that waits for each device's losses."""
        # Copies of a child fill the seats that are left; they do not train.
        seats = [np.r_[rows, np.zeros(self._share - len(rows), int)] for rows, _ in hands]
        child = np.concatenate(seats).astype(int)
        counts = np.array([len(rows) for rows, _ in hands], np.int32)
        order, keys = self.orders(tuple(seeds[column] for _, column in hands))
        result = self._program(factory)(
            programs[child],
            rates[child],
            counts,
            order,
            np.int32(first),
            np.int32(steps),
            keys,
            self.data,
        )

        def wait():
            found = np.stack([np.asarray(x).reshape(len(hands), -1) for x in result])
            return [found[:, d, :count] for d, count in enumerate(counts)]

        return wait

    def _draw_orders(self, seeds: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Return, for the seed of each device, `int32[max_steps, B]` and a key, on that device.

        The numbers are the examples of each minibatch.
        """
        order = np.stack([self.order(seed) for seed in seeds])
        keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
        split = jax.NamedSharding(self._mesh, PartitionSpec("device"))
        return jax.device_put(order, split), jax.device_put(keys, split)

    def _epochs(self, seed: int) -> np.ndarray:
        examples, size = self.task.num_examples(self.task.train), self.minibatch_size
        epochs = -(-self.max_steps // (examples // size))
        rng = np.random.default_rng(seed)
        draw = rng.permutation if self.task.shuffle else np.arange
        rows = [draw(examples)[: examples // size * size] for _ in range(epochs)]
        return np.concatenate(rows).reshape(-1, size)[: self.max_steps].astype(np.int32)

    def _train_share(
        self, factory, programs, rates, counts, order, first, steps, keys, data
    ) -> Losses:
        """Train one device's children `[n]`, of which the first `counts[0]` are real."""
        order = jnp.roll(order[0], -first, axis=0)
        init_key, rule_key, loss_key = jax.random.split(keys[0], 3)
        start = new_child(self.task, init_key)
        initial = self._validation_loss(start, data[1], loss_key) if self.losses else jnp.nan

        def group(i, losses):
            rows = i if self.lanes == 1 else i * self.lanes + jnp.arange(self.lanes)
            result = self._train_lanes(
                factory,
                start,
                initial,
                programs[rows],
                rates[rows],
                order,
                steps,
                rule_key,
                loss_key,
                data,
            )
            return jax.tree.map(lambda all_, new: all_.at[rows].set(new), losses, result)

        nothing = Losses(*[jnp.zeros(len(rates), jnp.float32)] * len(Losses._fields))
        return jax.lax.fori_loop(0, -(-counts[0] // self.lanes), group, nothing)

    def _train_lanes(
        self, factory, start, initial, programs, rates, order, steps, rule_key, loss_key, data
    ) -> Losses:
        """Train `lanes` children side by side from one start.

        Programs, rates and results have a leading axis of lanes; with one lane there is no axis and
        no `vmap`.
        """
        train, validation, scored = data
        child = self.each(lambda rate: start._replace(running=jnp.isfinite(rate)))(rates)
        if factory is None:
            child, update = self.rules(child, programs, rates, steps, rule_key)
        else:
            child, update = self.optimizer(child, factory, rates, rule_key)

        def unfinished(carry):
            i, child, _, _ = carry
            return (i < steps) & jnp.any(child.running)

        def train_step(carry):
            i, child, total, late = carry
            batch = jax.tree.map(lambda x: x[order[i]], train)
            value, child, g = self.gradients(child, batch, jax.random.fold_in(loss_key, i))
            child = update(child, value, g)
            capped = jnp.where(child.running, jnp.minimum(value, initial), initial)
            capped = capped.astype(total.dtype)  # a loss may be of double precision
            late += jnp.where(i >= steps // 2, capped, 0.0)
            return i + 1, child, total + capped, late

        zeros = jnp.zeros_like(rates)
        i, child, total, late = jax.lax.while_loop(unfinished, train_step, (0, child, zeros, zeros))
        # Where all children stopped before the end, the steps left count as untrained.
        half = steps - steps // 2
        total += (steps - i) * initial
        late += jnp.minimum(steps - i, half) * initial
        finite = self.finite(child)
        value = jnp.full_like(total, jnp.nan)
        if self.losses:
            value = self.each(lambda c: self._validation_loss(c, validation, loss_key))(child)
            finite &= jnp.isfinite(value)
            value = jnp.where(finite, jnp.minimum(value, initial), initial)
        scores = self.both_scores(child, finite, scored)
        return Losses(
            total / steps, late / half, value, jnp.broadcast_to(initial, value.shape), *scores
        )

    def each(self, function):
        """Return a function of one child as one of the lanes."""
        if self.lanes == 1:
            return function
        lane: Any = 0
        common: Any = None
        program_state = ProgramState(common, lane, lane, lane)

        def axes(x):
            if not isinstance(x, Child):
                return lane
            rule = program_state if isinstance(x.rule, ProgramState) else lane
            return Child(lane, lane, rule, lane)

        return lambda *args: jax.vmap(function, [axes(x) for x in args])(*args)

    def gradients(
        self, child: Child, batch: Batch, key, *decay: jax.Array
    ) -> tuple[jax.Array, Child, jax.Array]:
        """Return the losses `[lanes]`, the children with their next states, the gradients.

        A child whose loss is not finite stops running; its numbers go on, and count no more.
        """

        def of_one(child, *decay):
            return gradient(self.task, child, batch, key, *decay)

        value, state, g = self.each(of_one)(child, *decay)
        running = child.running & jnp.isfinite(value)
        return value, child._replace(state=state, running=running), g

    def rules(self, child: Child, programs, rates, steps, key) -> tuple[Child, Update]:
        """Return children before the first step of their rules, and what such a step does."""
        streams = self.each(program_streams)(programs)
        # One for all lanes, as a scalar: the step is theirs in common.
        child = child._replace(rule=child.rule._replace(count=jnp.zeros([], jnp.int32)))

        def fused(child, value, g):
            from nos_optax.grammar.fused import fused_update  # Pallas is not everywhere

            keys = jnp.broadcast_to(key, (self.lanes,))
            params, rule = fused_update(
                programs, streams, child.rule, g, child.params, rates, steps, keys
            )
            return child._replace(params=params, rule=rule)

        def update(child, value, g):
            def of_one(program, streams, rate, g, params, mu, nu, gamma):
                rule = ProgramState(child.rule.count, mu, nu, gamma)
                update, rule = apply_program(program, streams, rule, g, params, steps, key)
                return params - rate * update, *rule[1:]

            params, *averages = self.each(of_one)(
                programs, streams, rates, g, child.params, *child.rule[1:]
            )
            rule = ProgramState(child.rule.count + 1, *averages)
            return child._replace(params=params, rule=rule)

        return child, fused if self.fused and self.lanes > 1 else update

    def optimizer(self, child: Child, factory: Factory, rates, key) -> tuple[Child, Update]:
        """Return the same for an optimizer, which has the parameters as the tree that they are."""
        tree = self.task.unflatten

        def init(rate, params):
            return make_optimizer(factory, rate, key).init(tree(params))

        def of_one(rate, value, g, params, state):
            optimizer = make_optimizer(factory, rate, key)
            update, state = optimizer.update(tree(g), state, tree(params), value=value)
            return params + ravel_pytree(update)[0], state

        def update(child, value, g):
            params, state = self.each(of_one)(rates, value, g, child.params, child.rule)
            return child._replace(params=params, rule=state)

        return child._replace(rule=self.each(init)(rates, child.params)), update

    def finite(self, child: Child) -> jax.Array:
        """Return which children have not diverged, `[lanes]`."""
        return child.running & self.each(lambda child: jnp.all(jnp.isfinite(child.params)))(child)

    def both_scores(self, child: Child, finite: jax.Array, scored: Sequence[Chunks]) -> list:
        """Return mean scores on the validation and the test set, nan where there is none."""
        both = zip(scored, self._examples, strict=True)
        scores = [self._score(child, finite, *examples) for examples in both]
        return scores + [jnp.full_like(finite, jnp.nan, jnp.float32)] * (2 - len(scores))

    def _score(self, child: Child, finite: jax.Array, chunks: Chunks, examples: int) -> jax.Array:
        """Return the mean score of the children on a set of examples; nan where one diverged."""

        def add(i, total):
            batch, real = jax.tree.map(lambda x: x[i], chunks)
            return total + self.each(lambda child: total_score(self.task, child, batch, real))(
                child
            )

        count = jnp.where(jnp.any(finite), len(chunks.real), 0)
        total = jax.lax.fori_loop(0, count, add, jnp.zeros_like(finite, jnp.float32))
        return jnp.where(finite & jnp.isfinite(total), total / examples, jnp.nan)

    def _validation_loss(self, child: Child, parts: Batch, key: jax.Array) -> jax.Array:
        """Return the mean loss of one child on the validation set, whose parts `[K, M, ...]`."""

        def loss(part):
            return self.task.loss(self.task.unflatten(child.params), child.state, part, key)[0]

        return jax.lax.map(loss, parts).mean()


def call_factory(factory: Factory, rate, key):
    """Return what a factory makes of a rate, and of the training's key if it takes a `key`."""
    return factory(rate, key=key) if takes(factory, "key") else factory(rate)


def takes(function: Callable, argument: str) -> bool:
    """Return whether a function has an argument of a name."""
    try:
        return argument in inspect.signature(function).parameters
    except ValueError:  # not every callable has a signature
        return False


def make_optimizer(factory: Factory, rate, key) -> optax.GradientTransformationExtraArgs:
    """Return a factory's optimizer for a rate and a training's key; it may be given the loss."""
    return optax.with_extra_args_support(call_factory(factory, rate, key))


def _equal_parts(batch: Batch, size: int) -> Batch:
    """Cut examples into parts `[K, size, ...]`; those that do not fill a last one are left out."""
    count = Task.num_examples(batch) // size
    return jax.tree.map(lambda x: x[: count * size].reshape(count, size, *x.shape[1:]), batch)


def child_bytes(task: Task, minibatch_size: int) -> int:
    """Return an estimate, from above, of the memory that a child in training takes.

    What the loss, its gradient and the validation compute for one child, as if nothing was freed or
    fused, and ten vectors of parameters. Shapes are all that is looked at.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(task.init, key)

    def some(batch, size):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batch)

    size = min(task.evaluation_batch, task.num_examples(task.validation))
    steps = (
        jax.make_jaxpr(jax.grad(task.loss, has_aux=True))(
            params, state, some(task.train, minibatch_size), key
        ),
        jax.make_jaxpr(task.loss)(params, state, some(task.validation, size), key),
    )
    computed = [sum(_bytes(v.aval) for e in j.eqns for v in e.outvars) for j in steps]
    return max(computed) + 10 * 4 * task.num_params


def _bytes(aval) -> int:
    """Return the bytes of an array; keys and the like take none worth counting."""
    return aval.size * getattr(aval.dtype, "itemsize", 0)
