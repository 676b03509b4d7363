"""The funnel: from run folders to rules that were seen to be better elsewhere."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nos_optax._command import make_console, printable, user_path
from nos_optax._files import refuse_links
from nos_optax._version import __version__
from nos_optax.compare import Budget, Comparison, Rival, as_rival, compare
from nos_optax.compare.records import write_results
from nos_optax.grammar import UpdateRule, parse
from nos_optax.grammar.program import pad_programs
from nos_optax.population import SuiteTrainer, Task, Workload
from nos_optax.population.accelerator import enable_compilation_cache, select_devices
from nos_optax.population.flags import own_flags
from nos_optax.population.reference import reference_store
from nos_optax.population.suite import LARGER, RATES
from nos_optax.population.workloads import load_workload
from nos_optax.search.promote.entrants import Entrant, best_of_runs
from nos_optax.search.promote.page import write_page
from nos_optax.search.promote.results import Promoted, Promotion, markdown
from nos_optax.search.promote.simplify import simplify
from nos_optax.search.promote.stages import Course, Stage, run_stage
from nos_optax.search.rivals import ALL_RIVALS

OUT = Path("runs/promote")
FIRST_SEED = 5 * 10**8  # beyond a search's, and none of those that judge at its end
SEEDS_OF_A_STAGE = 1000
TUNING_SEEDS = 2

Tasks = Sequence["str | Task | Workload"]


@own_flags()
def promote(
    runs: Sequence[Path | str],
    tasks: Tasks = tuple(LARGER),
    *,
    stages: Sequence[int] | None = None,
    rules: int = 24,
    promoted: int = 3,
    seeds: int = 3,
    test: Tasks = (),
    test_seeds: int = 8,
    rivals: Mapping[str, str | Rival] = ALL_RIVALS,
    out: Path | str = OUT,
    accelerator: str = "auto",
    data_dir: Path | str | None = None,
    progress: bool = True,
) -> Promotion:
    """Let the best rules of searches through stages of ever larger tasks, then judge who is left.

    The rules train with a third of their learning rates in the search, these rates, and three times
    as much, and further where that is better; the less promising stop early, by bounds. Those that
    come through lose what they do not need, and are compared on the test tasks with tuned
    rivals: equal tuning, and seeds that nothing was chosen by. Every training
    is kept in the folder, so the same call goes on where a killed one stopped.

    Args:
        runs: folders of searches, of the protocol `speed`.
        tasks: what the rules train, the smaller first, as for `load_workload`.
        stages: how many of the tasks each stage has, in order; one stage of all where None.
        rules: how many enter.
        promoted: how many come through.
        seeds: trainings of each rate in the first stage; each stage has twice those of the last.
        test: tasks that had no part in finding the rules; no comparison where there are none.
        test_seeds: trainings there that are compared.
        rivals: by what tables call them, as for `nos_optax.compare.as_rival`; the first is what the
            others are compared with.
        out: folder for `promotion.json`, `promotion.md`, `promotion.html`, the comparison in `test`
            and the trainings.
        accelerator: `cpu`, `gpu`, `tpu`, or `auto` for the best that is present.
        data_dir: TensorFlow Datasets folder of the task `cifar10`.
        progress: whether to show what is being trained.

    Raises:
        ValueError: a run has nothing to promote, a task is none, or a number is out of range.
        OSError: a folder holds no run, or cannot be written.

    Example:
        >>> from nos_optax.search.promote import promote
        >>> found = promote(["runs/a", "runs/b"], test=["module:task"])  # doctest: +SKIP
    """
    groups = _groups(list(tasks), stages)
    _check_numbers(rules, promoted, seeds, test_seeds)
    enable_compilation_cache()
    devices = select_devices(accelerator)
    out, images = user_path(out), None if data_dir is None else user_path(data_dir)
    loaded = [[load_workload(task, data_dir=images) for task in group] for group in groups]
    tested = [load_workload(task, data_dir=images) for task in test]
    _refuse_overlap(loaded, tested)
    refuse_links(out)
    out.mkdir(parents=True, exist_ok=True)
    entrants = best_of_runs([user_path(run) for run in runs], rules, devices)

    console = make_console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed} trainings"),
        TimeElapsedColumn(),
    )
    quiet = not progress or not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=quiet) as bar:
        shown = bar.add_task("", total=None)

        def say(words: str) -> None:
            bar.update(shown, description=printable(words)[:70])
            if progress and quiet:
                with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
                    console.print(words)

        found = _funnel(entrants, loaded, promoted, seeds, devices, out, say, bar, shown)
    through, results, spent = found
    comparison = _tested(through, rivals, tested, test_seeds, out, accelerator, progress)
    facts = {
        "runs": sorted({entrant.run for entrant in entrants}),
        "seeds": seeds,
        "test_tasks": [workload.task.name for workload in tested],
        "devices": [str(device) for device in devices],
        "versions": {"nos_optax": __version__, "jax": jax.__version__},
    }
    promotion = Promotion(tuple(entrants), tuple(results), tuple(through), comparison, spent, facts)
    write_results(out, "promotion", promotion.as_json(), markdown(promotion))
    write_page(promotion, out)
    return promotion


def _groups(tasks: list, stages: Sequence[int] | None) -> list[list]:
    """Return the tasks of each stage.

    Raises:
        ValueError: there are no tasks, or the stages have not as many.
    """
    sizes = [len(tasks)] if stages is None else list(stages)
    if not tasks or sum(sizes) != len(tasks) or min(sizes) < 1:
        raise ValueError(
            f"stages={sizes} must be positive and share out all {len(tasks)} tasks, of which there "
            "must be at least one"
        )
    ends = np.cumsum(sizes)
    return [tasks[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _check_numbers(rules: int, promoted: int, seeds: int, test_seeds: int) -> None:
    if not 1 <= promoted <= rules:
        raise ValueError(f"promoted must be from 1 to the {rules} rules that enter, got {promoted}")
    most = SEEDS_OF_A_STAGE // 8
    if not 2 <= seeds <= most or test_seeds < 2:
        raise ValueError(
            f"seeds must be from 2 to {most} and test_seeds at least 2, to have an error; got "
            f"{seeds} and {test_seeds}"
        )


def _refuse_overlap(stages: Sequence[Sequence[Workload]], tested: Sequence[Workload]) -> None:
    """Refuse a test task by which rules are chosen.

    Raises:
        ValueError: there is one.
    """
    chosen_by = {workload.task.name for stage in stages for workload in stage}
    if twice := sorted(chosen_by & {workload.task.name for workload in tested}):
        raise ValueError(
            f"test tasks must have no part in choosing the rules: {', '.join(twice)} is among the "
            "tasks of a stage"
        )


def _funnel(
    entrants: Sequence[Entrant],
    stages: Sequence[Sequence[Workload]],
    promoted: int,
    seeds: int,
    devices: list[jax.Device],
    out: Path,
    say: Callable[[str], None],
    bar: Progress,
    shown,
) -> tuple[list[Promoted], list, dict[str, float]]:
    """Return who came through, what happened at each stage, and what was spent on each rule."""
    rivals = [Rival(e.rule, e.rule, e.update_rule()) for e in entrants]
    programs = [entrant.program() for entrant in entrants]
    longest = max(map(len, programs))
    padded = np.stack([pad_programs(program, longest) for program in programs])
    factors = np.array([entrant.factor for entrant in entrants])
    left, results, spent = np.arange(len(rivals)), [], {}
    for number, workloads in enumerate(stages, 1):
        say(f"stage {number}: compiling, and tuning Adam where it is not known")
        suite = SuiteTrainer(workloads, longest, devices, store=reference_store())
        suite.compile()
        course = Course(
            suite,
            out,
            lambda count: bar.advance(shown, count),
            lambda words, number=number: say(f"stage {number}: {words}"),
        )
        around = suite.centres(padded[left]) * factors[left, None]
        able = np.isfinite(around).all(axis=1)  # the others do not train on these tasks
        left, around = left[able], around[able]
        if not len(left):
            names = ", ".join(course.tasks)
            raise ValueError(f"no rule has finite updates on {names}: name other tasks")
        kept = round(len(entrants) * (promoted / len(entrants)) ** (number / len(stages)))
        stage = Stage(
            seeds * 2 ** (number - 1), max(kept, 1), FIRST_SEED + number * SEEDS_OF_A_STAGE
        )
        heats = run_stage(course, stage, [rivals[i] for i in left], around)
        results.append((tuple(course.tasks), tuple(heats)))
        last = heats[-1]
        order = np.argsort(-last.means)[: stage.kept]
        names = [rival.name for rival in rivals]
        left = np.array([names.index(last.rules[i]) for i in order])
        # On the next tasks the search for rates begins where they were best on these.
        centres = suite.centres(padded[left])
        factors[left] = np.exp(np.mean(np.log(last.rates[order] / centres), axis=1))
        for rule, cost in course.spent.items():
            spent[rule] = spent.get(rule, 0.0) + cost
    through = []
    seen = range(stage.first_seed, stage.first_seed + stage.seeds)
    for place, (i, rates) in enumerate(zip(left, last.rates[order], strict=True), 1):
        say(f"what of {rivals[i].what} can go")
        rest, deletions = simplify(course, rivals[i], rates, seen)
        through.append(Promoted(f"found {place}", entrants[i], rest.what, tuple(deletions)))
    return through, results, spent


def _tested(
    through: Sequence[Promoted],
    others: Mapping[str, str | Rival],
    tested: Sequence[Workload],
    seeds: int,
    out: Path,
    accelerator: str,
    progress: bool,
) -> Comparison | None:
    """Compare what came through with all rivals on the test tasks; what it is, counts once."""
    if not tested:
        return None
    rivals = [as_rival(text)._replace(name=name) for name, text in others.items()]
    known = {r.optimizer.digest for r in rivals if isinstance(r.optimizer, UpdateRule)}
    for promoted in through:
        whole = promoted.simplified == promoted.entrant.rule
        rule = promoted.entrant.update_rule() if whole else parse(promoted.simplified)
        if rule.digest not in known:
            known.add(rule.digest)
            rivals.append(Rival(promoted.name, promoted.simplified, rule))
    return compare(
        rivals,
        tested,
        budget=Budget(
            rates=RATES,
            tuning_seeds=TUNING_SEEDS,
            seeds=seeds,
            measure="speed",
            centred=True,
            first_seed=FIRST_SEED,
        ),
        out=out / "test",
        accelerator=accelerator,
        progress=progress,
    )
