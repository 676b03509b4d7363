"""How long does a rule with randomness take to compile, for a model of many arrays?

Goal:     a rule with `noise` or `drop`: at most 3x its twin, the same rule without randomness, for
          200 arrays; and a time that grows at most linearly with the number of arrays.
Method:   one jitted update of each optimizer, traced and compiled, for the arrays of transformer
          blocks (16 arrays a block, of 6 shapes). Every random rule of the paper's catalogue at the
          least number of arrays, two of them at the others, in one process, the twin right after
          each. A time is that of the process on all its cores, which other work on the machine
          changes less than the time on the clock; both are written down.
Command:  python benchmarks/random_rules.py
Time:     about 7 minutes on 2 cores, most of it for 4,000 arrays; with `--arrays 200 500 1000` two.
Writes:   benchmarks/results/random_rules.json
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import nos_optax
from nos_optax.grammar.expression import Binary, Constant, Expression, Operand, Unary

ALL_SIZES = ("drop(rmsprop, 0.3)", "g + noise")
BLOCK = [(64, 64)] * 4 + [(64,)] * 7 + [(64, 256), (256,), (256, 64), (64, 3), (3,)]


def without_randomness(e: Expression) -> Expression:
    """Return the twin of a rule: nothing is dropped, and noise is a number."""
    match e:
        case Operand("noise" | "annealed_noise"):
            return Constant(0.5)
        case Unary("drop", x):
            return without_randomness(x)
        case Unary(function, x, parameter):
            return Unary(function, without_randomness(x), parameter)
        case Binary(function, x, y):
            return Binary(function, without_randomness(x), without_randomness(y))
        case _:
            return e


def compile_time(tx: optax.GradientTransformation, params: dict) -> dict[str, float]:
    """Return the seconds to trace and compile one update: of the process, and on the clock."""
    state = tx.init(params)
    cpu, clock = time.process_time(), time.perf_counter()
    jax.jit(lambda g, state, params: tx.update(g, state, params)).lower(
        params, state, params
    ).compile()
    return {"cpu": time.process_time() - cpu, "clock": time.perf_counter() - clock}


def measure(rule: nos_optax.UpdateRule, arrays: int) -> dict:
    """Return the times of a rule and of its twin for so many arrays."""
    params = {f"{i:05}": jnp.ones(BLOCK[i % len(BLOCK)]) for i in range(arrays)}
    twin = nos_optax.UpdateRule(without_randomness(rule.expression))
    rules = {"rule": rule, "twin": twin}
    row: dict[str, Any] = {
        name: compile_time(nos_optax.from_rule(r, 0.1, total_steps=100), params)
        for name, r in rules.items()
    }
    row["ratio"] = row["rule"]["cpu"] / row["twin"]["cpu"]
    print(
        f"{arrays:5} arrays  {row['rule']['cpu']:7.2f} s  {row['ratio']:5.2f} x its twin  {rule}",
        flush=True,
    )
    return {"arrays": arrays, "text": str(rule), "twin_text": str(twin)} | row


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arrays", type=int, nargs="+", default=[200, 500, 4000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    jax.config.update("jax_enable_compilation_cache", False)
    compile_time(optax.adam(1e-3), {"x": jnp.ones(3)})  # the first compilation loads the compiler
    catalogue = {str(entry.rule): entry.rule for entry in nos_optax.rules.values()}
    drawing = [rule for rule in catalogue.values() if rule.needs_key]
    rows, adam = [], {}
    for arrays in sorted(args.arrays):
        params = {f"{i:05}": jnp.ones(BLOCK[i % len(BLOCK)]) for i in range(arrays)}
        adam[arrays] = compile_time(optax.adam(1e-3), params)
        print(f"{arrays:5} arrays  {adam[arrays]['cpu']:7.2f} s  optax.adam", flush=True)
        rules = [nos_optax.parse(text) for text in ALL_SIZES]
        rules += drawing if arrays == min(args.arrays) else []
        rows += [measure(rule, arrays) for rule in rules]
    content = {"cores": os.cpu_count(), "jax": jax.__version__, "adam": adam, "rows": rows}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "random_rules.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
