"""Does the controller learn, and does it find more? PPO, REINFORCE, evolution and random search.

Claim:    a controller trained by policy gradients writes better and better rules. The paper shows
          its reward rising (figure 4, a picture without numbers).
Method:   one search for each strategy and seed, all with the same number of samples, the same
          child, protocol and compiled program. A search's seed is that of its children too, so
          strategies are compared seed by seed: intervals are t intervals of 95 % over the seeds'
          differences to random search. Single rewards flatter: the best rules of each search
          are trained again with fresh seeds, which choose one of them; that one is trained again
          with other fresh seeds, and these give the number that is reported. A search whose rules
          all failed has found chance. A rule is good if its reward in the search is at most 0.01
          below that of Adam with the same seed; repeats of a rule count once.
Command:  python experiments/compare_strategies.py
          python experiments/compare_strategies.py --dataset cifar10 --data-dir DIR
          python experiments/compare_strategies.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted one stopped: the runs are in --out.
Time:     about 10 minutes for digits and 20 for CIFAR-10 on 2 cores. --scale paper is for
          accelerators: the full protocol and 10,000 samples a search.
Writes:   experiments/results/compare_strategies_DATASET_SCALE.json, .md, .png and .jsonl (the
          rewards of every search); where --samples are not the preset's, SCALE_SAMPLES
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from harness import command_line
from harness.study import Study
from rich.console import Console
from strategies.measures import BASELINE, Run, best_rules, summarise, write_rewards
from strategies.tables import LEARNING, draw, finds_table, learning_table

from nos_optax.grammar import Program, encode
from nos_optax.search import (
    FRESH_SEEDS,
    Engine,
    LocalEngine,
    PaperTaskConfig,
    SearchConfig,
    TaskConfig,
    load_dataset,
    run_search,
    train_again,
)
from nos_optax.search.results import STANDARD, STANDARD_ITERATIONS, Result


@dataclasses.dataclass(frozen=True)
class ImagesConfig(PaperTaskConfig):
    """The paper's child on one of two sets of images."""

    dataset: Literal["digits", "cifar10"] = "cifar10"
    """What the children learn; cifar10 is read from --data-dir."""
    task: tyro.conf.Suppress[tuple[str, ...]] = ()  # by the dataset

    def __post_init__(self):
        object.__setattr__(self, "task", (self.dataset,))
        super().__post_init__()


@dataclasses.dataclass(frozen=True)
class Arguments(Study, ImagesConfig):
    """Compare search strategies at equal numbers of samples, over several seeds."""

    experiment = "compare_strategies"
    at_least = (("seeds", 2), ("finalists", 1), ("final_seeds", 2), ("samples", 4))

    strategies: tuple[str, ...] = ("ppo", "reinforce", "evolution", BASELINE)
    """As in experiments/search.py."""
    samples: int = 10_000
    """Candidates of each search."""
    seeds: int = 5
    """Searches with each strategy, at least 2."""
    batch_size: int = 32
    """Candidates per population."""
    iterations: int = 2
    """Length of a rule."""
    preset: Literal["default", "paper"] = "paper"
    """Of the controllers."""
    finalists: int = 5
    """Best rules of a search that are trained again."""
    final_seeds: int = 5
    """Fresh seeds to choose one of them, and as many others to measure it."""

    def __post_init__(self):
        super().__post_init__()
        if BASELINE not in self.strategies:
            raise ValueError(f"--strategies must include {BASELINE}, got {self.strategies}")

    @property
    def name(self) -> str:
        """Of all that is written: with the samples, where they are not the preset's."""
        preset = PRESETS[self.dataset, self.scale].samples
        samples = "" if self.samples == preset else f"_{self.samples}"
        return f"{self.experiment}_{self.dataset}_{self.scale}{samples}"

    @property
    def folder(self) -> Path:
        """Of the runs: a search of more samples goes on from one of fewer."""
        return self.out or Path("runs") / f"{self.experiment}_{self.dataset}_{self.scale}"

    def search_config(self, strategy: str, seed: int) -> SearchConfig:
        """Return one of the searches."""
        task = {f.name: getattr(self, f.name) for f in dataclasses.fields(TaskConfig)}
        return SearchConfig(
            **task,
            strategy=strategy,
            seed=seed,
            samples=self.samples,
            batch_size=self.batch_size,
            iterations=self.iterations,
            preset=self.preset,
            finalists=0,  # they are trained again here, those of all searches together
            final_seeds=1,
            out=self.folder / f"{strategy}-{seed}",
            resume=True,
        )


