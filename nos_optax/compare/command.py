"""The comparison: from names to files."""

import contextlib
import dataclasses
import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from nos_optax._command import make_console, printable, say, user_path
from nos_optax._files import refuse_links
from nos_optax._version import __version__
from nos_optax.compare.picture import draw
from nos_optax.compare.records import write_results
from nos_optax.compare.results import Comparison, Row, markdown, over_all, rows_of, table
from nos_optax.compare.rivals import Rival, as_rival
from nos_optax.compare.trials import Budget, Trials, digest_of, open_records
from nos_optax.grammar import UpdateRule
from nos_optax.grammar.program import pad_programs
from nos_optax.population import SuiteTrainer, Task, TaskLoop, Workload
from nos_optax.population.accelerator import enable_compilation_cache, select_devices
from nos_optax.population.flags import own_flags
from nos_optax.population.reference import reference_store
from nos_optax.population.task_check import check_task
from nos_optax.population.workloads import load_workload

OUT = Path("runs/compare")


@own_flags()
def compare(
    rivals: "Sequence[str | UpdateRule | Rival]",
    tasks: "Sequence[str | Task | Workload] | str | Task | Workload",
    *,
    budget: Budget | None = None,
    baseline: str | None = None,
    epochs: int | None = None,
    minibatch_size: int | None = None,
    out: Path | str = OUT,
    accelerator: str = "auto",
    data_dir: Path | str | None = None,
    progress: bool | Callable[[str], None] = True,
    suite: SuiteTrainer | None = None,
) -> Comparison:
    """Compare optimizers on tasks: equal tuning, fresh seeds, paired differences.

    Every training is kept in the folder, so the same call goes on where a killed one stopped, and
    one with another rival trains only that.

    Args:
        rivals: what is compared, as for `as_rival`.
        tasks: what they train, as for `load_workload`.
        budget: learning rates, seeds and measure.
        baseline: name of the rival that the differences are to; the first where None.
        epochs: of a training; where None the task's own length, or 5.
        minibatch_size: examples in a minibatch; where None the task's own, or 32.
        out: folder for `results.json`, `results.md`, `results.svg` and the trainings.
        accelerator: `cpu`, `gpu`, `tpu`, or `auto` for the best that is present.
        data_dir: TensorFlow Datasets folder of the task `cifar10`.
        progress: whether to show a progress bar in a terminal; or what is told in a few words what
            is being trained.
        suite: a trainer that has compiled these tasks already, for the measure `speed`.

    Returns:
        The rows of all tasks, the best first, with their verdicts.

    Raises:
        ValueError: a rival or a task is none, or cannot train; two have one name; a number is out
            of range.
        OSError: the folder cannot be written, or is in use.

    Example:
        >>> from nos_optax.compare import compare
        >>> found = compare(["adam", "optax.lion"], "digits-mlp", out="runs/x")  # doctest: +SKIP
        >>> print(found.sentence("digits-mlp"))  # doctest: +SKIP
    """
    enable_compilation_cache()
    devices = select_devices(accelerator)
    budget, out = budget or Budget(), user_path(out)
    images = None if data_dir is None else user_path(data_dir)
    tasks = [tasks] if isinstance(tasks, str | Task | Workload) else list(tasks)
    named = _distinct("rivals", [as_rival(rival) for rival in rivals], lambda rival: rival.name)
    workloads = _distinct(
        "tasks",
        [load_workload(task, minibatch_size, epochs, images) for task in tasks],
        lambda workload: workload.task.name,
    )
    first = next(iter(named)) if baseline is None else baseline
    if len(named) < 2 or first not in named:
        raise ValueError(
            f"give at least two rivals, the baseline among them; got {', '.join(named)} and the "
            f"baseline {first}"
        )
    for workload in workloads.values():
        if suite is None:
            check_task(workload.task, workload.minibatch_size)
        for rival in named.values():
            if rival.program() is None:  # every program trains every task
                rival.check(workload.task)
    _take(out)
    if budget.measure == "speed" and suite is None:
        suite = SuiteTrainer(
            list(workloads.values()), _iterations(named), devices, store=reference_store()
        )

    centres = {} if suite is None or not budget.centred else _centres(suite, named)

    rows: list[Row] = []
    settings: dict[str, dict] = {}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = make_console()
    told = progress if callable(progress) else None
    quiet = told or not progress or not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=bool(quiet)) as bar:
        for number, (name, workload) in enumerate(workloads.items()):
            trials, settings[name], shown = _trials(
                number, workload, named, budget, suite, centres, devices, out, bar
            )
            outcomes = []
            for rival in named.values():
                doing = printable(f"{name}: {rival.name}")
                bar.update(shown, description=doing[:60])
                if told:
                    told(doing)
                elif progress and bar.disable:
                    with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
                        console.print(doing)  # a log shows how far it is, too
                outcomes.append(trials.run(rival))
            rows += rows_of(name, outcomes, first, budget.measure)
    if budget.measure == "speed" and len(workloads) > 1:  # the one measure that tasks share
        rows = over_all(rows, first) + rows
    facts = {
        "tasks": settings,
        **{k: v for k, v in dataclasses.asdict(budget).items() if k != "measure"},
        "devices": [str(device) for device in devices],
        "device_kind": devices[0].device_kind,
        "versions": {
            "nos_optax": __version__,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "python": platform.python_version(),
        },
    }
    found = Comparison(budget.measure, first, tuple(rows), facts)
    write(found, out)
    return found


