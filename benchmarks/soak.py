"""What does a long search do: does it go on finding, repeating, rejecting; does it slow down?

Question: over thousands of candidates on digits, how do the rewards, the share of repeats and of
          rejected rules, the rate and the driver's memory develop?
Method:   one search with a controller, in this process; the parts of every 256 samples.
Command:  python benchmarks/soak.py --samples 5120
Time:     5 to 10 minutes on 2 cores.
Writes:   benchmarks/results/soak_STRATEGY.json and .png
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

WINDOW = 256


def main() -> None:
    """Search, and print, draw and write what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=5120)
    parser.add_argument("--strategy", default="ppo")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    from nos_optax.search import SearchConfig, enable_compilation_cache, run_search

    enable_compilation_cache()
    clock: list[tuple[int, float, float]] = []  # candidates, seconds, MB

    def on_batch(candidates):
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        clock.append((len(candidates), time.perf_counter(), memory))

    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(
            protocol="paper",
            samples=args.samples,
            strategy=args.strategy,
            iterations=args.iterations,
            out=Path(folder) / "run",
        )
        result = run_search(config, on_batch)

    counts, seconds, memory = (np.array(x) for x in zip(*clock, strict=True))
    rows = []
    for first in range(0, args.samples, WINDOW):
        part = result.candidates[first : first + WINDOW]
        ends = np.interp([first, first + len(part)], counts, seconds)
        rows.append(
            {
                "samples": first + len(part),
                "mean_reward": float(np.mean([c.reward for c in part])),
                "trained_anew": sum(c.is_training for c in part),
                "repeats": sum(c.origin not in (c.id, None) for c in part),
                "rejected": sum(c.origin is None for c in part),
                "distinct": len({c.fingerprint for c in part}),
                "seconds": float(ends[1] - ends[0]),
                "peak_megabytes": float(np.interp(first + len(part), counts, memory)),
            }
        )
        print(rows[-1], flush=True)
    finals = sorted(result.results, key=lambda r: -r.mean)
    for r in finals:
        print(f"{r.name:10} {r.mean:.4f} ({r.deviation:.4f}), searched {r.searched}: {r.rule}")
    total = {key: sum(r[key] for r in rows) for key in ("trained_anew", "repeats", "rejected")}
    print(total, f"{result.seconds:.0f} s")

    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"soak_{args.strategy}.json"
    content: dict = {"cores": len(os.sched_getaffinity(0)), "seconds": result.seconds, **total}
    content |= {"windows": rows, "finals": [r._asdict() for r in finals]}
    path.write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".png").write_bytes(draw(rows, args))


def draw(rows: list[dict], args: argparse.Namespace) -> bytes:
    """Draw rewards, shares and rate over the samples."""
    import io

    samples = [row["samples"] for row in rows]
    figure = Figure(figsize=(7, 6), layout="constrained")
    rewards, shares, rates = figure.subplots(3, sharex=True)
    rewards.plot(samples, [row["mean_reward"] for row in rows], "C0")
    rewards.set(ylabel="mean reward", ylim=(0, 1), title=f"digits, {args.strategy}")
    kinds = ("trained_anew", "repeats", "rejected")
    names = [kind.replace("_", " ") for kind in kinds]
    shares.stackplot(samples, *[[row[kind] for row in rows] for kind in kinds], labels=names)
    shares.set(ylabel=f"of {WINDOW} samples", ylim=(0, WINDOW))
    shares.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    rates.plot(samples, [WINDOW / row["seconds"] for row in rows], "C0")
    rates.set(xlabel="samples", ylabel="samples a second", ylim=(0, None))
    png = io.BytesIO()
    figure.savefig(png, dpi=150)
    return png.getvalue()


if __name__ == "__main__":
    main()
