"""The search: ask the strategy for programs, train a population with them, tell it the rewards."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from nos_optax.grammar import Program, decode, encode
from nos_optax.grammar.program import pad_programs
from nos_optax.population import STATUSES, Dataset, Evaluation, PopulationTrainer, load_digits
from nos_optax.search.accelerator import select_devices
from nos_optax.search.config import FRESH_SEEDS, SearchConfig, TaskConfig
from nos_optax.search.report import (
    STANDARD,
    STANDARD_ITERATIONS,
    Result,
    best_candidates,
    draw_rewards,
    write_best,
)
from nos_optax.search.run_folder import Candidate, RunFolder, check_free
from nos_optax.search.strategies import make_strategy


class SearchResult(NamedTuple):
    """What a search leaves."""

    folder: Path
    candidates: list[Candidate]  # in the order of their evaluation
    results: list[Result]  # the best rules and the standard optimizers, trained again
    seconds: float


def load_dataset(config: TaskConfig) -> Dataset:
    """Return the data that a configuration names.

    Raises:
        DatasetError: it is missing, or smaller than asked for, with the remedy.
    """
    if config.dataset == "digits":
        return load_digits(train_examples=config.train_examples or 1000)
    from nos_optax.population.cifar10 import load_cifar10

    return load_cifar10(config.data_dir, config.train_examples)


def search(
    config: SearchConfig,
    on_batch: Callable[[Sequence[Candidate]], None] = lambda candidates: None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> SearchResult:
    """Run a search and write its folder.

    Args:
        config: what to search.
        on_batch: called with all candidates so far, after each population.
        on_stage: called with a few words when a stage begins.

    Returns:
        What the folder holds too.

    Raises:
        AcceleratorError: the accelerator is absent.
        DatasetError: the data is missing.
        OSError: the folder holds another run, or cannot be written.
    """
    start = time.perf_counter()
    if config.out is not None:
        check_free(config.out)
    devices = select_devices(config.accelerator)
    dataset = load_dataset(config)
    trainer = PopulationTrainer(
        dataset,
        config.protocol(),
        iterations=max(config.iterations, STANDARD_ITERATIONS),
        lanes=config.lanes,
        devices=devices,
    )
    strategy = make_strategy(config.strategy, config.space(), config.seed, config.preset)
    folder = RunFolder(config.out)
    folder.write_config(config, _facts(trainer, config))

    on_stage("compiling")
    candidates: list[Candidate] = []
    while len(candidates) < config.samples:
        began = time.perf_counter()
        tokens = strategy.ask(config.batch_size)[: config.samples - len(candidates)]
        evaluation = trainer.evaluate(tokens, config.seed)
        if len(tokens) == config.batch_size:  # an incomplete last batch has nobody left to teach
            strategy.tell(tokens, evaluation.reward)
        seconds = (time.perf_counter() - began) / len(tokens)
        batch = _records(len(candidates), tokens, evaluation, seconds)
        folder.append(batch)
        candidates += batch
        on_batch(candidates)

    on_stage("training the best again")
    results = _finals(trainer, best_candidates(candidates, config.finalists), config.final_seeds)
    write_best(folder, results)
    title = f"{dataset.name}: {config.strategy}, {config.iterations} iterations, seed {config.seed}"
    folder.write_bytes("rewards.png", draw_rewards(candidates, trainer.chance, title))
    return SearchResult(folder.path, candidates, results, time.perf_counter() - start)


def train_again(
    trainer: PopulationTrainer, programs: Mapping[str, Program], seeds: Sequence[int]
) -> list[Result]:
    """Evaluate named programs with each of several seeds."""
    population = np.stack([pad_programs(p.array, trainer.iterations) for p in programs.values()])
    evaluations = [trainer.evaluate(population, seed) for seed in seeds]
    return [
        Result(
            name,
            str(decode(program)),
            str(program),
            tuple(_decimal(e.reward[i]) for e in evaluations),
            tuple(_decimal(e.learning_rate[i]) for e in evaluations),
            tuple(STATUSES[e.status[i]] for e in evaluations),
        )
        for i, (name, program) in enumerate(programs.items())
    ]


def _finals(trainer: PopulationTrainer, found: Sequence[Candidate], seeds: int) -> list[Result]:
    """Train the best candidates and the standard optimizers again, with fresh seeds."""
    names = [f"found {i + 1}" for i in range(len(found))]
    programs = {name: Program.from_words(c.tokens) for name, c in zip(names, found, strict=True)}
    programs |= {name: encode(rule) for name, rule in STANDARD.items()}
    searched = dict(zip(names, (c.reward for c in found), strict=True))
    results = train_again(trainer, programs, range(FRESH_SEEDS, FRESH_SEEDS + seeds))
    return [result._replace(searched=searched.get(result.name)) for result in results]


def _records(first: int, tokens: np.ndarray, e: Evaluation, seconds: float) -> list[Candidate]:
    records = []
    for i, row in enumerate(tokens):
        program = Program.from_array(row)
        rule = decode(program)
        rate = _decimal(e.learning_rate[i])
        records.append(
            Candidate(
                id=first + i,
                rule=str(rule),
                tokens=str(program),
                reward=_decimal(e.reward[i]),
                learning_rate=None if np.isnan(rate) else rate,
                status=STATUSES[e.status[i]],
                seconds=seconds,
                digest=rule.digest,
            )
        )
    return records


def _decimal(x: np.float32) -> float:
    """Return the number that a person would write for a float32: 0.1, not 0.10000000149."""
    return float(f"{x:.6g}")


def _facts(trainer: PopulationTrainer, config: SearchConfig) -> dict:
    """Return what the configuration does not say: the data, the space, the machine."""
    from nos_optax import __version__

    devices = trainer.mesh.devices.ravel()
    return {
        "train_examples": len(trainer.dataset.train_images),
        "validation_examples": len(trainer.dataset.validation_images),
        "sweep_steps": trainer.sweep_steps,
        "train_steps": trainer.train_steps,
        "threshold": trainer.threshold,
        "space_size": str(config.space().size),
        "devices": [str(d) for d in devices],
        "device_kind": devices[0].device_kind,
        "lanes": trainer.lanes,
        "versions": {
            "nos_optax": __version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }
