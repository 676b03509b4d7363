"""What became of rivals, as a table and a picture: scores after tuning, and how they differ."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from harness.pictures import draw_band, draw_intervals
from harness.statistics import claims
from harness.tables import interval_text, mean_text, rates_text, text_table
from harness.tuning import Outcome, Training
from nos_optax.compare.statistics import Difference, difference

PARTS = ("final_validation", "final_test", "best_validation", "best_test")


@dataclasses.dataclass(frozen=True)
class Display:
    """How a task's scores, of which higher is better, are shown.

    Attributes:
        title: what they are called, with the unit.
        chance: the score that a diverged training counts as.
        of: what is shown of scores, an array.
        lower: whether what is shown is better the lower it is.
        digits: after the point.
        scale: of the axis in the picture.
    """

    title: str
    chance: float
    of: Callable[[np.ndarray], np.ndarray]
    lower: bool = False
    digits: int = 2
    scale: str = "linear"


def accuracy(classes: int) -> Display:
    """Return how a part of right answers among so many classes is shown: in per cent."""
    return Display("accuracy, %", 1 / classes, lambda score: 100 * score, digits=1)


class Result(NamedTuple):
    """A rival's fresh seeds in numbers, as shown."""

    name: str
    rule: str
    schedule: str
    rate: float
    diverged: int  # of the seeds
    values: dict[str, list[float]]  # one a seed, for each of PARTS; best: by validation
    difference: Difference | None  # of final_test to the baseline
    weight_decay: float
    tried: list[float]  # learning rates, ascending


def measure(outcomes: Sequence[Outcome], baseline: str, display: Display) -> list[Result]:
    """Return each rival's numbers.

    Args:
        outcomes: from `compare`, with a test set; the same seeds for all.
        baseline: the rival that the others are compared with, seed by seed.
        display: how the scores are shown.

    Raises:
        ValueError: the baseline is not among the rivals, there is no test set, or only one seed.
    """
    names = [outcome.rival.name for outcome in outcomes]
    if baseline not in names:
        raise ValueError(f"the baseline {baseline} is not among the rivals {names}")
    values = [_values(outcome.runs, display) for outcome in outcomes]
    base = values[names.index(baseline)]["final_test"]
    return [
        Result(
            *outcome.rival[:3],
            outcome.rate,
            sum(math.isnan(training.validation[-1]) for training in outcome.runs),
            of_rival,
            None if name == baseline else difference(of_rival["final_test"], base),
            outcome.weight_decay,
            sorted({training.rate for training in outcome.tuning}),
        )
        for name, outcome, of_rival in zip(names, outcomes, values, strict=True)
    ]


def _values(trainings: Sequence[Training], display: Display) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = {part: [] for part in PARTS}
    for training in trainings:
        validation, test = np.array(training.validation), np.array(training.test)
        if np.isnan(test[np.isfinite(validation)]).any():
            raise ValueError(f"{training.rival} has no test scores: give the task a test set")
        validation, test = (np.where(np.isnan(x), display.chance, x) for x in (validation, test))
        best = int(validation.argmax())
        scores = np.array([validation[-1], test[-1], validation[best], test[best]])
        for part, value in zip(PARTS, display.of(scores), strict=True):
            columns[part].append(float(value))
    return columns


def results_table(
    results: Sequence[Result],
    baseline: str,
    display: Display,
    paper: Mapping[str, str],
    paper_title: str = "paper",
) -> Table:
    """Return the table: means and standard errors (se) over the seeds.

    Args:
        results: from `measure`.
        baseline: as there.
        display: as there.
        paper: what the paper says, by the rival's name; of others it says nothing; no column if
            it is empty.
        paper_title: of that column.

    Returns:
        A row for each rival: scores after the last epoch and at the best one. Schedules, the rates
        that were tried and weight decays have columns only where they differ.
    """
    optional = {
        "schedule": [result.schedule for result in results],
        "weight decay": [f"{result.weight_decay:g}" for result in results],
        "rates tried": [rates_text(result.tried) for result in results],
    }
    differing = {column: cells for column, cells in optional.items() if len(set(cells)) > 1}
    parts = [part.removeprefix("final_").replace("_", " ") + " ± se" for part in PARTS]
    columns = ["rival", "rule", *differing, "rate", *parts, "n", f"test - {baseline} [95 %]"]

    def row(i: int, result: Result) -> list[str]:
        diverged = f", {result.diverged} diverged" if result.diverged else ""
        return [
            *(result.name, result.rule),
            *(cells[i] for cells in differing.values()),
            f"{result.rate:g}",
            *(mean_text(result.values[part], display.digits) for part in PARTS),
            f"{len(result.values['final_test'])}{diverged}",
            interval_text(result.difference, display.digits),
            *([paper.get(result.name, "no such row")] if paper else []),
        ]

    rows = [row(i, result) for i, result in enumerate(results)]
    return text_table([*columns, *([paper_title] if paper else [])], rows)


