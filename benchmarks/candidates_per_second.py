"""How fast are candidates evaluated, against the loops that others would write?

Question: on 2 cores, how much faster than a PyTorch eager loop (goal: 3x on digits, 1.5x on
          CIFAR-10's child) and than a plain Optax loop, compiling included (goal: 15x)?
Method:   the same random candidates of 2 iterations, the same data and protocol, in one process,
          one after the other; the population trainer is measured in the steady state, and its
          compile time is printed beside it. The rewards are compared too: the loops draw other
          weights and random numbers, so they agree in kind, not in digits.
Command:  python benchmarks/candidates_per_second.py
          python benchmarks/candidates_per_second.py --task cifar10 --data-dir DIR
          --peers pytorch --repeats 1
Needs:    pip install torch (CPU) for the PyTorch row; without it the row is left out.
Time:     3 minutes for digits, 15 for CIFAR-10, on 2 cores.
Writes:   benchmarks/results/candidates_per_second_DATASET.json
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import jax
import numpy as np


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["pytorch", "optax"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    from nos_optax.grammar import SearchSpace
    from nos_optax.population import PopulationTrainer, Protocol
    from nos_optax.search import TaskConfig, load_dataset, select_devices

    devices = select_devices("auto")
    # CIFAR-10's whole training takes minutes a candidate: here the sweep is the paper's, and the
    # training has 10,000 of the 45,000 examples.
    small = args.task == "cifar10"
    config = TaskConfig(
        task=(args.task,),
        protocol="paper",
        data_dir=args.data_dir,
        train_examples=10_000 if small else None,
    )
    dataset, protocol = load_dataset(config), Protocol()
    count = args.candidates or (4 if small else 32)
    space = SearchSpace(iterations=2)
    programs = np.asarray(space.sample(jax.random.key(args.seed), count)).reshape(count, 2, 5)

    trainer = PopulationTrainer(dataset, protocol, iterations=2, devices=devices)
    start = time.perf_counter()
    trainer.evaluate(programs[:1])
    compiling = time.perf_counter() - start
    status = trainer.evaluate(programs).status
    print(f"{dataset.name}: {count} candidates, {np.mean(status == 0):.0%} trained")
    print(f"nos_optax compiles for {compiling:.1f} s, once a search", flush=True)

    loops = {"nos_optax": lambda: trainer.evaluate(programs).reward}
    for peer in args.peers:
        if (loop := make_loop(peer, trainer, dataset)) is not None:
            loops[peer] = lambda loop=loop: np.array([loop.reward(p) for p in programs])
    rows: dict[str, dict] = {name: {"seconds": []} for name in loops}
    for repeat in range(args.repeats):
        for name, evaluate in loops.items():
            if name == "optax" and repeat > 0:
                continue  # so slow that once is enough
            start = time.perf_counter()
            rows[name]["rewards"] = evaluate()
            rows[name]["seconds"].append((time.perf_counter() - start) / count)
    for name in rows:
        report(name, rows)

    args.out.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {devices[0].device_kind}",
        "jax": jax.__version__,
        "candidates": count,
        "compile_seconds": compiling,
        "rows": {
            name: {
                "seconds": row["seconds"],
                "rewards": [round(float(r), 4) for r in row["rewards"]],
            }
            for name, row in rows.items()
        },
    }
    path = args.out / f"candidates_per_second_{args.task}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")


def make_loop(peer: str, trainer, dataset):
    """Return a peer's loop, or None where its library is absent."""
    if peer == "optax":
        from peers.optax_loop import Loop

        return Loop(trainer, dataset)
    try:
        from peers.pytorch_loop import Loop
    except ImportError as error:
        print(f"{peer}: left out, {error}")
        return None
    return Loop(trainer, dataset)


def report(name: str, rows: dict) -> None:
    """Print one row: seconds a candidate (median and range) and the ratio."""
    seconds, base = rows[name]["seconds"], rows["nos_optax"]
    ratio = np.median(seconds) / np.median(base["seconds"])
    agreement = np.mean(np.abs(rows[name]["rewards"] - base["rewards"]) < 0.1)
    print(
        f"{name:10} {np.median(seconds):8.4f} s/candidate ({min(seconds):.4f}-{max(seconds):.4f}), "
        f"{ratio:6.2f} x; rewards within 0.1: {agreement:.0%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