SMOKE = Arguments(
    dataset="digits",
    scale="smoke",
    samples=8,
    seeds=2,
    batch_size=4,
    preset="default",
    train_examples=200,
    sweep_examples=200,
    epochs=1,
    finalists=2,
    final_seeds=2,
)
PRESETS = {
    ("digits", "small"): Arguments(
        dataset="digits", scale="small", samples=512, preset="default", finalists=3
    ),
    ("digits", "paper"): Arguments(dataset="digits"),
    ("digits", "smoke"): SMOKE,
    ("cifar10", "smoke"): dataclasses.replace(SMOKE, dataset="cifar10"),
    ("cifar10", "small"): Arguments(
        scale="small",
        samples=160,
        batch_size=16,
        preset="default",
        train_examples=1000,
        sweep_examples=300,
        epochs=2,
        minibatch_size=20,
        finalists=2,
        final_seeds=3,
    ),
    ("cifar10", "paper"): Arguments(),
}


# Validation images, where not all: of these small children, all would take most of the time.
VALIDATION = {("cifar10", "small"): 1000}


def make_engine(arguments: Arguments) -> Engine:
    """Return where all searches are evaluated: compiled once."""
    config = arguments.search_config(BASELINE, seed=0)
    iterations = max(arguments.iterations, STANDARD_ITERATIONS)
    images = VALIDATION.get((arguments.dataset, arguments.scale))
    dataset = load_dataset(config)
    # The first validation images are a random part of all.
    few = dataclasses.replace(
        dataset,
        validation_images=dataset.validation_images[:images],
        validation_labels=dataset.validation_labels[:images],
    )
    return LocalEngine(config, iterations, [few])


def run_searches(arguments: Arguments, engine: Engine, console: Console) -> list[Run]:
    """Run every search that is not done yet; return all."""
    adam = train_again(engine, {"Adam": encode("adam")}, range(arguments.seeds))[0].rewards
    runs = []
    for seed in range(arguments.seeds):
        for strategy in arguments.strategies:
            result = run_search(arguments.search_config(strategy, seed), engine=engine)
            # A folder may hold a longer search, of which this one is the beginning.
            runs.append(Run(strategy, seed, result.candidates[: arguments.samples], adam[seed]))
            quarters = [f"{q:.3f}" for q in runs[-1].measure(engine.chance)["quarters"]]
            console.print(
                f"seed {seed} {strategy:9}: mean reward by quarter {' '.join(quarters)}, "
                f"{result.seconds:.0f} s"
            )
    return runs


def train_finalists(
    arguments: Arguments, engine: Engine, runs: Sequence[Run]
) -> tuple[list[Result | None], list[Result]]:
    """Return the best rule of each run, None if none was trained, and the standard optimizers."""
    count = arguments.final_seeds
    choosing = range(FRESH_SEEDS, FRESH_SEEDS + count)
    measuring = range(FRESH_SEEDS + count, FRESH_SEEDS + 2 * count)
    finalists = [best_rules(run.candidates, arguments.finalists) for run in runs]
    # Runs that found the same rule share its training.
    programs = {c.fingerprint: Program.from_words(c.tokens) for some in finalists for c in some}
    means = {r.name: r.mean for r in train_again(engine, programs, choosing)} if programs else {}
    chosen = [
        max((c.fingerprint for c in some), key=means.__getitem__, default=None)
        for some in finalists
    ]
    standard = {name: encode(rule) for name, rule in STANDARD.items()}
    again = standard | {name: programs[name] for name in chosen if name is not None}
    results = {r.name: r for r in train_again(engine, again, measuring)}
    best = [None if name is None else results[name] for name in chosen]
    return best, [results[name] for name in standard]


def run(arguments: Arguments, console: Console) -> None:
    """Run the searches, print the tables and write the results."""
    start = time.perf_counter()
    engine = make_engine(arguments)
    runs = run_searches(arguments, engine, console)
    console.print("training the best again")
    best, standard = train_finalists(arguments, engine, runs)
    seconds = time.perf_counter() - start

    measures: dict[str, list[dict]] = {strategy: [] for strategy in arguments.strategies}
    for one, result in zip(runs, best, strict=True):
        found = {"best": result.mean, "rule": result.rule} if result else {"best": engine.chance}
        measures[one.strategy].append({"seed": one.seed} | one.measure(engine.chance) | found)
    summary = summarise(measures)
    title = f"{arguments.dataset}, {arguments.samples} samples, {arguments.seeds} seeds"
    tables = {LEARNING: learning_table(summary), "What was found": finds_table(summary, standard)}
    content = {
        **engine.facts,
        "seconds": seconds,
        "adam": [one.adam for one in runs if one.strategy == BASELINE],
        "standard": {r.name: r.rewards for r in standard},
        "summary": summary,
        "runs": measures,
    }
    arguments.publish(console, title, tables, [], content)
    write_rewards(arguments.picture.with_suffix(".jsonl"), [({}, run) for run in runs])
    heading = f"{arguments.dataset}: mean over {arguments.seeds} seeds, bands of 95 %"
    draw(runs, engine.chance, heading, arguments.picture)


if __name__ == "__main__":
    command_line.main(run, PRESETS, key=lambda config: (config.dataset, config.scale))
