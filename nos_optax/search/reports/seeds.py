"""What the race came to: the seeds of each rule, and the estimates of their mean rewards."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nos_optax.search.history import Candidate, Training
from nos_optax.search.judge import seed_key
from nos_optax.search.race import Forms
from nos_optax.search.reports.finals import is_drawable
from nos_optax.search.reports.read import Run
from nos_optax.search.standings import Estimate, Standings

SHOWN = 5  # rules whose seeds are shown before there are finalists
LED = 16  # rules that led by their first rewards: as many race by default, at most


class Raced(NamedTuple):
    """What the search knows of a rule that has trained."""

    candidate: Candidate  # its shortest form
    rewards: tuple[float, ...]  # one a seed, the first first
    estimate: Estimate  # of a rule that is not among the best the plain mean, with an error of nan
    by_task: Mapping[str, float]  # mean reward on each task; of several tasks only

    @property
    def low(self) -> float:
        """The bound from below, by which rules are ranked; that of other rules is lowest."""
        return self.estimate.low if self.is_contender else -math.inf

    @property
    def is_contender(self) -> bool:
        """Whether it is among the best, which have estimates."""
        return not math.isnan(self.estimate.error)


def raced_rules(run: Run) -> list[Raced]:
    """Return the rules that have trained, the best bound first; none where there was no race.

    Rewards that are no numbers, or too large to be rewards, do not count.
    """
    if not run.raced:
        return []
    forms, standings = Forms(run.config.get("reuse", True)), Standings()
    firsts: dict[str, float] = {}
    for candidate in run.candidates:
        key = forms.take_up(candidate)
        if key is not None and candidate.is_training:
            firsts[key] = candidate.reward
    rewards = {key: _rewards(run, key, first) for key, first in firsts.items()}
    for key, values in rewards.items():
        for value in values:
            standings.add(key, value)
    with np.errstate(all="ignore"):
        estimates = standings.contenders()
    found = []
    for key, values in rewards.items():
        if values:
            plain = Estimate(standings.mean(key), math.nan, len(values))
            estimate = estimates.get(key, plain)
            found.append(Raced(forms.shortest[key], values, estimate, _by_task(run, key)))
    return sorted(found, key=lambda rule: (-rule.low, -rule.estimate.mean))


def _rewards(run: Run, key: str, first: float) -> tuple[float, ...]:
    """Return a rule's rewards, none less than chance, as the race counts them."""
    floor = run.facts.get("chance", -math.inf)
    found = [first, *(max(training.reward, floor) for training in _further(run, key))]
    return tuple(float(reward) for reward in found if is_drawable(reward))


def _further(run: Run, key: str) -> list[Training]:
    """Return a rule's trainings with further seeds."""
    found = (run.trainings.get(seed_key(key, seed)) for seed in itertools.count(1))
    return list(itertools.takewhile(lambda training: training is not None, found))  # ty: ignore


def _by_task(run: Run, key: str) -> dict[str, float]:
    """Return a rule's mean reward on each task; nothing where there is one, or they are unknown."""
    tasks = run.facts.get("tasks")
    if not isinstance(tasks, list) or len(tasks) < 2:
        return {}
    trainings = [run.trainings[key]] if key in run.trainings else []
    curves = [training.curve for training in trainings + _further(run, key)]
    whole = [np.array(c, float) for c in curves if all(map(is_drawable, c))]
    if not whole or {len(curve) % len(tasks) for curve in whole} != {0}:
        return {}
    means = np.mean([curve.reshape(len(tasks), -1).mean(axis=1) for curve in whole], axis=0)
    return dict(zip(map(str, tasks), map(float, means), strict=True))


def seed_counts(rules: Sequence[Raced]) -> dict[str, int]:
    """Return how many rules have how many seeds, the most first: 1, 2, 3 to 4, 5 to 8 and so on."""
    bins = Counter((len(rule.rewards) - 1).bit_length() for rule in rules)
    names = {0: "1", 1: "2"}
    return {
        names.get(b, f"{2 ** (b - 1) + 1} to {2**b}"): bins[b] for b in sorted(bins, reverse=True)
    }


def named_rules(run: Run, rules: Sequence[Raced]) -> list[tuple[str, Raced]]:
    """Return the finalists, under their names; the best rules of a run that has none."""
    by_rule = {rule.candidate.rule: rule for rule in rules}
    finalists = [(r.name, by_rule[r.rule]) for r in run.found if r.rule in by_rule]
    return finalists or [(f"candidate {r.candidate.id}", r) for r in rules[:SHOWN]]


class Led(NamedTuple):
    """What became of the rules that led by their first rewards."""

    rules: Sequence[Raced]  # the best first reward first
    kept: Sequence[bool]  # whether they are among as many best now

    @property
    def change(self) -> float:
        """How much more their estimates are than their first rewards, on average."""
        return sum(rule.estimate.mean - rule.rewards[0] for rule in self.rules) / len(self.rules)


def first_leaders(rules: Sequence[Raced]) -> Led:
    """Return the rules that led by their first rewards; of few rules half.

    Args:
        rules: all, the best now first.
    """
    count = min(LED, (len(rules) + 1) // 2)
    led = sorted(rules, key=lambda rule: -rule.rewards[0])[:count]
    best = {id(rule) for rule in rules[:count]}
    return Led(led, [id(rule) in best for rule in led])
