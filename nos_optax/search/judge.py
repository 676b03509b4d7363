"""The reward of each program that a strategy asks for, without training what need not be."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nos_optax.grammar import Program, decode
from nos_optax.population import STATUSES, Evaluation
from nos_optax.search.config import SearchConfig
from nos_optax.search.engines import Engine
from nos_optax.search.history import REJECTED, Candidate, History, Training
from nos_optax.search.probes import Behaviours, Probed, Probes


class Judge:
    """Gives each program its reward.

    A program that the probes reject has the reward of chance. One whose updates equal an earlier
    one's, by algebra or on the probes, or differ from it by next to nothing, shares its training.
    The others are trained.

    Args:
        config: what is searched.
        history: what was judged before; all that is judged is added to it.
        engine: where programs are trained.

    Attributes:
        candidates: all that was judged, in order.
    """

    def __init__(self, config: SearchConfig, history: History, engine: Engine):
        self.config, self.history, self.engine = config, history, engine
        self.probes = Probes(config.space().iterations)
        self.candidates: list[Candidate] = []
        self._drafts: dict[bytes, Candidate] = {}  # of each program, so that repeats cost nothing
        self._fingerprints: dict[str, str] = {}  # of each digest
        self._origins: dict[str, int] = {}  # the candidate whose training each key has
        self._keys: dict[int, str] = {}  # what the training of each origin is stored under
        tolerance = config.tolerance or 0.0
        self._behaviours = Behaviours(tolerance if config.reuse else 0.0)  # of the origins
        self._recall(history.candidates())

    def __call__(self, tokens: np.ndarray) -> None:
        """Judge the next programs, `int32[P, 5 G]`."""
        first, rows = len(self.candidates), [row.tobytes() for row in tokens]
        with self.history.timed("probe"):
            new = {row: i for i, row in enumerate(rows) if row not in self._drafts}
            seen = self._look(new, tokens)
            drafts = [self._numbered(first + i, row, seen) for i, row in enumerate(rows)]
        with self.history.timed("train"):
            self._train({self._key(c): tokens[c.id - first] for c in drafts if c.is_training})
        batch = [self._judged(draft) for draft in drafts]
        self.history.add_candidates(batch)
        self._remember(batch)

    @property
    def trained(self) -> int:
        """How many rules were trained."""
        return len(self._keys)

    def _look(self, new: Mapping[bytes, int], tokens: np.ndarray) -> dict[bytes, bytes]:
        """Draft the programs that were never asked for before; `new` holds their rows.

        Returns:
            Their behaviours, which nobody asks for again once the programs have their origins.
        """
        if not new:
            return {}
        probed = self.probes(tokens[list(new.values())])
        for (key, row), found in zip(new.items(), probed, strict=True):
            self._drafts[key] = self._draft(Program.from_array(tokens[row]), found)
        return {key: found.behaviour for key, found in zip(new, probed, strict=True)}

    def _draft(self, program: Program, probed: Probed) -> Candidate:
        """Return a candidate as if it was rejected, and without a number."""
        rule = decode(program)
        digest = rule.digest
        return Candidate(
            id=-1,
            rule=rule.shortest,
            tokens=str(program),
            digest=digest,
            fingerprint=self._fingerprints.setdefault(digest, probed.fingerprint),
            origin=None,
            reward=decimal(self.engine.chance),
            learning_rate=None,
            status=REJECTED,
            reason=probed.rejection if self.config.reject else None,
        )

    def _numbered(self, number: int, row: bytes, seen: Mapping[bytes, bytes]) -> Candidate:
        """Return a program's draft with its number and its origin: where its result is."""
        draft = replace(self._drafts[row], id=number)
        if draft.reason is not None:
            return draft
        key = self._key(draft)
        if key not in self._origins:
            behaviour = seen.get(row, b"")  # needed where rules share trainings: then it is new
            alike = self._behaviours.first_alike(behaviour)
            if alike is None:
                self._add_origin(number, key, behaviour)
            else:
                self._origins[key] = alike
        return replace(draft, origin=self._origins[key])

    def _add_origin(self, number: int, key: str, behaviour: bytes) -> None:
        """Take up a candidate that is trained."""
        self._origins[key], self._keys[number] = number, key
        self._behaviours.add(number, behaviour)

    def _key(self, candidate: Candidate) -> str:
        """Return what a candidate's training is stored under."""
        return training_key(candidate, self.config.reuse)

    def _judged(self, draft: Candidate) -> Candidate:
        """Return a draft with the result of its training."""
        if draft.origin is None:
            return draft
        training = self.history.training(self._keys[draft.origin])
        return replace(
            draft,
            # Where scores have no bottom, one of -1e9 would drown all others for the controller.
            reward=max(training.reward, decimal(self.engine.chance)),
            learning_rate=training.learning_rate,
            status=training.status,
        )

    def _train(self, programs: Mapping[str, np.ndarray]) -> None:
        """Train programs, but for those that an interrupted search has trained already."""
        missing = {k: row for k, row in programs.items() if not self.history.has_training(k)}
        if not missing:
            return
        keys, began = list(missing), time.perf_counter()
        population = np.stack(list(missing.values()))
        for rows, evaluation in self.engine.evaluate(population, self.config.seed):
            seconds = (time.perf_counter() - began) / len(rows)
            self.history.add_trainings([keys[i] for i in rows], trainings(evaluation, seconds))
            began = time.perf_counter()

    def _remember(self, batch: Sequence[Candidate]) -> None:
        for candidate in batch:
            self._fingerprints.setdefault(candidate.digest, candidate.fingerprint)
        self.candidates += batch

    def _recall(self, candidates: Sequence[Candidate]) -> None:
        """Take up what an earlier start of the search has judged."""
        origins = [c for c in candidates if c.is_training]
        behaviours = [b""] * len(origins)
        if origins and self.config.tolerance:
            programs = [Program.from_words(c.tokens).array for c in origins]
            behaviours = [probed.behaviour for probed in self.probes(np.stack(programs))]
        for candidate, behaviour in zip(origins, behaviours, strict=True):
            self._add_origin(candidate.id, self._key(candidate), behaviour)
        for candidate in candidates:
            if candidate.origin is not None:
                self._origins.setdefault(self._key(candidate), candidate.origin)
        self._remember(candidates)


