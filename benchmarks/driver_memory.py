"""What does the driver of a search hold and spend: memory over 20,000 candidates, and the disk?

Claims:   after a warm-up of 2,000 candidates the driver's memory grows by at most 50 MB over the
          next 18,000; the history takes at most 2% of a default digits search.
Method:   memory: the real loop with an engine that trains nothing (tests/fake_engine.py), in a
          process of its own for each strategy; resident memory after every population. Time: the
          default search, with a clock around every method of the history.
Command:  python benchmarks/driver_memory.py
Time:     about 5 minutes on one core.
Writes:   benchmarks/results/driver_memory.json
"""

import argparse
import functools
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_engine import FakeEngine  # ty: ignore[import-not-found]

from nos_optax.search import (
    History,
    SearchConfig,
    enable_compilation_cache,
    run_search,
)

STRATEGIES = ("random", "evolution", "ppo")
WARM_UP = 2_000  # candidates


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=SearchConfig.samples, help="of the search")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    report: dict = {"machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
        report["share"] = processes.submit(share, args.samples).result()
        for strategy in STRATEGIES:
            report[strategy] = processes.submit(memory, strategy, args.candidates).result()

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "driver_memory.json").write_text(json.dumps(report, indent=2) + "\n")


def memory(strategy: str, count: int) -> dict:
    """Return the resident memory in MB over a search of so many candidates."""
    enable_compilation_cache()
    points: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(
            protocol="paper",
            samples=count,
            strategy=strategy,
            finalists=1,
            final_seeds=1,
            out=Path(folder) / "run",
        )
        result = run_search(
            config, lambda c: points.append((len(c), resident())), engine=FakeEngine()
        )
    warm = next(megabytes for number, megabytes in points if number >= min(WARM_UP, count))
    growth = max(megabytes for number, megabytes in points if number >= WARM_UP) - warm
    print(
        f"{strategy}: {warm:.0f} MB after {WARM_UP} candidates, at most {growth:.1f} MB more until "
        f"{count}; {result.seconds:.0f} s",
        flush=True,
    )
    return {
        "growth_mb": round(growth, 1),
        "seconds": round(result.seconds, 1),
        "mb_at": {number: round(mb, 1) for number, mb in points if number % (count // 20) < 32},
    }


def resident() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def share(samples: int) -> dict:
    """Return the seconds of a default search, and those within the history."""
    enable_compilation_cache()
    spent: dict[str, float] = defaultdict(float)
    names = ("__init__", "add_trainings", "has_training", "training", "add_candidates")
    for name in (*names, "save_state", "state"):
        clocked(History, name, spent)
    with tempfile.TemporaryDirectory() as folder:
        seconds = run_search(
            SearchConfig(protocol="paper", samples=samples, out=Path(folder) / "run")
        ).seconds
    part = sum(spent.values()) / seconds
    print(f"history: {part:.2%} of {seconds:.0f} s; {dict(spent)}", flush=True)
    return {
        "seconds": round(seconds, 1),
        "share": round(part, 5),
        "spent": {name: round(value, 3) for name, value in spent.items()},
    }


def clocked(kind: type, name: str, spent: dict[str, float]) -> None:
    """Add the seconds of every call of a method; the methods do not call one another."""
    method = getattr(kind, name)

    @functools.wraps(method)
    def timed(*args, **kwargs):
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent[f"{kind.__name__}.{name}"] += time.perf_counter() - start

    setattr(kind, name, timed)


if __name__ == "__main__":
    main()
