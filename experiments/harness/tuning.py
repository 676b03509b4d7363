"""The same rule of tuning for every rival: each setting with few seeds, the best with others.

One compiled program (`nos_optax.population.PartLoop`) trains every rule at every rate and weight
decay with every seed, and one trains each optimizer that is no rule.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import Progress, TaskID

import nos_optax
from harness.checkpoints import Checkpoints
from nos_optax.compare.records import Records
from nos_optax.grammar import encode
from nos_optax.grammar.program import pad_programs
from nos_optax.population import PartLoop, Task, TaskLoop
from nos_optax.population.loop import Factory


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
    """A way to train: an update rule, and a schedule of the learning rate."""

    name: str
    rule: str  # infix
    schedule: str = "constant"  # a key of `SCHEDULES`
    # What trains, where the rule as text does not say it all: from the vector of the learning rate
    # and the numbers to an optimizer. Rivals with one factory share its compiled program.
    factory: Factory | None = None
    numbers: tuple[float, ...] = ()


class Settings(NamedTuple):
    """What is tried of a rival: every rate with every weight decay."""

    rates: tuple[float, ...]
    weight_decays: tuple[float, ...] = (0.0,)  # of an L2 penalty
    beyond: tuple[float, ...] = ()  # ascending rates: see `compare`


class Job(NamedTuple):
    """A training that is asked for."""

    rival: str
    rate: float
    weight_decay: float
    seed: int


class Training(NamedTuple):
    """One of a rival's trainings; nan from the part on in which it diverged."""

    rival: str
    rate: float
    seed: int
    loss: list[float]  # mean of each part's minibatches
    validation: list[float]  # score after each part
    test: list[float]  # score after each part
    weight_decay: float = 0.0

    @property
    def final(self) -> float:
        """The validation score at the end; -inf if it diverged."""
        return -np.inf if np.isnan(self.validation[-1]) else self.validation[-1]


class Outcome(NamedTuple):
    """What became of a rival."""

    rival: Rival
    rate: float  # the best of those tried
    tuning: list[Training]  # one a rate, weight decay and tuning seed
    runs: list[Training]  # one a fresh seed, with the best rate and weight decay
    weight_decay: float = 0.0  # the best of those tried


def make_loop(
    task: Task,
    batch_size: int,
    epochs: int,
    rivals: Sequence[Rival],
    devices: list[jax.Device],
    lanes: int = 1,
    decayed: Callable | None = None,
) -> PartLoop:
    """Return where trainings of so many epochs take place."""
    rules = [rival.rule for rival in rivals if not rival.factory]
    iterations = max((len(encode(rule).array) for rule in rules), default=1)
    steps = task.num_examples(task.train) // batch_size * epochs
    loop = TaskLoop(task, batch_size, steps, iterations, devices, lanes, scores=True)
    return PartLoop(loop, decayed)


