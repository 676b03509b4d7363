"""What `table4_translation.py` measures of its trainings, and which rates are tried and chosen."""

from collections.abc import Mapping, Sequence

import numpy as np
from harness.fit import FINISHED

from nos_optax.compare.statistics import Difference, difference
from translation.training import BASELINE, OPTIMIZERS, RIVAL

TRANSLATES = 15.0  # BLEU below which a model does not yet translate
NEAR_PEAK = 5  # points in succession of the validation BLEU, as in section 6.4
DIFFERENCES = ("train", "validation", "validation_bleu", "bleu")


def best_rate(tuning: Sequence[dict], name: str) -> float:
    """Return an optimizer's rate with the lowest validation loss; the lowest of equals."""
    own = [training for training in tuning if training["optimizer"] == name]
    return min(own, key=lambda training: (training["validation"], training["rate"]))["rate"]


def last_loss(run: Mapping) -> float:
    """Return the mean training loss over the last tenth, in nats; inf if it diverged."""
    if run["status"] != FINISHED:
        return np.inf
    last = [e["loss"] for e in run["curve"] if e["step"] > 0.9 * run["steps"]]
    return float(np.mean(last))


def near_peak(run: Mapping) -> float:
    """Return the best mean of 5 successive points of the validation BLEU; 0 if it diverged.

    Of fewer points, it is the mean of all.
    """
    points = [e["validation_bleu"] for e in run["curve"] if "validation_bleu" in e]
    if run["status"] != FINISHED:
        return 0.0
    width = min(NEAR_PEAK, len(points))
    return max(float(np.mean(points[i : i + width])) for i in range(len(points) - width + 1))


def measure(tuning: Sequence[dict], runs: Sequence[dict]) -> dict[str, dict]:
    """Return the rows of the table, by optimizer."""
    rows = {}
    for name in OPTIMIZERS:
        own = [run for run in runs if run["optimizer"] == name]
        tried = sorted(t["rate"] for t in tuning if t["optimizer"] == name)
        rate = own[0]["rate"]
        rows[name] = {
            "rate": rate,
            "tried": tried,
            "rate_at_an_end": len(tried) > 1 and rate in (tried[0], tried[-1]),
            "n": len(own),
            "diverged": sum(run["status"] != FINISHED for run in own),
            "train": [last_loss(run) for run in own],
            "validation": [run["validation"] for run in own],
            "validation_bleu": [near_peak(run) for run in own],
            "bleu": [run["bleu"] for run in own],
        }
    return rows


def differences(rows: Mapping[str, dict]) -> dict[str, Difference]:
    """Return PowerSign's less Adam's, seed by seed; nothing where one seed or a divergence is."""
    if rows[RIVAL]["n"] < 2 or any(row["diverged"] for row in rows.values()):
        return {}
    return {key: difference(rows[RIVAL][key], rows[BASELINE][key]) for key in DIFFERENCES}


def translate(rows: Mapping[str, dict]) -> bool:
    """Say whether both optimizers' models translate: nothing is concluded before they do."""
    return all(np.mean(row["bleu"]) >= TRANSLATES for row in rows.values())
