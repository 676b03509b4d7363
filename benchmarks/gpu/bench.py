"""What the sections share: sizes, data, compiled trainers, and the rules that survive."""

import contextlib
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from peaks import PRECISIONS
from short_trainer import short_trainer

from nos_optax.grammar import Program, RuleError, SearchSpace, encode, rules
from nos_optax.population import Dataset, Evaluation, PopulationTrainer, Protocol, load_digits
from nos_optax.population.protocol import TRAINED

ITERATIONS = 2


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    lanes: tuple[int, ...] = (16, 64)  # more are no faster, and leave more of them empty
    random: int = 256  # candidates of the random population
    survivors: int = 32  # candidates of the surviving population, at most
    repeats: int = 3
    full_repeats: int = 1  # of the whole protocol
    rounds: int = 7  # of comparisons
    steps: int = 20  # of the short runs that time a step
    peer_candidates: int = 2
    precisions: tuple[str, ...] = ("float32", "default", "tf32", "bf16")
    matrix: int = 8192
    copied_bytes: int = 2**30
    protocol: Protocol = Protocol()  # noqa: RUF009


TINY = Size(
    lanes=(1,),
    random=32,
    survivors=8,
    repeats=2,
    rounds=2,
    steps=3,
    peer_candidates=1,
    precisions=("float32", "tf32"),  # the last of which a CPU lacks
    matrix=256,
    copied_bytes=2**22,
    protocol=Protocol(batch_size=20, sweep_examples=400, epochs=2, margin=3),
)


class Bench:
    """One run: its size, its data, its device, and what the sections have found so far.

    Args:
        size: how much is measured.
        load: returns the images; called where a section asks for them.
        device: what is measured.
        content: of the results' file.
        runs: a folder for the run folders of searches.
        limit: seconds from now until the run is ended, for those sections that plan by it.
    """

    seed = 0  # of the section that runs

    def __init__(
        self,
        size: Size,
        load: Callable[[], Dataset],
        device: jax.Device,
        content: dict,
        runs: Path,
        limit: float = math.inf,
    ):
        self.size, self.device, self.content, self.runs = size, device, content, runs
        self._load, self._end = load, time.monotonic() + limit
        self._trainers: dict = {}

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The images."""
        start = time.perf_counter()
        dataset = self._load()
        self.content["dataset"] = {
            "name": dataset.name,
            "train_examples": len(dataset.train_images),
            "load_seconds": time.perf_counter() - start,
        }
        return dataset

    @property
    def seconds_left(self) -> float:
        """Until the run is ended; infinite where it has no limit."""
        return self._end - time.monotonic()

    @property
    def lanes(self) -> int:
        """The best lanes that the first section found; the trainer's own default without it."""
        default = 1 if self.device.platform == "cpu" else 64
        return self.content["sections"].get("lanes", {}).get("best", default)

    def step_trainer(self, lanes: int) -> tuple[PopulationTrainer, float]:
        """Return a trainer that takes a few steps with all lanes full, and its compile seconds."""
        key = ("steps", lanes)
        if key not in self._trainers:
            trainer = short_trainer(
                self.dataset, self.size.protocol, ITERATIONS, self.device, lanes, self.size.steps
            )
            self._trainers[key] = trainer, _compile_seconds(trainer)
        return self._trainers[key]

    def full_trainer(self, precision: str = "default") -> tuple[PopulationTrainer, float]:
        """Return a trainer of the whole protocol and its compile seconds.

        It was traced in the context of its precision and may be called in that context only.
        """
        key = ("full", precision, self.lanes)
        if key not in self._trainers:
            trainer = self.new_trainer()
            with jax.default_matmul_precision(PRECISIONS[precision]):
                self._trainers[key] = trainer, _compile_seconds(trainer)
        return self._trainers[key]

    def new_trainer(self) -> PopulationTrainer:
        """Return a trainer of the whole protocol that is not compiled yet."""
        return PopulationTrainer(
            self.dataset,
            self.size.protocol,
            iterations=ITERATIONS,
            lanes=self.lanes,
            devices=[self.device],
        )

    def evaluate(self, programs: np.ndarray, precision: str = "default", seed: int = 0):
        """Return an evaluation by the whole protocol."""
        trainer, _ = self.full_trainer(precision)
        with jax.default_matmul_precision(PRECISIONS[precision]):
            return trainer.evaluate(programs, seed)

    def random_programs(self) -> np.ndarray:
        """Return what a search begins with."""
        tokens = SearchSpace(ITERATIONS).sample(jax.random.key(0), self.size.random)
        return np.asarray(tokens).reshape(-1, ITERATIONS, 5)

    def surviving_programs(self) -> np.ndarray:
        """Return the paper's rules and random ones that trained; once found they are kept."""
        if "survivors" not in self.content:
            programs = self.random_programs()
            self.keep_survivors(programs, self.evaluate(programs))
        return np.stack([Program.from_words(words).array for words in self.content["survivors"]])

    def keep_survivors(self, programs: np.ndarray, evaluation: Evaluation) -> None:
        trained = [Program.from_array(p) for p in programs[evaluation.status == TRAINED]]
        words = dict.fromkeys(str(program) for program in _known_programs() + trained)
        self.content["survivors"] = list(words)[: self.size.survivors]