def verdict(results: Sequence[Result], baseline: str, display: Display) -> str:
    """Say which rivals differ from the baseline, and what the intervals do not cover."""
    known = {result.name: result.difference for result in results if result.difference}
    return (
        f"Final test against {baseline}, {claims(known, display.lower)} The intervals of 95 % are "
        "not corrected for their number and do not cover the choice of the rate."
    )


def edge_note(results: Sequence[Result]) -> str:
    """Say whose best rate may lie beyond those that were tried."""
    edges = [r.name for r in results if r.rate in (r.tried[0], r.tried[-1])]
    return f"Best at the least or the greatest rate: {', '.join(edges) or 'none'}."


def content(results: Sequence[Result], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return everything for the JSON file: the numbers, and all curves as scores."""
    return [
        {
            **result._asdict(),
            "tuning": [training._asdict() for training in outcome.tuning],
            "runs": [training._asdict() for training in outcome.runs],
        }
        for result, outcome in zip(results, outcomes, strict=True)
    ]


def draw(
    outcomes: Sequence[Outcome],
    display: Display,
    path: Path,
    panel: Callable[[Any], None] | None = None,
) -> None:
    """Draw the rivals' validation over the epochs, and how it depends on the learning rate.

    Args:
        outcomes: of the rivals to show; at most 20 can be told apart.
        display: how the scores are shown.
        path: of the picture.
        panel: draws what is claimed into one more part, given its axes.
    """
    figure = Figure(figsize=(18 if panel else 12, 4.8), layout="constrained")
    over_epochs, over_rates, *rest = figure.subplots(1, 3 if panel else 2)
    for i, outcome in enumerate(outcomes):
        style: dict[str, Any] = {"color": f"C{i % 10}", "ls": "-" if i < 10 else "--", "lw": 1.2}
        curves = shown([training.validation for training in outcome.runs], display)
        label = f"{outcome.rival.name} ({outcome.rate:g})"
        draw_band(over_epochs, curves, label=label, **style)
        by_rate = tuned(outcome, display)
        over_rates.plot(list(by_rate), list(by_rate.values()), marker=".", **style)
    over_epochs.xaxis.get_major_locator().set_params(integer=True)
    seeds = len(outcomes[0].runs)
    tuning_seeds = len({training.seed for training in outcomes[0].tuning})
    over_epochs.set(
        title=f"best rate: mean ± standard error, {seeds} seeds",
        xlabel="epoch",
        ylabel=f"validation {display.title}",
        yscale=display.scale,
    )
    over_rates.set(
        title=f"last epoch, tuning seeds: {tuning_seeds}",
        xlabel="learning rate (diverged: as chance)",
        xscale="log",
        yscale=display.scale,
    )
    handles, labels = over_epochs.get_legend_handles_labels()
    place: Any = "outside right"  # matplotlib's annotations do not know it
    figure.legend(handles, labels, loc=place, frameon=False)
    if panel:
        panel(rest[0])
    figure.savefig(path, dpi=150)


def draw_differences(axes: Any, results: Sequence[Result], baseline: str, display: Display) -> None:
    """Draw the differences to the baseline of all rivals, with their intervals."""
    known = {result.name: result.difference for result in results if result.difference}
    draw_intervals(axes, known)
    axes.set(
        title="test at the end, intervals of 95 %",
        xlabel=f"{display.title}, less that of {baseline}",
    )


def tuned(outcome: Outcome, display: Display) -> dict[float, float]:
    """Return of each learning rate what the tuning shows, the mean over its seeds.

    Of several weight decays, these are those of the best one.
    """
    finals: dict[float, list[float]] = {}
    for training in outcome.tuning:
        if training.weight_decay != outcome.weight_decay:
            continue
        (score,) = shown([training.validation[-1:]], display)[0]
        finals.setdefault(training.rate, []).append(score)
    return {rate: float(np.mean(scores)) for rate, scores in finals.items()}


def shown(scores: Sequence[Sequence[float]], display: Display) -> np.ndarray:
    """Return what is shown of scores `[n, epochs]`, with chance where a training has diverged."""
    known = np.array(scores)
    return display.of(np.where(np.isnan(known), display.chance, known))
