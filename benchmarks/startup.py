"""How long until a search evaluates, and what does it spend on anything but children?

Claim:    from process start to the first evaluated population at most 25 s without and 8 s with the
          compilation cache on the suite, 15 s and 6 s by the paper's protocol on digits; no compile
          after the first population; the strategy and what is kept take at most 2 % of a search on
          the suite, the controller at most 1 % of one by the paper's protocol.
Method:   a search in a fresh process, first with an empty cache, then with the one that it left;
          seconds since the process began when the first population is done. XLA compiles are
          counted by JAX's own monitoring. What each part took is what a search itself times and
          reports; what compiles within a part is the part's, so short searches have large shares.
          On the suite the search is the default one of 1,000 trainings, without finals
          and watch tasks; by the paper's protocol it has PPO and 160 samples.
Command:  python benchmarks/startup.py [--search suite digits] [--trainings N]
Time:     5 minutes on 2 cores, most of it for the search on the suite.
Writes:   benchmarks/results/startup.json
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
# Stages of a search by who is busy: the strategy, and what is kept beside the children's work.
STRATEGY, KEPT = ("ask", "tell"), ("checkpoint",)


@dataclass(frozen=True)
class Arguments:
    """Measure how a search starts, and what it spends on itself."""

    search: tuple[Literal["suite", "digits"], ...] = ("suite", "digits")
    """The default search, and the paper's protocol."""
    trainings: int = 1000
    """Of the search on the suite."""
    samples: int = 160
    """Of the search on digits."""
    out: Path = Path(__file__).parent / "results"
    """Where the file goes."""
    child: bool = False
    """Search, and print what was measured as JSON: what this command starts."""


def child(arguments: Arguments) -> None:
    """Search, and print what was measured."""
    began = float(os.environ["BENCHMARK_BEGAN"])
    import jax

    from nos_optax.search import History, SearchConfig, enable_compilation_cache, run_search

    compiles: list[str] = []
    batches: list[tuple[float, int]] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiles.append(event) if event == COMPILE_EVENT else None
    )
    settings: dict[str, Any] = {"trainings": arguments.trainings, "watch": (), "finalists": 0}
    if arguments.search == ("digits",):
        settings = {"protocol": "paper", "samples": arguments.samples, "finalists": 0}
    enable_compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run_search(
            SearchConfig(out=run, **settings),
            lambda candidates: batches.append((time.time(), len(compiles))),
        )
        history = History(run / "history.sqlite", read_only=True)
        seconds = history.seconds()
        history.close()
    (first, compiled), (last, compiled_at_last) = batches[0], batches[-1]

    def share(stages: tuple[str, ...]) -> float:
        return sum(seconds.get(x, 0) for x in stages) / sum(seconds.values())

    print(
        json.dumps(
            {
                "seconds_to_first_population": first - began,
                "compiles_after_first_population": compiled_at_last - compiled,
                "seconds_after_it": last - first,
                "strategy_share": share(STRATEGY),
                "kept_share": share(KEPT),
                "seconds": seconds,
            }
        )
    )


def measure(search: str, trainings: int, samples: int, cache: str) -> dict:
    """Return what a search in a process of its own measured."""
    flags = ["--trainings", str(trainings), "--samples", str(samples)]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "BENCHMARK_BEGAN": str(time.time()),
    }
    command = [sys.executable, __file__, "--child", "--search", search, *flags]
    out = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    """Measure without and with the cache, and print both."""
    arguments = tyro.cli(Arguments, description=Arguments.__doc__)
    if arguments.child:
        return child(arguments)
    file = arguments.out / "startup.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    for search in arguments.search:
        with tempfile.TemporaryDirectory() as cache:
            # Shares need a whole search, the start one population.
            rows[search] = {
                "no cache": measure(search, 1, arguments.samples, cache),
                "with cache": measure(search, arguments.trainings, arguments.samples, cache),
            }
        for name, row in rows[search].items():
            numbers = {k: round(x, 4) for k, x in row.items() if isinstance(x, int | float)}
            print(f"{search}, {name}: {numbers}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"cores": os.cpu_count()} | rows, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
