"""What a search is: one frozen dataclass, the command line's flags."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import tyro

from nos_optax._command import user_path
from nos_optax.grammar import SearchSpace
from nos_optax.grammar.program import MAX_ITERATIONS
from nos_optax.population import Protocol
from nos_optax.population.own import check_name
from nos_optax.search.strategies import STRATEGIES

SUITE = "suite"
DATASETS = ("digits", "cifar10", SUITE)
GIVEN = "given"  # the dataset or strategy of a search that was given it from Python
# Settings of the paper's protocol, which the suite's tasks do not follow.
SUITE_DECIDES = (
    *("data_dir", "train_examples", "sweep_examples", "epochs", "minibatch_size"),
    *("hurdle_epochs", "hurdle_quantile", "final_epochs"),
)
_SPACE = SearchSpace()
# Upper bounds: far beyond any search, and below what overflows a counter of 32 bits, or asks for
# memory that no machine has, hours after the start.
MOST_EXAMPLES = 10**9
MOST_EPOCHS = 10**4
MOST_BATCH = 10**6
MOST_LANES = 2**16
MOST_SAMPLES = 10**8
MOST_POPULATION = 10**5
MOST_FINALISTS = 10**3
MOST_SEEDS = 10**4
# Seeds of the final training begin here, apart from those of searches.
FRESH_SEEDS = 1_000_000


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """What the children train on, where, and for how long.

    Raises:
        ValueError: a number is out of range, naming it and its range.
    """

    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where the children train; auto takes the best device that is present."""
    dataset: Annotated[
        str, tyro.conf.arg(metavar="{" + ",".join([*DATASETS, "MODULE:TASK"]) + "}")
    ] = "digits"
    """digits comes with scikit-learn; cifar10 is read from --data-dir; suite is four small tasks,
    rewarded by the speed against tuned Adam; MODULE:TASK is a nos_optax.population.Task of your
    own, or a function that returns one, importable."""
    data_dir: Path | None = None
    """TensorFlow Datasets folder with a prepared cifar10 (default: ~/tensorflow_datasets)."""
    train_examples: int | None = None
    """Training examples (default: 1000 of digits, all 45,000 of cifar10, all of your own)."""
    sweep_examples: int = 10_000
    """Examples in the epoch in which seven learning rates are tried; all where there are fewer,
    and at least a minibatch."""
    epochs: int = 5
    """Epochs with the best learning rate; the validation score after them is the reward."""
    minibatch_size: int = 100
    """Examples in a child's minibatch."""
    lanes: int | None = None
    """Children side by side on a device (default: 1 on CPU, else measured once and remembered);
    halved if memory runs out."""

    def __post_init__(self):
        _check_types(self)
        _check(
            self,
            train_examples=(1, MOST_EXAMPLES),
            sweep_examples=(1, MOST_EXAMPLES),
            epochs=(1, MOST_EPOCHS),
            minibatch_size=(1, MOST_BATCH),
            lanes=(1, MOST_LANES),
        )
        # As text only: what it names is imported once a run has been compared with its folder.
        if self.dataset != GIVEN:
            check_name("dataset", self.dataset, DATASETS)
        if self.dataset == SUITE:
            self._check_suite()

    def _check_suite(self) -> None:
        """Refuse what the suite decides itself."""
        for field in dataclasses.fields(self):
            if field.name in SUITE_DECIDES and getattr(self, field.name) != field.default:
                flag = "--" + field.name.replace("_", "-")
                raise ValueError(
                    f"{flag} is {getattr(self, field.name)}, but each task of --dataset suite has "
                    f"its own protocol: leave {flag} out, or name another dataset"
                )

    def protocol(self) -> Protocol:
        """Return how a candidate earns its reward."""
        return Protocol(
            batch_size=self.minibatch_size,
            sweep_examples=self.sweep_examples,
            epochs=self.epochs,
        )

    @property
    def max_epochs(self) -> int:
        """The longest training."""
        return self.epochs


