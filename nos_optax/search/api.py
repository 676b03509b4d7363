"""The search from Python, as in a notebook."""

import contextlib
import dataclasses
import difflib
import os
import re
import signal
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nos_optax._command import make_console, printable, user_path
from nos_optax.grammar import SearchSpace
from nos_optax.population.accelerator import (
    AcceleratorError,
    enable_compilation_cache,
    select_devices,
)
from nos_optax.search.config import GIVEN, SearchConfig
from nos_optax.search.interrupts import interruptible
from nos_optax.search.loading import Given
from nos_optax.search.loop import SearchResult, run_search
from nos_optax.search.results import nothing_learned
from nos_optax.search.run_folder import CONFIG, config_to_resume, folder_of_its_own
from nos_optax.search.terminal import live_progress

# A flag in a message, or a command with its flags, which stay.
FLAG = re.compile(r"`.*?`|python -m .*|(?<!\S)--([a-z][a-z-]*)\b")


@contextlib.contextmanager
def _in_python() -> Generator[None]:
    """Call settings in messages as they are called in Python: `final_seeds`, not --final-seeds."""
    try:
        yield
    except (ValueError, OSError, AcceleratorError) as error:
        error.args = tuple(in_python(x) if isinstance(x, str) else x for x in error.args)
        raise


def in_python(message: str) -> str:
    """Return a message with settings in place of flags, but for those of commands in it."""
    return FLAG.sub(lambda found: found[1].replace("-", "_") if found[1] else found[0], message)


@_in_python()
def search(
    task: Given | Callable[[], Given] | Sequence[Given | Callable[[], Given]] | None = None,
    space: SearchSpace | None = None,
    *,
    progress: bool = True,
    **settings: Any,
) -> SearchResult:
    """Search for update rules that train a model well; as `python -m nos_optax.search` does.

    A child trains on each local device; on CPU that is one device a core, if JAX has not been used
    in this process before. If you use it before (to make the task, for example), call
    `nos_optax.search.select_devices()` first of all; a note says so where it was forgotten.

    Args:
        task: what the children are: a `Task`, or a `Workload`, which says how long it trains;
            images for the paper's ConvNet; a function that returns one of these; or a name, such
            as `digits-mlp`, `cifar10`, or `module:name` of a task, which `engine="ray"` needs.
            Also several of them, in a list. Where None, the suite, or the tasks of the run to
            resume.
        space: the rules that may be written; where None, those of three iterations, each of which
            matters, of the words that `SearchConfig` says.
        progress: whether to show a progress bar, in a notebook or a terminal.
        **settings: of the search, fields of `SearchConfig`: `samples`, `strategy`, `seed`, `out`,
            `resume` and so on. A `strategy` may also be a class, called with the space and a key.

    Returns:
        The candidates, the best rules and the standard optimizers trained again, and the folder,
        which holds all of it too.

    Raises:
        AcceleratorError: the accelerator is absent.
        DatasetError: the data is missing.
        OSError: the folder holds another run, is in use, or cannot be written.
        ValueError: there is no such setting, or its value is out of range; the run to resume has
            another configuration or task.

    Examples:
        >>> from nos_optax.grammar import SearchSpace
        >>> from nos_optax.search import search
        >>> space = SearchSpace(1, operands=("g", "m", "adam"), unary=("x", "sign"), binary=("*",))
        >>> result = search("digits-mlp", space, samples=64)  # doctest: +SKIP
        >>> result.best.rule  # doctest: +SKIP
        'adam * sign(m)'
    """
    _check_names(settings)
    tasks = _as_tasks(task)
    if not isinstance(space, SearchSpace | None):
        raise ValueError(f"the space must be a nos_optax.grammar.SearchSpace, got {space!r}")
    if space is not None:
        clash = {field.name for field in dataclasses.fields(space)} & set(settings)
        if clash:
            raise ValueError(f"{', '.join(sorted(clash))}: given twice, the space has it already")
        settings |= {f.name: getattr(space, f.name) for f in dataclasses.fields(space)}
    strategy = settings.get("strategy")
    strategy = strategy if isinstance(strategy, type) else None
    if strategy is not None:
        settings |= {"strategy": GIVEN}
    if settings.get("train_examples") is not None and not all(isinstance(t, str) for t in tasks):
        raise ValueError("train_examples is of data by name: give a task with fewer examples")
    names = tuple(task if isinstance(task, str) else GIVEN for task in tasks)
    given = tasks if GIVEN in names else []
    config = _config(names, settings)
    if not given and GIVEN in config.task:
        raise ValueError(f"the task of {config.out} was given from Python: give it again")
    if config.engine == "ray" and given:
        raise ValueError("engine='ray' needs a task that workers can import: give 'module:name'")
    enable_compilation_cache()
    console = make_console()
    _note_idle_cores(config, console)
    if config.blind:
        console.print(config.blind)
    with (
        folder_of_its_own(config) as config,
        live_progress(config, console, not progress) as (on_batch, on_stage),
        interruptible(signal.SIGINT) as interrupts,
    ):
        result = run_search(config, interrupts.after(on_batch), on_stage, strategy, tasks=given)
        on_stage("writing the report")
        try_to_report(result.folder)
    if said := nothing_learned(result.results, result.facts):
        console.print(said)
    return result


