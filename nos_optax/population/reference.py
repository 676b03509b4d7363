"""What tuned Adam does on a task, at many lengths of training: the yardstick of every other rule.

A rule's loss says nothing across tasks. How long Adam would have had to train for that loss does:
the unit is a doubling of Adam's training, 0 is as good as Adam, 1 is twice as fast. That is VeLO's
normaliser (Metz et al., 2022, appendix) of a loss that is three quarters the validation loss at the
end, and a quarter the mean loss on the way there. The first alone is noisy where Adam's own hardly
falls any more, and the second alone rewards haste. They are joined as losses, not as lengths: where
one is flat, the other decides.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from nos_optax._files import slug, write_whole
from nos_optax._version import __version__
from nos_optax.grammar import encode
from nos_optax.population.loop import Losses, TaskLoop
from nos_optax.population.task import Task
from nos_optax.population.task_check import task_digest

# Lengths of Adam's trainings, as parts of the horizon, at which the rules train.
LENGTHS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 5 / 4, 3 / 2, 2, 5 / 2, 3)
SWEEP = 1 / 4  # the part of the horizon after which rates are chosen; one of LENGTHS
LONGEST = max(LENGTHS)
# By Python: NumPy's powers differ in their last digit from processor to processor.
COARSE = tuple(10 ** (k / 2) for k in range(-10, 3))
FINE = tuple(10 ** (k / 4) for k in (-1, 0, 1))
ON_THE_WAY, AT_THE_END = 1 / 4, 3 / 4  # of the loss by which trainings are compared
LAST_SEED = 2**31  # those of searches and of fresh trainings lie far below
TUNING_SEEDS = range(LAST_SEED - 4, LAST_SEED)
CURVE_SEEDS = range(LAST_SEED - 12, LAST_SEED - 4)  # seeds that chose the rate never judge it

SHIPPED = Path(__file__).parent / "tasks" / "adam.json"
# Flags of JAX on which the numbers of a training depend.
FLAGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable")
CURVES = ("train", "validation", "late")  # the fields of a reference that have a number a length


@dataclasses.dataclass(frozen=True)
class Reference:
    """Mean losses of tuned Adam on one task, at each of LENGTHS.

    Attributes:
        learning_rate: the tuned rate, at the horizon.
        train: mean loss of the minibatches of a training of that length.
        validation: validation loss at its end.
        late: mean loss of the minibatches in its second half.
    """

    learning_rate: float
    train: tuple[float, ...]
    validation: tuple[float, ...]
    late: tuple[float, ...]

    def speed(self, losses: Losses) -> np.ndarray:
        """Return how fast trainings of a horizon's length were, in doublings of Adam's.

        Args:
            losses: of trainings, arrays of any one shape.

        Returns:
            The same shape: log2 of the length at which Adam has the same loss, from -3 to log2(3),
            beyond which nobody looks.
        """
        curve = joined_loss(self.train, self.validation)
        return _length(joined_loss(losses.train, losses.validation), curve)

    @property
    def most(self) -> float:
        """The greatest speed that can be told: Adam's loss falls no further, or nobody looked."""
        return float(self.speed(Losses(*[np.array(-np.inf)] * 4)))

    def learned(self, losses: Losses) -> np.ndarray:
        """Return which trainings of a sweep's length made a twentieth of Adam's progress."""
        adam = self.late[LENGTHS.index(SWEEP)]
        return np.asarray(losses.late < losses.initial - (losses.initial - adam) / 20)


def joined_loss(train: np.typing.ArrayLike, validation: np.typing.ArrayLike) -> np.ndarray:
    """Return the loss by which trainings are compared.

    Args:
        train: mean losses of the minibatches.
        validation: validation losses at the end.
    """
    return ON_THE_WAY * np.asarray(train) + AT_THE_END * np.asarray(validation)


