"""How many of the programs that a search may write have iterations that do not matter?

Question: the constraint that every iteration reads an earlier result (`reuse_results`) leaves
          programs that throw results away: nothing reads them, or only the second operand of
          `left` does. How many are they, and how many does `live_results` leave?
Method:   uniform samples of the whole vocabulary, 100,000 for each length, without the constraint,
          with each of the two, and with both. Which iterations matter is told by walking back from
          the last one, with none of the search space's own code. A program's value is a sum where
          its last iteration is `+`, or copies a sum by `left` and the identity. Sizes are exact.
Command:  python benchmarks/dead_iterations.py
Time:     half a minute.
Writes:   benchmarks/results/dead_iterations.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nos_optax.grammar import BINARY, OPERANDS, UNARY, SearchSpace
from nos_optax.grammar.program import MAX_ITERATIONS, TOKENS_PER_ITERATION

CONSTRAINTS: dict[str, dict[str, Any]] = {
    "neither": {"reuse_results": False},
    "reuse_results, the default": {},
    "live_results alone": {"reuse_results": False, "live_results": True},
    "both": {"live_results": True},
}
PLUS, LEFT, IDENTITY = BINARY.index("+"), BINARY.index("left"), UNARY.index("x")


def live(programs: np.ndarray) -> np.ndarray:
    """Return which iterations a value depends on, `bool[B, G]` of `int32[B, G, 5]`."""
    count, length, _ = programs.shape
    found, rows = np.zeros((count, length), bool), np.arange(count)
    found[:, -1] = True
    for k in range(length - 1, -1, -1):
        first, second, _, _, binary = programs[:, k].T
        for operand, read in ((first, found[:, k]), (second, found[:, k] & (binary != LEFT))):
            read = read & (operand >= len(OPERANDS))
            found[rows[read], operand[read] - len(OPERANDS)] = True
    return found


def sums(programs: np.ndarray) -> np.ndarray:
    """Return which values are sums, `bool[B]` of `int32[B, G, 5]`."""
    count, length, _ = programs.shape
    found, rows = np.zeros((count, length), bool), np.arange(count)
    for k in range(length):
        first, _, unary, _, binary = programs[:, k].T
        copied = found[rows, np.maximum(first - len(OPERANDS), 0)] & (first >= len(OPERANDS))
        found[:, k] = (binary == PLUS) | ((binary == LEFT) & (unary == IDENTITY) & copied)
    return found[:, -1]


def measure(space: SearchSpace, samples: int, seed: int) -> dict[str, Any]:
    """Return a space's size and what its uniform samples are like."""
    tokens = np.asarray(space.sample(jax.random.key(seed), samples))
    programs = tokens.reshape(samples, -1, TOKENS_PER_ITERATION)
    dead = ~live(programs)
    return {
        "iterations": space.iterations,
        "size": str(space.size),
        "with_dead_iterations": float(dead.any(axis=1).mean()),
        "iteration_is_dead": dead.mean(axis=0).tolist(),
        "value_is_a_sum": float(sums(programs).mean()),
    }


def main() -> None:
    """Measure every length under every choice of constraints, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/dead_iterations.json"
    )
    args = parser.parse_args()
    rows = []
    print("iterations  constraint                     programs  dead iterations  sums")
    for iterations in range(1, MAX_ITERATIONS + 1):
        for name, constraint in CONSTRAINTS.items():
            space = SearchSpace(iterations, **constraint)
            row: dict[str, Any] = {"constraint": name, **measure(space, args.samples, args.seed)}
            rows.append(row)
            print(
                f"{iterations:10}  {name:26} {space.size:12.4g} {row['with_dead_iterations']:16.2%}"
                f" {row['value_is_a_sum']:5.1%}  {np.round(row['iteration_is_dead'], 3)}"
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"samples": args.samples, "seed": args.seed, "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
