"""The population trainer: every child trains with its own update rule, inside one compiled program.

A population is data, `int32[P, G, 5]`, so the program is compiled once per search. Each device
takes an equal share of the candidates and no device waits for another. On a device, `lanes`
children at a time train side by side under `vmap`; with one lane (CPU) there is no `vmap`, and
the rule's switches are real branches.
"""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from nos_optax.grammar import program_streams
from nos_optax.grammar.program import (
    MAX_ITERATIONS,
    TOKENS_PER_ITERATION,
    as_population,
    pad_programs,
)
from nos_optax.population.data import Dataset
from nos_optax.population.kernel import kernel_works
from nos_optax.population.protocol import (
    DEAD,
    DIVERGED,
    TRAINED,
    Evaluation,
    Protocol,
)
from nos_optax.population.task import Task, image_task, paper_child
from nos_optax.population.task_check import check_task
from nos_optax.population.training import (
    Arrays,
    Candidate,
    Minibatches,
    cut,
    mean_score,
    new_child,
    train,
)


class PopulationTrainer:
    """Evaluates populations of update rules by training a child network with each.

    A candidate's reward depends on the seed and its program alone: not on its neighbours, its
    place, the size of the population, nor (with one lane) the number of devices.

    Args:
        task: what the children are, and their data, which is kept on the devices; a data set of
            images stands for the paper's ConvNet on it.
        protocol: how a candidate earns its reward.
        iterations: the length of the longest program.
        capacity: candidates in one call of the compiled program; larger populations take several,
            smaller ones leave room, which costs nothing.
        lanes: children that train side by side on a device; 1 on CPU and 64 elsewhere where None.
            Halved, with a warning, while they do not fit in the memory.
        devices: the devices to use; all local ones where None.
        max_epochs: the longest training that `evaluate` may be asked for; the protocol's where
            None.
        fused: whether the rules of several lanes are applied by one kernel; where None, if
            `kernel_works` on the device.

    Raises:
        ValueError: the task has fewer training examples than a minibatch, its functions do not fit
            together, or `lanes` or `capacity` is not positive.

    Example:
        >>> from nos_optax.grammar import encode
        >>> from nos_optax.population import PopulationTrainer, Protocol, load_digits
        >>> trainer = PopulationTrainer(load_digits(), Protocol(epochs=1))
        >>> population = [encode(rule, 2).array for rule in ("adam", "exp(sign(g) * sign(m)) * g")]
        >>> evaluation = trainer.evaluate(population, seed=0)
        >>> evaluation.reward.shape, bool((evaluation.reward > 0.5).all())
        ((2,), True)
    """

    def __init__(
        self,
        task: Task | Dataset,
        protocol: Protocol = Protocol(),  # noqa: B008
        iterations: int = MAX_ITERATIONS,
        capacity: int = 256,
        lanes: int | None = None,
        devices: list[jax.Device] | None = None,
        max_epochs: int | None = None,
        fused: bool | None = None,
    ):
        devices = devices or jax.local_devices()
        on_cpu = devices[0].platform == "cpu"
        if isinstance(task, Dataset):
            task = image_task(task, paper_child(task, devices[0]))
        self.task, self.protocol = task, protocol
        self.iterations = iterations
        self.lanes = (1 if on_cpu else 64) if lanes is None else lanes
        if self.lanes < 1 or capacity < 1:
            raise ValueError(f"lanes and capacity must be at least 1, got {lanes} and {capacity}")
        self.fused = kernel_works(devices[0]) if fused is None else fused
        self._share = -(-capacity // len(devices))  # candidates of one device in one call

        examples = task.num_examples(task.train)
        if examples < protocol.batch_size:
            raise ValueError(
                f"{examples} training examples do not fill a minibatch of {protocol.batch_size}; "
                "give more examples or smaller minibatches"
            )
        check_task(task, protocol.batch_size)
        sweep_examples = min(protocol.sweep_examples, examples)
        self.sweep_steps = max(1, sweep_examples // protocol.batch_size)
        self.epoch_steps = examples // protocol.batch_size
        self.max_epochs = protocol.epochs if max_epochs is None else max_epochs
        if self.max_epochs < protocol.epochs:
            raise ValueError(f"max_epochs must be at least {protocol.epochs}, got {max_epochs}")
        self.chance, self.threshold = task.chance, task.threshold(protocol.margin)
        self._validation_examples = task.num_examples(task.validation)

        self.mesh = Mesh(np.array(devices), ("device",), axis_types=(AxisType.Auto,))
        replicated = jax.NamedSharding(self.mesh, PartitionSpec())
        validation = cut(task.validation, task.evaluation_batch)
        self._arrays = jax.device_put(Arrays(task.train, validation), replicated)
        self._evaluate = self._compile()

    def _compile(self):
        """Return the one program, jitted for the present number of lanes."""
        split, whole = PartitionSpec("device"), PartitionSpec()
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        return jax.jit(
            jax.shard_map(
                self._evaluate_share,
                mesh=self.mesh,
                in_specs=(split, split, whole, whole, whole, whole),
                out_specs=split,
                check_vma=False,
            ),
            # A device is a core: to split its products among more changes how they are rounded.
            compiler_options={"xla_cpu_multi_thread_eigen": False} if on_cpu else None,
        )

    def compile(self) -> None:
        """Compile the program now, rather than at the first evaluation."""
        seats = self._share * self.mesh.size
        programs = np.zeros((seats, self.iterations, TOKENS_PER_ITERATION), np.int32)
        none = np.zeros(self.mesh.size, np.int32)
        self._within_memory(programs, none, *self._run(0, self.protocol.epochs), self._arrays)

    @property
    def train_steps(self) -> int:
        """Steps of the training in the protocol."""
        return self.epoch_steps * self.protocol.epochs

    def untrained_score(self) -> float:
        """Return the mean validation score of the weights of seed 0, which an update improves.

        Raises:
            ValueError: it is not finite, so that no training could be told from a diverged one.
        """

        @jax.jit
        def untrained(validation):
            child = new_child(self.task, jax.random.split(jax.random.key(0), 3)[0])
            return mean_score(self.task, child, validation)

        score = float(untrained(self._arrays.validation))
        if not np.isfinite(score):
            raise ValueError(
                f"{self.task.name}: the metric of untrained weights is {score}; it must be finite "
                "for every validation example: look for a logarithm or a quotient of 0"
            )
        return score

    def evaluate(
        self,
        programs: np.typing.ArrayLike,
        seed: int = 0,
        epochs: int | None = None,
    ) -> Evaluation:
        """Train a child with each program and return the rewards.

        Args:
            programs: `int32[P, G, 5]`, or the controller's `int32[P, 5 G]`.
            seed: of the initial weights, the order of the examples and the rules' random numbers.
            epochs: of the training after the sweep; the protocol's where None.

        Returns:
            The evaluation of each program, in order.

        Raises:
            ValueError: the population is empty or holds what is no program, its programs are longer
                than `iterations`, or there are more epochs than `max_epochs`.
        """
        programs = pad_programs(as_population(programs), self.iterations)
        run = self._run(seed, self.protocol.epochs if epochs is None else epochs)
        capacity = self._share * self.mesh.size
        parts = [
            self._evaluate_part(programs[start : start + capacity], run)
            for start in range(0, len(programs), capacity)
        ]
        evaluation = Evaluation(*map(np.concatenate, zip(*parts, strict=True)))
        best, perfect = float(evaluation.reward.max()), self.task.perfect
        if best > perfect + 1e-3 * max(1, abs(perfect)):
            raise ValueError(
                f"{self.task.name}: a child scored {best:g}, but perfect is {perfect:g}; the "
                "metric is higher for better examples: negate an error, or correct `perfect`"
            )
        return evaluation

    def _run(self, seed: int, epochs: int) -> tuple:
        """Return what the candidates of an evaluation share: order, training steps and key."""
        if not 1 <= epochs <= self.max_epochs:
            raise ValueError(f"epochs must be 1 to max_epochs={self.max_epochs}, got {epochs}")
        return self._order(seed), np.int32(epochs * self.epoch_steps), jax.random.key(seed)

    def _evaluate_part(self, programs: np.ndarray, run: tuple) -> Evaluation:
        """Evaluate at most `capacity` programs, dealt out to the devices like cards."""
        size, devices = len(programs), self.mesh.size
        seats = np.arange(self._share * devices).reshape(self._share, devices).T.ravel()
        counts = np.array([len(range(d, size, devices)) for d in range(devices)], np.int32)
        seated = programs[np.minimum(seats, size - 1)]
        result = self._within_memory(seated, counts, *run, self._arrays)
        seat_of = np.argsort(seats)[:size]
        return Evaluation(*(np.asarray(x)[seat_of] for x in result))

    def _within_memory(self, *args):
        """Run the program; where the memory does not suffice, halve the lanes and go on."""
        while True:
            try:
                return jax.block_until_ready(self._evaluate(*args))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or self.lanes == 1:
                    raise
            self.lanes //= 2
            warnings.warn(f"out of memory: going on with {self.lanes} lanes", stacklevel=4)
            self._evaluate = self._compile()

    def _order(self, seed: int) -> np.ndarray:
        """Return the examples of each minibatch: the sweep's, then those of `max_epochs` epochs."""
        batch, examples = self.protocol.batch_size, self.task.num_examples(self.task.train)
        rng = np.random.default_rng(seed) if self.task.shuffle else None
        permutation = np.arange if rng is None else rng.permutation
        sweep = permutation(max(batch, min(self.protocol.sweep_examples, examples)))
        epochs = [permutation(examples) for _ in range(self.max_epochs)]
        full = [x[: len(x) // batch * batch] for x in (sweep, *epochs)]
        return np.concatenate(full).reshape(-1, batch).astype(np.int32)

    def _evaluate_share(self, programs, counts, order, train_steps, key, arrays):
        """Evaluate one device's candidates `[p, G, 5]`, of which the first `counts[0]` are real."""
        streams = jax.vmap(program_streams)(programs)
        sweep_tasks = self._sweep_tasks(len(programs), counts[0])
        init_key, *keys = jax.random.split(key, 3)
        start = new_child(self.task, init_key)

        def phase(sweep, training):
            # The sweep and the training are one compiled loop with other tasks.
            task, rate, count = jax.tree.map(
                partial(jnp.where, training), self._training_tasks(sweep, counts[0]), sweep_tasks
            )
            minibatches = Minibatches(
                order,
                first=jnp.where(training, self.sweep_steps, 0),
                steps=jnp.where(training, train_steps, self.sweep_steps),
            )
            candidates = Candidate(programs[task], streams[task], rate)
            scores = self._train_all(start, candidates, count, minibatches, arrays, keys)
            return jnp.where(training, sweep, scores.reshape(sweep.shape)), (task, scores)

        sweeps = len(programs), len(self.protocol.learning_rates)
        nothing = jnp.full(sweeps, jnp.nan, jnp.float32)
        sweep, (tasks, scores) = jax.lax.scan(phase, nothing, jnp.array([False, True]))
        order_trained, score = tasks[1, : len(programs)], scores[1, : len(programs)]
        score = jnp.zeros_like(score).at[order_trained].set(score)

        learned, best_rate = self._survivors(sweep)
        score = jnp.where(learned, score, jnp.nan)
        trained = jnp.isfinite(score)
        diverged = jnp.where(learned, ~trained, jnp.all(jnp.isnan(sweep), axis=1))
        status = jnp.where(trained, TRAINED, jnp.where(diverged, DIVERGED, DEAD))
        reward = jnp.where(trained, score, self.chance)
        return reward, best_rate, status, sweep, score[:, None]

    def _survivors(self, sweep):
        """Return which candidates left chance `[p]`, and their best learning rates `[p]`."""
        rates = jnp.array(self.protocol.learning_rates, jnp.float32)
        scores = jnp.where(jnp.isnan(sweep), -jnp.inf, sweep)
        best = scores.max(axis=1)
        return best > self.threshold, jnp.where(
            jnp.isneginf(best), jnp.nan, rates[scores.argmax(axis=1)]
        )

    def _sweep_tasks(self, p, count):
        """Return candidate and learning rate of each task `[p L]`, and the number of real tasks."""
        rates = jnp.array(self.protocol.learning_rates, jnp.float32)
        return jnp.arange(p * len(rates)) // len(rates), jnp.tile(rates, p), count * len(rates)

    def _training_tasks(self, sweep, count):
        """Return the same for the training: the survivors, closed up at the front."""
        learned, rate = self._survivors(sweep)
        learned &= jnp.arange(len(learned)) < count
        first = jnp.argsort(~learned, stable=True)
        padding = (0, sweep.size - len(first))
        return jnp.pad(first, padding), jnp.pad(rate[first], padding), learned.sum()

    def _train_all(self, start, candidates: Candidate, count, minibatches, arrays, keys):
        """Train the first `count` candidates, `lanes` at a time; return scores `[p L]`."""

        def chunk(i, scores):
            rows = i if self.lanes == 1 else i * self.lanes + jnp.arange(self.lanes)
            some = jax.tree.map(lambda x: x[rows], candidates)
            lanes = None if self.lanes == 1 else self.lanes
            fused = self.fused and lanes is not None
            result = train(self.task, start, some, minibatches, arrays, *keys, lanes, fused)
            return scores.at[rows].set(result, mode="drop")

        chunks = -(-count // self.lanes)
        nothing = jnp.full(len(candidates.learning_rate), jnp.nan, jnp.float32)
        scores = jax.lax.fori_loop(0, chunks, chunk, nothing)
        return scores / self._validation_examples
