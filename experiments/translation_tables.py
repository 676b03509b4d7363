"""What `table4_translation.py` shows: tables, a verdict, translations and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from harness.fit import FINISHED
from harness.statistics import mean_and_error
from harness.tables import markdown
from rich import box
from rich.table import Table
from translation_measures import differences
from translation_text import Text
from translation_training import BASELINE, OPTIMIZERS, RIVAL, TUNING_SEED


def make_table(rows: dict[str, dict]) -> Table:
    """Return the table of both optimizers."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    for column in ("rate", "n", "validation perplexity", "test BLEU", "BLEU in the paper"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        cells = (spread(row[key]) for key in ("perplexity", "bleu"))
        table.add_row(name, f"{row['rate']:g}", str(row["n"]), *cells, "not at hand")
    return table


def spread(values: Sequence[float]) -> str:
    """Return mean and standard error; of one value itself."""
    if len(values) < 2 or not np.isfinite(values).all():
        return ", ".join(f"{value:.2f}" for value in values)
    return "{:.2f} ± {:.2f}".format(*mean_and_error(values))


def tuning_table(tuning: Sequence[dict]) -> Table:
    """Return the table of all rates."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    for column in ("rate", "steps", "validation perplexity"):
        table.add_column(column, justify="right")
    for row in tuning:
        perplexity = f"{np.exp(row['validation']):.2f}" if row["status"] == FINISHED else "diverged"
        table.add_row(row["optimizer"], f"{row['rate']:g}", str(row["steps"]), perplexity)
    return table


def verdict(rows: dict[str, dict]) -> str:
    """Say what the numbers say, and what the reader should doubt."""
    sentences = []
    for key, (mean, low, high) in differences(rows).items():
        what = {"bleu": "test BLEU", "validation": "validation loss"}[key]
        found = "undecided" if low <= 0 <= high else "more" if mean > 0 else "less"
        sentences.append(
            f"{RIVAL} less {BASELINE}, {what}: {mean:+.3f} [{low:+.3f}, {high:+.3f}], {found}."
        )
    if not sentences:
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
    return " ".join(sentences)


def samples(text: Text, runs: Sequence[dict]) -> str:
    """Return translations by the model with the lowest validation loss, as Markdown."""
    best = min(runs, key=lambda run: run["validation"])
    table = Table("source", "reference", "translation")
    shown = zip(text.test_pairs.source, text.test_pairs.target, best["translations"], strict=False)
    for sentences in shown:
        table.add_row(*sentences)
    return (
        f"The first test sentences, by the model with the lowest validation loss of all "
        f"({best['optimizer']}, seed {best['seed']}, BLEU {best['bleu']:.2f}):\n\n{markdown(table)}"
    )


def draw(
    rates: Mapping[str, Sequence[float]],
    tuning: Sequence[dict],
    runs: Sequence[dict],
    path: Path,
) -> None:
    """Draw the validation loss over the steps: tuning by the rate, fresh seeds in black."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, len(OPTIMIZERS), sharey=True)
    for axes, name in zip(panels, OPTIMIZERS, strict=True):
        for run in (*tuning, *runs):
            points = [(e["step"], e["validation"]) for e in run["curve"] if "validation" in e]
            if run["optimizer"] != name or not points:
                continue
            if run["seed"] == TUNING_SEED:
                label = f"rate {run['rate']:g}"
                style = {"color": f"C{rates[name].index(run['rate'])}", "label": label}
            else:
                label = f"rate {run['rate']:g}, fresh seeds" if run["seed"] == 1 else None
                style = {"color": "k", "label": label}
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, **style)
        axes.set(title=name, xlabel="step")
        axes.legend(frameon=False)
    panels[0].set_ylabel("validation loss, nats per subword")
    figure.savefig(path, dpi=150)
