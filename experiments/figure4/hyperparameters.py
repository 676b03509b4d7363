"""Other bases and averages of PowerSign and AddSign on the child: part (c) of figure4_child.py.

A search's programs have one decay rate of the averages, and no constant but 1 and 2. So these train
by `nos_optax.powersign` and `nos_optax.addsign` in a plain Optax loop: one compiled program for
each of the two, with the base and the decay rate as data.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import rival_tables
from harness.rival_tables import Display, Result, claims, interval_text, mean_text, rates_text
from harness.statistics import Interval, difference, epochs_to_reach
from harness.tuning import HALF_DECADES, Job, Outcome, Rival, Settings, Training, tune_and_repeat
from rich import box
from rich.progress import Progress
from rich.table import Table

import nos_optax
from nos_optax.compare.records import Records
from nos_optax.population import Task
from nos_optax.population.training import Child, cut, gradient, mean_score

EVALUATIONS = 4  # of an epoch, at most
PART = 0.9  # of the way from chance to the default's last score: the level that is to be reached
START = (0.03, 0.1, 0.3)  # learning rates; beyond an end where the best one is there


class Variant(NamedTuple):
    """Hyperparameters of PowerSign or AddSign."""

    optimizer: str
    base: float = math.e  # alpha of section 5.1; of PowerSign only
    b1: float = 0.9


POWERSIGN, ADDSIGN = "PowerSign", "AddSign"  # both also name the variant with the paper's defaults
AVERAGES = (0.8, 0.95, 0.99)  # beside the default
VARIANTS = {
    POWERSIGN: Variant(POWERSIGN),
    **{f"PowerSign, base {base}": Variant(POWERSIGN, base=base) for base in (2, 4, 10)},
    **{f"PowerSign, b1 {b1}": Variant(POWERSIGN, b1=b1) for b1 in AVERAGES},
    ADDSIGN: Variant(ADDSIGN),
    **{f"AddSign, b1 {b1}": Variant(ADDSIGN, b1=b1) for b1 in AVERAGES},
}


def rival(name: str) -> Rival:
    """Return a variant as a rival, with its rule as text."""
    optimizer, base, _ = VARIANTS[name]
    if optimizer == ADDSIGN:
        return Rival(name, "(1 + sign(g) * sign(m)) * g")
    power = "exp(sign(g) * sign(m))" if base == math.e else f"{base:g}^(sign(g) * sign(m))"
    return Rival(name, f"{power} * g")


RIVALS = tuple(map(rival, VARIANTS))


def make_optimizer(
    optimizer: str, rate: jax.Array, base: jax.Array, b1: jax.Array
) -> optax.GradientTransformation:
    """Return the transformation of a variant, whose numbers may be traced."""
    if optimizer == ADDSIGN:
        return nos_optax.addsign(rate, b1=b1)
    return nos_optax.powersign(rate, b1=b1, base=base)


class VariantTrainer:
    """Trains variants, one after another, as `TrainingGrid` trains its children.

    Initial weights, the order of the images and the loss's random numbers are those of the grid.

    Args:
        task: with a test set.
        batch_size: images in a minibatch.
        epochs: of a training.
        records: where each training is kept; what is there is not trained again.
        progress: shown to the user.
    """

    def __init__(
        self, task: Task, batch_size: int, epochs: int, records: Records, progress: Progress
    ):
        self.task, self.batch_size, self.epochs = task, batch_size, epochs
        self.records, self.progress = records, progress
        self.epoch_steps = task.num_examples(task.train) // batch_size
        per_epoch = max(k for k in range(1, EVALUATIONS + 1) if self.epoch_steps % k == 0)
        self.evaluations = per_epoch * epochs
        sets = [cut(x, task.evaluation_batch) for x in (task.validation, task.test)]
        self._data = jax.device_put((task.train, tuple(sets)))
        self._train = jax.jit(self._train_one, static_argnums=0)

    @property
    def steps_between(self) -> int:
        """Steps from one evaluation to the next."""
        return self.epoch_steps * self.epochs // self.evaluations

    def train(self, stage: str, jobs: Sequence[Job]) -> list[Training]:
        """Return the jobs' trainings, in order; a job's rival is a name of `VARIANTS`."""
        trainings = []
        for job in self.progress.track(jobs, description=stage):
            key = job._asdict()
            if self.records.get(key) is None:
                self.records.append(key, self._curves(job))
            trainings.append(Training(**key, **(self.records.get(key) or {})))
        return trainings

    def _curves(self, job: Job) -> dict[str, list[float]]:
        optimizer, base, b1 = VARIANTS[job.rival]
        numbers = (np.float32(x) for x in (job.rate, base, b1))
        key = jax.random.key(np.uint32(job.seed))
        curves = self._train(optimizer, *numbers, key, self._order(job.seed), self._data)
        rows = np.asarray(curves).T.tolist()
        return dict(zip(("loss", "validation", "test"), rows, strict=True))

    def _order(self, seed: int) -> np.ndarray:
        """Return the images of each minibatch, `int32[evaluations, steps between, B]`."""
        examples = self.task.num_examples(self.task.train)
        used = self.epoch_steps * self.batch_size
        rows = [
            np.random.default_rng([seed, epoch]).permutation(examples)[:used]
            for epoch in range(self.epochs)
        ]
        shape = self.evaluations, self.steps_between, self.batch_size
        return np.concatenate(rows).reshape(shape).astype(np.int32)

    def _train_one(self, optimizer, rate, base, b1, key, order, data) -> jax.Array:
        """Return loss, validation and test score at each evaluation, `[evaluations, 3]`.

        They are nan from the one on before which the training diverged.
        """
        train, sets = data
        init_key, _, loss_key = jax.random.split(key, 3)
        tx = make_optimizer(optimizer, rate, base, b1)
        params, state = self.task.init_flat(init_key)
        rule: Any = tx.init(params)  # in the place of a program's state
        start = Child(params, state, rule, jnp.array(True))

        def step(child: Child, numbered):
            number, rows = numbered
            batch = jax.tree.map(lambda x: x[rows], train)
            key = jax.random.fold_in(loss_key, number)
            loss, state, g = gradient(self.task, child, batch, key)
            result: Any = tx.update(g, child.rule, child.params)
            update, rule = result
            params = child.params + update
            running = child.running & jnp.isfinite(loss) & jnp.all(jnp.isfinite(params))
            return Child(params, state, rule, running), loss

        def stretch(child, numbered):
            child, losses = jax.lax.scan(step, child, numbered)
            scores = [mean_score(self.task, child, chunks) for chunks in sets]
            row = jnp.stack([losses.mean(), *scores])
            return child, jnp.where(child.running, row, jnp.nan)

        numbers = jnp.arange(order.shape[0] * order.shape[1]).reshape(order.shape[:2])
        return jax.lax.scan(stretch, start, (numbers, order))[1]


def compare_variants(trainer: VariantTrainer, seeds: Sequence[int]) -> list[Outcome]:
    """Tune the learning rate of every variant with seed 0, and train it again with fresh seeds."""
    settings = {name: Settings(START, beyond=HALF_DECADES) for name in VARIANTS}
    return tune_and_repeat(trainer.train, RIVALS, settings, seeds, tuning_seeds=(0,))


# What is measured.


class Row(NamedTuple):
    """A variant in numbers; differences are to the paper's hyperparameters, seed by seed."""

    result: Result
    steps: list[float]  # to the level, of each fresh seed; inf where it is never reached
    fewer: Interval | None  # steps less the default's; None for the default, or where one is inf


