"""The pictures of several runs."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from nos_optax.search.reports.groups import Group
from nos_optax.search.reports.picture import Chart, legend
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.statistics import reward_array, running_quantiles, t_interval
from nos_optax.search.reports.theme import LIGHT, SERIES

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # once the colours are used up
POINTS = 200  # of a curve
WINDOW = 64

Curve = Callable[[np.ndarray], np.ndarray]


def comparison_charts(groups: Sequence[Group]) -> dict[str, Chart]:
    """Return the pictures that the runs have data for, by name."""
    made = []
    if any(run.candidates for group in groups for run in group.runs):
        made += [_curves_chart(groups, *kind) for kind in _CURVES]
        made.append(_quantiles_chart(groups))
    if any(run.found for group in groups for run in group.runs):
        made.append(_scores_chart(groups))
    return {chart.name: chart for chart in made}


def running_mean(rewards: np.ndarray) -> np.ndarray:
    """Return the mean of the last WINDOW rewards, of all where there are fewer."""
    sums = np.cumsum(np.insert(rewards, 0, 0.0))
    last = np.arange(1, len(rewards) + 1)
    first = np.maximum(0, last - WINDOW)
    return (sums[last] - sums[first]) / (last - first)


_BAND = (
    "A thin line is a run; a thick one the mean of a group's runs, with the 95 % t interval over "
    "its seeds where there are two or more, as far as the shortest run goes."
)
_CURVES = (
    (
        "rewards",
        "Mean reward over the samples",
        f"The mean reward of the last {WINDOW} candidates: what the strategy has learned. {_BAND}",
        running_mean,
    ),
    (
        "best",
        "Best reward so far",
        f"The best single reward so far, which flatters. {_BAND}",
        np.maximum.accumulate,
    ),
)


def _curves_chart(
    groups: Sequence[Group], name: str, title: str, caption: str, curve: Curve
) -> Chart:
    """Return a curve of every run, and each group's mean with its interval."""
    curves = [[curve(reward_array(r.candidates)) for r in g.runs if r.candidates] for g in groups]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for number, (group, lines) in enumerate(zip(groups, curves, strict=True)):
            if lines:
                _draw_group(axes, lines, label_of(group, len(lines)), style(number))
        axes.set(xlabel="candidates evaluated", ylabel=f"reward: {_score(groups)}")
        axes.set_xlim(left=0)
        axes.grid(axis="y")
        legend(axes, 1 if narrow else 3)

    rows = len(groups)
    return Chart(name, title, caption, (330 + 18 * (rows // 3), 300 + 18 * rows), draw)


def _score(groups: Sequence[Group]) -> str:
    """Return what the rewards of all runs are; runs on other tasks may have others."""
    return " / ".join(dict.fromkeys(run.score for group in groups for run in group.runs))


def _draw_group(axes, lines: Sequence[np.ndarray], label: str, look: Mapping) -> None:
    """Draw a group's runs, and their mean as far as all of them go."""
    for line in lines if len(lines) > 1 else ():
        at = _places(len(line))
        axes.plot(at + 1, line[at], color=look["color"], ls=look["ls"], lw=0.8, alpha=0.5)
    shortest = min(map(len, lines))
    at = _places(shortest)
    values = np.stack([line[at] for line in lines])
    axes.plot(at + 1, values.mean(axis=0), lw=2.2, label=label, **look)
    ends = [t_interval(column) for column in values.T.tolist()]
    if len(lines) > 1:
        low, high = np.array(ends).T
        axes.fill_between(at + 1, low, high, color=look["color"], alpha=0.14, lw=0)


def _quantiles_chart(groups: Sequence[Group]) -> Chart:
    """Return the running quantiles of each run, a panel for each group."""
    shown = [group for group in groups if any(run.candidates for run in group.runs)]

    def draw(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else min(3, len(shown))
        rows = -(-len(shown) // columns)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for panel in panels.flat[len(shown) :]:
            panel.set_visible(False)
        for number, (panel, group) in enumerate(zip(panels.flat, shown, strict=False)):
            colour = style(groups.index(group))["color"]
            for run in group.runs:
                if run.candidates:
                    _draw_quantiles(panel, run, colour, 0.16 / len(group.runs) ** 0.5)
            panel.set_title(group.label)
            panel.set_xlim(left=0)
            panel.grid(axis="y")
            if number % columns == 0:
                panel.set_ylabel("reward")
        figure.supxlabel("candidates evaluated", size=12, color=LIGHT["muted"])

    caption = (
        "How the rewards of each run are spread: the running median (line) and the 10 % and 90 % "
        "quantiles (band), a panel for each group."
    )
    wide = 70 + 190 * -(-len(shown) // 3)
    narrow = 70 + 170 * len(shown)
    return Chart("quantiles", "Quantiles of the rewards", caption, (wide, narrow), draw)


def _draw_quantiles(axes, run: Run, colour: str, alpha: float) -> None:
    last, (low, median, high) = running_quantiles(
        reward_array(run.candidates), (0.1, 0.5, 0.9), POINTS
    )
    axes.fill_between(last, low, high, color=colour, alpha=alpha, lw=0)
    axes.plot(last, median, color=colour, lw=1.4)


def _scores_chart(groups: Sequence[Group]) -> Chart:
    """Return the best found rule's and the best standard optimizer's score of every run."""
    rows = list(reversed(groups))

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for y, group in enumerate(rows):
            runs = [run for run in group.runs if run.found]
            colour = style(groups.index(group))["color"]
            found = [run.found[0].mean for run in runs]
            standard = [run.standard[0].mean for run in runs if run.standard]
            ends = t_interval(found)
            if ends is not None:
                axes.plot(ends, (y, y), color=colour, lw=2)
            axes.plot(found, [y] * len(found), "o", color=colour, ms=5, alpha=0.45)
            if found:
                axes.plot(np.mean(found), y, "o", color=colour, ms=9)
            grey = LIGHT["muted"]
            axes.plot(standard, [y - 0.28] * len(standard), "|", color=grey, ms=9, mew=1.5)
        axes.set_yticks(range(len(rows)), [group.label for group in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"{_score(groups)}, fresh seeds")
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=4 if narrow else 9)
        axes.spines["left"].set_visible(False)

    caption = (
        "The score, with fresh seeds, of each run's best found rule (small dots), their mean over "
        "the runs of a group and its 95 % t interval (large dots, lines), and of the best standard "
        "optimizer in each run (grey strokes below)."
    )
    height = 80 + 40 * len(groups)
    return Chart("scores", "Best found rules with fresh seeds", caption, (height, height), draw)


def label_of(group: Group, runs: int) -> str:
    """Return a group's label with how many of its runs are drawn."""
    return f"{group.label} (n = {runs})"


def style(number: int) -> dict:
    """Return how the curves of a group look."""
    colours = len(SERIES)
    return {
        "color": LIGHT[SERIES[number % colours]],
        "ls": DASHES[number // colours % len(DASHES)],
    }


def _places(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, POINTS).round().astype(int))
