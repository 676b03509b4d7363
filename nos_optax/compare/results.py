"""What a comparison came to: rows, verdicts, a table, a file."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from statistics import fmean

from rich import box
from rich.table import Table

from nos_optax._command import printable
from nos_optax.compare.statistics import SIGNIFICANCE, Difference, difference, holm
from nos_optax.compare.trials import HIGHER_IS_BETTER, MEASURES, Outcome
from nos_optax.population.reference import from_fields

BASELINE, BETTER, WORSE, UNDECIDED = "baseline", "better", "worse", "undecided"
ALL_TASKS = "all tasks"


@dataclasses.dataclass(frozen=True)
class Row:
    """A rival on a task.

    Attributes:
        task: its name.
        name: of the rival.
        what: the rule, or where the optimizer is found.
        rate: the best learning rate.
        rates: all that were tried.
        inside: whether the best rate has tried neighbours on both sides.
        scores: of the fresh seeds, by the measure.
        mean: of the scores.
        deviation: standard deviation of the scores.
        n: how many seeds.
        learned: how many trainings ended with a lower validation loss than they began with.
        validation_loss: mean of the fresh seeds.
        training_loss: mean of the fresh seeds, over the whole of each training.
        difference: to the baseline, paired by seed; None of the baseline.
        p_holm: p of the difference by Holm's correction over the task's rivals; None of the
            baseline.
        verdict: `better`, `worse` or `undecided` by Holm's procedure at 5 %, or `baseline`.
    """

    task: str
    name: str
    what: str
    rate: float
    rates: tuple[float, ...]
    inside: bool
    scores: tuple[float, ...]
    mean: float
    deviation: float
    n: int
    learned: int
    validation_loss: float
    training_loss: float
    difference: Difference | None = None
    p_holm: float | None = None
    verdict: str = BASELINE


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The rows of all tasks, each task's best mean first.

    Attributes:
        measure: what is compared.
        baseline: name of the rival that the differences are to.
        rows: task by task.
        facts: how it was measured.
    """

    measure: str
    baseline: str
    rows: tuple[Row, ...]
    facts: dict

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in order."""
        return list(dict.fromkeys(row.task for row in self.rows))

    def of(self, task: str) -> list[Row]:
        """Return a task's rows, the best mean first."""
        return [row for row in self.rows if row.task == task]

    def sentence(self, task: str) -> str:
        """Return what to take home from a task."""
        rows = [row for row in self.of(task) if row.verdict != BASELINE]
        said = []
        for verdict in (BETTER, WORSE, UNDECIDED):
            found = [row for row in rows if row.verdict == verdict]
            if found:
                names = ", ".join(
                    f"{printable(row.name)} ({interval(row.difference)})" for row in found
                )
                said.append(f"{verdict}: {names}")
        family = f"Holm over {len(rows)} rivals" if len(rows) > 1 else "one rival"
        return (
            f"{printable(task)}: against {printable(self.baseline)}, in the "
            f"{MEASURES[self.measure]}, {family}: {'; '.join(said)}."
        )

    def against(self, name: str) -> "Comparison":
        """Return the same scores with differences to another rival, and verdicts by these.

        Raises:
            ValueError: there is none of that name.
        """
        rows = [row for task in self.tasks for row in _judged(self.of(task), name, self.measure)]
        return dataclasses.replace(self, baseline=name, rows=tuple(rows))

    def leaders(self, task: str) -> str:
        """Return which rival is best on a task, and which ones are not told apart from it."""
        best = self.of(task)[0].name
        judged = _judged(self.of(task), best, self.measure)
        alike = [row for row in judged if row.verdict == UNDECIDED]
        names = ", ".join(f"{printable(row.name)} ({interval(row.difference)})" for row in alike)
        said = f"{printable(task)}: the best mean is that of {printable(best)}; "
        return said + (f"not told apart from it: {names}." if alike else "all others are worse.")

    def notes(self) -> list[str]:
        """Return what a reader must know before believing it."""
        notes = list(self._beyond_measure())
        if edge := [f"{_place(r)} ({r.rate:g})" for r in self.rows if not r.inside]:
            notes.append(
                f"The best learning rate is at an end of those tried (! in the table): "
                f"{', '.join(edge)}. Give more --rates."
            )
        if lost := [
            f"{_place(r)} ({r.n - r.learned} of {r.n})" for r in self.rows if r.learned < r.n
        ]:
            notes.append(f"Trainings that learned nothing, or diverged: {', '.join(lost)}.")
        return notes

    def _beyond_measure(self) -> Iterator[str]:
        """Yield where trainings were faster than can be told."""
        for task, facts in self.facts.get("tasks", {}).items():
            if "adam" not in facts:
                continue
            most = from_fields(facts["adam"]).most
            reached = [(row, sum(x > most - 1e-6 for x in row.scores)) for row in self.of(task)]
            if names := [f"{printable(row.name)} ({n} of {row.n})" for row, n in reached if n]:
                yield (
                    f"On {printable(task)} no more than {most:.3g} doublings can be told, as "
                    f"Adam's loss falls no further. Trainings that came to it: {', '.join(names)}."
                )


