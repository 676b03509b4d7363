"""How many kernels is a step of the suite's children, side by side, on paper?

Method:   the loop that trains 64 children under `vmap` is compiled, here for a CPU, and what XLA
          leaves in the body of the loop over steps is counted: fusions, matrix products, reductions
          and calls of libraries are a kernel each on a GPU. There XLA fuses in another way, so it
          is an estimate. Without a rule (its update is the gradient) it is the gradient's step; the
          rule adds what stands in the last column by selects, and one kernel and the draws of its
          keys by `nos_optax.grammar.fused`.
Command:  python benchmarks/gpu/count_kernels.py     (a minute)
"""

import re
from collections import Counter
from unittest import mock

import jax
import numpy as np

from nos_optax.population import loop as population_loop
from nos_optax.population.loop import TaskLoop
from nos_optax.population.suite import Workload, load_suite

KERNELS = {"fusion", "dot", "convolution", "custom-call", "reduce", "reduce-window", "scatter"}
KERNELS |= {"gather", "sort", "dynamic-update-slice", "concatenate", "transpose", "pad", "select"}
LANES, ITERATIONS = 64, 3


def count(workload: Workload) -> Counter:
    """Return the kernels in the body of the loop over steps, by kind."""
    loop = TaskLoop(
        workload.task, workload.minibatch_size, 8, ITERATIONS, jax.local_devices()[:1], LANES
    )
    programs = np.zeros((LANES, ITERATIONS, 5), np.int32)
    order, keys = loop.orders((0,))
    counts = np.ones(1, np.int32)
    arguments = (
        programs,
        np.zeros(LANES, np.float32),
        counts,
        order,
        np.int32(0),
        np.int32(8),
        keys,
        loop.data,
    )
    text = loop._program(None).lower(*arguments)
    return _busiest_body(text.compile().as_text())


def _busiest_body(text: str) -> Counter:
    """Return the kernels of the loop body that has most of them, bodies within it included."""
    computations: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line.strip()):
            name = header[1]
            computations[name] = []
        elif name:
            computations[name].append(line)

    def kernels(name: str) -> Counter:
        found = Counter()
        for line in computations.get(name, ()):
            if operation := re.search(r"= (?:\([^=]*\)|\S+) ([\w-]+)\(", line):
                found[operation[1]] += operation[1] in KERNELS
            if inner := re.search(r"\bbody=%?([\w.-]+)", line):
                found += kernels(inner[1])
        return +found

    bodies = set(re.findall(r"\bbody=%?([\w.-]+)", text))
    # The loop over steps lies in that over groups of lanes: the most kernels but one such loop.
    ranked = sorted((kernels(body) for body in bodies), key=lambda c: -c.total())
    return ranked[1] if len(ranked) > 1 else ranked[0]


def main() -> None:
    """Print a line for each task."""
    for workload in load_suite():
        rule = count(workload)
        with mock.patch.object(
            population_loop, "apply_program", lambda p, s, state, g, *_: (g, state)
        ):
            plain = count(workload)
        print(
            f"{workload.task.name}: {plain.total()} kernels for the gradient "
            f"({dict(plain.most_common(4))}), {rule.total() - plain.total()} more for a rule"
        )


if __name__ == "__main__":
    main()
