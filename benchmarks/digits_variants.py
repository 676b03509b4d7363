"""Which variant of the digits tells good update rules apart?

Question: a search can only climb if the reward differs between rules by more than it differs
          between seeds.
Method:   twelve rules that are known to train, six seeds, the search's own protocol; for each
          variant the standard deviation of the rules' means (signal), the pooled standard
          deviation over seeds (noise), their ratio, and the rank correlation between the means of
          one half of the seeds and those of the other.
Command:  python benchmarks/digits_variants.py
Time:     about 10 minutes on 2 cores.
Writes:   benchmarks/results/digits_variants.json
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path

import jax
import numpy as np

RULES = (
    "g",
    "m",
    "adam",
    "rmsprop",
    "sign(g)",
    "sign(m)",
    "exp(sign(g) * sign(m)) * g",
    "exp(sign(g) * sign(m)) * m",
    "exp(sign(g) * sign(m)) * adam",
    "ld * adam",
    "cd * m",
    "m + noise * g",
)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rank correlation of two vectors without ties."""
    ranks = np.argsort(np.argsort([x, y], axis=1), axis=1)
    return float(np.corrcoef(ranks)[0, 1])


def measure(rewards: np.ndarray) -> dict:
    """Summarise rewards `[rules, seeds]`."""
    means = rewards.mean(axis=1)
    half = rewards.shape[1] // 2
    noise = float(np.sqrt(rewards.var(axis=1, ddof=1).mean()))
    return {
        "lowest": float(means.min()),
        "highest": float(means.max()),
        "signal": float(means.std(ddof=1)),
        "noise": noise,
        "ratio": float(means.std(ddof=1) / noise),
        "rank_correlation": rank_correlation(
            rewards[:, :half].mean(axis=1), rewards[:, half:].mean(axis=1)
        ),
    }


def main() -> None:
    """Run every variant and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.3, 0.5])
    parser.add_argument("--train-examples", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 5])
    parser.add_argument("--minibatch", type=int, nargs="+", default=[50, 100])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/digits_variants.json"
    )
    args = parser.parse_args()

    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    from nos_optax.grammar import encode
    from nos_optax.population import PopulationTrainer, Protocol, load_digits

    programs = np.stack([encode(rule, 2).array for rule in RULES])
    rows = []
    print(f"{len(RULES)} rules, {args.seeds} seeds")
    print(
        "pixel noise, examples, epochs, minibatch |"
        " lowest highest  signal   noise  ratio  rank corr."
    )
    for noise, examples, epochs, minibatch in itertools.product(
        args.noise, args.train_examples, args.epochs, args.minibatch
    ):
        start = time.perf_counter()
        trainer = PopulationTrainer(
            load_digits(noise=noise, train_examples=examples),
            Protocol(epochs=epochs, batch_size=minibatch),
            iterations=2,
        )
        evaluations = [trainer.evaluate(programs, seed) for seed in range(args.seeds)]
        row = measure(np.stack([e.reward for e in evaluations], axis=1))
        rows.append(
            {
                "pixel_noise": noise,
                "train_examples": examples,
                "epochs": epochs,
                "minibatch": minibatch,
                **row,
                "seconds": time.perf_counter() - start,
                "rewards": {
                    rule: [round(float(e.reward[i]), 4) for e in evaluations]
                    for i, rule in enumerate(RULES)
                },
            }
        )
        print(
            f"{noise:11} {examples:9} {epochs:7} {minibatch:10} | {row['lowest']:6.3f} "
            f"{row['highest']:7.3f} {row['signal']:7.4f} {row['noise']:7.4f} {row['ratio']:6.2f} "
            f"{row['rank_correlation']:9.2f}",
            flush=True,
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"rules": RULES, "seeds": args.seeds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
