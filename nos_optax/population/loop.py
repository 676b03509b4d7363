"""One loop that trains children of a task, each by its own rule, and says what losses they had.

What is done with the losses (which rates are tried, which are kept, what a rule earns) is decided
on the host, in `nos_optax.population.suite`. Children are data: their number, their rules, their
rates and the length of their training may change from call to call and nothing compiles again.
"""

import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from nos_optax.grammar import ProgramState, apply_program, program_streams
from nos_optax.population.kernel import kernel_works
from nos_optax.population.task import Batch, Task
from nos_optax.population.task_check import check_task
from nos_optax.population.training import Child, gradient, new_child

CHILDREN_ON_CPU = 256  # of one device in one call of the compiled program
LANES = 1024  # side by side on an accelerator, where the memory suffices
MEMORY = 0.7  # the part of an accelerator's memory that the children may take, as estimated


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
        self.iterations = iterations
        self.fused = kernel_works(devices[0]) if fused is None else fused
        self.lanes = self._most_lanes(devices[0]) if lanes is None else lanes
        self._mesh = Mesh(np.array(devices), ("device",), axis_types=(AxisType.Auto,))
        replicated = jax.NamedSharding(self._mesh, PartitionSpec())
        size = min(task.evaluation_batch, task.num_examples(task.validation))
        self.data = jax.device_put((task.train, _equal_parts(task.validation, size)), replicated)
        self._order = lru_cache(maxsize=8)(self._draw_order)
        self._train = self._compiled()

    def _most_lanes(self, device: jax.Device) -> int:
        """Return the lanes of a device that was not told."""
        if device.platform == "cpu":
            return 1
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit is None:
            return LANES
        fitting = max(1, int(MEMORY * limit / child_bytes(self.task, self.minibatch_size)))
        return min(LANES, 2 ** (fitting.bit_length() - 1))

    def _compiled(self):
        """Return the one program, jitted for the present number of lanes."""
        self._share = CHILDREN_ON_CPU if self.lanes == 1 else self.lanes
        split, whole = PartitionSpec("device"), PartitionSpec()
        on_cpu = self._mesh.devices.flat[0].platform == "cpu"
        return jax.jit(
            jax.shard_map(
                self._train_share,
                mesh=self._mesh,
                in_specs=(split, split, split, whole, whole, whole, whole),
                out_specs=split,
                check_vma=False,
            ),
            # A device is a core: to split its products among more changes how they are rounded.
            compiler_options={"xla_cpu_multi_thread_eigen": False} if on_cpu else None,
        )

    @property
    def capacity(self) -> int:
        """Children of one call of the compiled program; more take several calls."""
        return self._share * self._mesh.size

    def compile(self) -> None:
        """Compile now, rather than at the first training."""
        program = np.zeros((1, self.iterations, 5), np.int32)
        self.train(program, np.zeros(1, np.float32), 0, 1)

    def train(
        self, programs: np.ndarray, learning_rates: np.ndarray, seed: int, steps: int
    ) -> Losses:
        """Train N children and return their losses.

        Args:
            programs: `int32[N, G, 5]`, of `iterations` each.
            learning_rates: `float32[N]`; a child whose rate is nan never learns.
            seed: of the initial weights, the minibatches and all random numbers.
            steps: the length of the training, T of the decays too.

        Raises:
            ValueError: there are more steps than `max_steps`, or none, or there are no children.
        """
        if not len(programs):
            raise ValueError("there is no child to train: give at least one program")
        if not 1 <= steps <= self.max_steps:
            raise ValueError(f"steps must be from 1 to max_steps={self.max_steps}, got {steps}")
        rates = np.asarray(learning_rates, np.float32)
        while True:
            try:
                return self._train_all(programs, rates, seed, steps)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or self.lanes == 1:
                    raise
            self.lanes //= 2
            warnings.warn(
                f"{self.task.name}: out of memory: going on with {self.lanes} lanes", stacklevel=2
            )
            self._train = self._compiled()

    def _train_all(self, programs, rates, seed: int, steps: int) -> Losses:
        """Train all children, `capacity` in a call; no call waits for the one before."""
        order, key = self._order(seed), jax.random.key(seed)
        results = []
        for first in range(0, len(rates), self.capacity):
            part = slice(first, first + self.capacity)
            results.append(self._dispatch(programs[part], rates[part], order, steps, key))
        return Losses(*map(np.concatenate, zip(*(wait() for wait in results), strict=True)))

    def _dispatch(self, programs, rates, order, steps, key):
        """Start at most `capacity` trainings; return a function that waits for their losses."""
        size, devices = len(rates), self._mesh.size
        # Dealt out to the devices like cards; the last child's copies fill the seats left.
        seats = np.arange(self.capacity).reshape(self._share, devices).T.ravel()
        counts = np.array([len(range(d, size, devices)) for d in range(devices)], np.int32)
        child = np.minimum(seats, size - 1)
        result = self._train(
            programs[child], rates[child], counts, order, np.int32(steps), key, self.data
        )
        place = np.argsort(seats)[:size]
        return lambda: [np.asarray(x)[place] for x in result]

    def _draw_order(self, seed: int) -> jax.Array:
        """Return the examples of each minibatch, `int32[max_steps, B]`, on the devices."""
        examples, size = self.task.num_examples(self.task.train), self.minibatch_size
        epochs = -(-self.max_steps // (examples // size))
        rng = np.random.default_rng(seed)
        draw = rng.permutation if self.task.shuffle else np.arange
        rows = [draw(examples)[: examples // size * size] for _ in range(epochs)]
        order = np.concatenate(rows).reshape(-1, size)[: self.max_steps].astype(np.int32)
        return jax.device_put(order, jax.NamedSharding(self._mesh, PartitionSpec()))

    def _train_share(self, programs, rates, counts, order, steps, key, data) -> Losses:
        """Train one device's children `[n]`, of which the first `counts[0]` are real."""
        init_key, rule_key, loss_key = jax.random.split(key, 3)
        start = new_child(self.task, init_key)
        validation = data[1]
        initial = self._validation_loss(start, validation, loss_key)

        def group(i, losses):
            rows = i if self.lanes == 1 else i * self.lanes + jnp.arange(self.lanes)
            result = self._train_lanes(
                start, initial, programs[rows], rates[rows], order, steps, rule_key, loss_key, data
            )
            return jax.tree.map(lambda all_, new: all_.at[rows].set(new), losses, result)

        nothing = Losses(*[jnp.zeros(len(rates), jnp.float32)] * len(Losses._fields))
        return jax.lax.fori_loop(0, -(-counts[0] // self.lanes), group, nothing)

    def _train_lanes(
        self, start, initial, programs, rates, order, steps, rule_key, loss_key, data
    ) -> Losses:
        """Train `lanes` children side by side from one start.

        Programs, rates and results have a leading axis of lanes; with one lane there is no axis and
        no `vmap`.
        """
        train, validation = data
        streams = self._each(program_streams)(programs)
        child = self._each(lambda rate: start._replace(running=jnp.isfinite(rate)))(rates)
        # One for all lanes, as a scalar: the step is theirs in common.
        child = child._replace(rule=child.rule._replace(count=jnp.zeros([], jnp.int32)))

        def unfinished(carry):
            i, child, _, _ = carry
            return (i < steps) & jnp.any(child.running)

        def train_step(carry):
            i, child, total, late = carry
            batch = jax.tree.map(lambda x: x[order[i]], train)
            value, child, g = self._gradients(child, batch, jax.random.fold_in(loss_key, i))
            child = self._update(child, programs, streams, rates, g, steps, rule_key)
            capped = jnp.where(child.running, jnp.minimum(value, initial), initial)
            late += jnp.where(i >= steps // 2, capped, 0.0)
            return i + 1, child, total + capped, late

        zeros = jnp.zeros_like(rates)
        i, child, total, late = jax.lax.while_loop(unfinished, train_step, (0, child, zeros, zeros))
        # Where all children stopped before the end, the steps left count as untrained.
        half = steps - steps // 2
        total += (steps - i) * initial
        late += jnp.minimum(steps - i, half) * initial
        value = self._each(lambda child: self._validation_loss(child, validation, loss_key))(child)
        finite = child.running & jnp.isfinite(value)
        value = jnp.where(finite, jnp.minimum(value, initial), initial)
        return Losses(total / steps, late / half, value, jnp.broadcast_to(initial, value.shape))

    def _each(self, function):
        """Return a function of one child as one of the lanes."""
        if self.lanes == 1:
            return function
        lane: Any = 0
        common: Any = None
        axes = Child(lane, lane, ProgramState(common, lane, lane, lane), lane)

        def of_lanes(*args):
            return jax.vmap(function, [axes if isinstance(x, Child) else 0 for x in args])(*args)

        return of_lanes

    def _gradients(self, child: Child, batch: Batch, key) -> tuple[jax.Array, Child, jax.Array]:
        """Return the losses `[lanes]`, the children with their next states, the gradients.

        A child whose loss is not finite stops running; its numbers go on, and count no more.
        """

        def of_one(child):
            return gradient(self.task, child, batch, key)

        value, state, g = self._each(of_one)(child)
        running = child.running & jnp.isfinite(value)
        return value, child._replace(state=state, running=running), g

    def _update(self, child: Child, programs, streams, rates, g, steps, key) -> Child:
        """Return the children after the update of their rules."""
        if self.fused and self.lanes > 1:
            from nos_optax.grammar.fused import fused_update  # Pallas is not everywhere

            keys = jnp.broadcast_to(key, (self.lanes,))
            params, rule = fused_update(
                programs, streams, child.rule, g, child.params, rates, steps, keys
            )
            return child._replace(params=params, rule=rule)

        def of_one(program, streams, rate, g, params, mu, nu, gamma):
            rule = ProgramState(child.rule.count, mu, nu, gamma)
            update, rule = apply_program(program, streams, rule, g, params, steps, key)
            return params - rate * update, *rule[1:]

        params, *averages = self._each(of_one)(
            programs, streams, rates, g, child.params, *child.rule[1:]
        )
        return child._replace(params=params, rule=ProgramState(child.rule.count + 1, *averages))

    def _validation_loss(self, child: Child, parts: Batch, key: jax.Array) -> jax.Array:
        """Return the mean loss of one child on the validation set, whose parts `[K, M, ...]`."""

        def loss(part):
            return self.task.loss(self.task.unflatten(child.params), child.state, part, key)[0]

        return jax.lax.map(loss, parts).mean()


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