def try_to_report(folder: Path) -> None:
    """Write a run's report; the run is whole without it, so a failure is only a warning."""
    try:
        from nos_optax.search.reports import write_report  # its imports take a second

        write_report(folder)
    except Exception as error:
        warnings.warn(
            f"there is no report ({printable(error)}); try python -m nos_optax.report "
            f"{printable(folder)}",
            stacklevel=2,
        )


def _as_tasks(task: Any) -> list[Given]:
    """Return the tasks that were given, one or several, each perhaps as a function.

    Raises:
        ValueError: something is no task.
    """
    several = task if isinstance(task, list | tuple) else [] if task is None else [task]
    tasks = [each() if isinstance(each, Callable) else each for each in several]
    for each in tasks:
        if not isinstance(each, Given):
            raise ValueError(f"a task is a Task, a Workload, a Dataset or a name, got {each!r}")
    return tasks


def _config(tasks: tuple[str, ...], settings: dict[str, Any]) -> SearchConfig:
    """Return the configuration; of a run to resume, what is not given is as it was."""
    if tasks:
        settings = settings | {"task": tasks}
    out = settings.get("out")
    if out is not None:
        # The result outlives a chdir.
        settings = settings | {"out": user_path(out).absolute()}
    if settings.get("resume"):
        if out is None or not settings["out"].exists():
            raise ValueError(f"resume needs out, the folder of a run, got {out!r}")
        if os.path.lexists(settings["out"] / CONFIG):
            begun = config_to_resume(settings["out"], settings)
            return dataclasses.replace(begun, **settings)
    return SearchConfig(**settings)


def _note_idle_cores(config: SearchConfig, console: Console) -> None:
    """Say so if JAX began with fewer CPU devices than there are cores."""
    if config.engine == "ray" or not hasattr(os, "sched_getaffinity"):
        return
    devices, cores = select_devices(config.accelerator), len(os.sched_getaffinity(0))
    if devices[0].platform == "cpu" and len(devices) < cores:
        console.print(
            f"Training on {len(devices)} of {cores} cores, because JAX was used before: call "
            "nos_optax.search.select_devices() first of all."
        )


def _check_names(settings: dict[str, Any]) -> None:
    """Raise if there is no such setting, with those that it may have been meant for."""
    known = {field.name for field in dataclasses.fields(SearchConfig)} - {"task"}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known) or sorted(known)
            if name in ("task", "dataset"):
                near = ["task (the first argument)"]
            raise ValueError(f"search has no setting {name!r}; did you mean {', '.join(near)}?")
