"""The population trainer: every child trains with its own update rule, inside one compiled program.

A population is data, `int32[P, G, 5]`, so the program is compiled once per search. Each device takes an equal
share of the candidates and no device waits for another. On a device, `lanes` children at a time train side by
side under `vmap`; with one lane (CPU) there is no `vmap`, and the rule's switches are real branches.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from nos_optax.grammar import ProgramState, apply_program, init_program_state, program_streams
from nos_optax.grammar.program import MAX_ITERATIONS, TOKENS_PER_ITERATION, pad_programs
from nos_optax.population.convnet import ConvNet, Statistics
from nos_optax.population.data import Dataset

STATUSES = ("trained", "dead", "diverged")
TRAINED, DEAD, DIVERGED = range(3)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a candidate earns its reward (Bello et al., 2017, section 4.2).

    Each learning rate trains a child for one epoch on the first `sweep_examples`; the best one trains a fresh
    child for `epochs` epochs on all training examples; its validation accuracy is the reward.

    Attributes:
        learning_rates: the sweep.
        batch_size: examples in a minibatch; the incomplete last one of an epoch is left out.
        sweep_examples: how many examples the sweep's epoch has; all, where the dataset has fewer.
        epochs: how long the best learning rate trains.
        margin: a child leaves chance if a learning rate of the sweep is better than the commonest class by
            this many standard errors of the validation accuracy. One that does not is dead: it isn't trained.

    Raises:
        ValueError: a number is not positive.
    """

    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)
    batch_size: int = 100
    sweep_examples: int = 10_000
    epochs: int = 5
    margin: float = 3.0

    def __post_init__(self):
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates must be positive, got {self.learning_rates}")
        for name in ("batch_size", "sweep_examples", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Evaluation(NamedTuple):
    """What became of each candidate."""

    reward: np.ndarray  # float32[P]: validation accuracy; the chance level for the dead and the diverged
    learning_rate: np.ndarray  # float32[P]: the sweep's choice; nan where every rate diverged
    status: np.ndarray  # int32[P]: index in STATUSES
    sweep: np.ndarray  # float32[P, L]: validation accuracy of each rate; nan where it diverged


class _Child(NamedTuple):
    params: jax.Array  # [D]
    statistics: Statistics
    rule: ProgramState
    finite: jax.Array  # bool []


class _Candidate(NamedTuple):
    program: jax.Array  # int32[G, 5]
    streams: jax.Array  # uint32[G, 2]
    learning_rate: jax.Array  # []


class _Arrays(NamedTuple):
    """What all children share, on every device."""

    train_images: jax.Array  # uint8[N, H, W, C]
    train_labels: jax.Array  # int32[N]
    validation_images: jax.Array  # uint8[K, M, H, W, C], in K chunks
    validation_labels: jax.Array  # int32[K, M]; -1 pads the last chunk
    mean: jax.Array  # [C]
    std: jax.Array  # [C]


class PopulationTrainer:
    """Evaluates populations of update rules by training a child network with each.

    A candidate's reward depends on the seed and its program alone: not on its neighbours, its place, the size of
    the population, nor (with one lane) the number of devices.

    Args:
        dataset: images and labels; they are kept on the devices as uint8.
        protocol: how a candidate earns its reward.
        child: the network; the paper's ConvNet for the dataset's images where None.
        iterations: the length of the longest program.
        capacity: candidates in one call of the compiled program; larger populations take several, smaller ones
            leave room, which costs nothing.
        lanes: children that train side by side on a device; 1 on CPU and 64 elsewhere where None.
        devices: the devices to use; all local ones where None.

    Raises:
        ValueError: the dataset has fewer training examples than a minibatch, or `lanes` is not positive.
    """

    def __init__(
        self,
        dataset: Dataset,
        protocol: Protocol = Protocol(),
        child: ConvNet | None = None,
        iterations: int = MAX_ITERATIONS,
        capacity: int = 256,
        lanes: int | None = None,
        devices: list[jax.Device] | None = None,
    ):
        devices = devices or jax.local_devices()
        self.dataset = dataset
        self.protocol = protocol
        self.child = child or ConvNet(dataset.train_images.shape[1:], dataset.num_classes)
        self.iterations = iterations
        self.lanes = (1 if devices[0].platform == "cpu" else 64) if lanes is None else lanes
        if self.lanes < 1 or capacity < 1:
            raise ValueError(f"lanes and capacity must be at least 1, got {lanes} and {capacity}")
        self._share = -(-capacity // len(devices))  # candidates of one device in one call

        examples = len(dataset.train_images)
        if examples < protocol.batch_size:
            raise ValueError(
                f"{examples} training examples do not fill a minibatch of {protocol.batch_size}; "
                "give more examples or a smaller batch_size"
            )
        sweep_examples = min(protocol.sweep_examples, examples)
        self.sweep_steps = max(1, sweep_examples // protocol.batch_size)
        self.train_steps = examples // protocol.batch_size * protocol.epochs
        self.chance = 1 / dataset.num_classes
        # Accuracy that a constant prediction cannot reach but by luck.
        counts = np.bincount(dataset.validation_labels, minlength=dataset.num_classes)
        commonest = counts.max() / counts.sum()
        error = np.sqrt(commonest * (1 - commonest) / counts.sum())
        self.threshold = float(commonest + protocol.margin * error)

        self.mesh = Mesh(np.array(devices), ("device",), axis_types=(AxisType.Auto,))
        replicated = jax.NamedSharding(self.mesh, PartitionSpec())
        self._arrays = jax.device_put(self._load(), replicated)
        self._evaluate = jax.jit(self._evaluate_population)

    def evaluate(self, programs, seed: int = 0) -> Evaluation:
        """Train a child with each program and return the rewards.

        Args:
            programs: `int32[P, G, 5]`, or the controller's `int32[P, 5 G]`.
            seed: of the initial weights, the order of the examples and the rules' random numbers.

        Returns:
            The evaluation of each program, in order.
        """
        programs = np.asarray(programs, np.int32)
        if not programs.size:
            raise ValueError("the population is empty: give at least one program")
        programs = programs.reshape(len(programs), -1, TOKENS_PER_ITERATION)
        programs = pad_programs(programs, self.iterations)
        shared = self._order(seed), jax.random.key(seed), self._arrays
        capacity = self._share * self.mesh.size
        parts = [
            self._evaluate_part(programs[start : start + capacity], shared)
            for start in range(0, len(programs), capacity)
        ]
        return Evaluation(*map(np.concatenate, zip(*parts, strict=True)))

    def _evaluate_part(self, programs: np.ndarray, shared) -> Evaluation:
        """Evaluate at most `capacity` programs, dealt out to the devices like cards."""
        size, devices = len(programs), self.mesh.size
        seats = np.arange(self._share * devices).reshape(self._share, devices).T.ravel()
        counts = np.array([len(range(d, size, devices)) for d in range(devices)], np.int32)
        result = self._evaluate(programs[np.minimum(seats, size - 1)], counts, *shared)
        seat_of = np.argsort(seats)[:size]
        return Evaluation(*(np.asarray(x)[seat_of] for x in result))

    def _load(self) -> _Arrays:
        data = self.dataset
        size = len(data.validation_images)
        chunks = -(-size // 250)
        padding = -size % chunks
        images = np.concatenate([data.validation_images, data.validation_images[:padding]])
        labels = np.concatenate([data.validation_labels, np.full(padding, -1, np.int32)])
        return _Arrays(
            data.train_images,
            data.train_labels,
            images.reshape(chunks, -1, *images.shape[1:]),
            labels.reshape(chunks, -1),
            data.mean,
            data.std,
        )

    def _order(self, seed: int) -> np.ndarray:
        """Return the examples of each minibatch, `int32[sweep_steps + train_steps, B]`."""
        batch, examples = self.protocol.batch_size, len(self.dataset.train_images)
        rng = np.random.default_rng(seed)
        per_epoch = examples // batch * batch
        sweep = rng.permutation(max(batch, min(self.protocol.sweep_examples, examples)))
        training = [rng.permutation(examples)[:per_epoch] for _ in range(self.protocol.epochs)]
        order = np.concatenate([sweep[: self.sweep_steps * batch], *training])
        return order.reshape(-1, batch).astype(np.int32)

    def _evaluate_population(self, programs, counts, order, key, arrays):
        split, whole = PartitionSpec("device"), PartitionSpec()
        return jax.shard_map(
            self._evaluate_share,
            mesh=self.mesh,
            in_specs=(split, split, whole, whole, whole),
            out_specs=split,
            check_vma=False,
        )(programs, counts, order, key, arrays)

    def _evaluate_share(self, programs, counts, order, key, arrays):
        """Evaluate one device's candidates `[p, G, 5]`, of which the first `counts[0]` are real."""
        streams = jax.vmap(program_streams)(programs)
        rates = jnp.array(self.protocol.learning_rates, jnp.float32)
        p, num_rates = len(programs), len(rates)
        count = counts[0]

        def phase(sweep, training):
            # The sweep and the training are one compiled loop with other tasks.
            task, rate, num_tasks = jax.tree.map(
                partial(jnp.where, training),
                self._training_tasks(sweep, count),
                (jnp.arange(p * num_rates) // num_rates, jnp.tile(rates, p), count * num_rates),
            )
            accuracy = self._train_all(
                _Candidate(programs[task], streams[task], rate),
                num_tasks,
                jnp.where(training, self.sweep_steps, 0),
                jnp.where(training, self.train_steps, self.sweep_steps),
                order,
                key,
                arrays,
            )
            return jnp.where(training, sweep, accuracy.reshape(sweep.shape)), (task, accuracy)

        nothing = jnp.full((p, num_rates), jnp.nan)
        sweep, (tasks, accuracies) = jax.lax.scan(phase, nothing, jnp.array([False, True]))
        trained, best_rate = self._survivors(sweep)
        position = jnp.zeros(p, int).at[tasks[1, :p]].set(jnp.arange(p))
        accuracy = jnp.where(trained, accuracies[1][position], jnp.nan)
        finite = jnp.isfinite(accuracy)
        status = jnp.where(
            trained,
            jnp.where(finite, TRAINED, DIVERGED),
            jnp.where(jnp.all(jnp.isnan(sweep), axis=1), DIVERGED, DEAD),
        )
        return Evaluation(jnp.where(finite, accuracy, self.chance), best_rate, status, sweep)

    def _survivors(self, sweep):
        """Return whether each candidate left chance `[p]`, and its best learning rate `[p]`."""
        rates = jnp.array(self.protocol.learning_rates, jnp.float32)
        scores = jnp.where(jnp.isnan(sweep), -1, sweep)
        best = scores.max(axis=1)
        return best > self.threshold, jnp.where(best < 0, jnp.nan, rates[scores.argmax(axis=1)])

    def _training_tasks(self, sweep, count):
        """Return the tasks of the training phase: the survivors, closed up at the front."""
        alive, rate = self._survivors(sweep)
        alive &= jnp.arange(len(alive)) < count
        order = jnp.argsort(~alive, stable=True)
        padding = (0, sweep.size - len(order))
        return jnp.pad(order, padding), jnp.pad(rate[order], padding), alive.sum()

    def _train_all(self, candidates: _Candidate, count, first, steps, order, key, arrays):
        """Train the first `count` candidates, `lanes` at a time; return accuracies, nan if diverged."""
        tasks = len(candidates.learning_rate)

        def chunk(i, accuracy):
            rows = i * self.lanes + jnp.arange(self.lanes) if self.lanes > 1 else i
            chosen = jax.tree.map(lambda x: x[rows], candidates)
            result = self._train(chosen, first, steps, order, key, arrays)
            return accuracy.at[rows].set(result, mode="drop")

        chunks = -(-count // self.lanes)
        return jax.lax.fori_loop(0, chunks, chunk, jnp.full(tasks, jnp.nan))

    def _train(self, candidate: _Candidate, first, steps, order, key, arrays: _Arrays):
        """Train children for `steps` minibatches of `order` from `first` on; return their accuracy.

        With more than one lane, everything about a child has a leading lane axis; minibatches are shared.
        """
        lanes = (lambda f, axes: jax.vmap(f, axes)) if self.lanes > 1 else (lambda f, _: f)
        init_key, rule_key = jax.random.split(key)

        def new_child(candidate):
            params, statistics = self.child.init(init_key)
            return _Child(params, statistics, init_program_state(params), jnp.array(True))

        def step(child, candidate, images, labels):
            loss = jax.value_and_grad(self.child.loss, has_aux=True)
            (value, statistics), g = loss(child.params, child.statistics, images, labels)
            update, rule = apply_program(
                candidate.program, candidate.streams, child.rule, g, child.params, steps, rule_key
            )
            params = child.params - candidate.learning_rate * update
            finite = child.finite & jnp.isfinite(value) & jnp.all(jnp.isfinite(params))
            return _Child(params, statistics, rule, finite)

        def train_step(state):
            i, child = state
            batch = order[first + i]
            images = self._standardise(arrays.train_images[batch], arrays)
            labels = arrays.train_labels[batch]
            return i + 1, lanes(step, (0, 0, None, None))(child, candidate, images, labels)

        def correct(child, images, labels):
            predicted = self.child.logits(child.params, child.statistics, images).argmax(axis=-1)
            return jnp.sum(predicted == labels)

        def validate(i, total):
            images = self._standardise(arrays.validation_images[i], arrays)
            labels = arrays.validation_labels[i]
            return total + lanes(correct, (0, None, None))(child, images, labels)

        child = lanes(new_child, 0)(candidate)
        going = lambda state: (state[0] < steps) & jnp.any(state[1].finite)  # noqa: E731
        _, child = jax.lax.while_loop(going, train_step, (0, child))
        chunks = jnp.where(jnp.any(child.finite), len(arrays.validation_labels), 0)
        total = jax.lax.fori_loop(0, chunks, validate, jnp.zeros(child.finite.shape, jnp.int32))
        accuracy = total / len(self.dataset.validation_labels)
        return jnp.where(child.finite, accuracy, jnp.nan)

    def _standardise(self, images, arrays: _Arrays):
        return (images.astype(jnp.float32) - arrays.mean) / arrays.std