def _place(row: Row) -> str:
    """Return which rival a row is of, on which task, for a line of text."""
    return printable(f"{row.name} on {row.task}")


def interval(change: Difference | None) -> str:
    """Return a difference and its interval as text."""
    if change is None:
        return ""
    if not math.isfinite(change.mean):
        return "not finite"
    digits = max(2, 2 - _magnitude(max(abs(change.low - change.mean), abs(change.mean) / 100)))
    mean, low, high = (f"{x:+.{digits}f}" for x in change[:3])
    return f"{mean} [{low}, {high}]"


def _magnitude(x: float) -> int:
    return math.floor(math.log10(x)) + 1 if x > 0 else 0


def rows_of(task: str, outcomes: Sequence[Outcome], baseline: str, measure: str) -> list[Row]:
    """Return a task's rows, the best mean first.

    Raises:
        ValueError: the baseline is none of the rivals.
    """
    rows = [
        Row(
            task,
            outcome.rival.name,
            outcome.rival.what,
            outcome.rate,
            outcome.rates,
            outcome.inside,
            outcome.values,
            *mean_and_deviation(outcome.values),
            len(outcome.values),
            sum(run.learned for run in outcome.runs),
            fmean(run.loss for run in outcome.runs),
            fmean(run.training_loss for run in outcome.runs),
        )
        for outcome in outcomes
    ]
    return _judged(rows, baseline, measure)


def over_all(rows: Sequence[Row], baseline: str) -> list[Row]:
    """Return rows of what rivals do over all tasks by the measure `speed`, the best mean first.

    A score is the mean over the tasks of those of a seed; a rate is the geometric mean.
    """
    named: dict[str, list[Row]] = {}
    for row in rows:
        named.setdefault(row.name, []).append(row)
    means = {
        name: tuple(fmean(scores) for scores in zip(*(row.scores for row in each), strict=True))
        for name, each in named.items()
    }
    together = [
        Row(
            ALL_TASKS,
            name,
            each[0].what,
            math.exp(fmean(math.log(row.rate) for row in each)),
            (),
            True,  # where a rate is at an end, the row of its task says so
            means[name],
            *mean_and_deviation(means[name]),
            each[0].n,
            min(row.learned for row in each),
            fmean(row.validation_loss for row in each),
            fmean(row.training_loss for row in each),
        )
        for name, each in named.items()
    ]
    return _judged(together, baseline, "speed")


