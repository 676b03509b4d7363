"""What `table4_translation.py` measures of its trainings, and which rate is chosen."""

from collections.abc import Mapping, Sequence

import numpy as np
from harness.fit import FINISHED
from harness.statistics import difference
from translation_training import BASELINE, OPTIMIZERS, RIVAL


def best_rate(tuning: Sequence[dict], name: str) -> float:
    """Return an optimizer's rate with the lowest validation loss; the lowest of equals."""
    own = [training for training in tuning if training["optimizer"] == name]
    return min(own, key=lambda training: (training["validation"], training["rate"]))["rate"]


def measure(rates: Mapping[str, Sequence[float]], runs: Sequence[dict]) -> dict[str, dict]:
    """Return the rows of the table, by optimizer."""
    rows = {}
    for name in OPTIMIZERS:
        own = [run for run in runs if run["optimizer"] == name]
        losses, scores = ([run[key] for run in own] for key in ("validation", "bleu"))
        rows[name] = {
            "rate": own[0]["rate"],
            "rate_at_an_end": len(rates[name]) > 1
            and own[0]["rate"] in (min(rates[name]), max(rates[name])),
            "n": len(own),
            "diverged": sum(run["status"] != FINISHED for run in own),
            "validation": losses,
            "perplexity": np.exp(losses).tolist(),
            "bleu": scores,
        }
    return rows


def differences(rows: dict[str, dict]) -> dict[str, tuple[float, float, float]]:
    """Return PowerSign's less Adam's, seed by seed; nothing where one seed or a divergence is."""
    if rows[RIVAL]["n"] < 2 or any(row["diverged"] for row in rows.values()):
        return {}
    return {
        key: difference(rows[RIVAL][key], rows[BASELINE][key]) for key in ("validation", "bleu")
    }
