"""The paper's protocol: a sweep over learning rates, then one training with the best of them.

What trains is `nos_optax.population.loop`; here it is decided, on the host, which rate a candidate
trains with, and what it earns.
"""

import dataclasses

import jax
import numpy as np

from nos_optax.grammar.program import MAX_ITERATIONS, as_population, pad_programs
from nos_optax.population.child import cut, mean_score, new_child
from nos_optax.population.data import Dataset
from nos_optax.population.loop import TaskLoop
from nos_optax.population.protocol import DEAD, DIVERGED, TRAINED, Evaluation, Protocol
from nos_optax.population.task import Task, image_task, paper_child

LANES = (
    64  # on an accelerator: more of the paper's children are no faster, and more seats are empty
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
        lanes: children that train side by side on a device; 1 on a CPU and 64 elsewhere where None.
            Halved, with a warning, while they do not fit in the memory.
        devices: the devices to use; all local ones where None.
        max_epochs: the longest training that `evaluate` may be asked for; the protocol's where
            None.
        fused: whether the rules of several lanes are applied by one kernel, as of a `TaskLoop`.

    Raises:
        ValueError: the task has fewer training examples than a minibatch, its functions do not fit
            together, or `lanes` is not positive.

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
        lanes: int | None = None,
        devices: list[jax.Device] | None = None,
        max_epochs: int | None = None,
        fused: bool | None = None,
    ):
        devices = devices or jax.local_devices()
        if lanes is None:
            lanes = 1 if devices[0].platform == "cpu" else LANES
        if isinstance(task, Dataset):
            task = image_task(task, paper_child(task, devices[0]))
        self.task, self.protocol, self.devices = task, protocol, devices
        self.iterations = iterations
        self.max_epochs = protocol.epochs if max_epochs is None else max_epochs
        if self.max_epochs < protocol.epochs:
            raise ValueError(f"max_epochs must be at least {protocol.epochs}, got {max_epochs}")
        examples = task.num_examples(task.train)
        self.sweep_steps = max(1, min(protocol.sweep_examples, examples) // protocol.batch_size)
        self.epoch_steps = examples // protocol.batch_size
        self.chance, self.threshold = task.chance, task.threshold(protocol.margin)
        self.loop = TaskLoop(
            dataclasses.replace(task, test=None),
            protocol.batch_size,
            self.sweep_steps + self.max_epochs * self.epoch_steps,
            iterations,
            devices,
            lanes,
            fused,
            scores=True,
            losses=False,
            order=self.order,
        )

    @property
    def lanes(self) -> int:
        """Children side by side on a device."""
        return self.loop.lanes

    def compile(self) -> None:
        """Compile now, rather than at the first evaluation."""
        self.loop.compile()

    @property
    def train_steps(self) -> int:
        """Steps of the training in the protocol."""
        return self.epoch_steps * self.protocol.epochs

    def order(self, seed: int) -> np.ndarray:
        """Return the examples of each minibatch: the sweep's, then those of `max_epochs` epochs."""
        batch, examples = self.protocol.batch_size, self.task.num_examples(self.task.train)
        rng = np.random.default_rng(seed) if self.task.shuffle else None
        permutation = np.arange if rng is None else rng.permutation
        sweep = permutation(max(batch, min(self.protocol.sweep_examples, examples)))
        epochs = [permutation(examples) for _ in range(self.max_epochs)]
        full = [x[: len(x) // batch * batch] for x in (sweep, *epochs)]
        return np.concatenate(full).reshape(-1, batch).astype(np.int32)

    def untrained_score(self) -> float:
        """Return the mean validation score of the weights of seed 0, which an update improves.

        Raises:
            ValueError: it is not finite, so that no training could be told from a diverged one.
        """

        @jax.jit
        def untrained(validation):
            child = new_child(self.task, jax.random.split(jax.random.key(0), 3)[0])
            return mean_score(self.task, child, validation)

        score = float(untrained(cut(self.task.validation, self.task.evaluation_batch)))
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
        epochs = self.protocol.epochs if epochs is None else epochs
        if not 1 <= epochs <= self.max_epochs:
            raise ValueError(f"epochs must be 1 to max_epochs={self.max_epochs}, got {epochs}")
        sweep = self._sweep(programs, seed)
        learned, rate = self._survivors(sweep)
        score = np.full(len(programs), np.nan, np.float32)
        if learned.any():
            score[learned] = self.loop.train(
                programs[learned], rate[learned], seed, epochs * self.epoch_steps, self.sweep_steps
            ).validation_score
        self._check_perfect(score)
        trained = np.isfinite(score)
        diverged = np.where(learned, ~trained, np.isnan(sweep).all(axis=1))
        status = np.where(trained, TRAINED, np.where(diverged, DIVERGED, DEAD)).astype(np.int32)
        reward = np.where(trained, score, np.float32(self.chance))
        return Evaluation(reward, rate, status, sweep, score[:, None])

    def _sweep(self, programs: np.ndarray, seed: int) -> np.ndarray:
        """Return the score of each program at each learning rate, `[P, L]`; nan if it diverged."""
        rates = np.array(self.protocol.learning_rates, np.float32)
        children = np.repeat(programs, len(rates), axis=0), np.tile(rates, len(programs))
        found = self.loop.train(*children, seed, self.sweep_steps)
        return np.asarray(found.validation_score).reshape(-1, len(rates))

    def _survivors(self, sweep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which candidates left chance `[P]`, and their best learning rates `[P]`."""
        rates = np.array(self.protocol.learning_rates, np.float32)
        scores = np.where(np.isnan(sweep), -np.inf, sweep)
        best = scores.max(axis=1)
        rate = np.where(np.isneginf(best), np.float32(np.nan), rates[scores.argmax(axis=1)])
        return best > np.float32(self.threshold), rate

    def _check_perfect(self, scores: np.ndarray) -> None:
        """Refuse a score that is better than can be."""
        perfect = self.task.perfect
        best = np.nanmax(scores, initial=-np.inf)
        if best > perfect + 1e-3 * max(1, abs(perfect)):
            raise ValueError(
                f"{self.task.name}: a child scored {best:g}, but perfect is {perfect:g}; the "
                "metric is higher for better examples: negate an error, or correct `perfect`"
            )