@dataclasses.dataclass(frozen=True)
class SearchConfig(TaskConfig):
    """What to search, and with what.

    Raises:
        ValueError: a number is out of range, naming it and its range.
    """

    samples: int = 512
    """How many candidate rules to evaluate."""
    batch_size: int = 32
    """Candidates per population: trained in one program, then the controller learns from them."""
    iterations: int = 2
    """Length of a rule, 1 to 4 iterations of op1 op2 u1 u2 b (five tokens each)."""
    operands: tuple[str, ...] = _SPACE.operands
    """Operands that a rule may read."""
    unary: tuple[str, ...] = _SPACE.unary
    """Unary functions that it may apply."""
    binary: tuple[str, ...] = _SPACE.binary
    """Binary functions that it may apply."""
    distinct_operands: bool = _SPACE.distinct_operands
    """The two operands of an iteration must differ."""
    final_addition: bool = _SPACE.final_addition
    """The last binary function may be +."""
    reuse_results: bool = _SPACE.reuse_results
    """Every iteration after the first must use an earlier result."""
    live_results: bool = _SPACE.live_results
    """The rule must depend on the result of every iteration, and be no sum through left either."""
    strategy: Annotated[
        str, tyro.conf.arg(metavar="{" + ",".join([*STRATEGIES, "MODULE:CLASS"]) + "}")
    ] = "ppo"
    """What chooses the next rules; MODULE:CLASS is a Strategy of your own, importable."""
    preset: Literal["default", "paper"] = "default"
    """Of the controller: default learns in hundreds of samples, paper in tens of thousands."""
    seed: int = 0
    """Of the search: controller, initial weights, data order, noise."""
    reuse: bool = True
    """Train one of several rules whose updates are equal; the others share its reward."""
    reject: bool = True
    """Give the chance level, untrained, to rules that ignore the gradient or point uphill."""
    hurdle_epochs: tuple[int, ...] = ()
    """Stop a child after these epochs if most before it were better then (default: never)."""
    hurdle_quantile: float = 0.5
    """The part of the children before it that a child must beat at a hurdle."""
    finalists: int = 5
    """Best rules to train again at the end, beside the standard optimizers; none if 0."""
    final_seeds: int = 5
    """Fresh seeds for each of them."""
    final_epochs: int | None = None
    """Epochs of that training (default: as in the search)."""
    engine: Literal["local", "ray"] = "local"
    """local trains on this machine's devices, ray on those of a Ray cluster."""
    ray_address: str | None = None
    """HOST:PORT of the cluster (default: RAY_ADDRESS, or a Ray that is started here)."""
    tensorboard: bool = False
    """Write events for TensorBoard into the run folder (pip install 'nos_optax[tensorboard]')."""
    out: Path | None = None
    """Folder of the run; it must not hold another run (default: runs/DATE-TIME)."""
    resume: bool = False
    """Go on with the run in --out where it stopped; flags that are not given are that run's."""

    def __post_init__(self):
        super().__post_init__()
        if self.seed >= FRESH_SEEDS:
            raise ValueError(f"--seed must be less than {FRESH_SEEDS}, got {self.seed}")
        _check(
            self,
            samples=(1, MOST_SAMPLES),
            batch_size=(1, MOST_POPULATION),
            seed=(0, FRESH_SEEDS - 1),
            finalists=(0, MOST_FINALISTS),
            final_seeds=(1, MOST_SEEDS),
            final_epochs=(1, MOST_EPOCHS),
        )
        if self.strategy != GIVEN:
            check_name("strategy", self.strategy, tuple(STRATEGIES))
        if not 0 <= self.hurdle_quantile < 1:
            raise ValueError(f"--hurdle-quantile must be in [0, 1), got {self.hurdle_quantile}")
        if self.final_epochs is not None and self.final_epochs < self.epochs:
            raise ValueError(
                f"--final-epochs must be at least the --epochs {self.epochs}, "
                f"got {self.final_epochs}"
            )
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError(f"--ray-address {self.ray_address} needs --engine ray")
        self.protocol()
        if not 1 <= self.iterations <= MAX_ITERATIONS:
            raise ValueError(f"--iterations must be 1 to {MAX_ITERATIONS}, got {self.iterations}")
        self.space()

    def protocol(self) -> Protocol:
        """Return how a candidate earns its reward."""
        return dataclasses.replace(super().protocol(), hurdle_epochs=self.hurdle_epochs)

    @property
    def max_epochs(self) -> int:
        """The longest training: the finalists'."""
        return self.final_epochs or self.epochs

    @property
    def blind(self) -> str | None:
        """Why the strategy learns nothing, if it does not: it is told the rewards too late."""
        if self.samples > self.batch_size or self.strategy in ("random", GIVEN):
            return None
        return (
            f"--strategy {self.strategy} learns after each population of --batch-size "
            f"{self.batch_size}, and --samples {self.samples} are no more than one: all are drawn "
            "blindly. Give more samples, or a smaller batch size."
        )

    def space(self) -> SearchSpace:
        """Return the programs that the search may write."""
        fields = (field.name for field in dataclasses.fields(SearchSpace))
        return SearchSpace(**{name: getattr(self, name) for name in fields})


def _check_types(config: TaskConfig) -> None:
    """Raise if a field is not of its type; JSON's lists and texts become tuples and paths."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, list | tuple):
            value = tuple(x.item() if isinstance(x, np.generic) else x for x in value)
        if isinstance(value, str | Path) and Path in (kind, *get_args(kind)):
            value = user_path(value)
        if not is_of_kind(value, kind):
            expected = kind.__name__ if isinstance(kind, type) else str(kind)
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is {value!r}; expected {expected.replace('typing.', '')}")
        object.__setattr__(config, name, value)


def is_of_kind(value: object, kind: Any) -> bool:
    """Whether a value is of the type that an annotation of a field gives."""
    arguments = get_args(kind)
    match get_origin(kind):
        case None:
            kinds = {float: (int, float), Path: (type(Path()),)}.get(kind, (kind,))
            return type(value) in kinds  # exactly: True is no number
        case origin if origin is Literal:
            return value in arguments
        case origin if origin is tuple:
            return isinstance(value, tuple) and all(
                is_of_kind(item, arguments[0]) for item in value
            )
        case _:
            return any(is_of_kind(value, argument) for argument in arguments)


def _check(config: TaskConfig, **bounds: tuple[int, int]) -> None:
    """Raise if a field is not between its bounds, by the name of its flag."""
    for name, (least, most) in bounds.items():
        given, flag = getattr(config, name), "--" + name.replace("_", "-")
        if given is not None and given < least:
            raise ValueError(f"{flag} must be at least {least}, got {given}")
        if given is not None and given > most:
            raise ValueError(f"{flag} must be at most {most:,}, got {given}")
