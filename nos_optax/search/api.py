"""The search from Python, as in a notebook."""

import dataclasses
import difflib
from typing import Any

from nos_optax.grammar import SearchSpace
from nos_optax.population import Dataset, Task
from nos_optax.search.accelerator import enable_compilation_cache
from nos_optax.search.config import GIVEN, SearchConfig
from nos_optax.search.engine import LocalEngine, make_engine
from nos_optax.search.loop import SearchResult, run_search
from nos_optax.search.results import STANDARD_ITERATIONS
from nos_optax.search.run_folder import default_path
from nos_optax.search.terminal import live_progress, make_console


def search(
    task: Task | Dataset | str = "digits",
    space: SearchSpace | None = None,
    *,
    progress: bool = True,
    **settings: Any,
) -> SearchResult:
    """Search for update rules that train a model well; as `python -m nos_optax.search` does.

    A child trains on each local device; on CPU that is one device a core, if JAX has not been used
    in this process before. If you use it before (to make the task, for example), call
    `nos_optax.search.select_devices()` first of all.

    Args:
        task: what the children are; images for the paper's ConvNet; or a name: `digits`,
            `cifar10`, or `module:name` of a task, which `engine="ray"` needs.
        space: the rules that may be written; all of two iterations where None.
        progress: whether to show a progress bar, in a notebook or a terminal.
        **settings: of the search, fields of `SearchConfig`: `samples`, `strategy`, `seed`, `out`,
            `resume` and so on.

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
        >>> result = search("digits", space, samples=64)  # doctest: +SKIP
        >>> result.best.rule  # doctest: +SKIP
        'adam * sign(m)'
    """
    _check_names(settings)
    if space is not None:
        clash = {field.name for field in dataclasses.fields(space)} & set(settings)
        if clash:
            raise ValueError(f"{', '.join(sorted(clash))}: given twice, the space has it already")
        settings |= {f.name: getattr(space, f.name) for f in dataclasses.fields(space)}
    settings["out"] = settings.get("out") or default_path()
    named = isinstance(task, str)
    config = SearchConfig(dataset=task if named else GIVEN, **settings)
    if config.engine == "ray" and not named:
        raise ValueError("engine='ray' needs a task that workers can import: give 'module:name'")
    enable_compilation_cache()
    iterations = max(config.iterations, STANDARD_ITERATIONS)
    engine = make_engine(config, iterations) if named else LocalEngine(config, iterations, task)
    try:
        with live_progress(config.samples, make_console(), not progress) as (on_batch, on_stage):
            result = run_search(config, on_batch, on_stage, engine=engine)
            on_stage("writing the report")
            from nos_optax.search.reports import write_report  # its imports take a second

            write_report(result.folder)
            return result
    finally:
        engine.close()


def _check_names(settings: dict[str, Any]) -> None:
    """Raise if there is no such setting, with those that it may have been meant for."""
    known = {field.name for field in dataclasses.fields(SearchConfig)} - {"dataset"}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known) or sorted(known)
            raise ValueError(f"search has no setting {name!r}; did you mean {', '.join(near)}?")
