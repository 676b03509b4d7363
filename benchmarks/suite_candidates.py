"""How fast is a candidate on the suite, against the loops that others would write?

Question: on 2 cores, how much faster than a PyTorch eager loop (goal: 4x) and than a plain Optax
          loop, compiling included (goal: 20x), is a candidate that trains on all tasks?
Method:   rules of the catalogue that learn everywhere, with the rates that a search tries. Ours
          trains them together, in the steady state, its compile time beside it; the loops train one
          child after another, some of the same rules, with the same steps, minibatches and choice
          of rates. What a search does beside training, the losses before and after, is spared the
          loops. In turns, in one process.
Command:  python benchmarks/suite_candidates.py
Needs:    pip install torch (CPU) for the PyTorch row; without it the row is left out.
Time:     five minutes on 2 cores.
Writes:   benchmarks/results/suite_candidates.json and .md
"""

import dataclasses
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from peers.suite_optax import candidate, optax_loop

from nos_optax._command import make_console, one_message
from nos_optax.compare.records import write_results
from nos_optax.grammar import encode, parse
from nos_optax.population.accelerator import select_devices
from nos_optax.population.protocol import TRAINED
from nos_optax.population.reference import reference_store
from nos_optax.population.suite import SuiteTrainer, load_suite

RULES = (
    "ld * (adam + rmsprop)",
    "sign(m)",
    "(1 + sign(g) * sign(m)) * adam",
    "sqrt(cd) * adam",
    "adam",
    "ld * (sign(g) + sign(m))",
    "rmsprop",
    "ld * adam",
    "adam + rmsprop",
    "exp(ld) * adam",
    "ld * clip(m, 1e-3) * sqrt(rmsprop)",
    "sqrt(ld) * rmsprop",
    "ld * sign(m)",
    "adam * exp(sign(g) * sign(m))",
    "cd * (adam + rmsprop)",
    "clip(adam, 1e-3)",
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare the seconds of a candidate on the suite."""

    peers: int = 2
    """Rules that the loops train, the first."""
    repeats: int = 3
    """Of all but Optax's loop, which is so slow that once is enough."""
    out: Path = Path(__file__).parent / "results"
    """Where the results go."""


def run(arguments: Arguments) -> None:
    """Measure, print and write."""
    devices, console = select_devices("cpu"), make_console()
    workloads = load_suite()
    programs = np.stack([encode(rule, 3).array for rule in RULES])
    trainer = SuiteTrainer(workloads, 3, devices, store=reference_store())
    start = time.perf_counter()
    trainer.compile()
    compiling = time.perf_counter() - start
    rates = trainer.rates(programs)
    if (trainer.evaluate(programs).status != TRAINED).any():
        raise ValueError("all rules must train on all tasks: leave out those that do not")
    loops = {"Optax": optax_loop}
    try:
        from peers.suite_pytorch import pytorch_loop
    except ImportError as error:
        console.print(f"PyTorch is left out: {error}")
    else:
        loops["PyTorch"] = pytorch_loop
    seconds: dict[str, list[float]] = {name: [] for name in ("nos_optax", *loops)}
    for repeat in range(arguments.repeats):
        start = time.perf_counter()
        trainer.evaluate(programs)
        seconds["nos_optax"].append((time.perf_counter() - start) / len(programs))
        for name, loop in loops.items():
            if name == "Optax" and repeat > 0:
                continue
            start = time.perf_counter()
            for row in range(arguments.peers):
                rule = parse(RULES[row])
                candidate([loop(w, rule) for w in workloads], workloads, rates[row])
            seconds[name].append((time.perf_counter() - start) / arguments.peers)
        console.print({name: [round(x, 2) for x in each] for name, each in seconds.items()})
    ours = np.median(seconds["nos_optax"])
    ratios = {name: float(np.median(each) / ours) for name, each in seconds.items()}
    rows = [f"| {name} | {np.median(x):.2f} | {ratios[name]:.1f} |" for name, x in seconds.items()]
    table = "\n".join(["| loop | s a candidate | beside ours |", "|---|---|---|", *rows]) + "\n"
    console.print(f"compiling {compiling:.1f} s, once a search\n{table}", markup=False)
    content = {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "jax": jax.__version__,
        "rules": RULES,
        "compile_seconds": compiling,
        "seconds_per_candidate": seconds,
        "ratios": ratios,
    }
    write_results(arguments.out, "suite_candidates", content, table)


if __name__ == "__main__":
    with one_message():
        run(tyro.cli(Arguments, description=Arguments.__doc__))
