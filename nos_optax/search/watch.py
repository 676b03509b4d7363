"""Tasks that a search looks at and never selects by: they show when it learns its own by heart."""

import dataclasses

import numpy as np

from nos_optax.grammar import Program
from nos_optax.population.suite import SEEDS
from nos_optax.search.config import SearchConfig
from nos_optax.search.engines import Engine, make_engine
from nos_optax.search.history import History, Watched
from nos_optax.search.judge import collect, decimal
from nos_optax.search.race import Race

EARLY, EVERY = (25, 50), 100  # trainings after which the best rule is tried


class Watch:
    """Tries the best rule on the watch tasks, after 25, 50 and each hundred trainings.

    Nothing is told to the strategy. What a search that was interrupted has tried is in its history.

    Args:
        config: what is searched; its `watch` are the tasks, and without any nothing is done.
        history: all that is tried is added to it.
    """

    def __init__(self, config: SearchConfig, history: History):
        # Not the run that goes on: what its folder says of Adam is of the tasks that are searched.
        tasks = config.watch or config.task
        self._config = dataclasses.replace(config, task=tasks, watch=(), resume=False, slack=None)
        self._on, self._history = bool(config.watch), history
        self._seen = history.watched()
        self._rewards = {row.rule: row.rewards for row in self._seen.values()}
        self._engine: Engine | None = None

    def __call__(self, race: Race) -> None:
        """Try the best rule if it is time."""
        due = _last_due(race.trained)
        if not self._on or not due or due in self._seen or not len(race.standings):
            return
        candidate, estimate = race.best()[0]
        with self._history.timed("watch"):
            if candidate.rule not in self._rewards:
                self._rewards[candidate.rule] = self._try(Program.from_words(candidate.tokens))
        row = Watched(
            due,
            race.trained,
            candidate.rule,
            estimate.mean,
            estimate.low,
            self._rewards[candidate.rule],
        )
        self._seen[due] = row
        self._history.add_watched(row)

    def _try(self, program: Program) -> tuple[float, ...]:
        """Return a rule's reward on each watch task."""
        if self._engine is None:  # compiled when it is needed: a short search does without
            self._engine = make_engine(self._config, len(program.iterations))
        (training,) = collect(self._engine.evaluate(program.array[None], self._config.seed))
        chance = self._engine.chance
        by_task = np.array([chance if x is None else x for x in training.curve]).reshape(-1, SEEDS)
        return tuple(map(decimal, by_task.mean(axis=1)))

    def close(self) -> None:
        """Let go of the devices."""
        if self._engine is not None:
            self._engine.close()


def _last_due(trained: int) -> int:
    """Return after how many trainings the best rule was due last; 0 before the first time."""
    return trained // EVERY * EVERY or max((n for n in EARLY if n <= trained), default=0)
