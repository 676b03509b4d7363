"""Does the controller learn? PPO against uniform sampling in the same space.

Claim:    the controller's average reward rises over a digits search of a few hundred samples
          (figure 4).
Method:   several seeds of `search` with each strategy, everything else equal; the mean reward of
          each quarter of the samples, and the difference of the last quarters with its standard
          error over seeds.
Command:  python benchmarks/ppo_vs_random.py
Time:     about 10 minutes on 2 cores.
Writes:   benchmarks/results/ppo_vs_random.json and .png
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from nos_optax.search import SearchConfig, enable_compilation_cache, search

STRATEGIES = ("ppo", "random")


def main() -> None:
    """Run the searches, print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=SearchConfig.batch_size)
    parser.add_argument("--iterations", type=int, default=SearchConfig.iterations)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    enable_compilation_cache()

    rewards: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    for seed in range(args.seeds):
        for strategy in STRATEGIES:
            with tempfile.TemporaryDirectory() as folder:
                result = search(
                    SearchConfig(
                        strategy=strategy,
                        seed=seed,
                        samples=args.samples,
                        batch_size=args.batch_size,
                        iterations=args.iterations,
                        finalists=0,
                        final_seeds=2,
                        out=Path(folder) / "run",
                    )
                )
            rewards[strategy].append([c.reward for c in result.candidates])
            quarters = [f"{q.mean():.3f}" for q in np.array_split(rewards[strategy][-1], 4)]
            print(
                f"seed {seed} {strategy:6}: mean reward by quarter {' '.join(quarters)}, "
                f"best {max(rewards[strategy][-1]):.4f}, {result.seconds:.0f} s",
                flush=True,
            )

    last = {name: [np.array_split(r, 4)[-1].mean() for r in rewards[name]] for name in STRATEGIES}
    gain = np.subtract(last["ppo"], last["random"])
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
    print(f"last quarter, PPO minus random: {gain.mean():.3f} +- {error:.3f} (n = {len(gain)})")

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "ppo_vs_random.json").write_text(
        json.dumps({"samples": args.samples, "batch_size": args.batch_size, "rewards": rewards})
    )
    draw(rewards, args.batch_size, args.out / "ppo_vs_random.png")


def draw(rewards: dict[str, list[list[float]]], window: int, path: Path) -> None:
    """Draw each seed's moving average, and the mean over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for color, (name, runs) in zip(("C0", "C1"), rewards.items(), strict=True):
        curves = [np.convolve(r, np.ones(window) / window, mode="valid") for r in runs]
        samples = np.arange(window, len(runs[0]) + 1)
        for curve in curves:
            axes.plot(samples, curve, color=color, lw=0.8, alpha=0.5)
        axes.plot(samples, np.mean(curves, axis=0), color=color, lw=2.5, label=name)
    axes.set(
        xlabel="candidates evaluated",
        ylabel=f"mean reward of the last {window}",
        title=f"digits, {len(rewards['ppo'])} seeds (thin) and their mean",
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
