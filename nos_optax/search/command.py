"""The command line of the search: `python -m nos_optax.search`."""

import contextlib
import dataclasses
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import tyro
from rich.console import Console

from nos_optax._command import make_console, one_message
from nos_optax.population.accelerator import enable_compilation_cache
from nos_optax.search.api import try_to_report
from nos_optax.search.config import SearchConfig
from nos_optax.search.loop import run_search
from nos_optax.search.results import nothing_learned, results_table, score_name
from nos_optax.search.run_folder import default_path, read_candidates, read_config
from nos_optax.search.terminal import live_progress

PROGRAM = "python -m nos_optax.search"


@dataclasses.dataclass(frozen=True)
class Arguments(SearchConfig):
    """Search for update rules: a controller writes them, child networks that use them score them.

    Evaluates --samples candidates, a population at a time, and keeps every one of them in the run
    folder. Ends by training the best rules and the standard optimizers again with fresh seeds,
    and prints that table.
    """

    prepare_data: Path | None = None
    """Only turn this archive, the official cifar-10-binary.tar.gz, into a prepared --data-dir."""


def run(arguments: Arguments, console: Console) -> None:
    """Run the search with live progress; quiet where the output is not a terminal."""
    if arguments.blind:
        print(arguments.blind)
    with live_progress(arguments.samples, console) as (on_batch, on_stage):
        result = run_search(arguments, on_batch, on_stage)

    statuses = Counter(c.status for c in result.candidates)
    evaluated = sum(c.origin == c.id for c in result.candidates)
    repeated = len(result.candidates) - evaluated - statuses["rejected"]
    if result.results:
        console.print(results_table(result.results, score_name(result.facts)))
    print(
        f"{len(result.candidates)} candidates in {result.seconds:.0f} s: {evaluated} evaluated, "
        f"{repeated} repeats, {statuses['rejected']} rejected on sight"
    )
    print(", ".join(f"{count} {status}" for status, count in statuses.most_common()))
    if said := nothing_learned(result.results, result.facts):
        print(said)
    print(f"Run folder: {result.folder}", flush=True)
    try_to_report(result.folder)
    print(f"Report: {result.report}")


def prepare(arguments: Arguments, console: Console) -> None:
    """Prepare CIFAR-10 from its archive."""
    from nos_optax.population.cifar10 import prepare_cifar10

    if arguments.prepare_data is None or arguments.data_dir is None:
        raise ValueError("--prepare-data needs --data-dir, the folder to prepare")
    with console.status("preparing"):
        folder = prepare_cifar10(arguments.prepare_data, arguments.data_dir)
    print(f"Prepared {folder}. Search with --dataset cifar10 --data-dir {arguments.data_dir}")


def parse() -> Arguments:
    """Parse the command line; of a run to resume, what is not given is as it was."""
    arguments = tyro.cli(Arguments, prog=PROGRAM, description=Arguments.__doc__)
    if arguments.out is None and arguments.resume:
        raise ValueError("--resume needs --out, the folder of the run")
    if arguments.resume and arguments.out and not arguments.out.exists():
        raise ValueError(
            f"--out {arguments.out} holds no run to go on with: there is no such folder"
        )
    if not (arguments.resume and arguments.out and (arguments.out / "config.json").exists()):
        return dataclasses.replace(arguments, out=arguments.out or default_path())
    begun = read_config(arguments.out)
    values = {field.name: getattr(begun, field.name) for field in dataclasses.fields(begun)}
    return tyro.cli(
        Arguments, prog=PROGRAM, default=Arguments(**values), description=Arguments.__doc__
    )


def stop(*_: object) -> None:
    """Treat SIGTERM, which job queues send, as Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """Parse the command line and run; a user's mistake is one message and exit code 1 or 2."""
    signal.signal(signal.SIGTERM, stop)
    out = None
    try:
        with one_message():
            arguments = parse()
            enable_compilation_cache()
            out = arguments.out
            (prepare if arguments.prepare_data else run)(arguments, make_console())
    except KeyboardInterrupt:
        message = "interrupted"
        with contextlib.suppress(OSError):  # there is no history yet, or the disk is full
            kept = len(read_candidates(out or Path()))
            message += f"; {out} holds {kept} candidates. Go on: --resume --out {out}"
        print(message, file=sys.stderr, flush=True)
        os._exit(130)  # at once: sys.exit would wait for the population that is being trained
