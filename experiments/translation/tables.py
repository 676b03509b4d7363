"""What `table4_translation.py` shows: tables, a verdict, translations and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from harness.fit import FINISHED
from harness.paper import TABLE_4
from harness.statistics import mean_and_error
from harness.tables import markdown
from rich import box
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
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    columns = ("train perplexity", "validation perplexity")
    columns += ("validation BLEU, 5 points near its peak", "test BLEU")
    for column in ("rate", "n", *columns, "the paper's train perplexity", "the paper's test BLEU"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['rate']:g}",
            str(row["n"]),
            *(spread(np.exp(row[key]).tolist()) for key in ("train", "validation")),
            *(spread(row[key]) for key in ("validation_bleu", "bleu")),
            f"{TABLE_4[name].train_perplexity:.2f}",
            f"{TABLE_4[name].test_bleu:.1f}",
        )
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
    for row in sorted(tuning, key=lambda row: (OPTIMIZERS.index(row["optimizer"]), row["rate"])):
        perplexity = f"{np.exp(row['validation']):.2f}" if row["status"] == FINISHED else "diverged"
        table.add_row(row["optimizer"], f"{row['rate']:g}", str(row["steps"]), perplexity)
    return table


def verdict(rows: Mapping[str, dict]) -> str:
    """Say what the numbers say, and what the reader should doubt."""
    sentences, enough = [], translate(rows)
    if not enough:
        means = ", ".join(f"{np.mean(row['bleu']):.1f} by {name}" for name, row in rows.items())
        sentences.append(
            f"Too short to say: mean test BLEU is {means}, and nothing is concluded before both "
            f"translate, at {TRANSLATES:g} or more."
        )
    for key, (mean, low, high) in differences(rows).items():
        found = "undecided" if low <= 0 <= high else "more" if mean > 0 else "less"
        said = f", {found}" if enough else ""
        sentences.append(
            f"{RIVAL} less {BASELINE}, {NAMES[key]}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]{said}."
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


def draw(tuning: Sequence[dict], runs: Sequence[dict], path: Path) -> None:
    """Draw the validation loss over the steps: tuning by the rate, fresh seeds in black."""
    from matplotlib.figure import Figure

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
