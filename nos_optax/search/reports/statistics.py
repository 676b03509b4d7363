"""Numbers that the reports show: intervals, running quantiles, shares over a search."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from nos_optax.grammar.program import TOKENS_PER_ITERATION
from nos_optax.grammar.vocabulary import OPERANDS
from nos_optax.search.history import Candidate
from nos_optax.search.reports.read import Run

LEVEL = 0.95  # of all intervals
KINDS = ("operand", "operand", "unary", "unary", "binary")  # of the five tokens of an iteration


def finite(values: Iterable[float]) -> list[float]:
    """Return the values that are numbers."""
    return [x for x in values if math.isfinite(x)]


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of the 95 % t interval of a mean; None of fewer than two finite values."""
    known = np.array(finite(values))
    if len(known) < 2:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1) * stats.sem(known))
    return float(known.mean()) - half, float(known.mean()) + half


def paired_interval(values: Sequence[float], others: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of the interval of a mean difference, seed by seed."""
    return t_interval([x - y for x, y in zip(values, others, strict=False)])


def window_of(count: int) -> int:
    """Return how many candidates a running quantile or mean of a run is over."""
    return max(1, min(64, count // 4))


def running_quantiles(
    rewards: np.ndarray, quantiles: Sequence[float], points: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles of the rewards `[N]` in a running window.

    Args:
        rewards: in the order of their evaluation, at least one.
        quantiles: each from 0 to 1.
        points: the most places to compute them at.

    Returns:
        The number of the last candidate of each window, counted from 1, `[K]`, and the quantiles
        `[Q, K]`.
    """
    window = window_of(len(rewards))
    last = np.unique(np.linspace(window, len(rewards), points).round().astype(int))
    windows = np.lib.stride_tricks.sliding_window_view(rewards, window)[last - window]
    return last, np.quantile(windows, quantiles, axis=1)


def bin_edges(count: int, most: int, least: int = 8) -> np.ndarray:
    """Return edges that cut `count` samples into at most `most` equal bins of `least` or more."""
    bins = max(1, min(most, count // least))
    return np.linspace(0, count, bins + 1).round().astype(int)


def token_shares(candidates: Sequence[Candidate], edges: np.ndarray) -> dict[str, dict]:
    """Return how often each token was chosen.

    Args:
        candidates: in order.
        edges: of the bins of samples, `[B + 1]`.

    Returns:
        For each kind of token, for each of its words the share of the choices of the kind `[B]`.
        The results of earlier iterations are not counted: a rule has to take them up.
    """
    bins = len(edges) - 1
    counts: dict[str, dict[str, np.ndarray]] = {
        k: defaultdict(lambda: np.zeros(bins)) for k in KINDS
    }
    for i in range(bins):
        for candidate in candidates[edges[i] : edges[i + 1]]:
            for place, word in enumerate(candidate.tokens.split()):
                kind = KINDS[place % TOKENS_PER_ITERATION]
                if kind != "operand" or word in OPERANDS:
                    counts[kind][word][i] += 1
    shares = {}
    for kind, words in counts.items():
        total = np.maximum(1, sum(words.values(), np.zeros(bins)))
        shares[kind] = {word: count / total for word, count in words.items()}
    return shares


def families(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Return the groups of judged candidates that are written differently, with equal updates.

    The one with the most different texts is first, of these the largest; members are in order.
    """
    groups = defaultdict(list)
    for candidate in candidates:
        if candidate.origin is not None:
            groups[candidate.fingerprint].append(candidate)
    sizes = [(len({c.rule for c in group}), len(group), group) for group in groups.values()]
    several = [size for size in sizes if size[0] > 1]
    return [group for *_, group in sorted(several, key=lambda size: size[:2], reverse=True)]


def leaders(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the best trained candidates by reward, the shortest of each with equal updates."""
    groups: dict[str, Candidate] = {}
    trained = (c for c in candidates if c.status == "trained" and math.isfinite(c.reward))
    for candidate in sorted(trained, key=lambda c: (-c.reward, len(c.rule))):
        groups.setdefault(candidate.fingerprint, candidate)
    return list(groups.values())[:count]


def rate_counts(candidates: Sequence[Candidate]) -> dict[float | None, Counter[str]]:
    """Return the statuses of the trainings with each learning rate; None: every rate diverged."""
    counts: dict[float | None, Counter[str]] = defaultdict(Counter)
    for candidate in candidates:
        if candidate.is_training:
            counts[candidate.learning_rate][candidate.status] += 1
    return dict(sorted(counts.items(), key=lambda item: (item[0] is None, item[0] or 0.0)))


def in_decades(
    counts: Mapping[float | None, Counter[str]], most: int
) -> dict[float | None, Counter[str]]:
    """Return counts by rate as counts by the power of ten below, or by every few of them.

    Args:
        counts: as `rate_counts` has them.
        most: how many powers there are at most.
    """
    powers = {r: math.floor(math.log10(r)) for r in counts if r and 0 < r < math.inf}
    if not powers:
        return dict(counts)
    least = min(powers.values())
    step = -(-(max(powers.values()) - least + 1) // most)
    found: dict[float | None, Counter[str]] = {
        10.0**power: Counter() for power in range(least, max(powers.values()) + 1, step)
    }
    for rate, by_status in counts.items():
        power = None if rate is None else powers.get(rate)
        below = None if power is None else 10.0 ** (least + (power - least) // step * step)
        found.setdefault(below, Counter()).update(by_status)
    return found


def reward_array(candidates: Sequence[Candidate]) -> np.ndarray:
    """Return the rewards `[N]`; one that is no finite number counts as the lowest that is."""
    rewards = np.array([c.reward for c in candidates], float)
    finite = np.isfinite(rewards)
    lowest = rewards[finite].min() if finite.any() else 0.0
    return np.where(finite, rewards, lowest)


def last_quarter(run: Run) -> float:
    """Return the mean of the last quarter of a run's rewards."""
    rewards = reward_array(run.candidates)
    return float(rewards[-max(1, len(rewards) // 4) :].mean())
