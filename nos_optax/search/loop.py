"""The search: ask the strategy for programs, train a population with them, tell it the rewards."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np

from nos_optax.grammar import Program, decode, encode
from nos_optax.grammar.program import pad_programs
from nos_optax.population import Dataset, Task
from nos_optax.population.flags import arithmetic, own_flags
from nos_optax.population.own import import_own
from nos_optax.search.checkpoints import Checkpoints
from nos_optax.search.config import DATASETS, FRESH_SEEDS, GIVEN, SearchConfig
from nos_optax.search.engine import Engine, make_engine
from nos_optax.search.events import Events
from nos_optax.search.history import Candidate
from nos_optax.search.judge import Judge, collect, decimal
from nos_optax.search.results import (
    STANDARD,
    STANDARD_ITERATIONS,
    Result,
    best_candidates,
    score_name,
    write_best,
)
from nos_optax.search.run_folder import CHECKPOINTS, RunFolder, check
from nos_optax.search.strategies import Strategy, find_strategy, make_strategy

if TYPE_CHECKING:
    from nos_optax.search.reports import Run

OnBatch = Callable[[Sequence[Candidate]], None]
OnStage = Callable[[str], None]


@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult:
    """What a search leaves; in a notebook it shows as the table of the best rules.

    Attributes:
        folder: of the run.
        candidates: all, in the order of their evaluation.
        results: the best rules and the standard optimizers, trained again with fresh seeds.
        seconds: that this call took.
        facts: of the data, the devices and the versions, as the folder records them.
    """

    folder: Path
    candidates: list[Candidate]
    results: list[Result]
    seconds: float
    facts: Mapping[str, Any]

    @property
    def best(self) -> Result:
        """The found rule with the best mean over the fresh seeds.

        Raises:
            LookupError: none was trained again: no candidate learned, or `finalists` is 0.
        """
        found = [result for result in self.results if result.searched is not None]
        if not found:
            raise LookupError(
                "no rule was trained again: no candidate learned, or finalists is 0; look at "
                f"{self.report}"
            )
        return max(found, key=lambda result: result.mean)

    @property
    def report(self) -> Path:
        """The page that `python -m nos_optax.report` writes too."""
        return self.folder / "report.html"

    @cached_property
    def run(self) -> "Run":
        """All that the report shows: configuration, facts, candidates, results, time of stages."""
        from nos_optax.search.reports import read_run

        return read_run(self.folder)

    def __repr__(self) -> str:
        words = f"{len(self.candidates)} candidates in {self.folder}"
        if any(result.searched is not None for result in self.results):
            words += f"; best found: {self.best.rule}, {self.best.mean:.4f} with fresh seeds"
        return f"<{words}>"

    def _repr_html_(self) -> str:
        from nos_optax.search.reports import results_html

        return results_html(self.results, score_name(self.facts))


def run_search(
    config: SearchConfig,
    on_batch: OnBatch = lambda candidates: None,
    on_stage: OnStage = lambda stage: None,
    strategy: Strategy | type[Strategy] | None = None,
    engine: Engine | None = None,
    task: Task | Dataset | None = None,
) -> SearchResult:
    """Run a search, or the rest of one, and write its folder.

    Args:
        config: what to search.
        on_batch: called with all candidates so far, after each population.
        on_stage: called with a few words when a stage begins.
        strategy: what chooses programs, in place of `config.strategy`; or its class, which is
            called with the space and a key.
        engine: where they are evaluated, in place of `config.engine`; it stays open.
        task: what the children are, in place of `config.dataset`.

    Returns:
        What the folder holds too.

    Raises:
        AcceleratorError: the accelerator is absent.
        DatasetError: the data is missing.
        OSError: the folder holds another run, is in use, or cannot be written.
        ValueError: the run to resume has another configuration.
    """
    with own_flags():
        return _run(config, on_batch, on_stage, strategy, engine, task)


def _run(
    config: SearchConfig,
    on_batch: OnBatch,
    on_stage: OnStage,
    strategy: Strategy | type[Strategy] | None,
    engine: Engine | None,
    task: Task | Dataset | None,
) -> SearchResult:
    start = time.perf_counter()
    check(config)  # before anything that the configuration names is imported
    _find_named(config, strategy is None, engine is None and task is None)
    iterations = max(config.iterations, STANDARD_ITERATIONS)
    own_engine = engine or make_engine(config, iterations, task)
    try:
        with RunFolder(config) as folder:
            facts = {
                **own_engine.facts,
                "space_size": str(config.space().size),
                "arithmetic": arithmetic(),
            }
            folder.write_config(config, facts)
            on_stage("compiling")
            timed = folder.history.timed
            with timed("start", start):
                if isinstance(strategy, type):
                    make = cast(Callable[..., Strategy], strategy)
                    strategy = make(config.space(), jax.random.key(config.seed))
                if strategy is None:
                    strategy = make_strategy(
                        config.strategy, config.space(), config.seed, config.preset
                    )
            with _events(config, folder, on_batch) as report_batch:
                candidates = _sample(config, folder, strategy, own_engine, report_batch)
            on_stage("training the best again")
            with timed("final"):
                results = _finals(own_engine, best_candidates(candidates, config.finalists), config)
            folder.history.store_seconds()
            write_best(folder, results, facts)
            folder.write_candidates(candidates)
    finally:
        if engine is None:
            own_engine.close()
    return SearchResult(folder.path, candidates, results, time.perf_counter() - start, facts)


def _find_named(config: SearchConfig, strategy: bool, dataset: bool) -> None:
    """Import what the configuration names, a strategy or a task of the user's own.

    Raises:
        ValueError: it cannot be imported, or was given from Python and must be given again.
    """
    if strategy and config.strategy == GIVEN:
        raise ValueError(
            "a strategy that is given from Python must be given again to go on: "
            "nos_optax.search.search(..., strategy=..., out=..., resume=True)"
        )
    if strategy:
        find_strategy(config.strategy)
    if dataset and config.dataset not in (*DATASETS, GIVEN):
        import_own("dataset", config.dataset, DATASETS)


@contextlib.contextmanager
def _events(config: SearchConfig, folder: RunFolder, on_batch: OnBatch) -> Generator[OnBatch]:
    """Yield a callback that also writes events, if they are asked for."""
    if not config.tensorboard:
        yield on_batch
        return
    events = Events(folder.path, written=len(folder.history.candidates()))

    def both(candidates: Sequence[Candidate]) -> None:
        events.write(candidates)
        on_batch(candidates)

    try:
        yield both
    finally:
        events.close()


def _sample(
    config: SearchConfig,
    folder: RunFolder,
    strategy: Strategy,
    engine: Engine,
    on_batch: OnBatch,
) -> list[Candidate]:
    """Evaluate what the strategy asks for until there are enough candidates; return them all."""
    judge = Judge(config, folder.history, engine)
    checkpoints = Checkpoints(folder.path / CHECKPOINTS)
    size, timed = config.batch_size, folder.history.timed
    try:
        _restore(config, strategy, checkpoints, judge.candidates)
        if judge.candidates:
            on_batch(judge.candidates)
        while len(judge.candidates) < config.samples:
            with timed("ask"):
                tokens = strategy.ask(size)
            begun = len(judge.candidates) % size  # where a run ended that is longer now
            _check_same(config, tokens, judge.candidates[len(judge.candidates) - begun :])
            judge(tokens[begun:][: config.samples - len(judge.candidates)])
            if len(judge.candidates) < config.samples:  # at the end nobody is left to teach
                with timed("tell"):
                    strategy.tell(tokens, _rewards(judge.candidates[-size:]))
                if hasattr(strategy, "state"):
                    with timed("checkpoint"):
                        checkpoints.save_if_due(len(judge.candidates) // size, strategy.state)
            on_batch(judge.candidates)
    finally:
        checkpoints.close()
    return judge.candidates


def _restore(
    config: SearchConfig,
    strategy: Strategy,
    checkpoints: Checkpoints,
    candidates: Sequence[Candidate],
) -> None:
    """Bring the strategy to the last whole population: by a checkpoint, then the same dialogue.

    One without a state goes through the whole dialogue.

    Raises:
        ValueError: the strategy asks for other programs than it did.
    """
    size, told = config.batch_size, 0
    if hasattr(strategy, "state"):
        restored = checkpoints.restore(strategy.state, len(candidates) // size)
        if restored is not None:
            told, strategy.state = restored
    for first in range(told * size, len(candidates) - size + 1, size):
        population = candidates[first : first + size]
        tokens = strategy.ask(size)
        _check_same(config, tokens, population)
        strategy.tell(tokens, _rewards(population))


def _check_same(config: SearchConfig, tokens: np.ndarray, candidates: Sequence[Candidate]) -> None:
    """Refuse to go on if the strategy asks for other programs than those of the history."""
    for row, candidate in zip(tokens, candidates, strict=False):
        if str(Program.from_array(row)) != candidate.tokens:
            raise ValueError(
                f"{config.out} cannot be resumed: from candidate {candidate.id} on, the strategy "
                "asks for other programs than it did. Resume on the kind of machine, and with the "
                "versions of jax, that the run was begun with"
            )


def _rewards(candidates: Sequence[Candidate]) -> np.ndarray:
    return np.array([c.reward for c in candidates], np.float32)


def train_again(
    engine: Engine, programs: Mapping[str, Program], seeds: Sequence[int], epochs: int | None = None
) -> list[Result]:
    """Evaluate named programs with each of several seeds."""
    longest = max(len(p.iterations) for p in programs.values())
    population = np.stack([pad_programs(p.array, longest) for p in programs.values()])
    evaluations = [collect(engine.evaluate(population, seed, epochs)) for seed in seeds]
    return [
        Result(
            name,
            str(decode(program)),
            str(program),
            # As in the search, no reward is less than chance: one would decide a mean alone.
            tuple(max(t[i].reward, decimal(engine.chance)) for t in evaluations),
            tuple(t[i].learning_rate for t in evaluations),
            tuple(t[i].status for t in evaluations),
        )
        for i, (name, program) in enumerate(programs.items())
    ]


def _finals(engine: Engine, found: Sequence[Candidate], config: SearchConfig) -> list[Result]:
    """Train the best candidates and the standard optimizers again, with fresh seeds."""
    if config.finalists == 0:
        return []
    names = [f"found {i + 1}" for i in range(len(found))]
    programs = {name: Program.from_words(c.tokens) for name, c in zip(names, found, strict=True)}
    programs |= {name: encode(rule) for name, rule in STANDARD.items()}
    searched = dict(zip(names, (c.reward for c in found), strict=True))
    seeds = range(FRESH_SEEDS, FRESH_SEEDS + config.final_seeds)
    results = train_again(engine, programs, seeds, config.final_epochs)
    again = [r._replace(searched=searched[r.name]) for r in results if r.name in searched]
    # Until here by their rewards in the search, which flatter; from here by the fresh seeds'.
    ranked = sorted(again, key=lambda r: -r.mean)
    numbered = [r._replace(name=name) for r, name in zip(ranked, names, strict=True)]
    return numbered + [r for r in results if r.name not in searched]
