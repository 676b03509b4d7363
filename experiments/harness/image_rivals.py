"""Update rules compared on CIFAR-10: what the experiments on image classification share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from models.convolution import patches_convolution
from models.wide_resnet import WideResNet
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from harness import vision
from harness.one_step import Sizes, one_step
from harness.paper import TestAccuracy
from harness.rival_tables import (
    Display,
    Result,
    accuracy,
    draw,
    draw_differences,
    edge_note,
    measure,
    results_table,
    verdict,
)
from harness.rival_tables import content as rival_content
from harness.study import Study
from harness.tuning import HALF_DECADES, Outcome, Rival, Settings, compare, make_loop
from nos_optax import rules
from nos_optax.compare.records import Records
from nos_optax.population import Dataset, Task
from nos_optax.search import select_devices

RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # seven on a logarithmic scale, as in the paper
COMMON = tuple(str(rules[name].rule) for name in ("sgd", "momentum", "adam", "rmsprop"))
CIFAR10_SIZE, DIGITS_SIZE = 32, 8  # pixels
DIGITS_TEST = 500  # images, unless another number is asked for


@dataclasses.dataclass(frozen=True)
class ImageConfig(Study):
    """Tune each rival's rate and weight decay, train it again with fresh seeds, and compare."""

    experiment = "images"
    not_empty = ("rates", "found_rates", "weight_decays", "found_weight_decays")
    at_least = (
        *((part, 1) for part in ("train_examples", "validation_examples", "test_examples")),
        *((name, 1) for name in ("batch_size", "epochs", "tuning_seeds", "lanes", "width")),
        *(("seeds", 2), ("shift", 0)),
    )
    may_grow = (*not_empty, "adaptive", "seeds", "tuning_seeds", "lanes")

    model: Literal["wrn", "child"] = "wrn"
    """wrn is a wide residual network, child the small ConvNet that the search trains."""
    dataset: Literal["cifar10", "digits"] = "cifar10"
    """cifar10 is read from --data-dir; digits come with scikit-learn."""
    data_dir: Path | None = None
    """TensorFlow Datasets folder with a prepared cifar10 (default: ~/tensorflow_datasets)."""
    image_size: Literal[32, 16, 8] = CIFAR10_SIZE
    """Pixels; less than 32 of CIFAR-10 are means of neighbours. Digits have 8."""
    train_examples: int | None = None
    """Training images; None takes all that validation leaves."""
    validation_examples: int = 5000
    """Images to tune and to find the best epoch with."""
    test_examples: int | None = None
    """Test images; None takes all of CIFAR-10's."""
    depth: int = 40
    """Of the wide residual network: 6 n + 4."""
    width: int = 4
    """Of the wide residual network: groups of 16, 32 and 64 times so many filters."""
    shift: int = 4
    """Move training images at random by up to so many pixels, and mirror half; 0 does neither."""
    batch_size: int = 128
    """Images in a minibatch."""
    epochs: int = 300
    """Of every training."""
    rates: tuple[float, ...] = RATES
    """Learning rates of SGD, Momentum, Adam and RMSProp, the common optimizers."""
    found_rates: tuple[float, ...] | None = (0.03, 0.1, 0.3)
    """Learning rates of all other rules; None takes --rates. The paper tries three around the best
    of its search, which it does not state: these are around ours, on the child with digits."""
    adaptive: bool = False
    """Where the best rate of a rival is an end of those it has tried, try the next one beyond, half
    a decade away, from 1e-6 to 1000, until the best one lies inside."""
    weight_decays: tuple[float, ...] = (0.0, 1e-4, 5e-4)
    """Of the common optimizers, each tried with every rate: L2 of the kernels, in the loss."""
    found_weight_decays: tuple[float, ...] = (0.0,)
    """Of all other rules; the paper has none."""
    seeds: int = 5
    """Fresh seeds with the best rate and weight decay, at least 2."""
    tuning_seeds: int = 1
    """Other seeds, with which each rate and weight decay is tried."""
    lanes: int = 1
    """Trainings side by side on a device."""
    check: bool = False
    """Only take one step of one training, and report its size, memory and time; no data is read."""

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"--depth must be 10, 16, 22, 28, 34, 40..., got {self.depth}")
        if self.shift >= self.image_size:
            raise ValueError(f"--shift must be less than {self.image_size}, got {self.shift}")
        if self.dataset == "digits" and self.image_size != DIGITS_SIZE:
            raise ValueError(f"digits have {DIGITS_SIZE} pixels: give --image-size {DIGITS_SIZE}")
        decays = {*self.weight_decays, *self.found_weight_decays}
        if self.model == "child" and decays != {0.0}:
            raise ValueError(
                "the search's child has no weight decay: with --model child, --weight-decays and "
                f"--found-weight-decays must be 0, got {sorted(decays)}"
            )

    def settings(self, rival: Rival) -> Settings:
        """Return what is tried of a rival."""
        beyond = HALF_DECADES if self.adaptive else ()
        if rival.rule in COMMON:
            return Settings(self.rates, self.weight_decays, beyond)
        return Settings(self.found_rates or self.rates, self.found_weight_decays, beyond)

    @property
    def name(self) -> str:
        """Of all that is written."""
        model = "" if self.model == "wrn" else f"_{self.model}"
        return f"{self.experiment}{model}_{self.scale}"


