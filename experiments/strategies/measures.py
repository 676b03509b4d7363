"""What compare_strategies.py measures of a search, and of all searches with a strategy."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness.statistics import mean_and_error

from nos_optax.compare.statistics import difference
from nos_optax.search import Candidate

BASELINE = "random"
TOLERANCE = 0.01  # of accuracy, below Adam's
WINDOW = 64  # samples of the moving mean
LEVELS = (0.25, 0.5, 0.75, 0.9)  # of the way from chance to Adam's reward


def moving_mean(rewards: Sequence[float], window: int) -> np.ndarray:
    """Return the mean of the last `window` rewards, from the sample on that completes the first."""
    return np.convolve(rewards, np.full(window, 1 / window), mode="valid")


def samples_to_reach(rewards: Sequence[float], level: float, window: int) -> int | None:
    """Return after how many samples the moving mean first reaches a level; None if never."""
    reached = moving_mean(rewards, window) >= level
    return int(reached.argmax()) + window if reached.any() else None


def good_so_far(candidates: Sequence[Candidate], level: float, identity: str) -> np.ndarray:
    """Return how many different rules of at least a level were seen, after each sample.

    `identity` is the field that tells rules apart: by algebra `digest`, by updates `fingerprint`.
    """
    seen: set[str] = set()
    counts = []
    for candidate in candidates:
        if candidate.status == "trained" and candidate.reward >= level:
            seen.add(getattr(candidate, identity))
        counts.append(len(seen))
    return np.array(counts)


def mean_of_best(candidates: Sequence[Candidate], count: int, chance: float) -> np.ndarray:
    """Return the mean of the `count` best different updates so far; chance for those missing."""
    best, means = [chance] * count, []
    for candidate in candidates:
        if candidate.is_training:
            best = sorted([*best, candidate.reward])[1:]
        means.append(np.mean(best))
    return np.array(means)


def best_rules(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the best trained candidates with different updates, the standard ones included."""
    trained = [c for c in candidates if c.status == "trained" and c.is_training]
    return sorted(trained, key=lambda c: -c.reward)[:count]


class Run(NamedTuple):
    """One search."""

    strategy: str
    seed: int
    candidates: list[Candidate]
    adam: float  # its reward with this seed

    @property
    def rewards(self) -> list[float]:
        return [c.reward for c in self.candidates]

    def measure(self, chance: float) -> dict:
        """Return what a search is judged by, but for its best rule."""
        evaluated = sum(c.is_training for c in self.candidates)
        rejected = sum(c.status == "rejected" for c in self.candidates)
        good, window = self.adam - TOLERANCE, min(WINDOW, len(self.candidates) // 4)
        levels = [chance + level * (self.adam - chance) for level in LEVELS]
        return {
            "quarters": [float(q.mean()) for q in np.array_split(self.rewards, 4)],
            "mean": float(np.mean(self.rewards)),
            "evaluated": evaluated,
            "rejected": rejected,
            "repeated": len(self.candidates) - evaluated - rejected,
            "trained": sum(c.status == "trained" and c.is_training for c in self.candidates),
            "good_rules": int(good_so_far(self.candidates, good, "digest")[-1]),
            "good_updates": int(good_so_far(self.candidates, good, "fingerprint")[-1]),
            "samples_to_reach": [samples_to_reach(self.rewards, x, window) for x in levels],
        }


# All searches with a strategy.


def summarise(measures: Mapping[str, list[dict]]) -> dict[str, dict]:
    """Return of each strategy the statistics over its runs; their order is that of the seeds."""
    summary = {}
    for strategy, rows in measures.items():
        base = measures[BASELINE]
        quarters, last = np.array([r["quarters"] for r in rows]), [r["quarters"][-1] for r in rows]
        scalars = ("mean", "best", "good_rules", "good_updates")
        counts = ("evaluated", "trained", "repeated", "rejected")
        summary[strategy] = {
            "quarters": [mean_and_error(q) for q in quarters.T],
            **{key: mean_and_error([r[key] for r in rows]) for key in (*scalars, *counts)},
            "samples_to_reach": [
                median_reached([r["samples_to_reach"][i] for r in rows]) for i in range(len(LEVELS))
            ],
            "minus_random": {
                "last_quarter": difference(last, [r["quarters"][-1] for r in base]),
                **{k: difference([r[k] for r in rows], [r[k] for r in base]) for k in scalars},
            },
        }
    return summary


def median_reached(samples: Sequence[int | None]) -> tuple[float | None, int]:
    """Return the median of the samples needed, None if it is never, and how many runs got there."""
    median = float(np.median([np.inf if s is None else s for s in samples]))
    return median if np.isfinite(median) else None, sum(s is not None for s in samples)


def write_rewards(path: Path, runs: Iterable[tuple[Mapping[str, object], Run]]) -> None:
    """Write the rewards of every search, with what it is told apart by, as JSON lines."""
    lines = [
        {**facts, "strategy": run.strategy, "seed": run.seed, "rewards": run.rewards}
        for facts, run in runs
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
