"""The charts of several runs."""

from collections.abc import Callable, Sequence

import numpy as np

from nos_optax.search.reports.groups import Group
from nos_optax.search.reports.marks import Axis, Chart, Mark, Panel, band, dots, line, spans
from nos_optax.search.reports.race_charts import ringed
from nos_optax.search.reports.statistics import reward_array, running_quantiles, t_interval
from nos_optax.search.reports.theme import SERIES

DASHES = ("", "5 2", "1 1.5")  # once the colours are used up
POINTS = 200  # of a curve
WINDOW = 64

Curve = Callable[[np.ndarray], np.ndarray]


def comparison_charts(groups: Sequence[Group]) -> dict[str, Chart]:
    """Return the charts that the runs have data for, by name."""
    made = []
    if any(run.candidates for group in groups for run in group.runs):
        made = [
            _curves("rewards", groups, running_mean),
            _curves("best", groups, np.maximum.accumulate),
            _quantiles(groups),
        ]
    if any(run.found for group in groups for run in group.runs):
        made.append(_scores(groups))
    return {chart.name: chart for chart in made}


def running_mean(rewards: np.ndarray) -> np.ndarray:
    """Return the mean of the last WINDOW rewards, of all where there are fewer."""
    sums = np.cumsum(np.insert(rewards, 0, 0.0))
    last = np.arange(1, len(rewards) + 1)
    first = np.maximum(0, last - WINDOW)
    return (sums[last] - sums[first]) / (last - first)


def _curves(name: str, groups: Sequence[Group], curve: Curve) -> Chart:
    """Return a curve of every run, and each group's mean with its interval."""
    marks: list[Mark] = []
    for number, group in enumerate(groups):
        lines = [curve(reward_array(run.candidates)) for run in group.runs if run.candidates]
        if lines:
            marks += _group(lines, f"{group.label} (n = {len(lines)})", number)
    y = f"reward: {_score(groups)}"
    return Chart(name, [Panel(marks)], "candidates evaluated", y, says={"window": WINDOW})


def _score(groups: Sequence[Group]) -> str:
    """Return what the rewards of all runs are; runs on other tasks may have others."""
    return " / ".join(dict.fromkeys(run.score for group in groups for run in group.runs))


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _group(lines: Sequence[np.ndarray], label: str, number: int) -> list[Mark]:
    """Return a group's runs, and their mean as far as all of them go."""
    colour, dash = _colour(number), DASHES[number // len(SERIES) % len(DASHES)]
    at = _places(min(map(len, lines)))
    values = np.stack([curve[at] for curve in lines])
    marks = [line(at + 1, values.mean(axis=0), colour, 2.2, dash=dash, label=label)]
    if len(lines) == 1:
        return marks
    ends = np.array([t_interval(column) for column in values.T.tolist()])
    thin = [
        line(_places(len(curve)) + 1, curve[_places(len(curve))], colour, 0.8, opacity=0.5)
        for curve in lines
    ]
    return [*thin, band(at + 1, *ends.T, colour, opacity=0.14), *marks]


def _quantiles(groups: Sequence[Group]) -> Chart:
    """Return the running quantiles of each run, a panel for each group."""
    panels = []
    for number, group in enumerate(groups):
        runs = [reward_array(run.candidates) for run in group.runs if run.candidates]
        marks = []
        for rewards in runs:
            last, (low, median, high) = running_quantiles(rewards, (0.1, 0.5, 0.9), POINTS)
            marks.append(band(last, low, high, _colour(number), opacity=0.16 / len(runs) ** 0.5))
            marks.append(line(last, median, _colour(number), 1.4))
        if marks:
            panels.append(Panel(marks, height=150, title=group.label))
    return Chart("quantiles", panels, "candidates evaluated", "reward", columns=3)


def _scores(groups: Sequence[Group]) -> Chart:
    """Return the best found rule's and the best standard optimizer's score of every run."""
    marks: list[Mark] = []
    for number, group in enumerate(groups):
        y, runs = len(groups) - 1 - number, [run for run in group.runs if run.found]
        found = [run.found[0].mean for run in runs]
        standard = [run.standard[0].mean for run in runs if run.standard]
        if (ends := t_interval(found)) is not None:
            marks.append(spans(*ends, y, _colour(number)))
        marks.append(dots(found, [y] * len(found), _colour(number), 5, opacity=0.45))
        marks += ringed([float(np.mean(found))], y, _colour(number), 9) if found else []
        marks.append(dots(standard, [y - 0.28] * len(standard), "muted", 10, shape="|"))
    names = [group.label for group in reversed(groups)]
    panel = Panel(marks, Axis(grid=True), Axis(names), 40.0 * len(names), right=24)
    return Chart("scores", [panel], f"{_score(groups)}, fresh seeds")


def _places(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, POINTS).round().astype(int))