PAPER = ImageConfig()
SMALL = ImageConfig(
    scale="small",
    image_size=16,
    train_examples=10_000,
    validation_examples=2000,
    test_examples=2000,
    depth=10,
    width=1,
    shift=0,
    batch_size=50,
    epochs=18,
    rates=(0.03, 0.1, 0.3),
    found_rates=None,
    adaptive=True,
    weight_decays=(0.0, 5e-4),
    seeds=3,
)
SMOKE = dataclasses.replace(
    SMALL,
    scale="smoke",
    dataset="digits",
    image_size=DIGITS_SIZE,
    train_examples=100,
    validation_examples=50,
    test_examples=50,
    batch_size=50,
    epochs=2,
    rates=(1e-2, 10.0),
    adaptive=False,
    seeds=2,
)


class Trained(NamedTuple):
    """What an experiment has trained, and on what."""

    outcomes: list[Outcome]
    display: Display
    facts: dict[str, Any]


def read_images(config: ImageConfig) -> vision.Images:
    """Read the data.

    Raises:
        DatasetError: it is missing or damaged, or too small.
        ImportError: what reads it is missing.
    """
    train, test = config.train_examples, config.test_examples
    if config.dataset == "digits":
        return vision.read_digits(train, config.validation_examples, test or DIGITS_TEST)
    images = vision.read_cifar10(config.data_dir, train, config.validation_examples, test)
    while images.test_images.shape[1] > config.image_size:
        images = vision.halve(images)
    return images


def make_task(config: ImageConfig, images: vision.Images, device: jax.Device) -> Task:
    """Return the task of the network, written so that it is fast on the device."""
    if config.model == "child":
        return vision.child_task(images, device)
    on_cpu = device.platform == "cpu"
    convolution = patches_convolution if on_cpu else jax.lax.conv_general_dilated
    net = WideResNet(config.depth, config.width, images.dataset.num_classes, conv=convolution)
    return vision.classification(images, net, config.shift)


def train(config: ImageConfig, rivals: Sequence[Rival], console: Console) -> Trained:
    """Tune and train all rivals; what is in the records is not trained again."""
    devices = select_devices(config.accelerator)
    task = make_task(config, read_images(config), devices[0])
    decayed = None if config.model == "child" else vision.kernels
    loop = make_loop(task, config.batch_size, config.epochs, rivals, devices, config.lanes, decayed)
    platform = {"platform": devices[0].platform}
    records = Records(config.folder / "records.jsonl", config.training() | platform)
    settings = {rival.name: config.settings(rival) for rival in rivals}
    seeds = range(config.tuning_seeds + config.seeds)
    tuning, fresh = seeds[: config.tuning_seeds], seeds[config.tuning_seeds :]
    with Progress(console=console) as progress:
        outcomes = compare(loop, rivals, settings, config.epochs, fresh, records, progress, tuning)
    facts = {
        "data": task.name,
        "parameters": task.num_params,
        "train_examples": task.num_examples(task.train),
        "test_examples": task.num_examples(task.test),
        "steps": loop.loop.max_steps,
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "seconds": records.seconds,
    }
    return Trained(outcomes, accuracy(round(1 / task.chance)), facts)


