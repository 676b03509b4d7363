"""What `rosenbrock.py` measures of its runs, and which setting of an optimizer is chosen."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from harness.statistics import difference
from rosenbrock_trajectories import BASELINE

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


Score = Callable[[np.ndarray], np.ndarray]  # of f [K, S], one number a setting; less is better


def median(values: np.ndarray) -> np.ndarray:
    """Return the median of f over the starts."""
    return np.median(values, axis=1)


def choose(runs: Runs, among: np.ndarray, starts: slice, score: Score = median) -> int:
    """Return the setting with the least score over some starts; of equals, the quickest."""
    quick = median(runs.reached[among, starts])
    return int(among[np.lexsort((quick, score(runs.values[among, starts])))[0]])


def log_values(values: np.ndarray, at_start: np.ndarray) -> np.ndarray:
    """Return log10 f within float32's rounding, that of the start for a run that diverged."""
    return np.log10(np.maximum(np.where(np.isfinite(values), values, at_start), FLOOR))


def measure(
    runs: Mapping[str, Runs], at_start: np.ndarray, equal: bool, score: Score = median
) -> dict[str, dict]:
    """Return each optimizer at the setting that the first half of the starts chose.

    Args:
        runs: All runs by optimizer.
        at_start: f of the random starts, ``[2 n]``.
        equal: Whether all have the same number of settings, or the paper's.
        score: What the settings are chosen by.
    """
    half = len(at_start) // 2
    rows, logs = {}, {}
    for name, some in runs.items():
        among = np.arange(len(some.settings.rates)) if equal else some.settings.first
        k = choose(some, among, slice(1, 1 + half), score)
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
        row["log10_minus_adam"] = difference(logs[name].tolist(), logs[BASELINE].tolist())
    return rows


def best_of_first(runs: Runs) -> int:
    """Return the best setting of the paper's comparison."""
    return choose(runs, runs.settings.first, slice(0, 1))


def best_by_rate(runs: Runs, rates: Sequence[float]) -> list[int]:
    """Return the best setting of the paper's comparison at each rate."""
    first = runs.settings.first
    has = [first[runs.settings.rates[first] == np.float32(rate)] for rate in rates]
    return [choose(runs, among, slice(0, 1)) for among in has]
