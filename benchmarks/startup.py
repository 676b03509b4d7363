"""How long until a search evaluates, and what does it spend on anything but children?

Claim:    from process start to the first evaluated population at most 15 s without and 6 s with
          the compilation cache; no compile after the first population; the controller takes at
          most 1 % of the search.
Method:   a search on digits in a fresh process, first with an empty cache, then with the one that
          it left; seconds since the process began when the first population is done; XLA compiles
          are counted by JAX's own monitoring; the controller's sample and update are timed.
Command:  python benchmarks/startup.py
Time:     1 minute on 2 cores.
Writes:   benchmarks/results/startup.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


def child(samples: int) -> None:
    """Search, and print what was measured as JSON."""
    began = float(os.environ["BENCHMARK_BEGAN"])
    import jax

    from nos_optax.search import PPO, SearchConfig, enable_compilation_cache, run_search

    compiles, batches, controller = [], [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiles.append(event) if event == COMPILE_EVENT else None
    )

    def timed(method):
        def call(*args):
            start = time.perf_counter()
            result = method(*args)
            jax.block_until_ready(args[0].state)
            controller.append(time.perf_counter() - start)
            return result

        return call

    PPO.ask, PPO.tell = timed(PPO.ask), timed(PPO.tell)
    enable_compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        run_search(
            SearchConfig(
                protocol="paper",
                samples=samples,
                finalists=1,
                final_seeds=1,
                out=Path(folder) / "run",
            ),
            lambda candidates: batches.append((time.time(), len(compiles), len(controller))),
        )
    (first, compiled, calls), (last, compiled_at_last, _) = batches[0], batches[-1]
    print(
        json.dumps(
            {
                "seconds_to_first_population": first - began,
                "compiles_after_first_population": compiled_at_last - compiled,
                "controller_share": sum(controller[calls:]) / (last - first),
                "milliseconds_a_controller_call": 1e3 * min(controller[calls:]),
            }
        )
    )


def main() -> None:
    """Measure without and with the cache, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if args.child:
        return child(args.samples)

    rows = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("no cache", "with cache"):
            environment = os.environ | {
                "JAX_COMPILATION_CACHE_DIR": cache,
                "BENCHMARK_BEGAN": str(time.time()),
            }
            command = [sys.executable, __file__, "--child", "--samples", str(args.samples)]
            out = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            rows[name] = json.loads(out.splitlines()[-1])
            print(name, {key: round(value, 4) for key, value in rows[name].items()}, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "startup.json").write_text(
        json.dumps({"cores": os.cpu_count(), **rows}, indent=1) + "\n"
    )
    return None


if __name__ == "__main__":
    main()
