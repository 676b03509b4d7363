"""What a command says: errors in one line, tables that fit, progress."""

import contextlib
import importlib.util
import sys
from collections.abc import Generator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nos_optax.search.accelerator import AcceleratorError
from nos_optax.search.history import Candidate
from nos_optax.search.loop import OnBatch, OnStage


@contextlib.contextmanager
def one_message() -> Generator[None]:
    """Turn what a user can mend into `error: ...` and exit code 1, without a traceback."""
    try:
        yield
    except (ValueError, OSError, AcceleratorError, ImportError) as error:
        sys.exit(f"error: {error}")


def make_console() -> Console:
    """Return the terminal, or where the output goes instead, which has no width of its own."""
    console = Console()
    return console if console.is_terminal or console.is_jupyter else Console(width=160)


@contextlib.contextmanager
def live_progress(
    samples: int, console: Console, disable: bool = False
) -> Generator[tuple[OnBatch, OnStage]]:
    """Show how far a search is, in a terminal or a notebook; elsewhere nothing.

    Args:
        samples: how many candidates it will have.
        console: where to show it.
        disable: whether to show nothing.

    Yields:
        `on_batch` and `on_stage` of `run_search`.
    """
    columns = (
        TextColumn("{task.description}"),
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
        task = progress.add_task("starting", total=samples, note="")

        def on_stage(stage: str) -> None:
            progress.update(task, description=stage)

        def on_batch(candidates: Sequence[Candidate]) -> None:
            best = max(candidates, key=lambda c: c.reward)
            note = f"best {best.reward:.3f}: {best.rule}"
            progress.update(task, description="searching", completed=len(candidates), note=note)

        yield on_batch, on_stage
        progress.update(task, description="done", note="")
