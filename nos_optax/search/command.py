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

from nos_optax._command import (
    command_line,
    make_console,
    one_message,
    options,
    printable,
    say,
    unprotected,
)
from nos_optax.population.accelerator import enable_compilation_cache
from nos_optax.population.flags import use_own_flags
from nos_optax.search.api import try_to_report
from nos_optax.search.config import SearchConfig
from nos_optax.search.finals import verdict
from nos_optax.search.interrupts import Interrupts, interruptible
from nos_optax.search.loop import run_search
from nos_optax.search.results import nothing_learned, results_table, score_name
from nos_optax.search.run_folder import (
    CONFIG,
    config_to_resume,
    folder_of_its_own,
    read_candidates,
)
from nos_optax.search.terminal import live_progress

PROGRAM = "python -m nos_optax.search"


@dataclasses.dataclass(frozen=True)
class Arguments(SearchConfig):
    """Search for update rules: a strategy writes them, child networks that use them score them.

    Evaluates --samples candidates, a population at a time, and keeps every one of them in the run
    folder. Ends by training the best rules and the standard optimizers again with fresh seeds,
    and prints that table.
    """

    prepare_data: Path | None = None
    """Only turn this archive, the official cifar-10-binary.tar.gz, into a prepared --data-dir."""

    def __post_init__(self):
        for name in ("operands", "unary", "binary"):
            if (words := getattr(self, name)) is not None:
                object.__setattr__(self, name, unprotected(words))
        super().__post_init__()


def run(config: SearchConfig, console: Console, interrupts: Interrupts) -> None:
    """Run the search with live progress; quiet where the output is not a terminal."""
    if config.blind:
        say(config.blind)
    with live_progress(config, console) as (on_batch, on_stage):
        result = run_search(config, interrupts.after(on_batch), on_stage)

    statuses = Counter(c.status for c in result.candidates)
    evaluated = sum(c.is_training for c in result.candidates)
    repeated = len(result.candidates) - evaluated - statuses["rejected"]
    if result.results:
        console.print(results_table(result.results, score_name(result.facts)))
    if result.comparison is not None:
        say(verdict(result.comparison))
    say(
        f"{len(result.candidates)} candidates in {result.seconds:.0f} s: {evaluated} evaluated, "
        f"{repeated} repeats, {statuses['rejected']} rejected on sight"
    )
    say(", ".join(f"{count} {status}" for status, count in statuses.most_common()))
    if said := nothing_learned(result.results, result.facts):
        say(said)
    say(f"Run folder: {result.folder}")
    try_to_report(result.folder)
    say(f"Report: {result.report}")


def prepare(arguments: Arguments, console: Console) -> None:
    """Prepare CIFAR-10 from its archive."""
    from nos_optax.population.cifar10 import prepare_cifar10

    if arguments.prepare_data is None or arguments.data_dir is None:
        raise ValueError("--prepare-data needs --data-dir, the folder to prepare")
    with console.status("preparing"):
        folder = prepare_cifar10(arguments.prepare_data, arguments.data_dir)
    say(f"Prepared {folder}. Search with --task cifar10 --data-dir {arguments.data_dir}")


def parse() -> Arguments:
    """Parse the command line; of a run to resume, what is not given is as it was.

    Raises:
        ValueError: an option is given twice, or the run to resume names what must be given again.
    """
    words = command_line(sys.argv[1:])
    arguments = tyro.cli(Arguments, prog=PROGRAM, description=Arguments.__doc__, args=words)
    if arguments.out is None and arguments.resume:
        raise ValueError("--resume needs --out, the folder of the run")
    if arguments.resume and arguments.out and not arguments.out.exists():
        raise ValueError(
            f"--out {arguments.out} holds no run to go on with: there is no such folder"
        )
    if not (arguments.resume and arguments.out and os.path.lexists(arguments.out / CONFIG)):
        return arguments
    known = {field.name for field in dataclasses.fields(arguments)}
    given = {name: getattr(arguments, name) for name in known.intersection(options(words))}
    begun = config_to_resume(arguments.out, given)
    values = {field.name: getattr(begun, field.name) for field in dataclasses.fields(begun)}
    return tyro.cli(
        Arguments,
        prog=PROGRAM,
        default=Arguments(**values),
        description=Arguments.__doc__,
        args=words,
    )


def main() -> None:
    """Parse the command line and run; a user's mistake is one message and exit code 1 or 2.

    SIGTERM, which job queues send, is as Ctrl-C.
    """
    out = None
    with interruptible(signal.SIGINT, signal.SIGTERM) as interrupts:
        try:
            with one_message():
                arguments = parse()
                use_own_flags()
                enable_compilation_cache()
                if arguments.prepare_data:
                    prepare(arguments, make_console())
                    return
                with folder_of_its_own(arguments) as config:
                    out = config.out
                    run(config, make_console(), interrupts)
        except KeyboardInterrupt:
            interrupts.ignore()
            message = "interrupted"
            with contextlib.suppress(OSError):  # there is no history yet, or the disk is full
                kept = len(read_candidates(out or Path()))
                message += f"; {out} holds {kept} candidates. Go on: --resume --out {out}"
            print(printable(message), file=sys.stderr, flush=True)
            os._exit(130)  # at once: sys.exit would wait for the population that is being trained
