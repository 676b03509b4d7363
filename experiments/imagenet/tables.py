"""The tables and the picture of `table3_imagenet.py`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness.fit import DIVERGED
from harness.paper import TABLE_3
from harness.statistics import difference
from rich import box
from rich.table import Table

from imagenet.training import BASELINE


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
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    tops = ("top-1", "top-5") if top5 else ("top-1",)
    minus = f"top-1 - {BASELINE}'s [95 %]"
    paper = ("the paper's top-1", "the paper's top-5")
    for column in ("rate", "n", "training loss", "training accuracy", *tops, minus, *paper):
        table.add_column(column, justify="right")
    baseline = [run.top1 for run in outcomes[BASELINE].runs]
    for name, outcome in outcomes.items():
        runs = outcome.runs
        accuracies = [
            spread([getattr(run, top.replace("-", "")) for run in runs], percent) for top in tops
        ]
        mean, low, high = difference([run.top1 for run in runs], baseline)
        table.add_row(
            name,
            f"{outcome.rate:g}",
            str(len(runs)),
            spread([run.loss[-1] for run in runs], "{:.3f}".format),
            spread([run.accuracy[-1] for run in runs], percent),
            *accuracies,
            "" if name == BASELINE else f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
            *(f"{accuracy:.1f} %" for accuracy in TABLE_3[name]),
        )
    return table


def tuning_table(outcomes: Mapping[str, Outcome]) -> Table:
    """Return the table of the last training losses, one row for each optimizer and rate."""
    table = Table("optimizer", "rate", "training loss", box=box.SIMPLE)
    for name, outcome in outcomes.items():
        for run in outcome.tuning:
            loss = "diverged" if np.isinf(run.last_loss) else f"{run.last_loss:.3f}"
            table.add_row(name, f"{run.rate:g}", loss)
    return table


def edge_note(outcomes: Mapping[str, Outcome]) -> str:
    """Say whose best rate may lie beyond those that were tried."""
    edges = []
    for name, outcome in outcomes.items():
        rates = [run.rate for run in outcome.tuning]
        edges += [name] if outcome.rate in (min(rates), max(rates)) else []
    return f"Best at the least or the greatest rate: {', '.join(edges) or 'none'}."


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def spread(values: list[float], text: Callable[[float], str]) -> str:
    """Return the mean, and the standard deviation over seeds."""
    return f"{text(float(np.mean(values)))} ± {text(float(np.std(values, ddof=1)))}"


def draw(accumulated: int, outcomes: Mapping[str, Outcome], title: str, path: Path) -> None:
    """Draw the training loss and accuracy of every fresh seed."""
    from matplotlib.figure import Figure

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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
