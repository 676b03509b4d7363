"""What a search is: one frozen dataclass, the command line's flags."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import tyro

from nos_optax._command import user_path
from nos_optax.grammar import SearchSpace
from nos_optax.grammar.program import MAX_ITERATIONS
from nos_optax.population import Protocol
from nos_optax.population.own import check_name
from nos_optax.population.suite import SUITE, WATCH
from nos_optax.population.workloads import KNOWN as TASKS
from nos_optax.search.strategies import STRATEGIES

GIVEN = "given"  # a task or a strategy that a search was given from Python
_SPACE = SearchSpace()
# Without noise, dropped entries, restarts and large weights: with them, most of what a search
# breeds from Adam is Adam with a little noise, which seeds alone tell from it.
OPERANDS = tuple(
    word
    for word in _SPACE.operands
    if word not in ("noise", "annealed_noise", "rd(10)", "rd(20)", "1e-1*w")
)
UNARY = tuple(word for word in _SPACE.unary if not word.startswith("drop"))
# What is not said, by the protocol: how rules are rewarded decides what is worth searching.
DEFAULTS: dict[str, dict[str, Any]] = {
    "speed": {
        "task": tuple(SUITE),
        "race": 8,
        "strategy": "evolution",
        "tolerance": 0.02,
        "iterations": 3,
        "operands": OPERANDS,
        "unary": UNARY,
        "final_addition": True,
        "live_results": True,
        "final_seeds": 10,
    },
    "paper": {
        "task": ("digits",),
        "sweep_examples": 10_000,
        "epochs": 5,
        "minibatch_size": 100,
        "watch": (),
        "slack": None,
        "race": 0,
        "strategy": "ppo",
        "tolerance": 0.0,
        "iterations": 2,
        "operands": _SPACE.operands,
        "unary": _SPACE.unary,
        "final_addition": False,
        "live_results": False,
        "final_seeds": 5,
    },
}
OF_PRESET = ("iterations", "operands", "unary", "final_addition", "live_results", "strategy")
# Settings that one of the protocols has no use for.
FOREIGN = {
    "speed": ("sweep_examples", "final_epochs"),
    "paper": ("watch", "slack"),
}
# Upper bounds: far beyond any search, and below what overflows a counter of 32 bits, or asks for
# memory that no machine has, hours after the start.
MOST_EXAMPLES = 10**9
MOST_EPOCHS = 10**4
MOST_BATCH = 10**6
MOST_LANES = 2**16
MOST_SAMPLES = 10**8
# Of a search that is told neither samples nor trainings: some 390 trainings, and 200.
SAMPLES = {"speed": 896, "paper": 512}
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
    task: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="{" + ",".join([*TASKS, "MODULE:TASK"]) + "}...")
    ] = ()
    """What the children are, one task or several (default: the suite, which are the first five;
    digits under --protocol paper). digits and cifar10, which is read from --data-dir, train the
    paper's ConvNet; MODULE:TASK is a nos_optax.population.Task or Workload of your own, or a
    function that returns one, importable."""
    protocol: Literal["speed", "paper"] = "speed"
    """What is rewarded. speed: how much faster than tuned Adam a rule trains, in doublings, by its
    mean time over all tasks. paper: the validation score of one task after training at the best of
    seven learning rates a decade apart."""
    data_dir: Path | None = None
    """TensorFlow Datasets folder with a prepared cifar10 (default: ~/tensorflow_datasets)."""
    train_examples: int | None = None
    """Training examples of each task (default: 1000 of digits, all of the others)."""
    sweep_examples: int | None = None
    """With --protocol paper: examples in the epoch in which the rates are tried; all where there
    are fewer, and at least a minibatch (default: 10000)."""
    epochs: int | None = None
    """Length of a training (default: that of each task of the suite, 5 of others)."""
    minibatch_size: int | None = None
    """Examples in a child's minibatch (default: that of each task of the suite, 32 of others; 100
    with --protocol paper)."""
    slack: float | None = 0.5
    """With --protocol speed: a rule trains on no further task once being ahead of Adam by so many
    doublings on each of them would not bring its reward to 0; None trains all rules on all
    tasks."""
    lanes: int | None = None
    """Children side by side on a device (default: 1 on a CPU, elsewhere as many as its memory
    should hold, at most 1024, and 64 with --protocol paper); halved if memory runs out."""

    def __post_init__(self):
        _check_types(self)
        self._fill()
        _check(
            self,
            train_examples=(1, MOST_EXAMPLES),
            sweep_examples=(1, MOST_EXAMPLES),
            epochs=(1, MOST_EPOCHS),
            minibatch_size=(1, MOST_BATCH),
            lanes=(1, MOST_LANES),
        )
        if self.slack is not None and not 0 <= self.slack < math.inf:
            raise ValueError(f"--slack must be doublings, at least 0, got {self.slack}")
        # As text only: what they name is imported once a run has been compared with its folder.
        _check_tasks("task", self.task)
        if self.protocol == "paper" and len(self.task) > 1:
            raise ValueError(
                f"--protocol paper trains one task, got --task {' '.join(self.task)}: name one, or "
                "choose --protocol speed"
            )

    def _fill(self) -> None:
        """Set what was not given to the protocol's default; refuse what it has no use for."""
        defaults = DEFAULTS[self.protocol]
        if getattr(self, "preset", None) == "paper":
            defaults = defaults | {name: DEFAULTS["paper"][name] for name in OF_PRESET}
        for field in dataclasses.fields(self):
            name, given = field.name, getattr(self, field.name)
            if name in FOREIGN[self.protocol] and given not in (field.default, defaults.get(name)):
                flag = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{flag} is {given}, but --protocol {self.protocol} has no use for it: leave "
                    f"{flag} out, or choose the other protocol"
                )
            if name in defaults and given == field.default:
                object.__setattr__(self, name, defaults[name])
            if name == "watch" and given is None:  # the fields come in order: there is a task
                watched = tuple(WATCH) if self.task == tuple(SUITE) else ()
                object.__setattr__(self, name, watched)

    def paper_protocol(self) -> Protocol:
        """Return how a candidate earns its reward, where `protocol` is the paper's."""
        assert self.minibatch_size and self.sweep_examples and self.epochs  # by the defaults
        return Protocol(
            batch_size=self.minibatch_size,
            sweep_examples=self.sweep_examples,
            epochs=self.epochs,
        )

    @property
    def max_epochs(self) -> int:
        """The longest training under the paper's protocol."""
        return self.paper_protocol().epochs


