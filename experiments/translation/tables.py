"""What `table4_translation.py` shows: tables, a verdict, translations and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from harness.fit import FINISHED
from harness.paper import TABLE_4
from harness.tables import interval_text, mean_text, text_table
from matplotlib.figure import Figure
from rich.table import Table

from translation.measures import TRANSLATES, differences, translate
from translation.text import Text
from translation.training import BASELINE, OPTIMIZERS, RIVAL

NAMES = {
    "train": "training loss",
    "validation": "validation loss",
    "validation_bleu": "validation BLEU near its peak",
    "bleu": "test BLEU",
}
PAPER = (
    "The paper, on WMT 2014: PowerSign has 0.1 less training perplexity, 0.5 more test BLEU, and "
    "0.7 more validation BLEU as a mean of 5 points near the peak."
)


def make_table(rows: Mapping[str, dict]) -> Table:
    """Return the table of both optimizers, and beside them the paper's figures for WMT 2014."""
    columns = ("optimizer", "rate", "n", "train perplexity ± se", "validation perplexity ± se")
    columns += ("validation BLEU, 5 points near its peak ± se", "test BLEU ± se")

    def cells(name: str, row: dict) -> list[str]:
        return [
            *(name, f"{row['rate']:g}", str(row["n"])),
            *(mean_text(np.exp(row[key]), 2) for key in ("train", "validation")),
            *(mean_text(row[key], 2) for key in ("validation_bleu", "bleu")),
            f"{TABLE_4[name].train_perplexity:.2f}",
            f"{TABLE_4[name].test_bleu:.1f}",
        ]

    paper = ("the paper's train perplexity", "the paper's test BLEU")
    return text_table((*columns, *paper), [cells(*item) for item in rows.items()])


def tuning_table(tuning: Sequence[dict]) -> Table:
    """Return the table of all rates."""

    def perplexity(row: dict) -> str:
        return f"{np.exp(row['validation']):.2f}" if row["status"] == FINISHED else "diverged"

    ranked = sorted(tuning, key=lambda row: (OPTIMIZERS.index(row["optimizer"]), row["rate"]))
    return text_table(
        ("optimizer", "rate", "steps", "validation perplexity"),
        [(r["optimizer"], f"{r['rate']:g}", str(r["steps"]), perplexity(r)) for r in ranked],
    )


def verdict(rows: Mapping[str, dict]) -> str:
    """Say what the numbers say, and what the reader should doubt."""
    sentences, enough = [], translate(rows)
    if not enough:
        means = ", ".join(f"{np.mean(row['bleu']):.1f} by {name}" for name, row in rows.items())
        sentences.append(
            f"Too short to say: mean test BLEU is {means}, and nothing is concluded before both "
            f"translate, at {TRANSLATES:g} or more."
        )
    for key, change in differences(rows).items():
        _, low, high, _ = change
        found = "undecided" if low <= 0 <= high else "more" if low > 0 else "less"
        said = f", {found}" if enough else ""
        sentences.append(
            f"{RIVAL} less {BASELINE}, {NAMES[key]}: {interval_text(change, 3)}{said}."
        )
    if not differences(rows):
        sentences.append("No interval: one seed alone, or a training diverged.")
    elif rows[RIVAL]["n"] < 5:
        sentences.append(f"With {rows[RIVAL]['n']} seeds these intervals are wide.")
    sentences += [
        f"{name}'s best rate, {row['rate']:g}, is at an end of those tried."
        for name, row in rows.items()
        if row["rate_at_an_end"]
    ]
    sentences += [
        f"{row['diverged']} of {row['n']} trainings by {name} diverged."
        for name, row in rows.items()
        if row["diverged"]
    ]
    sentences.append(PAPER)
    return " ".join(sentences)


def best_of(runs: Sequence[dict]) -> dict:
    """Return the run with the lowest validation loss."""
    return min(runs, key=lambda run: run["validation"])


def samples(text: Text, best: dict) -> Table:
    """Return the first test sentences, and their translations by a model."""
    pairs = zip(text.test_pairs.source, text.test_pairs.target, best["translations"], strict=False)
    return text_table(("source", "reference", "translation"), pairs)


def draw(tuning: Sequence[dict], runs: Sequence[dict], path: Path) -> None:
    """Draw the validation loss over the steps: tuning by the rate, fresh seeds in black."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, len(OPTIMIZERS), sharey=True)
    for axes, name in zip(panels, OPTIMIZERS, strict=True):
        own = sorted((t for t in tuning if t["optimizer"] == name), key=lambda t: t["rate"])
        for i, run in enumerate(own):
            style = {"color": f"C{i}", "label": f"rate {run['rate']:g}"}
            axes.plot(*losses(run), marker="o", ms=3, lw=1.2, **style)
        for i, run in enumerate(run for run in runs if run["optimizer"] == name):
            label = f"rate {run['rate']:g}, fresh seeds" if i == 0 else None
            axes.plot(*losses(run), marker="o", ms=3, lw=1.2, color="k", label=label)
        axes.set(title=name, xlabel="step")
        axes.legend(frameon=False)
    panels[0].set_ylabel("validation loss, nats per subword")
    figure.savefig(path, dpi=150)


def losses(run: Mapping) -> tuple[list[int], list[float]]:
    """Return the steps at which the validation loss was measured, and the losses."""
    points = [entry for entry in run["curve"] if "validation" in entry]
    return [entry["step"] for entry in points], [entry["validation"] for entry in points]