def named_rival(name: str) -> Rival:
    """Return a rival by its name in the paper's tables 1 and 2, such as "AddSign-ld (cosine)"."""
    optimizer, _, schedule = name.removesuffix(")").partition(" (")
    rule = rules[optimizer.lower().replace("-", "_")].rule
    return Rival(name, str(rule), schedule or "constant")


def paper_figures(table: Mapping[str, TestAccuracy]) -> dict[str, str]:
    """Return the paper's accuracies of each row as text, in per cent."""
    return {name: f"{row.best:.1f} / {row.final:.1f}" for name, row in table.items()}


class More(NamedTuple):
    """What an experiment says beside the table of its rivals."""

    heading: str
    table: Table
    note: str
    content: Mapping[str, object]  # of the JSON file
    panel: Callable[[Any], None] | None = None  # of the picture; the differences where None


def run(
    config: ImageConfig,
    rivals: Sequence[Rival],
    baseline: str,
    paper: Mapping[str, str],
    heading: str,
    drawn: Sequence[str],
    more: Callable[[Sequence[Result]], More],
    console: Console,
) -> None:
    """Train all rivals, print the tables and write the results; or only take one step.

    Args:
        config: of the experiment.
        rivals: to compare.
        baseline: the rival that the others are compared with.
        paper: what it has of each row.
        heading: of the table.
        drawn: names of the rivals in the picture.
        more: what else the results say.
        console: to print on.
    """
    if config.check:
        check(config, console)
        return
    outcomes, display, facts = train(config, rivals, console)
    results = measure(outcomes, baseline, display)
    found = more(results)
    table = results_table(results, baseline, display, paper, "paper: best / final test")
    notes = [verdict(results, baseline, display), found.note, edge_note(results)]
    content = {**facts, **found.content, "rivals": rival_content(results, outcomes)}
    tables = {heading: table, found.heading: found.table}
    config.publish(console, setting(config, facts), tables, notes, content)
    differences = functools.partial(
        draw_differences, results=results, baseline=baseline, display=display
    )
    shown = [outcome for outcome in outcomes if outcome.rival.name in drawn]
    draw(shown, display, config.picture, found.panel or differences)


def setting(config: ImageConfig, facts: Mapping[str, Any]) -> str:
    """Say what was trained on what."""
    size = config.image_size
    network = network_name(config)
    return (
        f"{facts['data']} at {size}x{size}, {facts['train_examples']} training, "
        f"{config.validation_examples} validation and {facts['test_examples']} test images; "
        f"{network}, {facts['parameters']:,} parameters; {config.epochs} epochs, {facts['steps']} "
        f"steps of {config.batch_size}; {_grids(config)} (seeds of each: {config.tuning_seeds}), "
        f"{config.seeds} fresh seeds with the best. "
        "Accuracies in per cent, mean ± standard error over the seeds."
    )


def _grids(config: ImageConfig) -> str:
    """Say what was tried of each rival."""
    common, found = config.rates, config.found_rates or config.rates
    decays, found_decays = config.weight_decays, config.found_weight_decays
    if (common, decays) == (found, found_decays):
        text = _grid(common, decays)
    else:
        text = f"{_grid(common, decays)} of the common optimizers, {_grid(found, found_decays)} of "
        text += "the others"
    beyond = ", and rates beyond while the best is at an end" if config.adaptive else ""
    return f"tried: {text}{beyond}"


def _grid(rates: Sequence[float], decays: Sequence[float]) -> str:
    listed = ", ".join(f"{rate:g}" for rate in rates)
    return f"rates {listed} with weight decay {' or '.join(f'{decay:g}' for decay in decays)}"


def network_name(config: ImageConfig) -> str:
    """Return what is trained, for a reader."""
    wide = f"WRN-{config.depth}-{config.width}"
    return "the search's child" if config.model == "child" else wide


def check(config: ImageConfig, console: Console) -> Sizes:
    """Take one step of one training, with random images; print and return its sizes."""
    (device, *_) = select_devices(config.accelerator)
    size, channels = config.image_size, 1 if config.dataset == "digits" else 3
    shape = (config.batch_size, size, size, channels)
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    labels = np.arange(config.batch_size, dtype=np.int32) % 10
    noise = Dataset.from_images("noise", pixels, labels, pixels, labels, 10)
    task = make_task(config, vision.Images(noise, pixels, labels), device)
    where = f"{config.model}, batch {config.batch_size} at {size}x{size}"
    return one_step(task, "m", 0.1, device, where, console)
