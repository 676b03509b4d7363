"""How far a search is."""

import contextlib
import importlib.util
from collections.abc import Generator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nos_optax._command import printable
from nos_optax.search.config import SearchConfig
from nos_optax.search.history import Candidate
from nos_optax.search.loop import OnBatch, OnStage


@contextlib.contextmanager
def live_progress(
    config: SearchConfig, console: Console, disable: bool = False
) -> Generator[tuple[OnBatch, OnStage]]:
    """Show how far a search is, in a terminal or a notebook; elsewhere nothing.

    Args:
        config: what is searched: so many candidates, or trainings.
        console: where to show it.
        disable: whether to show nothing.

    Yields:
        `on_batch` and `on_stage` of `run_search`.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    if console.is_jupyter and not disable and not importlib.util.find_spec("ipywidgets"):
        console.print("For a progress bar here: pip install 'nos_optax[notebook]'")
        disable = True
    disable = disable or not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=disable) as progress:
        task = progress.add_task("starting", total=config.trainings or config.most_samples, note="")

        def on_stage(stage: str) -> None:
            progress.update(task, description=printable(stage))

        def on_batch(candidates: Sequence[Candidate]) -> None:
            best = max(candidates, key=lambda c: c.reward)
            note = printable(f"best {best.reward:.3f}: {best.rule}")
            done = len(candidates)
            if config.trainings:
                done = sum(c.is_training for c in candidates)
            progress.update(task, description="searching", completed=done, note=note)

        yield on_batch, on_stage
        progress.update(task, description="done", note="")
