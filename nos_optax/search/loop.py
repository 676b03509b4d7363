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

from nos_optax.compare.results import Comparison
from nos_optax.grammar import Program
from nos_optax.population import SuiteTrainer
from nos_optax.population.flags import arithmetic, own_flags
from nos_optax.population.own import import_own
from nos_optax.search.config import GIVEN, TASKS, SearchConfig
from nos_optax.search.engines import Engine, make_engine
from nos_optax.search.events import Events
from nos_optax.search.finals import as_results, paper_finals, speed_finals
from nos_optax.search.history import Candidate
from nos_optax.search.judge import Judge
from nos_optax.search.loading import Given
from nos_optax.search.race import Race
from nos_optax.search.results import (
    STANDARD_ITERATIONS,
    Result,
    best_candidates,
    score_name,
    write_best,
)
from nos_optax.search.run_folder import RunFolder, check
from nos_optax.search.strategies import Strategy, find_strategy, make_strategy
from nos_optax.search.watch import Watch

if TYPE_CHECKING:
    from nos_optax.search.reports import Run

OnBatch = Callable[[Sequence[Candidate]], None]
A_WHILE = 1.0  # seconds between two of a strategy's states that are stored
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
        comparison: of the best rules with tuned rivals, task by task; None under the paper's
            protocol.
    """

    folder: Path
    candidates: list[Candidate]
    results: list[Result]
    seconds: float
    facts: Mapping[str, Any]
    comparison: Comparison | None = None

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
    tasks: Sequence[Given] = (),
) -> SearchResult:
    """Run a search, or the rest of one, and write its folder.

    Args:
        config: what to search.
        on_batch: called with all candidates so far, after each population.
        on_stage: called with a few words when a stage begins.
        strategy: what chooses programs, in place of `config.strategy`; or its class, which is
            called with the space and a key.
        engine: where they are evaluated, in place of `config.engine`; it stays open.
        tasks: what the children are, in place of `config.task`.

    Returns:
        What the folder holds too.

    Raises:
        AcceleratorError: the accelerator is absent.
        DatasetError: the data is missing.
        OSError: the folder holds another run, is in use, or cannot be written.
        ValueError: the run to resume has another configuration.
    """
    with own_flags():
        return _run(config, on_batch, on_stage, strategy, engine, tasks)


def _run(
    config: SearchConfig,
    on_batch: OnBatch,
    on_stage: OnStage,
    strategy: Strategy | type[Strategy] | None,
    engine: Engine | None,
    tasks: Sequence[Given],
) -> SearchResult:
    start = time.perf_counter()
    check(config)  # before anything that the configuration names is imported
    _find_named(config, strategy is None, engine is None and not tasks)
    iterations = max(config.space().iterations, STANDARD_ITERATIONS)
    own_engine = engine or make_engine(config, iterations, tasks)
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
                    assert config.strategy is not None  # by the defaults
                    strategy = make_strategy(
                        config.strategy, config.space(), config.seed, config.preset, config.start
                    )
            with _events(config, folder, on_batch) as report_batch:
                candidates, race = _sample(config, folder, strategy, own_engine, report_batch)
            on_stage("training the best again")
            with timed("final"):
                comparison = None
                if config.protocol == "paper":
                    found = best_candidates(candidates, config.finalists)
                    results = paper_finals(own_engine, found, config)
                else:
                    suite = _suite_of(own_engine)
                    comparison = speed_finals(race, config, tasks, folder.path, on_stage, suite)
                    results = as_results(comparison, race)
            folder.history.store_seconds()
            write_best(folder, results, facts)
            folder.write_candidates(candidates)
    finally:
        if engine is None:
            own_engine.close()
    seconds = time.perf_counter() - start
    return SearchResult(folder.path, candidates, results, seconds, facts, comparison)


def _suite_of(engine: Engine) -> SuiteTrainer | None:
    """Return what a local engine trains a suite with: it is compiled already."""
    trainer = getattr(engine, "trainer", None)
    return trainer if isinstance(trainer, SuiteTrainer) else None


def _find_named(config: SearchConfig, strategy: bool, task: bool) -> None:
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
        assert config.strategy is not None  # by the defaults
        find_strategy(config.strategy)
    for name in config.task if task else ():
        if name not in (*TASKS, GIVEN):
            import_own("task", name, TASKS)


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
) -> tuple[list[Candidate], Race]:
    """Evaluate what the strategy asks for until there are enough candidates.

    Returns:
        All candidates, and the standings that their race has come to.
    """
    judge, race = Judge(config, folder.history, engine), Race(config, folder.history, engine)
    watch = Watch(config, folder.history)
    saved = time.perf_counter()
    size, timed = config.batch_size, folder.history.timed
    try:
        _restore(config, strategy, judge.candidates, race, watch)
        if judge.candidates:
            on_batch(judge.candidates)
        while not _is_over(config, judge):
            with timed("ask"):
                tokens = strategy.ask(size)
            begun = len(judge.candidates) % size  # where a run ended that is longer now
            _check_same(config, tokens, judge.candidates[len(judge.candidates) - begun :])
            judge(tokens[begun:][: config.most_samples - len(judge.candidates)])
            if len(judge.candidates) % size == 0:
                last = _is_over(config, judge)  # nobody is left to teach
                _settle(None if last else strategy, tokens, judge.candidates[-size:], race, watch)
                if hasattr(strategy, "state") and not last:
                    with timed("checkpoint"):
                        if time.perf_counter() - saved >= A_WHILE:
                            folder.history.save_state(len(judge.candidates) // size, strategy.state)
                            saved = time.perf_counter()
            on_batch(judge.candidates)
        race.settle(judge.candidates[len(judge.candidates) // size * size :], race=False)
    finally:
        watch.close()
    return judge.candidates, race


def _is_over(config: SearchConfig, judge: Judge) -> bool:
    """Whether there are enough candidates, or enough trainings at the end of a population."""
    count, most = len(judge.candidates), config.trainings
    enough = most is not None and judge.trained >= most and count % config.batch_size == 0
    return count >= config.most_samples or enough


def _settle(
    strategy: Strategy | None,
    tokens: np.ndarray,
    population: Sequence[Candidate],
    race: Race,
    watch: Watch,
) -> None:
    """Let a population and the best before it race, and tell the strategy what came out.

    Where the strategy is None, it knows already, or is asked no more.
    """
    settled = race.settle(population)
    watch(race)
    if strategy is None:
        return
    with race.history.timed("tell"):
        # Before the new ones: a repeat of a rule has the estimate that is revised, and beside the
        # old one it would seem another rule.
        if callable(revise := getattr(strategy, "revise", None)):
            revise(settled.programs, settled.revised)
        strategy.tell(tokens, settled.rewards)


def _restore(
    config: SearchConfig,
    strategy: Strategy,
    candidates: Sequence[Candidate],
    race: Race,
    watch: Watch,
) -> None:
    """Bring the strategy to the last whole population: by its state, then the same dialogue.

    One without a state goes through the whole dialogue. The race is run again in any case, with
    the trainings that are there.

    Raises:
        ValueError: the strategy asks for other programs than it did.
    """
    size, told = config.batch_size, 0
    if hasattr(strategy, "state"):
        restored = race.history.state(strategy.state, len(candidates) // size)
        if restored is not None:
            told, strategy.state = restored
    for number in range(len(candidates) // size):
        population = candidates[number * size : (number + 1) * size]
        if number < told:
            _settle(None, np.zeros(0), population, race, watch)
            continue
        tokens = strategy.ask(size)
        _check_same(config, tokens, population)
        _settle(strategy, tokens, population, race, watch)


def _check_same(config: SearchConfig, tokens: np.ndarray, candidates: Sequence[Candidate]) -> None:
    """Refuse to go on if the strategy asks for other programs than those of the history."""
    for row, candidate in zip(tokens, candidates, strict=False):
        if str(Program.from_array(row)) != candidate.tokens:
            raise ValueError(
                f"{config.out} cannot be resumed: from candidate {candidate.id} on, the strategy "
                "asks for other programs than it did. Resume on the kind of machine, and with the "
                "versions of jax, that the run was begun with"
            )