def measure(outcomes: Sequence[Outcome], display: Display, steps_between: int) -> list[Row]:
    """Return each variant's numbers."""
    rows = []
    for default in (POWERSIGN, ADDSIGN):
        group = [o for o in outcomes if VARIANTS[o.rival.name].optimizer == default]
        results = rival_tables.measure(group, default, display)
        steps = steps_to_level(group, default, display.chance, steps_between)
        for result in results:
            fewer = None
            if result.name != default and np.isfinite([steps[default], steps[result.name]]).all():
                fewer = difference(steps[result.name], steps[default])
            rows.append(Row(result, steps[result.name], fewer))
    return rows


def steps_to_level(
    group: Sequence[Outcome], default: str, chance: float, steps_between: int
) -> dict[str, list[float]]:
    """Return the steps to the level, of each fresh seed, by variant.

    The level is `PART` of the way from chance to the default's mean last validation score.
    """
    curves = {
        o.rival.name: np.nan_to_num([t.validation for t in o.runs], nan=chance) for o in group
    }
    level = chance + PART * (float(curves[default][:, -1].mean()) - chance)
    return {
        name: [steps_between * epochs_to_reach(curve.tolist(), level, chance) for curve in of_one]
        for name, of_one in curves.items()
    }


# What is shown.


def table(rows: Sequence[Row], display: Display) -> Table:
    """Return the table of the variants."""
    columns = ("rates tried", "rate", "steps to the level", "- default's [95 %]", "final test")
    shown = Table(box=box.SIMPLE)
    shown.add_column("rival", no_wrap=True)
    shown.add_column("rule")
    for column in (*columns, "- default's [95 %]"):
        shown.add_column(column, justify="right")
    for result, steps, fewer in rows:
        default = result.difference is None
        shown.add_row(
            *(result.name, result.rule, rates_text(result.tried), f"{result.rate:g}"),
            mean_text(steps, 0) if np.isfinite(steps).all() else "not reached by all",
            "not reached by all" if fewer is None and not default else interval_text(fewer, 0),
            mean_text(result.values["final_test"], display.digits),
            interval_text(result.difference, display.digits),
        )
    return shown


def verdict(rows: Sequence[Row]) -> str:
    """Say what becomes of the two claims: of the base, and of the averages."""
    count = len(rows[0].steps)
    bases = {r.result.name: r.fewer for r in rows if "base" in r.result.name and r.fewer}
    finals = {r.result.name: r.result.difference for r in rows if r.result.difference is not None}
    groups: Mapping[str, Mapping[str, Interval]] = {
        "Other bases, final test against base e": {n: i for n, i in finals.items() if "base" in n},
        "Other averages, final test against b1 0.9": {n: i for n, i in finals.items() if "b1" in n},
    }
    said = [f"{title}, {claims(known, count)}" for title, known in groups.items() if known]
    if bases:
        said.insert(0, f"Other bases, fewer steps to the level, {claims(bases, count, lower=True)}")
    return " ".join(said)