def _length(values: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Return log2 of the lengths at which a curve of Adam's has these values.

    The curve is made to fall: a longer training counts where it is better than all shorter ones.
    """
    best = np.minimum.accumulate(curve)
    falls = np.r_[True, best[1:] < best[:-1]]
    return np.interp(-values, -best[falls], np.log2(LENGTHS)[falls])


def measure_reference(loop: TaskLoop, horizon: int) -> Reference:
    """Tune Adam's rate at the horizon, then train it to three times that.

    Rates lie half a decade apart, and around the best of them a quarter.

    Raises:
        ValueError: the best rate is the grid's least or greatest, or Adam does not learn.
    """
    coarse = np.array(COARSE)
    best = coarse[_tune(loop, coarse, horizon).argmin()]
    if best in (coarse[0], coarse[-1]):
        raise ValueError(
            f"{loop.task.name}: Adam is best at the learning rate {best:g}, the end of the rates "
            f"that were tried ({coarse[0]:g} to {coarse[-1]:g}): scale the loss or the parameters"
        )
    fine = best * np.array(FINE)
    rate = float(fine[_tune(loop, fine, horizon).argmin()])
    means = []
    for length in LENGTHS:
        losses = _adam(loop, np.array([rate]), CURVE_SEEDS, steps_of(length, horizon))
        means.append([float(np.mean(getattr(losses, name))) for name in CURVES])
        if length == 1 and not means[-1][1] < np.mean(losses.initial):
            raise ValueError(
                f"{loop.task.name}: {horizon} steps of Adam do not lower the validation loss; "
                "give more steps, or look at the loss"
            )
    return Reference(rate, *(tuple(curve) for curve in zip(*means, strict=True)))


def steps_of(length: float, horizon: int) -> int:
    """Return the steps of a training of a part of the horizon."""
    return max(1, round(length * horizon))


def _tune(loop: TaskLoop, rates: np.ndarray, horizon: int) -> np.ndarray:
    """Return the mean over seeds of Adam's loss with each rate."""
    losses = _adam(loop, rates, TUNING_SEEDS, horizon)
    return joined_loss(losses.train, losses.validation).mean(axis=1)


def _adam(loop: TaskLoop, rates: np.ndarray, seeds: Sequence[int], steps: int) -> Losses:
    program = encode("adam", loop.iterations).array
    return loop.train_seeds(np.stack([program] * len(rates)), rates, seeds, steps)


def from_fields(fields: Mapping) -> Reference:
    """Return a reference from what `dataclasses.asdict` made of it, as JSON has kept it.

    Raises:
        KeyError: a field is missing.
        TypeError: what should be numbers is not.
        ValueError: likewise.
    """
    curves = (tuple(map(float, fields[name])) for name in CURVES)
    return Reference(float(fields["learning_rate"]), *curves)


def cached_reference(
    loop: TaskLoop,
    horizon: int,
    store: Path | None,
    measure: Callable[[TaskLoop, int], Reference] = measure_reference,
) -> Reference:
    """Return the reference of a task as it came with the package, or as a folder keeps it.

    Where neither has it, it is measured and kept.

    Args:
        loop: of the task.
        horizon: steps of a rule's training.
        store: the folder; None keeps nothing, and one that cannot be written is no error.
        measure: how it is measured.
    """
    if (shipped := shipped_references().get(data_digest(loop, horizon))) is not None:
        return shipped
    if store is None:
        return measure(loop, horizon)
    file = store / f"adam_{slug(loop.task.name)}_{_digest(loop, horizon)}.json"
    try:
        return from_fields(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or not ours
        reference = measure(loop, horizon)
    with contextlib.suppress(OSError):
        store.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(dataclasses.asdict(reference)).encode())
    return reference


def reference_store() -> Path | None:
    """Return the folder that keeps what Adam does on tasks; None where there is no cache."""
    cache = jax.config.values["jax_compilation_cache_dir"]
    return Path(cache) / "references" if cache else None


@functools.cache
def shipped_references() -> dict[str, Reference]:
    """Return what Adam does on the embedded tasks, by their digests.

    It was measured once, for minutes, and comes with the package: so a first search starts at
    once, and 0 is the same on all machines.
    """
    rows = json.loads(SHIPPED.read_text())
    return {row["digest"]: from_fields(row) for row in rows}


def data_digest(loop: TaskLoop, horizon: int) -> str:
    """Return a hash of a task's data and how long it trains, the same on every machine.

    What its functions compute is not in it: they are compared by a test.
    """
    task = loop.task
    facts = (task.name, task.num_params, loop.minibatch_size, horizon, LENGTHS, COARSE, FINE)
    return _with_data(hashlib.sha256(repr(facts).encode()), task).hexdigest()[:16]


def _digest(loop: TaskLoop, horizon: int) -> str:
    """Return a hash of all that a reference depends on."""
    how = (LENGTHS, COARSE, FINE, ON_THE_WAY, AT_THE_END, TUNING_SEEDS, CURVE_SEEDS)
    return hashlib.sha256((training_digest(loop, horizon) + repr(how)).encode()).hexdigest()[:16]


def training_digest(loop: TaskLoop, steps: int) -> str:
    """Return a hash of all that decides a training's losses, but its optimizer, rate and seed.

    That is the task, its data, the minibatches and the steps, and what runs them.
    """
    digest = hashlib.sha256(task_digest(loop.task, loop.minibatch_size).encode())
    task = loop.task
    facts = (steps, loop.minibatch_size, task.shuffle, task.max_grad_norm)
    scores = (task.chance, task.evaluation_batch)
    flags = (jax.config.values[name] for name in FLAGS)
    where = (__version__, jax.__version__, platform.machine(), *flags)
    digest.update(repr((*facts, *scores, *where)).encode())
    return _with_data(digest, task).hexdigest()[:16]


def _with_data(digest, task: Task):
    """Return a hash to which all data of a task have been added."""
    for part in ("train", "validation", "test"):
        leaves, structure = jax.tree.flatten(getattr(task, part))
        shapes = [(x.shape, str(x.dtype)) for x in leaves]  # where one ends and the next begins
        digest.update(repr((part, str(structure), shapes)).encode())
        for x in leaves:
            digest.update(np.asarray(x).tobytes())
    return digest
