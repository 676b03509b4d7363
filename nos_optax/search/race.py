"""The race: the best rules, and those that may be better, get one more seed after each population.

A rule that is judged by one seed for ever keeps its luck, and a search that believes it breeds from
the lucky. Here the best are measured until they are known.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nos_optax.grammar import Program
from nos_optax.population import STATUSES
from nos_optax.population.protocol import TRAINED
from nos_optax.search.config import FRESH_SEEDS, SearchConfig
from nos_optax.search.engines import Engine
from nos_optax.search.history import Candidate, History
from nos_optax.search.judge import decimal, seed_key, training_key, trainings
from nos_optax.search.standings import ENOUGH_SEEDS, Estimate, Standings

FIRST_SEED = 2 * FRESH_SEEDS  # those of races begin here, apart from all others


class Settled(NamedTuple):
    """What a strategy is told once the race after a population is over."""

    rewards: np.ndarray  # float32[P], of the population
    programs: np.ndarray  # int32[R, 5 G], earlier ones whose estimates have changed
    revised: np.ndarray  # float32[R], what those are now


class Forms:
    """How the rules that have trained are written.

    Args:
        reuse: whether rules with equal updates share a training.

    Attributes:
        keys: what a training is stored under, by the candidate that was trained.
        origins: the candidate of each rule that was trained, by that key: learning rates are its,
            and what nearly does the same may be larger by any factor, or diverge on a task.
        shortest: the shortest candidate with equal updates, by that key.
    """

    def __init__(self, reuse: bool):
        self.reuse = reuse
        self.keys: dict[int, str] = {}
        self.origins: dict[str, Candidate] = {}
        self.shortest: dict[str, Candidate] = {}

    def take_up(self, candidate: Candidate) -> str | None:
        """Note how a candidate is written; return its rule's key, None of one that is untrained."""
        if candidate.status != STATUSES[TRAINED]:
            return None
        if candidate.is_training:
            self.keys[candidate.id] = training_key(candidate, self.reuse)
            self.origins[self.keys[candidate.id]] = candidate
        key = self.keys.get(candidate.origin) if candidate.origin is not None else None
        if key is not None and training_key(candidate, self.reuse) == key:
            known = self.shortest.setdefault(key, candidate)
            self.shortest[key] = min(known, candidate, key=lambda c: len(c.rule))
        return key


class Race:
    """Keeps the standings of all rules, and trains the best of them again.

    A rule's first seed has chosen its learning rates and the others judge them. All rules have the
    same seeds in the same order, so that their differences are paired.

    Args:
        config: what is searched.
        history: what was judged before; all trainings are added to it.
        engine: where programs are trained.

    Attributes:
        standings: of all rules that are settled, by what their training is stored under.
        forms: how they are written.
        trained: how many rules have trained, those that failed too.
    """

    def __init__(self, config: SearchConfig, history: History, engine: Engine):
        self.config, self.history, self.engine = config, history, engine
        self.standings = Standings()
        self.forms = Forms(config.reuse)
        self.trained = 0
        self._programs: dict[str, dict[str, None]] = defaultdict(dict)  # of each rule, as words
        self._settled: set[str] = set()  # all programs, as words
        self._told: dict[str, float] = {}  # the reward of each rule that strategies have
        self._contended: set[str] = set()  # the contenders after the last population

    def settle(self, batch: Sequence[Candidate], race: bool = True) -> Settled:
        """Take up a population, let the best race, and return all rewards that are new.

        What it does depends on earlier calls alone, so that a search which goes on settles its
        history as it was.

        Args:
            batch: the candidates that follow those of the last call.
            race: whether there are more seeds now.
        """
        for candidate in batch:
            self._take_up(candidate)
        if race and self.config.race:
            with self.history.timed("race"):
                self.train(self.standings.due(self.config.race))
        changed, new = self._changes(), {candidate.tokens for candidate in batch} - self._settled
        self._settled |= new
        rows = [
            (words, changed[key])
            for key in changed
            for words in self._programs[key]
            if words not in new
        ]
        return Settled(
            np.array([self._reward(candidate) for candidate in batch], np.float32),
            np.array([Program.from_words(words).array.ravel() for words, _ in rows], np.int32),
            np.array([reward for _, reward in rows], np.float32),
        )

    def best(self) -> list[tuple[Candidate, Estimate]]:
        """Return the contenders, each in its shortest form, by their bounds from below."""
        ranked = sorted(self.standings.contenders().items(), key=lambda item: -item[1].low)
        return [(self.forms.shortest[key], estimate) for key, estimate in ranked]

    def _take_up(self, candidate: Candidate) -> None:
        """Count a candidate's reward, if it is a training of its own, and how it is written."""
        self.trained += candidate.is_training
        key = self.forms.take_up(candidate)
        if key is None:
            return
        if candidate.is_training:
            self.standings.add(key, candidate.reward)
            self._told[key] = candidate.reward
        self._programs[key][candidate.tokens] = None

    def _changes(self) -> dict[str, float]:
        """Return the estimates that are not as they were told, and count them as told."""
        if not self.config.race:  # every rule has its one reward
            return {}
        now = {key: decimal(e.mean) for key, e in self.standings.contenders().items()}
        left = {key: decimal(self.standings.mean(key)) for key in self._contended - now.keys()}
        self._contended = set(now)
        changed = {key: x for key, x in sorted((left | now).items()) if self._told[key] != x}
        self._told |= changed
        return changed

    def _reward(self, candidate: Candidate) -> float:
        """Return the reward that a strategy is told of a candidate."""
        key = None if candidate.origin is None else self.forms.keys.get(candidate.origin)
        return candidate.reward if key is None else self._told[key]

    def train(self, keys: Sequence[str]) -> None:
        """Train rules with one more seed each, but for what an interrupted search has trained."""
        due: dict[int, list[str]] = defaultdict(list)  # rules by their next seed
        for key in keys:
            due[self.standings.seeds(key)].append(key)
        for seed, together in sorted(due.items()):
            rewards = self._train_with(together, seed)
            for key in together:
                self.standings.add(key, rewards[key])

    def _train_with(self, keys: Sequence[str], seed: int) -> dict[str, float]:
        """Return the rewards of rules with one seed, the same for all."""
        names = {key: seed_key(key, seed) for key in keys}
        missing = [key for key in keys if not self.history.has_training(names[key])]
        if missing:
            programs = np.stack(
                [Program.from_words(self.forms.origins[key].tokens).array for key in missing]
            )
            number = FIRST_SEED + self.config.seed * ENOUGH_SEEDS + seed
            parts = self.engine.evaluate(programs, number, rates=self._rates(missing))
            for rows, evaluation in parts:
                self.history.add_trainings(
                    [names[missing[row]] for row in rows], trainings(evaluation)
                )
        floor = decimal(self.engine.chance)
        return {key: max(self.history.training(names[key]).reward, floor) for key in keys}

    def _rates(self, keys: Sequence[str]) -> np.ndarray | None:
        """Return the rates that the first seeds have chosen, `float32[P, tasks]`.

        None under the paper's protocol, where every seed chooses its own.
        """
        if self.config.protocol == "paper":
            return None
        chosen = [self.history.training(key).sweep for key in keys]
        return np.array([[np.nan if r is None else r for r in row] for row in chosen], np.float32)
