"""The tables and the picture of `table3_imagenet.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness.fit import DIVERGED
from harness.paper import TABLE_3
from harness.tables import interval_text, mean_text, text_table
from matplotlib.figure import Figure
from rich.table import Table

from imagenet.training import BASELINE
from nos_optax.compare.statistics import difference


class Run(NamedTuple):
    """A training: means over tenths of it, and accuracies after it."""

    seed: int
    rate: float
    minibatches: list[int]
    loss: list[float]
    accuracy: list[float]  # in training: of the random crops, with dropout
    top1: float
    top5: float
    status: str
    seconds: float

    @property
    def last_loss(self) -> float:
        """By which the rate is chosen."""
        return np.inf if self.status == DIVERGED else self.loss[-1]


class Outcome(NamedTuple):
    """What became of an optimizer."""

    rate: float
    tuning: list[Run]  # one a rate
    runs: list[Run]  # one a fresh seed


def results_table(outcomes: Mapping[str, Outcome], top5: bool) -> Table:
    """Return the table of the fresh seeds, and beside it the paper's accuracies on ImageNet."""
    tops = ("top-1", "top-5") if top5 else ("top-1",)
    columns = ("optimizer", "rate", "n", "training loss ± se", "training accuracy, % ± se")
    columns += tuple(f"{top}, % ± se" for top in tops)
    columns += (f"top-1 - {BASELINE}'s [95 %]", "the paper's top-1", "the paper's top-5")
    baseline = in_percent(outcomes[BASELINE].runs, "top1")

    def row(name: str, outcome: Outcome) -> list[str]:
        runs = outcome.runs
        change = difference(in_percent(runs, "top1"), baseline)
        return [
            *(name, f"{outcome.rate:g}", f"{len(runs)}"),
            mean_text([run.loss[-1] for run in runs], 3),
            mean_text([100 * run.accuracy[-1] for run in runs], 1),
            *(mean_text(in_percent(runs, top.replace("-", "")), 1) for top in tops),
            "" if name == BASELINE else interval_text(change, 1),
            *(f"{accuracy:.1f}" for accuracy in TABLE_3[name]),
        ]

    return text_table(columns, [row(*item) for item in outcomes.items()])


def in_percent(runs: list[Run], top: str) -> list[float]:
    """Return one of the accuracies of each run."""
    return [100 * getattr(run, top) for run in runs]


def tuning_table(outcomes: Mapping[str, Outcome]) -> Table:
    """Return the table of the last training losses, one row for each optimizer and rate."""

    def loss(run: Run) -> str:
        return "diverged" if np.isinf(run.last_loss) else f"{run.last_loss:.3f}"

    return text_table(
        ("optimizer", "rate", "training loss"),
        [(name, f"{run.rate:g}", loss(run)) for name, o in outcomes.items() for run in o.tuning],
    )


def edge_note(outcomes: Mapping[str, Outcome]) -> str:
    """Say whose best rate may lie beyond those that were tried."""
    edges = []
    for name, outcome in outcomes.items():
        rates = [run.rate for run in outcome.tuning]
        edges += [name] if outcome.rate in (min(rates), max(rates)) else []
    return f"Best at the least or the greatest rate: {', '.join(edges) or 'none'}."


def draw(accumulated: int, outcomes: Mapping[str, Outcome], title: str, path: Path) -> None:
    """Draw the training loss and accuracy of every fresh seed."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for i, (name, outcome) in enumerate(outcomes.items()):
        for j, run in enumerate(outcome.runs):
            updates = np.array(run.minibatches) / accumulated
            style = {"color": f"C{i}", "lw": 1.2, "marker": ".", "ms": 4}
            label = f"{name} (rate {outcome.rate:g}), n = {len(outcome.runs)}" if j == 0 else None
            panels[0].plot(updates, run.loss, label=label, **style)
            panels[1].plot(updates, 100 * np.array(run.accuracy), **style)
    for axes, label in zip(panels, ("training loss", "training accuracy, %"), strict=True):
        axes.set(xlabel="update (means over tenths of the training)", ylabel=label)
    panels[1].set_ylim(0, 100)
    panels[0].legend(frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)
