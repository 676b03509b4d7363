"""Train the paper's child with update rules of your own, under the search's protocol.

Command:  python experiments/evaluate.py "exp(sign(g) * sign(m)) * g" adam
          python experiments/evaluate.py "ld * (sign(g) + sign(m))" --dataset suite
          python experiments/evaluate.py "m * ld" --dataset cifar10 --data-dir DIR --seeds 1
Time:     seconds for digits, a minute for the suite; on 2 cores a minute or two a rule and seed
          for all of CIFAR-10.
"""

import dataclasses
import time
from typing import Annotated

import tyro
from harness import command_line
from rich.console import Console

from nos_optax.grammar import Program, encode
from nos_optax.search import (
    FRESH_SEEDS,
    LocalEngine,
    TaskConfig,
    results_table,
    train_again,
)
from nos_optax.search.results import score_name


@dataclasses.dataclass(frozen=True)
class Arguments(TaskConfig):
    """Train the paper's child network with given update rules and print their accuracy."""

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
    command_line.main(run, {"all": Arguments()}, key=lambda _: "all")


if __name__ == "__main__":
    main()
