"""The same rule of tuning for every rival: each setting with few seeds, the best with others.

All of it is a grid of trainings (`nos_optax.population.TrainingGrid`), so one compiled program
trains every rule at every rate and weight decay with every seed.
"""

import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import Progress

import nos_optax
from harness.checkpoints import Checkpoints
from nos_optax.compare.records import Records
from nos_optax.grammar import encode
from nos_optax.population import TrainingGrid


def stepwise(steps: int) -> optax.Schedule:
    """Return the wide residual networks' schedule: times 0.2 at 30, 60 and 80 % of the training.

    References:
        Zagoruyko and Komodakis, `Wide Residual Networks <https://arxiv.org/abs/1605.07146>`_,
        2016, section 3: epochs 60, 120 and 160 of 200
    """
    return optax.piecewise_constant_schedule(
        1.0, {round(part * steps): 0.2 for part in (0.3, 0.6, 0.8)}
    )


# A learning rate's factor at each step, as a schedule of the number of steps.
SCHEDULES: Mapping[str, Callable[[int, int], optax.Schedule]] = {
    "constant": lambda steps, seed: optax.constant_schedule(1.0),
    "stepwise": lambda steps, seed: stepwise(steps),
    "linear": lambda steps, seed: optax.linear_schedule(1.0, 0.0, steps),
    "cosine": lambda steps, seed: nos_optax.cyclical_cosine(1.0, steps),
    "restarts": lambda steps, seed: nos_optax.restart_cosine(1.0, steps, num_periods=10),
    "linear cosine": lambda steps, seed: nos_optax.linear_cosine(1.0, steps),
    "noisy linear cosine": lambda steps, seed: nos_optax.noisy_linear_cosine(
        1.0, steps, key=jax.random.key(seed)
    ),
}

# 1e-6, 3e-6, 1e-5, ... 300, 1000: learning rates half a decade apart.
HALF_DECADES = tuple(
    float(f"{digit}e{power}")
    for power, digit in itertools.product(range(-6, 4), (1, 3))
    if (power, digit) <= (3, 1)
)


class Rival(NamedTuple):
    """A way to train: an update rule and a schedule of the learning rate."""

    name: str
    rule: str  # infix
    schedule: str = "constant"  # a key of `SCHEDULES`


class Settings(NamedTuple):
    """What is tried of a rival: every rate with every weight decay."""

    rates: tuple[float, ...]
    weight_decays: tuple[float, ...] = (0.0,)  # of an L2 penalty
    beyond: tuple[float, ...] = ()  # ascending rates: see `compare`


class Training(NamedTuple):
    """One of a rival's trainings; nan from the epoch on in which it diverged."""

    rival: str
    rate: float
    seed: int
    loss: list[float]  # mean of each epoch's minibatches
    validation: list[float]  # score after each epoch
    test: list[float]  # score after each epoch
    weight_decay: float = 0.0

    @property
    def final(self) -> float:
        """The validation score after the last epoch; -inf if it diverged."""
        return -np.inf if np.isnan(self.validation[-1]) else self.validation[-1]


class Outcome(NamedTuple):
    """What became of a rival."""

    rival: Rival
    rate: float  # the best of those tried
    tuning: list[Training]  # one a rate, weight decay and tuning seed
    runs: list[Training]  # one a fresh seed, with the best rate and weight decay
    weight_decay: float = 0.0  # the best of those tried


class Job(NamedTuple):
    """A training that is asked for."""

    rival: str
    rate: float
    weight_decay: float
    seed: int


