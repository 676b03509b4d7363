"""The charts of what a search believed of its best rules: fresh seeds, tasks, race and watch."""

import math
from collections.abc import Sequence

import numpy as np

from nos_optax.compare.results import BETTER, UNDECIDED, WORSE
from nos_optax.search.reports.finals import Compared, Finals
from nos_optax.search.reports.marks import Axis, Chart, Mark, Panel, Words, dots, line, spans
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.seeds import Raced, first_leaders, named_rules, raced_rules
from nos_optax.search.reports.statistics import t_interval
from nos_optax.search.reports.theme import SERIES
from nos_optax.search.standings import BOUND

LOOKS = {  # of verdicts
    BETTER: {"colour": "blue", "shape": "^"},
    UNDECIDED: {"colour": "muted", "shape": "o"},
    WORSE: {"colour": "orange", "shape": "v"},
}
COLUMNS = 4  # panels side by side
SHOWN = 24  # rivals in the picture; the table has all


def finals_charts(run: Run) -> list[Chart]:
    """Return the charts of the rules that were trained again that a run has data for."""
    made = [scores_chart(run)] if run.results else []
    return [*made, tasks_chart(run.finals)] if run.finals else made


def race_charts(run: Run) -> list[Chart]:
    """Return the charts of the race and of the watch tasks that a run has data for."""
    rules = raced_rules(run)
    made = [watch_chart(run)] if run.watched else []
    return [*made, seeds_chart(run, rules), race_chart(rules)] if rules else made


def scores_chart(run: Run) -> Chart:
    """Return the scores of the rules that were trained again, with intervals."""
    rows, marks = run.results[::-1], []
    for y, result in enumerate(rows):
        colour = "muted" if result.searched is None else "blue"
        if (ends := t_interval(result.rewards)) is not None:
            marks.append(spans(*ends, y, colour))
        marks += ringed(result.rewards, y, colour, 5) + ringed([result.mean], y, colour, 10)
        if result.searched is not None:
            marks.append(dots([result.searched], [y], "orange", 8, shape="D"))
    panel = _rows_panel(marks, [result.name for result in rows], 26)
    says = {"seeds": max(len(result.rewards) for result in rows)}
    return Chart("scores", [panel], run.score, says=says)


def ringed(x: Sequence[float], y: float, colour: str, size: float) -> list[Mark]:
    """Return dots in a row that are told apart where they overlap."""
    return [
        mark
        for place in x
        for mark in (dots([place], [y], "paper", size + 2), dots([place], [y], colour, size))
    ]


def _rows_panel(marks: Sequence[Mark | Words], names: Sequence[str], each: float) -> Panel:
    """Return a panel with a row for each name."""
    return Panel(marks, Axis(grid=True), Axis(names), each * len(names), right=24)


def tasks_chart(finals: Finals) -> Chart:
    """Return each rival's difference to the baseline on each task."""
    names = [name for name in finals.names if name != finals.baseline][:SHOWN][::-1]
    panels = [
        _task_panel(task, {r.name: r for r in rows}, names) for task, rows in finals.rows.items()
    ]
    says = {"left_out": max(0, len(finals.names) - 1 - len(names))}
    return Chart("tasks", panels, f"to {finals.baseline}", "", COLUMNS, says)


def _task_panel(task: str, rows: dict[str, Compared], names: Sequence[str]) -> Panel:
    """Return the differences on one task, one a row."""
    marks = [line([0, 0], [-0.6, len(names) - 0.4], "faint", 1)]
    for verdict, look in LOOKS.items():
        drawn = [(y, r) for y, n in enumerate(names) if (r := rows.get(n)) and r.verdict == verdict]
        drawn = [(y, row) for y, row in drawn if row.is_finite]
        marks += [spans(*row.interval, y, look["colour"]) for y, row in drawn if row.interval]
        places, at = [row.difference for _, row in drawn], [y for y, _ in drawn]
        marks.append(dots(places, at, size=7, label=verdict, **look))
    title = task if len(task) <= 20 else f"{task[:19]}\u2026"
    return Panel(marks, Axis(grid=True), Axis(names), 18.0 * max(1, len(names)), 10, title)


def seeds_chart(run: Run, rules: list[Raced]) -> Chart:
    """Return the reward of each seed in the search, and the estimate, of the finalists."""
    rows, marks = named_rules(run, rules)[::-1], []
    for y, (_, rule) in enumerate(rows):
        mean, error, count = rule.estimate
        first, *later = rule.rewards
        if math.isfinite(error):  # the estimates are above the seeds, not behind them
            marks.append(spans(mean - BOUND * error, mean + BOUND * error, y + 0.2, "blue"))
        marks += ringed([mean], y + 0.2, "blue", 9) + ringed(later, y - 0.2, "muted", 5)
        marks.append(dots([first], [y - 0.2], "orange", 8, shape="D"))
        marks.append(Words(math.inf, y, f"{count}", move=(6, 4)))
    panel = _rows_panel(marks, [name for name, _ in rows], 34)
    finalists = rows[0][0] in {result.name for result in run.found}
    says = {"finalists": finalists, "bound": BOUND}
    return Chart("seeds", [panel], run.score, says=says)


def race_chart(rules: list[Raced]) -> Chart:
    """Return the first reward against the estimate, of the rules that led by the first reward."""
    led = first_leaders(rules)
    rows = np.array([(r.rewards[0], r.estimate.mean, r.estimate.error) for r in led.rules])
    kept = np.array(led.kept)
    ends = [rows[:, :2].min(), rows[:, :2].max()]
    marks = [line(ends, ends, "faint", 1, dash="4 2")]
    names = {"blue": f"among the best {len(rows)} now", "orange": "no longer"}
    for (colour, label), shown in zip(names.items(), (kept, ~kept), strict=True):
        first, mean, error = rows[shown].T
        half = BOUND * np.nan_to_num(error)
        bars = np.column_stack([first, mean - half, first, mean + half]).reshape(-1, 2, 2)
        marks.append(Mark("line", list(bars), colour, 1.4))
        marks.append(dots(first, mean, colour, 6, label=label))
    panel = Panel(marks, Axis(grid=True))
    says = {"count": len(rows), "bound": BOUND}
    return Chart("race", [panel], "first reward", "estimate now", says=says)


def watch_chart(run: Run) -> Chart:
    """Return the estimate of the best rule and its rewards on the watch tasks over trainings."""
    rows = run.watched
    trained = [row.trained for row in rows]
    low, means = [row.low for row in rows], [row.reward for row in rows]
    rewards = np.array([row.rewards for row in rows], float).T
    marks = [
        line([trained[0], trained[-1]], [0, 0], "rule", 1.5),
        line(trained, low, "blue", 1, dash="4 2", label="bound from below"),
        line(trained, means, "blue", 2.4),
        dots(trained, means, "blue", 6, label="fitness"),
    ]
    colours = [name for name in SERIES if name != "blue"]
    for number, (name, values) in enumerate(zip(run.watch, rewards, strict=True)):
        colour, shape = colours[number % len(colours)], "s^vD"[number % 4]
        marks.append(line(trained, values, colour))
        marks.append(dots(trained, values, colour, 7, shape=shape, label=name))
    panel = Panel(marks, Axis(kind="whole"), height=260)
    y = f"reward: {run.score}"
    return Chart("watch", [panel], "rules trained", y, says={"bound": BOUND})