def _judged(rows: Sequence[Row], baseline: str, measure: str) -> list[Row]:
    """Return rows with their differences to the baseline and verdicts, the best mean first.

    Raises:
        ValueError: the baseline is none of the rivals.
    """
    named = {row.name: row for row in rows}
    if baseline not in named:
        raise ValueError(f"the baseline {baseline!r} is none of the rivals {', '.join(named)}")
    others = [name for name in named if name != baseline]
    changes = {name: difference(named[name].scores, named[baseline].scores) for name in others}
    adjusted = dict(zip(others, holm([changes[name].p for name in others]), strict=True))
    sign = 1 if HIGHER_IS_BETTER[measure] else -1

    def verdict(name: str) -> str:
        if not adjusted[name] <= SIGNIFICANCE:
            return UNDECIDED
        return BETTER if sign * changes[name].mean > 0 else WORSE

    judged = [
        dataclasses.replace(row, difference=None, p_holm=None, verdict=BASELINE)
        if row.name == baseline
        else dataclasses.replace(
            row,
            difference=changes[row.name],
            p_holm=adjusted[row.name],
            verdict=verdict(row.name),
        )
        for row in rows
    ]
    return sorted(judged, key=lambda row: -sign * row.mean)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of values and their standard deviation, of a sample."""
    mean = fmean(values)
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))


def table(comparison: Comparison, task: str) -> Table:
    """Return a task's table."""
    found = Table(title=task, title_justify="left", box=box.SIMPLE)
    found.add_column("rival", overflow="fold")
    headings = ("rate", comparison.measure, "sd", "training loss", "difference [95 %]", "verdict")
    for heading in headings:
        found.add_column(heading, justify="left" if heading == "verdict" else "right", no_wrap=True)
    for row in comparison.of(task):
        found.add_row(
            row.name,
            f"{row.rate:.2g}" + ("" if row.inside else " !"),
            f"{row.mean:.4g}",
            f"{row.deviation:.2g}",
            f"{row.training_loss:.4g}",
            interval(row.difference),
            row.verdict,
        )
    return found


def markdown(comparison: Comparison) -> str:
    """Return everything as Markdown: what was measured, a table and a sentence for each task."""
    facts = comparison.facts
    lines = [
        "# Optimizers compared",
        "",
        f"Measure: {MEASURES[comparison.measure]}. Each learning rate was tried with "
        f"{facts['tuning_seeds']} seed{'s' * (facts['tuning_seeds'] > 1)}; the best one trained "
        f"again with {facts['seeds']} others, and these are compared. Differences are to "
        f"{comparison.baseline}, paired by seed, with t intervals of 95 %; verdicts are by Holm's "
        "procedure at 5 % over the rivals of a task. The intervals do not cover the choice of the "
        "rate.",
    ]
    for task in comparison.tasks:
        lines += ["", f"## {cell(task)}", "", _setting(facts["tasks"].get(task)), ""]
        lines += [
            f"| rival | what | rate | {comparison.measure} | sd | validation loss | training loss "
            "| difference [95 %] | verdict |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {cell(row.name)} | {cell(row.what)} | {row.rate:.2g} | {row.mean:.4g} | "
            f"{row.deviation:.2g} | {row.validation_loss:.4g} | {row.training_loss:.4g} | "
            f"{interval(row.difference)} | {row.verdict} |"
            for row in comparison.of(task)
        ]
        lines += ["", _plain(comparison.sentence(task)), "", _plain(comparison.leaders(task))]
    lines += [text for note in comparison.notes() for text in ("", _plain(note))]
    return "\n".join(lines) + "\n"


def _setting(setting: dict | None) -> str:
    """Return how a task was trained, or what stands under all tasks."""
    if setting is None:
        return "Each score is the mean over the tasks with one seed."
    return (
        f"{setting['steps']} steps with {setting['minibatch_size']} examples each, "
        f"{setting['parameters']:,} parameters, scored on {setting['scored_on']}."
    )


def _plain(text: str) -> str:
    """Return text in which names are no markup."""
    return re.sub(r"([\\`*_<>#|]|(?<=\])\()", r"\\\1", printable(text))


def cell(text: str) -> str:
    """Return text that cannot end a cell of a Markdown table or become markup there."""
    return "`" + printable(text).replace("`", "'").replace("|", "\\|") + "`"
