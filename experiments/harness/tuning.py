"""The same tuning budget for every rival: each learning rate with few seeds, the best with others.

All of it is a grid of trainings (`nos_optax.population.TrainingGrid`), so one compiled program
trains every rule at every rate with every seed.
"""

import functools
import hashlib
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
from harness.records import Records
from nos_optax.grammar import encode
from nos_optax.population import TrainingGrid
from nos_optax.search.checkpoints import Checkpoints

# A learning rate's factor at each step, as a schedule of the number of steps.
SCHEDULES: Mapping[str, Callable[[int, int], optax.Schedule]] = {
    "constant": lambda steps, seed: optax.constant_schedule(1.0),
    "linear": lambda steps, seed: optax.linear_schedule(1.0, 0.0, steps),
    "cosine": lambda steps, seed: nos_optax.cyclical_cosine(1.0, steps),
    "restarts": lambda steps, seed: nos_optax.restart_cosine(1.0, steps, num_periods=10),
    "linear cosine": lambda steps, seed: nos_optax.linear_cosine(1.0, steps),
    "noisy linear cosine": lambda steps, seed: nos_optax.noisy_linear_cosine(
        1.0, steps, key=jax.random.key(seed)
    ),
}


class Rival(NamedTuple):
    """A way to train: an update rule and a schedule of the learning rate."""

    name: str
    rule: str  # infix
    schedule: str = "constant"  # a key of `SCHEDULES`


class Training(NamedTuple):
    """One of a rival's trainings; nan from the epoch on in which it diverged."""

    rival: str
    rate: float
    seed: int
    loss: list[float]  # mean of each epoch's minibatches
    validation: list[float]  # score after each epoch
    test: list[float]  # score after each epoch

    @property
    def final(self) -> float:
        """The validation score after the last epoch; -inf if it diverged."""
        return -np.inf if np.isnan(self.validation[-1]) else self.validation[-1]


class Outcome(NamedTuple):
    """What became of a rival."""

    rival: Rival
    rate: float  # the best of those tried
    tuning: list[Training]  # one a rate and tuning seed
    runs: list[Training]  # one a fresh seed, with the best rate


def compare(
    grid: TrainingGrid,
    rivals: Sequence[Rival],
    rates: Sequence[float],
    epochs: int,
    seeds: Sequence[int],
    records: Records,
    progress: Progress,
    tuning_seeds: Sequence[int] = (0,),
) -> list[Outcome]:
    """Tune every rival's learning rate, then train with the best one and fresh seeds.

    Every rate is trained to the end with the tuning seeds; the best has the highest mean validation
    score after the last epoch. What is in the records is not trained again, and a killed training
    goes on from its last checkpoint beside them, also on another number of devices.

    Args:
        grid: where all are trained.
        rivals: of different names.
        rates: learning rates, the same for all.
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
    trainer = _Trainer(grid, {rival.name: rival for rival in rivals}, epochs, records, progress)
    tuning = trainer.train(
        "tuning", [(r.name, rate, seed) for r in rivals for rate in rates for seed in tuning_seeds]
    )

    def mean_final(name: str, rate: float) -> float:
        return float(np.mean([t.final for t in tuning if (t.rival, t.rate) == (name, rate)]))

    best = {
        rival.name: max(rates, key=functools.partial(mean_final, rival.name)) for rival in rivals
    }
    runs = trainer.train("fresh seeds", [(name, best[name], s) for name in best for s in seeds])
    return [
        Outcome(
            rival,
            best[rival.name],
            [t for t in tuning if t.rival == rival.name],
            [t for t in runs if t.rival == rival.name],
        )
        for rival in rivals
    ]


Job = tuple[str, float, int]  # rival, learning rate, seed


class _Trainer(NamedTuple):
    """Trains jobs that are not in the records yet, as many at a time as the grid takes."""

    grid: TrainingGrid
    rivals: Mapping[str, Rival]
    epochs: int
    records: Records
    progress: Progress

    def train(self, stage: str, jobs: Sequence[Job]) -> list[Training]:
        """Return the jobs' trainings, in order."""
        missing = [job for job in jobs if self.records.get(_key(job)) is None]
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
            self.records.extend(list(zip(map(_key, part), values, strict=True)))
            shutil.rmtree(folder, ignore_errors=True)  # now that its results are safe
        return [Training(*job, **(self.records.get(_key(job)) or {})) for job in jobs]

    def _folder(self, jobs: Sequence[Job]) -> Path:
        """Return where the checkpoints of these jobs are."""
        digest = hashlib.sha256(json.dumps(jobs).encode()).hexdigest()[:16]
        return self.records.path.with_suffix("") / digest

    def _train_part(self, jobs: Sequence[Job], folder: Path, task) -> np.ndarray:
        """Train at most as many jobs as the grid takes; return curves `[P, epochs, 3]`.

        The checkpoints are those of any devices: a child's training does not depend on its place.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(folder)
        programs = [encode(self.rivals[name].rule).array for name, _, _ in jobs]
        start = functools.partial(self.grid.start, programs, [seed for _, _, seed in jobs])
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
        for name, rate, seed in jobs:
            schedule = SCHEDULES[self.rivals[name].schedule](steps, seed)
            rows.append(rate * np.broadcast_to(jax.vmap(schedule)(every), steps))
        return np.stack(rows).astype(np.float32)


def _key(job: Job) -> dict[str, object]:
    name, rate, seed = job
    return {"rival": name, "rate": rate, "seed": seed}