def compare(
    grid: TrainingGrid,
    rivals: Sequence[Rival],
    rates: Sequence[float] | Mapping[str, Settings],
    epochs: int,
    seeds: Sequence[int],
    records: Records,
    progress: Progress,
    tuning_seeds: Sequence[int] = (0,),
) -> list[Outcome]:
    """Tune every rival's rate and weight decay, then train with the best and fresh seeds.

    Every setting is trained to the end with the tuning seeds; the best has the highest mean
    validation score after the last epoch, and of equals it is the first. While the best rate of a
    rival is the least or the greatest of those it has tried, the next one of `Settings.beyond` on
    that side is tried too, until there is none. What is in the records is not trained again, and a
    killed training goes on from its last checkpoint beside them, also on another number of devices.

    Args:
        grid: where all are trained.
        rivals: of different names.
        rates: learning rates, the same for all, without weight decay; or what is tried of each
            rival, by its name.
        epochs: length of a training.
        seeds: fresh ones, for the figures that are reported.
        records: where each training is kept.
        progress: shown to the user.
        tuning_seeds: none is among the seeds, or the best rate's score would be lucky.

    Raises:
        ValueError: two rivals have one name, or a tuning seed is among the seeds.
    """
    if len({rival.name for rival in rivals}) < len(rivals):
        raise ValueError(f"rivals need different names, got {[rival.name for rival in rivals]}")
    if common := set(tuning_seeds) & set(seeds):
        raise ValueError(f"tuning seeds {sorted(common)} are among the fresh seeds {list(seeds)}")
    if not isinstance(rates, Mapping):
        rates = {rival.name: Settings(tuple(rates)) for rival in rivals}
    trainer = _Trainer(grid, {rival.name: rival for rival in rivals}, epochs, records, progress)
    return tune_and_repeat(trainer.train, rivals, rates, seeds, tuning_seeds)


def tune_and_repeat(
    train: Callable[[str, Sequence[Job]], list[Training]],
    rivals: Sequence[Rival],
    settings: Mapping[str, Settings],
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
) -> list[Outcome]:
    """Do what `compare` does, with any way to train.

    Args:
        train: returns the trainings of jobs, in order, given also what they are for, in words.
        rivals: as there.
        settings: what is tried of each, by its name.
        seeds: as there.
        tuning_seeds: as there.
    """
    tuning = _tune(train, {rival.name: settings[rival.name] for rival in rivals}, tuning_seeds)
    best = {name: best_setting(trainings) for name, trainings in tuning.items()}
    runs = train("fresh seeds", [Job(name, *best[name], s) for name in best for s in seeds])
    return [
        Outcome(
            rival,
            best[rival.name][0],
            tuning[rival.name],
            [t for t in runs if t.rival == rival.name],
            best[rival.name][1],
        )
        for rival in rivals
    ]


def best_setting(trainings: Sequence[Training]) -> tuple[float, float]:
    """Return the rate and the weight decay with the highest mean last validation score."""
    finals: dict[tuple[float, float], list[float]] = {}
    for training in trainings:
        finals.setdefault((training.rate, training.weight_decay), []).append(training.final)
    return max(finals, key=lambda setting: float(np.mean(finals[setting])))


def _tune(
    train: Callable[[str, Sequence[Job]], list[Training]],
    settings: Mapping[str, Settings],
    seeds: Sequence[int],
) -> dict[str, list[Training]]:
    """Return each rival's trainings, by increasing rates."""
    tried: dict[str, list[Training]] = {name: [] for name in settings}
    rates = {name: sorted(of_rival.rates) for name, of_rival in settings.items()}
    while any(rates.values()):
        jobs = [
            Job(name, rate, decay, seed)
            for name, more in rates.items()
            for rate in more
            for decay in settings[name].weight_decays
            for seed in seeds
        ]
        for training in train("tuning", jobs):
            tried[training.rival].append(training)
        for name, trainings in tried.items():
            trainings.sort(key=lambda training: training.rate)  # a stable order within a rate
            rates[name] = next_rates(trainings, settings[name].beyond) if rates[name] else []
    return tried


def next_rates(trainings: Sequence[Training], beyond: Sequence[float]) -> list[float]:
    """Return the rate to try where the best one is at an end; none where it lies inside.

    Args:
        trainings: of one rival.
        beyond: rates that may be tried, ascending.
    """
    tried, (best, _) = {training.rate for training in trainings}, best_setting(trainings)
    more: list[float] = []
    if best == min(tried):
        more += [rate for rate in beyond if rate < best][-1:]
    if best == max(tried):
        more += [rate for rate in beyond if rate > best][:1]
    return more