def compare(
    loop: PartLoop,
    rivals: Sequence[Rival],
    rates: Sequence[float] | Mapping[str, Settings],
    parts: int,
    seeds: Sequence[int],
    records: Records,
    progress: Progress,
    tuning_seeds: Sequence[int] = (0,),
) -> list[Outcome]:
    """Tune every rival's rate and weight decay, then train with the best and fresh seeds.

    Every setting is trained to the end with the tuning seeds; the best has the highest mean
    validation score there, and of equals it is the first. While the best rate of a rival is the
    least or the greatest of those it has tried, the next one of `Settings.beyond` on that side is
    tried too, until there is none. What is in the records is not trained again, and a killed
    training goes on from its last checkpoint beside them.

    Args:
        loop: where all are trained, for its `max_steps`.
        rivals: of different names.
        rates: learning rates, the same for all, without weight decay; or what is tried of each
            rival, by its name.
        parts: of a training, with scores after each; they divide its steps.
        seeds: fresh ones, for the figures that are reported.
        records: where each training is kept.
        progress: shown to the user.
        tuning_seeds: none is among the seeds, or the best rate's score would be lucky.

    Raises:
        ValueError: two rivals have one name, or a tuning seed is among the seeds.
    """
    named = {rival.name: rival for rival in rivals}
    if len(named) < len(rivals):
        raise ValueError(f"rivals need different names, got {[rival.name for rival in rivals]}")
    if common := set(tuning_seeds) & set(seeds):
        raise ValueError(f"tuning seeds {sorted(common)} are among the fresh seeds {list(seeds)}")
    if not isinstance(rates, Mapping):
        rates = {name: Settings(tuple(rates)) for name in named}
    trainer = Trainer(loop, named, parts, records, progress)
    tuning = _tune(trainer.train, {name: rates[name] for name in named}, tuning_seeds)
    best = {name: best_setting(trainings) for name, trainings in tuning.items()}
    runs = trainer.train("fresh seeds", [Job(name, *best[name], s) for name in best for s in seeds])
    return [
        Outcome(
            rival, best[name][0], tuning[name], [t for t in runs if t.rival == name], best[name][1]
        )
        for name, rival in named.items()
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
            more = next_rates(
                {t.rate for t in trainings}, best_setting(trainings)[0], settings[name].beyond
            )
            rates[name] = more if rates[name] else []
    return tried


def next_rates(tried: Iterable[float], best: float, beyond: Sequence[float]) -> list[float]:
    """Return the rates to try where the best one is at an end; none where it lies inside.

    Args:
        tried: all rates so far.
        best: one of them.
        beyond: rates that may be tried, ascending.
    """
    more, tried = [], list(tried)
    if best == min(tried):
        more += [rate for rate in beyond if rate < best][-1:]
    if best == max(tried):
        more += [rate for rate in beyond if rate > best][:1]
    return more


class Trainer(NamedTuple):
    """Trains jobs that are not in the records yet, as many at a time as the loop takes."""

    loop: PartLoop
    rivals: Mapping[str, Rival]
    parts: int
    records: Records
    progress: Progress

    def train(self, stage: str, jobs: Sequence[Job]) -> list[Training]:
        """Return the jobs' trainings, in order."""
        missing = [job for job in jobs if self.records.get(self._key(job)) is None]
        task = self.progress.add_task(stage, total=len(jobs) * self.parts)
        self.progress.update(task, completed=(len(jobs) - len(missing)) * self.parts)
        for together in self._hands(missing):
            keys = list(map(self._key, together))
            digest = hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]
            folder = self.records.path.with_suffix("") / digest
            curves = np.moveaxis(self._train(together, folder, task), -1, 1)
            names = "loss", "validation", "test"
            values = [dict(zip(names, each, strict=True)) for each in curves]
            self.records.extend(list(zip(keys, values, strict=True)))
            shutil.rmtree(folder.parent, ignore_errors=True)  # now that its results are safe
        return [
            Training(**job._asdict(), **(self.records.get(self._key(job)) or {})) for job in jobs
        ]

    def _key(self, job: Job) -> dict[str, object]:
        """Return all that decides how a job ends, but for what is common to all."""
        rival = self.rivals[job.rival]
        return job._asdict() | {"rule": rival.rule, "schedule": rival.schedule}

    def _hands(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Yield jobs that train together: by one factory, side by side with one seed."""
        groups: dict[tuple, list[Job]] = {}
        for job in jobs:
            seed = job.seed if self.loop.loop.lanes > 1 else None
            groups.setdefault((self.rivals[job.rival].factory, seed), []).append(job)
        for group in groups.values():
            for start in range(0, len(group), self.loop.seats):
                yield group[start : start + self.loop.seats]

    def _train(self, jobs: Sequence[Job], folder: Path, task: TaskID) -> np.ndarray:
        """Return curves `[P, parts, 3]` of jobs that fit into the loop."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoints, steps = Checkpoints(folder), self.loop.loop.max_steps
        rivals, seeds = [self.rivals[job.rival] for job in jobs], [job.seed for job in jobs]
        factory, iterations = rivals[0].factory, self.loop.loop.iterations
        programs = factory or np.stack(
            [pad_programs(encode(rival.rule).array, iterations) for rival in rivals]
        )
        rates = np.stack([_rates(job, self.rivals[job.rival], steps) for job in jobs])
        children = self.loop.start(seeds, factory, rates.shape[1] if factory else None)
        curves, begun = np.full((len(jobs), self.parts, 3), np.nan, np.float32), 0
        if folder.is_dir() and (restored := checkpoints.restore((children, curves), self.parts)):
            begun, (children, curves) = restored
            curves = np.array(curves)
        self.progress.advance(task, begun * len(jobs))
        size, decays = steps // self.parts, [job.weight_decay for job in jobs]
        for part in range(begun, self.parts):
            first = part * size
            some = rates[..., first : first + size]
            children, result = self.loop.advance(
                children, programs, some, seeds, first, steps, decays
            )
            curves[:, part] = np.stack(result, axis=1)
            checkpoints.save_if_due(part + 1, (children, curves))
            self.progress.advance(task, len(jobs))
        checkpoints.close()
        return curves


def _rates(job: Job, rival: Rival, steps: int) -> np.ndarray:
    """Return a job's rate at each step `[steps]`; for a factory, with its numbers `[M, steps]`."""
    factors = jax.vmap(SCHEDULES[rival.schedule](steps, job.seed))(jnp.arange(steps))
    rates = np.broadcast_to(job.rate * factors, steps).astype(np.float32)
    if rival.factory is None:
        return rates
    return np.stack([rates, *(np.full(steps, x, np.float32) for x in rival.numbers)])
