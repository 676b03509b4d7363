"""The suite: several small tasks, and the reward of a rule over all of them.

A rule's reward is how much faster than tuned Adam it trains on all tasks, in doublings: 0 is as
good as Adam, 1 is twice as fast. Final accuracy on one small task ranks good rules by chance; the
losses along the way, on tasks that differ, do not.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path

import jax
import numpy as np

from nos_optax._arguments import plain_number
from nos_optax.grammar import encode
from nos_optax.grammar.program import as_population, pad_programs
from nos_optax.population.loop import Factory, Losses, TaskLoop
from nos_optax.population.protocol import DEAD, DIVERGED, SLOW, TRAINED, Evaluation
from nos_optax.population.reference import (
    LENGTHS,
    LONGEST,
    SWEEP,
    Reference,
    cached_reference,
    steps_of,
)
from nos_optax.population.task import Task
from nos_optax.population.tasks import (
    characters,
    digits_autoencoder,
    digits_convnet,
    digits_mlp,
    table,
    transformer,
    words,
)
from nos_optax.population.update_size import UpdateSizes

# Rates a rule is tried with: half a decade apart, around that at which its first updates are as
# large as tuned Adam's.
RATES = tuple(10 ** (k / 2) for k in range(-3, 4))
KEPT = 3  # rates that are trained to the end
SEEDS = 2  # of a rule's trainings; every rule of a seed has the same weights and minibatches
LEAST = float(np.log2(min(LENGTHS)))  # the reward of a rule that does not learn on every task


@dataclasses.dataclass(frozen=True)
class Workload:
    """A task and how long rules train on it.

    Attributes:
        task: the model and its data.
        minibatch_size: examples in a minibatch.
        horizon: steps of a training.
        children: trainings that one seed of a rule stands for; more where one says little, because
            the minibatches and the weights decide as much as the rule.

    Raises:
        TypeError: the task is none.
        ValueError: what should be a whole number, at least 1, is not.
    """

    task: Task
    minibatch_size: int
    horizon: int
    children: int = 1

    def __post_init__(self):
        if not isinstance(self.task, Task):
            raise TypeError(f"task is {self.task!r:.100}, but must be a nos_optax.population.Task.")
        for name in ("minibatch_size", "horizon", "children"):
            count = plain_number(getattr(self, name), int)
            if count is None or count < 1:
                raise ValueError(
                    f"{self.task.name}: {name} is {getattr(self, name)!r:.100}; give a whole "
                    "number, at least 1"
                )
            object.__setattr__(self, name, count)


# The cheap ones first: what is slow there does not train on the others. The perceptron and the
# autoencoder train long, as a quarter of the steps liked haste while the digits were clean. With
# noise it matters little (benchmarks/reward_lasts.py).
SUITE: dict[str, Callable[[], Workload]] = {
    "characters": lambda: Workload(characters(), 32, 240),
    "digits-convnet": lambda: Workload(digits_convnet(), 16, 60),
    "words": lambda: Workload(words(), 32, 480),
    "digits-mlp": lambda: Workload(digits_mlp(), 32, 480, children=2),
    "digits-autoencoder": lambda: Workload(digits_autoencoder(), 32, 640),
}
# Other kinds, by which no search selects: they tell whether what it finds is good elsewhere.
WATCH: dict[str, Callable[[], Workload]] = {
    "transformer": lambda: Workload(transformer(), 16, 300),
    "table": lambda: Workload(table(), 16, 150, children=4),
    "digits-convnet-long": lambda: Workload(digits_convnet(), 16, 300),
}
# The kinds of the suite, eight to twenty times as large: wider networks, larger minibatches and
# longer trainings. Here the rules that a search has found show whether they were good at its own
# sizes alone. A quarter of a training, after which the less promising stop, sees about as many
# examples as the search's own: shorter ones like haste.
LARGER: dict[str, Callable[[], Workload]] = {
    "characters-large": lambda: _larger(
        characters(context=16, width=128, examples=20_480), 64, 960
    ),
    "digits-convnet-large": lambda: _larger(digits_convnet(), 32, 240),
    "words-large": lambda: _larger(words(width=64, examples=36_864), 64, 960),
    "digits-mlp-large": lambda: _larger(digits_mlp(width=128, copies=64), 64, 640),
    "digits-autoencoder-large": lambda: _larger(digits_autoencoder(width=128), 64, 1280),
}
KNOWN = SUITE | WATCH | LARGER


def load_suite(names: Sequence[str] = tuple(SUITE)) -> list[Workload]:
    """Return workloads of `SUITE`, `WATCH` or `LARGER` by name.

    Raises:
        ValueError: there is no such workload, or a name is given twice.
    """
    if not set(names) <= set(KNOWN) or len(set(names)) < len(names) or not names:
        raise ValueError(f"give distinct workloads of {', '.join(KNOWN)}; got {', '.join(names)}")
    return [KNOWN[name]() for name in names]


def _larger(task: Task, minibatch_size: int, horizon: int) -> Workload:
    return Workload(dataclasses.replace(task, name=f"{task.name}-large"), minibatch_size, horizon)


class SuiteTrainer:
    """Evaluates populations of rules on all workloads of a suite.

    On each task every rule trains at seven rates for a quarter of the horizon, with one seed; from
    there the three best rates train from the start to the end, with two seeds. A rule that makes no
    twentieth of Adam's progress at any rate of a task is dead: it has the least reward, and does
    not train on the tasks that follow. Nor does one that is slow: hopelessly behind Adam on those
    before (`slack`). Its reward is the joint speed on the tasks that it has trained on
    (`joint_speed`), each with the mean over the seeds, in doublings and less Adam's.

    A rule's reward depends on the seed and its program alone, not on its neighbours.

    Args:
        workloads: the tasks, the cheap ones first.
        iterations: the length of the longest program.
        devices: the devices to use; all local ones where None.
        lanes: as for `TaskLoop`.
        store: a folder that keeps what Adam does on the tasks; None keeps nothing.
        fused: as for `TaskLoop`.
        references: what Adam does on the tasks, where it is known; measured where None.
        slack: doublings; a rule is slow if being ahead of Adam by as many on each task to come
            would not bring its reward to 0. None is slow where None.

    Example:
        >>> from nos_optax.grammar import encode
        >>> from nos_optax.population.suite import SuiteTrainer, load_suite
        >>> trainer = SuiteTrainer(load_suite(["digits-mlp"]), iterations=2)  # doctest: +SKIP
        >>> rules = [encode(rule, 2).array for rule in ("adam", "g")]  # doctest: +SKIP
        >>> trainer.evaluate(rules).reward  # doctest: +SKIP
        array([ 0.  , -0.37], dtype=float32)
    """

    chance = LEAST  # the reward of a rule that never learns

    def __init__(
        self,
        workloads: Sequence[Workload],
        iterations: int,
        devices: list[jax.Device] | None = None,
        lanes: int | None = None,
        store: Path | None = None,
        fused: bool | None = None,
        references: Sequence[Reference] | None = None,
        slack: float | None = None,
    ):
        self.workloads, self.iterations, self.slack = tuple(workloads), iterations, slack
        self.devices = devices or jax.local_devices()
        self.loops = [
            TaskLoop(
                w.task,
                w.minibatch_size,
                steps_of(LONGEST, w.horizon),
                iterations,
                self.devices,
                lanes,
                fused,
            )
            for w in workloads
        ]
        self._store = store
        self._sizes = UpdateSizes(
            [w.task for w in workloads],
            [w.minibatch_size for w in workloads],
            [w.horizon for w in workloads],
            self.devices[0],
        )
        self._references = None if references is None else list(references)
        self._adam = lru_cache(maxsize=64)(self._adam_speeds)
        self._tuned_adam = lru_cache(maxsize=64)(self._adam_speeds_when_tuned)

    @property
    def lanes(self) -> int:
        """Children that train side by side on a device, at most."""
        return max(loop.lanes for loop in self.loops)

    @property
    def references(self) -> list[Reference]:
        """What Adam does on each task; measured at the first use, if the store has it not.

        On the CPU, wherever the rules train: few children that train long would leave an
        accelerator idle, and 0 is the same on all devices.
        """
        if self._references is None:
            with ThreadPoolExecutor() as pool:
                self._references = list(pool.map(self._reference, range(len(self.workloads))))
        return self._references

    def _reference(self, i: int) -> Reference:
        loop, workload = self.loops[i], self.workloads[i]
        if self.devices[0].platform != "cpu":
            cpus = jax.local_devices(backend="cpu")
            loop = TaskLoop(
                workload.task, loop.minibatch_size, loop.max_steps, self.iterations, cpus
            )
        return cached_reference(loop, workload.horizon, self._store)

    def compile(self) -> None:
        """Compile, and measure Adam, now rather than at the first evaluation."""
        with ThreadPoolExecutor() as pool:  # XLA compiles outside Python's lock
            sizes = pool.submit(self._sizes, encode("adam", self.iterations).array[None])
            list(pool.map(TaskLoop.compile, self.loops))
            sizes.result()
        self.references  # noqa: B018

    @cached_property
    def _adam_sizes(self) -> np.ndarray:
        return self._sizes(encode("adam", self.iterations).array[None])

    def rates(self, programs: np.ndarray) -> np.ndarray:
        """Return the rates that each rule is tried with on each task, `float32[P, tasks, 7]`.

        They are nan where the rule's updates are not finite, or all zero.
        """
        return self._rates(self._sizes(programs))

    def centres(self, programs: np.ndarray) -> np.ndarray:
        """Return the rates at which first updates are as large as tuned Adam's, `[P, tasks]`.

        They are nan where updates are not finite, or all zero.
        """
        return self._centres(self._sizes(programs))

    def centre_of(self, factory: Factory, number: int) -> float:
        """Return the same of an optimizer that is no rule, on one of the tasks."""
        size = np.array([self._sizes.of_optimizer(factory, number)], np.float32)
        return float(self._centres(size, number)[0])

    def _centres(self, sizes: np.ndarray, tasks: int | slice = slice(None)) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = self._adam_sizes[:, tasks] / sizes
        relative = np.where(np.isfinite(relative) & (relative > 0), relative, np.nan)
        return np.array([r.learning_rate for r in self.references])[tasks] * relative

    def _rates(self, sizes: np.ndarray) -> np.ndarray:
        return (self._centres(sizes)[..., None] * np.array(RATES)).astype(np.float32)

    def evaluate_optimizer(self, factory: Factory, seed: int = 0) -> Evaluation:
        """Train with an optimizer that is no rule, in the same way, and return its reward.

        Args:
            factory: from a learning rate to the optimizer: `optax.lion`, for example.
            seed: which pair of seeds the trainings have.

        Returns:
            The evaluation, of one.
        """
        return self._evaluation(factory, seed)

    def evaluate(
        self,
        programs: np.typing.ArrayLike,
        seed: int = 0,
        epochs: int | None = None,
        rates: np.ndarray | None = None,
    ) -> Evaluation:
        """Train each rule on each task and return the rewards.

        Args:
            programs: `int32[P, G, 5]`, or the controller's `int32[P, 5 G]`.
            seed: which pair of seeds the trainings have.
            epochs: None, as trainings are as long as the workloads' horizons.
            rates: `float32[P, tasks]`, rates that earlier seeds have chosen, to train with these
                alone; nan where there is none. Adam, whose speed is 0, then has its tuned ones.

        Raises:
            ValueError: epochs are given.

        Returns:
            The evaluation of each program, in order. `learning_rate` is the geometric mean over the
            tasks of the best rates, `sweep` the best rate on each task, and `curve` the reward on
            each task with each seed, task by task.
        """
        if epochs is not None:
            raise ValueError(
                f"epochs={epochs}: the suite's trainings are as long as its workloads' horizons; "
                "leave it out"
            )
        programs = pad_programs(as_population(programs), self.iterations)
        if rates is None:
            return self._evaluation(programs, seed)
        best = np.asarray(rates, np.float32)
        speeds = self._speeds_at(programs, best, seed) - self._tuned_adam(seed)
        known = np.isfinite(best).all(axis=1)
        return self._rewarded(known, known, best, speeds)

    def _evaluation(self, programs: np.ndarray | Factory, seed: int) -> Evaluation:
        return self._rewarded(*self._rewards(programs, seed, self._adam(seed), self.slack))

    def _rewarded(self, finite, alive, best, rewards) -> Evaluation:
        """Return the evaluation of rules with these rewards `[P, tasks, SEEDS]`.

        Of slow rules, those of the tasks that they did not train on are nan.
        """
        tried = np.isfinite(rewards[..., 0])
        slow = ~tried.all(axis=1)
        reward = np.where(alive, np.maximum(joint_speed(rewards.mean(axis=2)), LEAST), LEAST)
        status = np.where(alive, np.where(slow, SLOW, TRAINED), np.where(finite, DEAD, DIVERGED))
        with np.errstate(invalid="ignore"):
            rate = np.exp(_mean_where(tried, np.log(best)))
        return Evaluation(
            reward.astype(np.float32),
            rate.astype(np.float32),
            status.astype(np.int32),
            best,
            np.where(alive[:, None], rewards.reshape(len(rewards), -1), np.nan).astype(np.float32),
        )

    def _adam_speeds(self, seed: int) -> np.ndarray:
        """Return the speeds of Adam itself, `[tasks, SEEDS]`: what 0 is with these seeds."""
        adam = encode("adam", self.iterations).array[None]
        speeds = self._rewards(adam, seed, np.zeros((len(self.loops), SEEDS)))[-1][0]
        return np.nan_to_num(speeds, nan=LEAST)  # where it did not learn

    def _adam_speeds_when_tuned(self, seed: int) -> np.ndarray:
        """Return the same of Adam with its tuned rates."""
        rates = np.array([[r.learning_rate for r in self.references]], np.float32)
        return self._speeds_at(encode("adam", self.iterations).array[None], rates, seed)[0]

    def _speeds_at(self, programs: np.ndarray, rates: np.ndarray, seed: int) -> np.ndarray:
        """Return the speeds `[P, tasks, SEEDS]` of rules at one rate each on each task."""
        speeds = np.full((*rates.shape, SEEDS), LEAST, np.float32)
        for i in range(rates.shape[1]):
            rows = np.flatnonzero(np.isfinite(rates[:, i]))
            if len(rows):
                tried = rates[rows, i, None]
                speeds[rows, i] = self._finish(i, programs[rows], tried, seed)[1]
        return speeds

    def _rewards(
        self,
        programs: np.ndarray | Factory,
        seed: int,
        adam: np.ndarray,
        slack: float | None = None,
    ) -> tuple[np.ndarray, ...]:
        """Return whether rules are finite at first and learn on every task they train on, `[P]`.

        Beside these, the best rates `[P, tasks]` and the speeds there, less Adam's
        `[tasks, SEEDS]`, `[P, tasks, SEEDS]`; both are nan on the tasks that slow rules leave out.
        """
        if isinstance(programs, np.ndarray):
            sizes = self._sizes(programs)
        else:
            of_tasks = [self._sizes.of_optimizer(programs, i) for i in range(len(self.loops))]
            sizes = np.array([of_tasks], np.float32)
        count, tasks = sizes.shape
        rates, finite = self._rates(sizes), np.asarray(np.isfinite(sizes).all(axis=1))
        alive = np.asarray(np.isfinite(rates).all(axis=(1, 2)))
        rewards = np.full((count, tasks, SEEDS), np.nan, np.float32)
        best = np.full((count, tasks), np.nan, np.float32)
        rows = np.flatnonzero(alive)  # of the rules that train on
        for i in range(tasks):
            if not len(rows):
                break
            kept, learned = self._sweep(i, _rows(programs, rows), rates[rows, i], seed)
            alive[rows] = learned
            rows, kept = rows[learned], kept[learned]
            if len(rows):
                best[rows, i], rewards[rows, i] = self._finish(i, _rows(programs, rows), kept, seed)
                rewards[rows, i] -= adam[i]
            if slack is not None and i < tasks - 1:
                hoped = np.full((len(rows), tasks), slack)
                hoped[:, : i + 1] = rewards[rows, : i + 1].mean(axis=2)
                rows = rows[joint_speed(hoped) >= 0]
        return finite, alive, best, rewards

    def _sweep(self, i: int, programs, rates, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the KEPT best rates of each rule `[P, KEPT]`, and whether any rate learned."""
        steps = steps_of(SWEEP, self.workloads[i].horizon)
        first = seed * SEEDS * self.workloads[i].children
        losses = Losses(*(x[..., 0] for x in self._train(i, programs, rates, (first,), steps)))
        order = np.argsort(losses.late, axis=1, kind="stable")[:, :KEPT]
        learned = np.asarray(self.references[i].learned(losses).any(axis=1))
        return np.take_along_axis(rates, order, axis=1), learned

    def _finish(self, i: int, programs, rates, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return each rule's best rate `[P]` and its speed with each seed `[P, SEEDS]`."""
        workload, rows = self.workloads[i], np.arange(len(rates))
        count = SEEDS * workload.children
        seeds = range(seed * count, (seed + 1) * count)
        losses = self._train(i, programs, rates, seeds, workload.horizon)
        speeds = self.references[i].speed(losses)
        of_children = speeds.reshape(*speeds.shape[:2], SEEDS, workload.children)
        speeds = of_children.mean(axis=-1)
        best = speeds.mean(axis=-1).argmax(axis=1)
        return rates[rows, best], speeds[rows, best]

    def _train(
        self, i: int, programs, rates: np.ndarray, seeds: Sequence[int], steps: int
    ) -> Losses:
        """Train each rule at each of its rates with each seed; return losses `[P, rates, seeds]`.

        The children are rate by rate, so that a group of lanes holds trainings of about one length.
        """
        tried = rates.shape[1]
        children = (
            np.tile(programs, (tried, 1, 1)) if isinstance(programs, np.ndarray) else programs
        )
        losses = self.loops[i].train_seeds(children, rates.T.ravel(), seeds, steps)
        return Losses(*(x.reshape(tried, -1, len(seeds)).swapaxes(0, 1) for x in losses))


def joint_speed(speeds: np.ndarray) -> np.ndarray:
    r"""Return how fast rules are on several tasks at once, in doublings of Adam's training.

    The mean of the times that a rule takes relative to Adam, as a speed:

    .. math:: -\log_2 \Big( \tfrac1n \sum_{i=1}^n 2^{-s_i} \Big) .

    It is `s` where all speeds are, and never more than their mean: a doubling that is gained on one
    task does not pay for one that is lost on another.

    Args:
        speeds: `[..., tasks]`, in doublings; nan where a rule did not train.

    Returns:
        `[...]`; nan where it trained on none.
    """
    times = 2.0 ** -np.asarray(speeds, np.float64)
    return np.log2(1 / _mean_where(~np.isnan(times), times))


def _mean_where(condition: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return each row's mean where the condition holds; nan where it nowhere does."""
    with np.errstate(invalid="ignore"):
        return np.where(condition, x, 0).sum(axis=-1) / condition.sum(axis=-1)


def _rows(programs: np.ndarray | Factory, rows: np.ndarray) -> np.ndarray | Factory:
    """Return some of the programs; an optimizer is one for all."""
    return programs[rows] if isinstance(programs, np.ndarray) else programs
