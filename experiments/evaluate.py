"""Evaluate update rules of your own as a search does.

Command:  python experiments/evaluate.py "exp(sign(g) * sign(m)) * g" adam
          python experiments/evaluate.py "ld * (sign(g) + sign(m))" --protocol paper
          python experiments/evaluate.py "m * ld" --protocol paper --task cifar10 --data-dir DIR
Time:     a minute for the suite, seconds for digits by the paper's protocol; on 2 cores a minute or
          two a rule and seed for all of CIFAR-10.
"""

import dataclasses
import sys
import time
from typing import Annotated

import tyro
from rich.console import Console

from nos_optax._command import command_line, make_console, one_message
from nos_optax.grammar import Program, encode
from nos_optax.search import (
    FRESH_SEEDS,
    LocalEngine,
    TaskConfig,
    enable_compilation_cache,
    results_table,
    train_again,
)
from nos_optax.search.results import score_name


@dataclasses.dataclass(frozen=True)
class Arguments(TaskConfig):
    """Evaluate given update rules as a search does, with fresh seeds."""

    rules: Annotated[tuple[str, ...], tyro.conf.Positional] = ("g", "m", "adam")
    """Update rules in infix form."""
    seeds: int = 5
    """How many times each, with other weights and another order of the data."""


def run(arguments: Arguments, console: Console) -> None:
    """Evaluate the rules and print the table."""
    if arguments.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {arguments.seeds}")
    programs: dict[str, Program] = {
        f"rule {i + 1}": encode(rule) for i, rule in enumerate(arguments.rules)
    }
    engine = LocalEngine(arguments, max(len(p.iterations) for p in programs.values()))
    start = time.perf_counter()
    seeds = range(FRESH_SEEDS, FRESH_SEEDS + arguments.seeds)
    facts = engine.facts
    console.print(results_table(train_again(engine, programs, seeds), score_name(facts)))
    if "horizons" in facts:
        steps = f"{', '.join(map(str, facts['horizons']))} steps on {', '.join(facts['tasks'])}"
    else:
        steps = f"{facts['sweep_steps']} steps a rate, {facts['train_steps']} with the best"
    console.print(f"{steps}; {time.perf_counter() - start:.1f} s, compiling included")


def main() -> None:
    """Parse the command line and run."""
    try:
        with one_message():
            # By the class: what is not given is as the protocol has it.
            arguments = tyro.cli(
                Arguments, description=Arguments.__doc__, args=command_line(sys.argv[1:])
            )
            enable_compilation_cache()
            run(arguments, make_console())
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