class _Trainer(NamedTuple):
    """Trains jobs that are not in the records yet, as many at a time as the grid takes."""

    grid: TrainingGrid
    rivals: Mapping[str, Rival]
    epochs: int
    records: Records
    progress: Progress

    def train(self, stage: str, jobs: Sequence[Job]) -> list[Training]:
        """Return the jobs' trainings, in order."""
        missing = [job for job in jobs if self.records.get(self._key(job)) is None]
        total = len(jobs) * self.epochs
        task = self.progress.add_task(stage, total=total)
        self.progress.update(task, completed=(len(jobs) - len(missing)) * self.epochs)
        for start in range(0, len(missing), self.grid.capacity):
            part = missing[start : start + self.grid.capacity]
            folder = self._folder(part)
            curves = np.moveaxis(self._train_part(part, folder, task), -1, 1)
            values = [
                dict(zip(("loss", "validation", "test"), each, strict=True)) for each in curves
            ]
            self.records.extend(list(zip(map(self._key, part), values, strict=True)))
            shutil.rmtree(folder, ignore_errors=True)  # now that its results are safe
        return [
            Training(**job._asdict(), **(self.records.get(self._key(job)) or {})) for job in jobs
        ]

    def _key(self, job: Job) -> dict[str, object]:
        """Return all that decides how a job ends, but for what is common to all."""
        rival = self.rivals[job.rival]
        return job._asdict() | {"rule": rival.rule, "schedule": rival.schedule}

    def _folder(self, jobs: Sequence[Job]) -> Path:
        """Return where the checkpoints of these jobs are."""
        keys = json.dumps([self._key(job) for job in jobs])
        digest = hashlib.sha256(keys.encode()).hexdigest()[:16]
        return self.records.path.with_suffix("") / digest

    def _train_part(self, jobs: Sequence[Job], folder: Path, task) -> np.ndarray:
        """Train at most as many jobs as the grid takes; return curves `[P, epochs, 3]`.

        The checkpoints are those of any devices: a child's training does not depend on its place.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(folder)
        start = functools.partial(
            self.grid.start,
            [encode(self.rivals[job.rival].rule).array for job in jobs],
            [job.seed for job in jobs],
            [job.weight_decay for job in jobs],
        )
        curves = np.full((len(jobs), self.epochs, 3), np.nan, np.float32)
        begun, children = 0, None
        if folder.is_dir():
            template = self.grid.gather(start(), len(jobs)), curves
            if restored := checkpoints.restore(template, self.epochs):
                begun, (gathered, curves) = restored
                children, curves = self.grid.seat(gathered), np.array(curves)
        children = start() if children is None else children
        self.progress.advance(task, begun * len(jobs))

        steps = self.grid.epoch_steps
        factors = self._factors(jobs, steps * self.epochs)
        for epoch in range(begun, self.epochs):
            rates = factors[:, epoch * steps : (epoch + 1) * steps]
            children, result = self.grid.advance(children, rates, epoch, steps * self.epochs)
            curves[:, epoch] = np.stack(result, axis=1)
            if checkpoints.due:
                checkpoints.save(epoch + 1, (self.grid.gather(children, len(jobs)), curves))
            self.progress.advance(task, len(jobs))
        checkpoints.close()
        return curves

    def _factors(self, jobs: Iterable[Job], steps: int) -> np.ndarray:
        """Return each job's learning rate at each step `[P, steps]`."""
        every = jnp.arange(steps)
        rows = []
        for job in jobs:
            schedule = SCHEDULES[self.rivals[job.rival].schedule](steps, job.seed)
            rows.append(job.rate * np.broadcast_to(jax.vmap(schedule)(every), steps))
        return np.stack(rows).astype(np.float32)