@dataclasses.dataclass(frozen=True)
class PaperTaskConfig(TaskConfig):
    """One task under the paper's protocol, where nothing else is offered.

    Raises:
        ValueError: as `TaskConfig`.
    """

    task: tuple[str, ...] = ("digits",)
    protocol: tyro.conf.Suppress[Literal["speed", "paper"]] = "paper"
    sweep_examples: int = 10_000
    epochs: int = 5
    minibatch_size: int = 100
    slack: tyro.conf.Suppress[float | None] = None


@dataclasses.dataclass(frozen=True)
class SearchConfig(TaskConfig):
    """What to search, and with what.

    Raises:
        ValueError: a number is out of range, naming it and its range.
    """

    samples: int | None = None
    """How many candidate rules to evaluate: repeats, and those rejected on sight, count too
    (default: 896, or as many as --trainings takes; 512 with --protocol paper)."""
    trainings: int | None = None
    """Stop after the population in which so many rules have been trained (default: never)."""
    batch_size: int = 32
    """Candidates per population: trained in one program, then the controller learns from them."""
    iterations: int | None = None
    """Length of a rule, 1 to 4 iterations of op1 op2 u1 u2 b, five tokens each (default: 3; 2 with
    --protocol paper)."""
    operands: tuple[str, ...] | None = None
    """Operands that a rule may read (default: all but noise, annealed_noise, rd(10), rd(20) and
    1e-1*w; all with --protocol or --preset paper)."""
    unary: tuple[str, ...] | None = None
    """Unary functions that it may apply (default: all but drop and sigmoid; all but sigmoid with
    --protocol or --preset paper)."""
    binary: tuple[str, ...] = _SPACE.binary
    """Binary functions that it may apply."""
    distinct_operands: bool = _SPACE.distinct_operands
    """The two operands of an iteration must differ."""
    final_addition: bool | None = None
    """The last binary function may be + (default: it may; it may not with --protocol paper or
    --preset paper)."""
    reuse_results: bool = _SPACE.reuse_results
    """Every iteration after the first must use an earlier result."""
    live_results: bool | None = None
    """The rule must depend on the result of every iteration; where it may be no sum, it is none
    through left either (default: it must; it need not with --protocol paper)."""
    strategy: Annotated[
        str | None, tyro.conf.arg(metavar="{" + ",".join([*STRATEGIES, "MODULE:CLASS"]) + "}")
    ] = None
    """What chooses the next rules; MODULE:CLASS is a Strategy of your own, importable (default:
    evolution; ppo with --protocol paper or --preset paper)."""
    start: Literal["random", "catalogue"] = "random"
    """Of evolution: from random rules, or from those of the paper that can be written, too."""
    preset: Literal["default", "paper"] = "default"
    """Of the controller: default learns in hundreds of samples, paper in tens of thousands. The
    paper's also has the space of rules that --protocol paper has."""
    seed: int = 0
    """Of the search: controller, initial weights, data order, noise."""
    reuse: bool = True
    """Train one of several rules whose updates are equal; the others share its reward."""
    tolerance: float | None = None
    """Rules whose updates differ by less than this part of their size, up to a factor, share a
    training too; 0 takes equal ones alone (default: 0.02; 0 with --protocol paper)."""
    reject: bool = True
    """Give the chance level, untrained, to rules that ignore the gradient or point uphill."""
    race: int | None = None
    """After each population, the best so many rules and as many that may be better are trained
    with one more seed each; 0 judges every rule by one (default: 8; 0 with --protocol paper)."""
    watch: Annotated[
        tuple[str, ...] | None, tyro.conf.arg(metavar="{" + ",".join(TASKS) + "}...")
    ] = None
    """With --protocol speed: tasks on which the best rule is tried now and then and nothing is
    chosen: where they part from the reward, the search has learned its tasks by heart (default:
    with the suite, transformer, table and digits-convnet-long)."""
    finalists: int = 5
    """Best rules to train again at the end, beside the standard optimizers; none if 0."""
    final_seeds: int | None = None
    """Fresh seeds for each of them (default: 10; 5 with --protocol paper)."""
    final_epochs: int | None = None
    """With --protocol paper: epochs of that training (default: as in the search)."""
    engine: Literal["local", "ray"] = "local"
    """local trains on this machine's devices, ray on those of a Ray cluster."""
    ray_address: str | None = None
    """HOST:PORT of the cluster (default: RAY_ADDRESS, or a Ray that is started here)."""
    ray_timeout: float | None = None
    """Seconds without a result from any worker after which the search stops (default: it waits)."""
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
            trainings=(1, MOST_SAMPLES),
            batch_size=(1, MOST_POPULATION),
            seed=(0, FRESH_SEEDS - 1),
            finalists=(0, MOST_FINALISTS),
            final_seeds=(1, MOST_SEEDS),
            final_epochs=(1, MOST_EPOCHS),
            race=(0, MOST_POPULATION),
        )
        watched = self.watch or ()
        _check_tasks("watch", watched)
        if twice := sorted(set(self.task) & set(watched) - {GIVEN}):
            raise ValueError(
                f"--watch {' '.join(twice)} is among the tasks that the search selects by: watch "
                "others"
            )
        assert self.strategy is not None  # by the defaults
        if self.strategy != GIVEN:
            check_name("strategy", self.strategy, tuple(STRATEGIES))
        if self.start != "random" and self.strategy != "evolution":
            raise ValueError(
                f"--start {self.start} is for --strategy evolution, got --strategy {self.strategy}"
            )
        if not 0 <= (self.tolerance or 0) < 1:
            raise ValueError(f"--tolerance must be in [0, 1), got {self.tolerance}")
        if self.protocol == "paper":
            self.paper_protocol()
        if self.final_epochs is not None and self.final_epochs < super().max_epochs:
            raise ValueError(
                f"--final-epochs must be at least the --epochs {self.epochs}, "
                f"got {self.final_epochs}"
            )
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError(f"--ray-address {self.ray_address} needs --engine ray")
        if self.ray_timeout is not None:
            if self.engine != "ray":
                raise ValueError(f"--ray-timeout {self.ray_timeout} needs --engine ray")
            if not 0 < self.ray_timeout < math.inf:
                raise ValueError(f"--ray-timeout must be positive seconds, got {self.ray_timeout}")
        assert self.iterations is not None  # by the defaults
        if not 1 <= self.iterations <= MAX_ITERATIONS:
            raise ValueError(f"--iterations must be 1 to {MAX_ITERATIONS}, got {self.iterations}")
        self.space()

    @property
    def max_epochs(self) -> int:
        """The longest training: the finalists'."""
        return self.final_epochs or super().max_epochs

    @property
    def most_samples(self) -> int:
        """How many candidates there are, unless the trainings are enough before."""
        few = SAMPLES[self.protocol] if self.trainings is None else MOST_SAMPLES
        return self.samples or few

    @property
    def blind(self) -> str | None:
        """Why the strategy learns nothing, if it does not: it is told the rewards too late."""
        if self.most_samples > self.batch_size or self.strategy in ("random", GIVEN):
            return None
        return (
            f"--strategy {self.strategy} learns after each population of --batch-size "
            f"{self.batch_size}, and --samples {self.most_samples} are no more than one: all are "
            "drawn blindly. Give more samples, or a smaller batch size."
        )

    def space(self) -> SearchSpace:
        """Return the programs that the search may write."""
        fields = (field.name for field in dataclasses.fields(SearchSpace))
        return SearchSpace(**{name: getattr(self, name) for name in fields})


def _check_tasks(field: str, names: tuple[str, ...]) -> None:
    """Raise unless these are different names of tasks; those given from Python have none yet."""
    for name in names:
        if name != GIVEN:
            check_name(field, name, TASKS)
    twice = sorted({name for name in names if names.count(name) > 1} - {GIVEN})
    if twice:
        raise ValueError(f"--{field} names {', '.join(twice)} twice")


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
