"""What `rosenbrock.py` measures of its runs, and which setting of an optimizer is chosen."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from harness.statistics import difference

from figure5.trajectories import SUBJECT

SOLVED = 1e-3  # of f
LAST = 500  # steps, of which the median of f is taken
FLOOR = 1e-12  # of f: near (1, 1), 100 (y - x^2)^2 of neighbouring float32 numbers


class Settings(NamedTuple):
    """What one optimizer may choose from."""

    rates: np.ndarray  # [K], float32
    epsilons: np.ndarray  # [K], float32
    first: np.ndarray  # [k] int, which of them are the paper's


class Runs(NamedTuple):
    """All runs of one optimizer: K settings, the given start and then the random ones."""

    settings: Settings
    paths: np.ndarray  # [K, T + 1, 2], from the given start
    curves: np.ndarray  # [K, T + 1], f from the given start
    values: np.ndarray  # [K, S], f after the last step; infinite where it diverged
    settled: np.ndarray  # [K, S], the median of f over the last steps
    best: np.ndarray  # [K, S], the least f on the way
    reached: np.ndarray  # [K, S], the first step with f < SOLVED; infinite if none

    def describe(self, k: int, s: int = 0) -> dict:
        """Return one run."""
        numbers = {
            "f": self.values,
            "median_f_at_the_end": self.settled,
            "best_f": self.best,
            "steps_to_solve": self.reached,
        }
        return {
            "rate": float(f"{self.settings.rates[k]:.3g}"),
            "epsilon": float(f"{self.settings.epsilons[k]:.3g}"),
            **{key: float(array[k, s]) for key, array in numbers.items()},
            "diverged": bool(np.isinf(self.values[k, s])),
        }


def summarise(settings: Settings, points: np.ndarray, values: np.ndarray) -> Runs:
    """Return of every run what is reported, and the whole of those from the given start."""
    values = np.where(np.isfinite(values), values, np.inf)  # [K, S, T + 1]
    solved = values < SOLVED
    reached = np.where(solved.any(-1), solved.argmax(-1), np.inf)
    settled = np.median(values[..., -LAST:], axis=-1)
    return Runs(
        settings, points[:, 0], values[:, 0], values[..., -1], settled, values.min(-1), reached
    )


# From the paper's one start.


def best_of_first(runs: Runs) -> int:
    """Return the best setting of the paper's comparison; of equals, the quickest."""
    return _best(runs, runs.settings.first)


def best_by_rate(runs: Runs, rates: Sequence[float]) -> list[int]:
    """Return the best setting of the paper's comparison at each rate."""
    first = runs.settings.first
    has = [first[runs.settings.rates[first] == np.float32(rate)] for rate in rates]
    return [_best(runs, among) for among in has]


def _best(runs: Runs, among: np.ndarray) -> int:
    return int(among[np.lexsort((runs.reached[among, 0], runs.values[among, 0]))[0]])


# Over many rates.


class Sweep(NamedTuple):
    """One optimizer from the given start at many rates, each with the best of its epsilons."""

    rates: np.ndarray  # [R], equally far apart in their logarithm
    values: np.ndarray  # [R], f after the last step; infinite where it diverged

    def describe(self) -> dict:
        """Return the best rate, and how many others are good as well."""
        best, solved = int(self.values.argmin()), self.rates[self.values < SOLVED]
        kept = self.rates[np.isfinite(self.values)]
        return {
            "best_rate": float(f"{self.rates[best]:.3g}"),
            "f": float(self.values[best]),
            "solved": len(solved),
            "solved_from_to": [float(f"{r:.3g}") for r in solved[[0, -1]]] if len(solved) else [],
            "largest_rate_that_did_not_diverge": float(f"{kept.max():.3g}") if len(kept) else None,
            "rates": self.rates,
            "values": self.values,
        }


def sweep(rates: np.ndarray, epsilons: int, values: np.ndarray) -> Sweep:
    """Return a sweep of f `[R * epsilons]`, of which every rate's epsilons follow each other."""
    values = np.where(np.isfinite(values), values, np.inf)
    return Sweep(rates, values.reshape(len(rates), epsilons).min(axis=1))


def grids_ahead(sweeps: Mapping[str, Sweep], stride: int, count: int = 4) -> dict[str, dict]:
    """Say how often `SUBJECT` would be ahead, had the rates been others.

    Args:
        sweeps: by optimizer, at the same rates.
        stride: rates of a sweep from one rate of a grid to the next.
        count: rates of a grid.

    Returns:
        For every rival how many grids there are, and in how many the subject's best f is lower.
    """
    length = len(next(iter(sweeps.values())).rates)
    starts = range(length - stride * (count - 1))

    def best(one: Sweep) -> np.ndarray:
        return np.array([one.values[s : s + stride * count : stride].min() for s in starts])

    subject = best(sweeps[SUBJECT])
    return {
        name: {"grids": len(starts), "ahead": int((subject < best(one)).sum())}
        for name, one in sweeps.items()
        if name != SUBJECT
    }


# From random starts.


def log_values(values: np.ndarray, at_start: np.ndarray) -> np.ndarray:
    """Return log10 f within float32's rounding, that of the start for a run that diverged."""
    return np.log10(np.maximum(np.where(np.isfinite(values), values, at_start), FLOOR))


def measure(runs: Mapping[str, Runs], at_start: np.ndarray, equal: bool) -> dict[str, dict]:
    """Return each optimizer at the setting that the first half of the starts chose.

    The setting has the least mean of log10 f. The median of f would choose, for PowerSign, a rate
    with which nearly half of the runs diverge.

    Args:
        runs: All runs by optimizer.
        at_start: f of the random starts, ``[2 n]``.
        equal: Whether all have the same number of settings, or the paper's.
    """
    half = len(at_start) // 2
    rows, logs = {}, {}
    for name, some in runs.items():
        among = np.arange(len(some.settings.rates)) if equal else some.settings.first
        choosing = log_values(some.values[among, 1 : 1 + half], at_start[:half])
        k = int(among[choosing.mean(axis=1).argmin()])
        values, reached = some.values[k, 1 + half :], some.reached[k, 1 + half :]
        logs[name] = log_values(values, at_start[half:])
        rows[name] = {
            "settings": len(among),
            "n": half,
            "rate": some.describe(k)["rate"],
            "epsilon": some.describe(k)["epsilon"],
            "quartiles": np.quantile(values, (0.25, 0.5, 0.75), method="lower"),
            "solved": int((values < SOLVED).sum()),
            "median_steps_to_solve": float(np.median(reached)),
            "diverged": int(np.isinf(values).sum()),
            "values": values,
        }
    for name, row in rows.items():
        row["powersign_less_this"] = difference(logs[SUBJECT].tolist(), logs[name].tolist())
    return rows
