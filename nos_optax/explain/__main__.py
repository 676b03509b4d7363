"""Look at one update rule.

Command:  python -m nos_optax.explain "exp(sign(g) * sign(m)) * g"
          python -m nos_optax.explain powersign --out rule       (a name of nos_optax.rules)
"""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import nos_optax
from nos_optax._command import (
    command_line,
    make_console,
    one_message,
    printable,
    say,
    stoppable,
)
from nos_optax._files import write_whole
from nos_optax.explain.facts import Facts, describe
from nos_optax.explain.pictures import draw_sweeps, draw_trajectories
from nos_optax.explain.sweep import Sweep, sweep
from nos_optax.explain.trajectories import FUNCTIONS, STEPS, Trajectory, best_trajectory
from nos_optax.grammar import to_python
from nos_optax.grammar.catalogue import named_rule
from nos_optax.population.flags import use_own_flags
from nos_optax.search import (
    PaperTaskConfig,
    enable_compilation_cache,
    load_task,
    select_devices,
)
from nos_optax.search.results import STANDARD

MOST_SEEDS = 1000
RIVALS = {name: STANDARD[name] for name in ("SGD", "Adam", "PowerSign")}


@dataclasses.dataclass(frozen=True)
class Arguments(PaperTaskConfig):
    """Say all that can be said of an update rule, and try it.

    Its canonical form, LaTeX, tokens, state, cost and equals in the paper's catalogue; where it
    goes on test functions and how it trains the child network over the learning rate, beside SGD,
    Adam and PowerSign; and its source as an Optax transformation.
    """

    rule: Annotated[str, tyro.conf.Positional] = "powersign"
    """In infix form, or the name of one of the paper's rules."""
    seeds: int = 3
    """Trainings of the child at each learning rate; no child is trained if 0."""
    epochs: int = 3
    """Length of these trainings."""
    minibatch_size: int = 50
    """Examples in their minibatches."""
    # Every rate is tried for all epochs, one child after another: these say nothing here.
    sweep_examples: tyro.conf.Suppress[int] = 10_000
    lanes: tyro.conf.Suppress[int | None] = None
    out: Path | None = None
    """Folder for the pictures and the source (default: none is written)."""

    def __post_init__(self):
        super().__post_init__()
        if self.seeds < 0:
            raise ValueError(f"--seeds must be at least 0, got {self.seeds}")
        if self.seeds > MOST_SEEDS:
            raise ValueError(f"--seeds must be at most {MOST_SEEDS:,}, got {self.seeds}")


def facts_table(facts: Facts) -> Table:
    """Return what a rule is."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    state = ", ".join(facts.moments) or "nothing"
    factor = "" if facts.factor == 1 else f"{facts.factor:g} times "
    rows = {
        "rule": str(facts.rule),
        "canonical": str(facts.canonical),
        "LaTeX": facts.latex,
        "tokens": facts.tokens or f"none: {facts.not_encodable}",
        "state": f"{len(facts.moments)} arrays of the parameters' size ({state})",
        "needs": ", ".join(facts.needs) or "only the gradient",
        "cost": f"{facts.operations:.1f} operations and {facts.bytes:.0f} bytes a parameter",
        "the same as": (factor + ", ".join(facts.same))
        if facts.same
        else "none of the paper's rules",
        "in a search": "trained" if facts.rejection is None else f"rejected: {facts.rejection}",
    }
    if facts.tokens is None:
        rows["in a search"] = "not among the programs that a search can write"
    if facts.alike:
        rows["updates like"] = ", ".join(facts.alike)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def trajectories_table(ways: dict[str, list[Trajectory]]) -> Table:
    """Return where each rule ended on each test function."""
    table = Table(
        title=f"Test functions: value after {STEPS} steps at the best of eleven rates",
        title_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("rule")
    for function in FUNCTIONS:
        table.add_column(function.name, justify="right")
    for name, of_rule in ways.items():
        cells = ("diverges" if w.rate is None else f"{w.final:.1e} at {w.rate:g}" for w in of_rule)
        table.add_row(name, *cells)
    return table


def sweeps_table(sweeps: dict[str, Sweep], title: str) -> Table:
    """Return each rule's score at each learning rate, and below it the spread over the seeds."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("rule")
    for rate in next(iter(sweeps.values())).rates:
        table.add_column(f"{rate:g}", justify="right")
    for name, found in sweeps.items():
        cells = [
            f"{mean:.3f}" + ("" if np.isnan(deviation) else f"\n±{deviation:.3f}")
            for mean, deviation in zip(found.mean, found.deviation, strict=True)
        ]
        best = Text(cells[found.best], style="bold")
        table.add_row(name, *cells[: found.best], best, *cells[found.best + 1 :])
    return table


def run(arguments: Arguments, console: Console) -> None:
    """Look at the rule, print it all, and write what was asked for."""
    rule = named_rule(arguments.rule)
    devices = select_devices(arguments.accelerator)
    facts = describe(rule)
    console.print(facts_table(facts))
    # The rule first; a rival that it equals is not shown twice.
    shown = {"this rule": rule} | {
        name: other
        for name, other in ((name, nos_optax.parse(text)) for name, text in RIVALS.items())
        if other.digest != rule.digest
    }
    ways = {name: [best_trajectory(r, f) for f in FUNCTIONS] for name, r in shown.items()}
    console.print(trajectories_table(ways))

    sweeps: dict[str, Sweep] = {}
    if arguments.seeds:
        task = load_task(arguments, devices[0])
        with (
            console.status("training the child")
            if console.is_terminal
            else contextlib.nullcontext()
        ):
            for name, each in shown.items():
                sweeps[name] = sweep(
                    each,
                    task,
                    seeds=arguments.seeds,
                    epochs=arguments.epochs,
                    batch_size=arguments.minibatch_size,
                    devices=devices,
                )
        seeds = f"mean ± sd of {arguments.seeds} seeds" if arguments.seeds > 1 else "one seed"
        title = (
            f"{task.name}: validation score after {arguments.epochs} epochs, {seeds}, "
            "at each learning rate"
        )
        console.print(sweeps_table(sweeps, title))
    source = to_python(rule)
    if arguments.out is None:
        console.print("As a standalone Optax transformation:\n", style="bold")
        print(source)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out / "rule.py", source.encode())
    written = ["rule.py", *draw_trajectories(ways, arguments.out)]
    if sweeps:
        # The title of a picture is a name, which may hold what an SVG file may not.
        named = dataclasses.replace(task, name=printable(task.name).replace("$", r"\$"))
        written += draw_sweeps(sweeps, named, arguments.out)
    for name in written:
        say(f"Wrote {arguments.out / name}")


def main() -> None:
    """Parse the command line and run; a user's mistake is one message and exit code 1 or 2."""
    with stoppable("interrupted"), one_message():
        arguments = tyro.cli(
            Arguments,
            prog="python -m nos_optax.explain",
            description=Arguments.__doc__,
            args=command_line(sys.argv[1:]),
        )
        use_own_flags()
        enable_compilation_cache()
        run(arguments, make_console())


if __name__ == "__main__":
    main()