def _known_programs() -> list[Program]:
    """Return the paper's rules that are no longer than a random one."""
    programs = []
    for rule in rules.values():
        with contextlib.suppress(RuleError):
            programs.append(encode(rule.rule, ITERATIONS))
    return programs


def _compile_seconds(trainer: PopulationTrainer) -> float:
    """Compile by evaluating a rule that is infinite at once, so that its children stop."""
    program = encode("log(g - g)", ITERATIONS).array[None]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trainer's own, where it halves its lanes
        trainer.evaluate(program)
    return time.perf_counter() - start


def noisy_digits(train: int, validation: int, side: int, noise: float) -> Dataset:
    """Return as many colour images as wanted: handwritten digits, each with noise of its own."""
    rng = np.random.default_rng(0)
    digits = load_digits(size=side)

    def draw(images, labels, count):
        rows = rng.integers(0, len(images), count)
        grain = noise * rng.standard_normal((count, side, side, 3), np.float32)
        return np.clip(images[rows] + grain, 0, 255).astype(np.uint8), labels[rows]

    return Dataset.from_images(
        f"noisy digits {side}x{side}x3",
        *draw(digits.train_images, digits.train_labels, train),
        *draw(digits.validation_images, digits.validation_labels, validation),
        10,
    )


def load_dataset(data_dir: Path | None, packed: Path | None, tiny: bool) -> Dataset:
    """Return CIFAR-10 from a prepared folder or a packed file, else digits as large as its images.

    Args:
        data_dir: of TensorFlow Datasets.
        packed: what `pack_cifar10.py` writes.
        tiny: whether a few images of 8x8 pixels will do.
    """
    if packed is not None:
        import pack_cifar10

        unpacked = packed.suffix == ".npz"
        dataset = (pack_cifar10.load_unpacked if unpacked else pack_cifar10.load_packed)(packed)
    elif data_dir is not None:
        from nos_optax.population.cifar10 import load_cifar10

        dataset = load_cifar10(data_dir)
    else:
        return noisy_digits(400, 250, 8, 20) if tiny else noisy_digits(45_000, 5_000, 32, 100)
    return _shrunk(dataset) if tiny else dataset


def _shrunk(dataset: Dataset) -> Dataset:
    return Dataset.from_images(
        f"{dataset.name}, shrunk",
        dataset.train_images[:400, ::4, ::4],
        dataset.train_labels[:400],
        dataset.validation_images[:250, ::4, ::4],
        dataset.validation_labels[:250],
        dataset.num_classes,
    )
