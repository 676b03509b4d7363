"""What does Ray cost where it isn't needed: on the cores of one machine?

Claim:    Ray with 2 workers of one core each evaluates at least 0.8x as many candidates a second as
          the local engine on the same 2 cores.
Method:   the same random candidates of 2 iterations on digits, in turns; each engine has evaluated
          them once before (steady state: workers are up, everything is compiled). The evaluations
          are compared too: they must be equal, bit for bit, or it exits with 1.
Command:  python benchmarks/ray_scaling.py
Needs:    pip install 'nos_optax[ray]', and 2 quiet cores.
Time:     2 minutes on 2 cores.
Writes:   benchmarks/results/ray_scaling.json
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import jax
import numpy as np

ITERATIONS = 2


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--train-examples", type=int, help="of digits (default: 1000)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--task-size", type=int, help="candidates in a task (default: adapted)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    from nos_optax.grammar import SearchSpace
    from nos_optax.population import Evaluation
    from nos_optax.search import TaskConfig, enable_compilation_cache
    from nos_optax.search.engines.local import LocalEngine
    from nos_optax.search.engines.ray import RayEngine

    enable_compilation_cache()
    config = TaskConfig(protocol="paper", accelerator="cpu", train_examples=args.train_examples)
    # Ray first: JAX warns of processes that start after it has.
    ray = RayEngine(config, ITERATIONS, "local", workers=args.workers, task_size=args.task_size)
    engines = {"local": LocalEngine(config, ITERATIONS), "ray": ray}
    space = SearchSpace(iterations=ITERATIONS)
    programs = np.asarray(space.sample(jax.random.key(args.seed), args.candidates))
    first = {name: evaluate(engine, programs) for name, engine in engines.items()}
    differ = [
        field
        for field, a, b in zip(Evaluation._fields, first["local"], first["ray"], strict=True)
        if not np.array_equal(a, b, equal_nan=True)
    ]
    equal = not differ

    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(args.repeats):
        for name, engine in engines.items():
            start = time.perf_counter()
            evaluate(engine, programs)
            rates[name].append(args.candidates / (time.perf_counter() - start))
    ratio = np.median(rates["ray"]) / np.median(rates["local"])
    for name, values in rates.items():
        spread = f"{min(values):.2f}-{max(values):.2f}"
        print(f"{name:6} {np.median(values):7.2f} candidates/s ({spread})")
    print(f"ratio  {ratio:7.2f}; evaluations {'equal' if equal else 'DIFFER'}")

    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "devices": {name: engine.facts["devices"] for name, engine in engines.items()},
        "workers": args.workers,
        "candidates": args.candidates,
        "candidates_per_second": rates,
        "ratio": ratio,
        "equal": equal,
    }
    ray.close()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "ray_scaling.json").write_text(json.dumps(content, indent=1) + "\n")
    if not equal:
        sys.exit(f"error: evaluations of the two engines differ in {', '.join(differ)}")


def evaluate(engine, programs: np.ndarray) -> list[np.ndarray]:
    """Return the fields of the evaluation, in order of the programs."""
    rows, parts = zip(*engine.evaluate(programs, seed=0), strict=True)
    order = np.argsort(np.concatenate(rows))
    return [np.concatenate(field)[order] for field in zip(*parts, strict=True)]


if __name__ == "__main__":
    main()
