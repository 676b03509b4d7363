"""Pages: what their templates are given."""

import base64
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nos_optax.search.config import SearchConfig
from nos_optax.search.reports.groups import Group, differences
from nos_optax.search.reports.layout import Drawing
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.seeds import first_leaders, raced_rules, seed_counts
from nos_optax.search.reports.statistics import families, leaders
from nos_optax.search.reports.templates import counted, render, source
from nos_optax.search.reports.theme import COLOURS, VARIABLES
from nos_optax.search.results import Result, nothing_learned

LEADERS = 5  # shown of a run that has not trained its best rules again


def run_page(run: Run, pictures: Mapping[str, Drawing]) -> str:
    """Return the report of a run as HTML."""
    rules, finals = raced_rules(run), run.finals
    several = finals is not None and len(finals.rows) > 1
    least = [(r.name, finals.least(r.name)) for r in run.found] if several else []
    return _page(
        "run.html",
        f"Search on {run.title}",
        str(run.path),
        pictures,
        run=run,
        nothing_learned=nothing_learned(run.results, run.facts),
        least=[(name, found) for name, found in least if found],
        leaders=leaders(run.candidates, LEADERS),
        rules=rules,
        led=first_leaders(rules),
        seed_counts=seed_counts(rules),
        further=sum(len(rule.rewards) - 1 for rule in rules),
        families=families(run.candidates),
        defaults={f.name: f.default for f in dataclasses.fields(SearchConfig)},
        rows=_rows(run),
    )


def comparison_page(groups: Sequence[Group], pictures: Mapping[str, Drawing]) -> str:
    """Return the comparison of runs as HTML."""
    runs = [run for group in groups for run in (*group.runs, *group.repeats)]
    return _page(
        "comparison.html",
        "Searches compared",
        f"{counted(len(runs), 'run')} in {counted(len(groups), 'group')}",
        pictures,
        groups=groups,
        different=differences([group.runs[0] for group in groups]),
        stages=list(dict.fromkeys(stage for run in runs for stage in run.seconds)),
    )


def results_html(results: Sequence[Result], name: str = "validation score") -> str:
    """Return the rules that were trained again as a table, for a notebook."""
    return render("results.html", results=sorted(results, key=lambda r: -r.mean), name=name)


def _page(
    template: str, title: str, subtitle: str, pictures: Mapping[str, Drawing], **values: Any
) -> str:
    """Return a whole page that needs, and may load, nothing else."""
    script = source("page.js")
    return render(
        template,
        title=title,
        subtitle=subtitle,
        pictures=pictures,
        paint=VARIABLES,
        colours=COLOURS,
        style=source("page.css"),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def _rows(run: Run) -> list[tuple[Any, ...]]:
    """Return the rows of the table of all candidates, which the page's script fills."""
    rewards = [c.reward if math.isfinite(c.reward) else None for c in run.candidates]
    return [
        (c.id, c.rule, reward, c.status, c.learning_rate, c.origin, c.reason)
        for c, reward in zip(run.candidates, rewards, strict=True)
    ]
