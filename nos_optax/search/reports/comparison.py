"""The page that compares several runs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nos_optax.search.reports.groups import Group, differences
from nos_optax.search.reports.markup import (
    code,
    counted,
    duration,
    interval,
    json_text,
    page,
    paragraph,
    score,
    section,
    table,
    text,
)
from nos_optax.search.reports.mathematics import mathml
from nos_optax.search.reports.picture import Picture, figure
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.statistics import reward_array, t_interval
from nos_optax.search.results import Result

RULES = 3  # the best of each run


def comparison_page(groups: Sequence[Group], pictures: Mapping[str, Picture]) -> str:
    """Return the comparison of runs as HTML."""
    drawn = {name: figure(picture) for name, picture in pictures.items()}
    curves = "".join(drawn.get(name, "") for name in ("rewards", "best", "quantiles"))
    sections = {
        "groups": ("The runs", _groups(groups)),
        "rewards": ("Rewards", curves or paragraph("No run has a candidate yet.")),
        "rules": ("The best rules", drawn.get("scores", "") + _rules(groups)),
        "differences": ("What differs", _differences(groups)),
        "time": ("Time", _time(groups)),
    }
    links = "".join(f'<li><a href="#{n}">{text(t)}</a></li>' for n, (t, _) in sections.items())
    navigation = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    bodies = [section(name, title, body) for name, (title, body) in sections.items()]
    runs = sum(len(group.runs) + len(group.repeats) for group in groups)
    subtitle = f"{counted(runs, 'run')} in {counted(len(groups), 'group')}"
    return page("Searches compared", subtitle, [navigation, *bodies])


def _groups(groups: Sequence[Group]) -> str:
    """Return what each group came to, and which runs are in it."""
    rows = []
    for group in groups:
        quarter = [_last_quarter(run) for run in group.runs if run.candidates]
        fresh = [run.found[0].mean for run in group.runs if run.found]
        names = "<br>".join(_run(run) for run in group.runs)
        names += "".join(f"<br>{_run(run)}: same seed, not counted" for run in group.repeats)
        count = f"{len(group.runs):,}"
        rows.append((text(group.label), count, _mean(quarter), _mean(fresh), names))
    header = ("group", "n", "mean reward, last quarter", "best rule, fresh seeds", "runs")
    caption = "Mean and 95 % t interval over the runs of a group, which differ only in their seeds"
    return table(caption, header, rows, (1,))


def _run(run: Run) -> str:
    """Return a run's folder, and what is missing of it."""
    count = f"{len(run.candidates):,}" + (f" of {run.samples:,}" if run.samples else "")
    note = "" if run.finished else f", not finished: {count}"
    return f"{code(run.path)} seed {text(run.config.get('seed', 'unknown'))}{note}"


def _last_quarter(run: Run) -> float:
    rewards = reward_array(run.candidates)
    return float(rewards[-max(1, len(rewards) // 4) :].mean())


def _mean(values: Sequence[float]) -> str:
    """Return a mean with its interval, as markup."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "none"
    ends = t_interval(finite)
    tail = f"<br><small>{interval(ends)}</small>" if ends else ""
    return f"{score(float(np.mean(finite)))}{tail}"


def _rules(groups: Sequence[Group]) -> str:
    """Return the best rules of each run."""
    rows = []
    for group in groups:
        for run in group.runs:
            for result in (*run.found[:RULES], *run.standard[:1]):
                searched = "" if result.searched is None else score(result.searched)
                seed = text(run.config.get("seed", "unknown"))
                scores = _mean(result.rewards)
                name = text(result.name.replace(" ", "\u00a0"))
                rows.append((text(group.label), seed, name, scores, searched, _formula(result)))
    if not rows:
        return paragraph("No run has trained its best rules again.")
    header = ("group", "seed", "rule", "fresh seeds", "in the search", "update")
    caption = (
        f"The {RULES} best found rules of each run and its best standard optimizer: mean and 95 % "
        "t interval over fresh seeds. The reward in the search is the maximum of many and flatters."
    )
    return table(caption, header, rows, (1, 4))


def _formula(result: Result) -> str:
    """Return a rule typeset and as it is written; the name of an optimizer that is no rule."""
    if not result.tokens:
        return code(result.rule)
    return f'<div class="mathematics" tabindex="0">{mathml(result.rule)}</div>{code(result.rule)}'


def _differences(groups: Sequence[Group]) -> str:
    """Return the settings in which the groups differ."""
    different = differences([group.runs[0] for group in groups])
    if not different:
        return paragraph("The runs differ in nothing but their seeds.")
    rows = [
        (code(name), *(text(json_text(value)) for value in values))
        for name, values in different.items()
    ]
    header = ("setting", *(group.label for group in groups))
    return table("The settings that are not the same in all groups, without the seed", header, rows)


def _time(groups: Sequence[Group]) -> str:
    """Return the time of each stage of every run."""
    runs = [(group, run) for group in groups for run in (*group.runs, *group.repeats)]
    stages = dict.fromkeys(stage for _, run in runs for stage in run.seconds)
    rows = []
    for group, run in runs:
        parts = [duration(run.seconds[s]) if s in run.seconds else "" for s in stages]
        total = duration(sum(run.seconds.values())) if run.seconds else "not recorded"
        rows.append((text(group.label), code(run.name), total, *parts))
    header = ("group", "run", "in all", *stages)
    return table("Time of each stage", header, rows, range(2, len(header)))