def _distinct(kind: str, given: list, name: Callable) -> dict:
    """Return what was given, by name.

    Raises:
        ValueError: there is none, or two have one name.
    """
    names = [name(each) for each in given]
    twice = sorted({each for each in names if names.count(each) > 1})
    if not given or twice:
        raise ValueError(
            f"{kind} need different names; given more than once: {', '.join(twice)}"
            if given
            else f"there are no {kind}: name at least one"
        )
    return dict(zip(names, given, strict=True))


def _trials(
    number: int,
    workload: Workload,
    rivals: dict[str, Rival],
    budget: Budget,
    suite: SuiteTrainer | None,
    centres: dict[str, np.ndarray],
    devices: list[jax.Device],
    out: Path,
    bar: Progress,
) -> tuple[Trials, dict, TaskID]:
    """Return what trains rivals on a task, its setting, and where the bar shows how far it is.

    With a suite, which has the task at this number, it is the suite's loop that trains, and rules
    have these centres of their rates on its tasks.
    """
    task, steps, scores = workload.task, workload.horizon, budget.measure == "score"
    reference, centre = None, lambda rival: 1.0
    if suite is None:
        size, iterations = workload.minibatch_size, _iterations(rivals)
        loop = TaskLoop(task, size, steps, iterations, devices, scores=scores)
    else:
        tuning = bar.add_task(printable(f"{task.name}: tuning Adam"), total=None)
        loop, reference = suite.loops[number], suite.references[number]
        bar.remove_task(tuning)
        if budget.centred:
            centre = partial(_centre, suite, centres, number, workload)
    setting = {
        "steps": steps,
        "minibatch_size": workload.minibatch_size,
        "parameters": task.num_params,
        "scored_on": "the validation set" if task.test is None else "the test set",
        "digest": digest_of(loop, steps),
    }
    if reference is not None:
        setting["adam"] = dataclasses.asdict(reference)
    each = len(budget.rates) * budget.tuning_seeds + budget.seeds
    shown = bar.add_task(printable(task.name), total=each * len(rivals))

    def advance(count: int) -> None:
        bar.advance(shown, count)
        (row,) = (row for row in bar.tasks if row.id == shown)
        # The rates beyond an end were not foreseen.
        bar.update(shown, total=max(row.total or 0, row.completed))

    records = open_records(out, loop, steps)
    return Trials(loop, steps, budget, records, reference, advance, centre), setting, shown


def _iterations(rivals: dict[str, Rival]) -> int:
    """Return the length of the longest program."""
    programs = [rival.program() for rival in rivals.values()]
    return max((len(program) for program in programs if program is not None), default=1)


def _centres(suite: SuiteTrainer, rivals: dict[str, Rival]) -> dict[str, np.ndarray]:
    """Return, of rivals that are programs, the rates that `_centre` gives on each task."""
    programs = {name: p for name, rival in rivals.items() if (p := rival.program()) is not None}
    padded = [pad_programs(program, suite.iterations) for program in programs.values()]
    return dict(zip(programs, suite.centres(np.stack(padded)), strict=True)) if padded else {}


def _centre(
    suite: SuiteTrainer,
    centres: dict[str, np.ndarray],
    number: int,
    workload: Workload,
    rival: Rival,
) -> float:
    """Return the rate at which a rival's first updates are as large as tuned Adam's."""
    if rival.name in centres:
        centre = centres[rival.name][number]
    else:
        centre = suite.centre_of(rival.factory(workload.horizon), number)
    if np.isnan(centre):
        raise ValueError(
            f"{rival.name} cannot train {workload.task.name}: its first updates are not finite, or "
            "all zero"
        )
    return float(centre)


def _take(out: Path) -> None:
    """Make the folder, or say why it cannot hold the results.

    Raises:
        OSError: it is a file, or holds a `results.json` of something else.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file; name a folder")
    refuse_links(out, ("trainings", "results.json", "results.md", "results.svg"))
    old = out / "results.json"
    if old.exists() and '"baseline"' not in old.read_text(encoding="utf-8", errors="replace"):
        raise FileExistsError(f"{old} is of something else; name another folder by --out")
    out.mkdir(parents=True, exist_ok=True)


def write(comparison: Comparison, out: Path) -> None:
    """Write `results.json`, `results.md` and `results.svg`."""
    content = {
        "measure": comparison.measure,
        "baseline": comparison.baseline,
        "facts": comparison.facts,
        "tasks": {
            task: {
                "sentence": comparison.sentence(task),
                "leaders": comparison.leaders(task),
                "rivals": [_plain(row) for row in comparison.of(task)],
            }
            for task in comparison.tasks
        },
        "notes": comparison.notes(),
    }
    write_results(out, "results", content, markdown(comparison))
    draw(comparison, out / "results.svg")


def _plain(row: Row) -> dict:
    """Return a row as JSON has it, its difference and the interval under names of their own."""
    fields = {k: v for k, v in dataclasses.asdict(row).items() if k not in ("task", "difference")}
    change = row.difference
    if change is None:
        return fields | {"difference": None, "interval": None, "p": None}
    return fields | {
        "difference": change.mean,
        "interval": [change.low, change.high],
        "p": change.p,
    }


def show(comparison: Comparison, out: Path, console: Console) -> None:
    """Print the tables, what they say, and where they are."""
    for task in comparison.tasks:
        console.print(table(comparison, task))
        console.print(comparison.sentence(task), highlight=False)
        console.print(comparison.leaders(task), highlight=False)
        console.print()
    for note in comparison.notes():
        console.print(note, highlight=False)
    say(f"Wrote {user_path(out) / 'results.md'}, results.json and results.svg")