def training_key(candidate: Candidate, reuse: object = True) -> str:
    """Return what the training of a candidate that was not rejected is stored under.

    Args:
        candidate: which.
        reuse: whether rules whose updates are equal share a training.
    """
    return candidate.fingerprint if reuse else str(candidate.id)


def seed_key(key: str, seed: int) -> str:
    """Return what a rule's training with a further seed is stored under, from 1 on."""
    return f"{key} seed {seed}"


def trainings(evaluation: Evaluation, seconds: float = 0.0) -> list[Training]:
    """Return the rows of an evaluation, in decimal numbers that a person would write."""
    return [
        Training(
            decimal(evaluation.reward[i]),
            _known(evaluation.learning_rate[i]),
            STATUSES[evaluation.status[i]],
            tuple(map(_known, evaluation.sweep[i])),
            tuple(map(_known, evaluation.curve[i])),
            seconds,
        )
        for i in range(len(evaluation.reward))
    ]


def collect(parts: Iterable[tuple[np.ndarray, Evaluation]]) -> list[Training]:
    """Return the trainings of all rows that an engine yields, in the order of the rows."""
    done = {
        int(row): training
        for rows, evaluation in parts
        for row, training in zip(rows, trainings(evaluation), strict=True)
    }
    return [done[row] for row in sorted(done)]


def decimal(x: float) -> float:
    """Return the number that a person would write for a float32: 0.1, not 0.10000000149."""
    return float(f"{x:.6g}")


def _known(x: float) -> float | None:
    return None if np.isnan(x) else decimal(x)
