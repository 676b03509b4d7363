"""Which rules need not be trained: are the probes' rejections and fingerprints right?

Question: how many evaluations do the probes save a search, and what do they cost it?
Method:   random programs of 1, 2 and 3 iterations and the rules of the catalogue, all trained on
          the digits with the default protocol, whatever the probes say; each reason's rules as a
          population of their own, timed. A rule trains well if its reward is at least 0.8 of the
          best standard optimizer's. Then many more programs, untrained: the fingerprints against
          the canonical digests, and each pair of rules with equal fingerprints but other digests
          evaluated on fresh gradients and weights.
Command:  python benchmarks/rejections.py
Time:     about 10 minutes on one core; the times it reports are of the processor, not the clock.
Writes:   benchmarks/results/rejections.json
"""

import argparse
import itertools
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.grammar import (
    SearchSpace,
    apply_program,
    decode,
    encode,
    init_program_state,
    program_streams,
    rules,
)
from nos_optax.grammar.program import pad_programs
from nos_optax.population import STATUSES, PopulationTrainer, load_digits
from nos_optax.search import enable_compilation_cache
from nos_optax.search.probes import REASONS, Probes
from nos_optax.search.results import STANDARD

ITERATIONS = 4  # the longest rule of the catalogue
LENGTHS = (1, 2, 3)  # of the random programs
WELL = 0.8  # of the best standard optimizer's reward


def random_programs(seed: int, count: int) -> np.ndarray:
    """Return about `count` programs `[count, ITERATIONS, 5]`, as many of each length."""
    return np.concatenate(
        [
            pad_programs(
                np.asarray(
                    SearchSpace(length).sample(
                        jax.random.key(seed * 10 + length), count // len(LENGTHS)
                    )
                ).reshape(-1, length, 5),
                ITERATIONS,
            )
            for length in LENGTHS
        ]
    )


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion."""
    if not total:
        return 0.0, 1.0
    p, scale = count / total, 1 + z**2 / total
    middle = (p + z**2 / (2 * total)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def measure_rejections(trainer: PopulationTrainer, samples: int, seed: int) -> dict:
    """Train everything and compare with what the probes said."""
    standard = np.stack([encode(rule, ITERATIONS).array for rule in STANDARD.values()])
    well = WELL * float(trainer.evaluate(standard).reward.max())
    programs = random_programs(seed, samples)
    sampled = len(programs)
    programs = np.concatenate(
        [programs, [encode(entry.rule, ITERATIONS).array for entry in rules.values()]]
    )

    probes = Probes(ITERATIONS)
    probes(programs[:1])
    start = time.process_time()
    probed = probes(programs)
    probing = time.process_time() - start

    reasons = [p.rejection for p in probed]
    rewards, statuses = np.zeros(len(programs)), np.zeros(len(programs), int)
    rows: list[dict[str, Any]] = []
    for reason in (*REASONS, None):
        members = np.array([i for i, r in enumerate(reasons) if r == reason], int)
        start = time.process_time()
        if len(members):
            evaluation = trainer.evaluate(programs[members])
            rewards[members], statuses[members] = evaluation.reward, evaluation.status
        seconds = time.process_time() - start
        counts = np.bincount(statuses[members], minlength=len(STATUSES))
        rows.append(
            {
                "reason": reason,
                "rules": len(members),
                **{name: int(n) for name, n in zip(STATUSES, counts, strict=True)},
                "train_well": int((rewards[members] >= well).sum()),
                "highest_reward": round(float(rewards[members].max(initial=0)), 4),
                "share_of_rules": len(members) / len(programs),
                "seconds": round(seconds, 2),
            }
        )
    total = sum(row["seconds"] for row in rows)
    for row in rows:
        row["share_of_seconds"] = row["seconds"] / total
    good = rewards >= well
    rejected = np.array([r is not None for r in reasons])
    false, trains = int((good & rejected).sum()), int(good.sum())
    return {
        "random_rules": sampled,
        "catalogue_rules": len(programs) - sampled,
        "trains_well_from": well,
        "train_well": trains,
        "falsely_rejected": false,
        "falsely_rejected_share": false / max(1, trains),
        "falsely_rejected_interval": wilson(false, trains),
        "rejected_share_of_random_rules": float(rejected[:sampled].mean()),
        "rejected_share_of_seconds": sum(r["share_of_seconds"] for r in rows if r["reason"]),
        "milliseconds_to_probe_a_rule": 1e3 * probing / len(programs),
        "milliseconds_to_train_a_rule": 1e3 * total / len(programs),
        "reasons": rows,
        "rejected_but_trained": [
            {"rule": str(decode(programs[i])), "reward": float(rewards[i]), "reason": reasons[i]}
            for i in np.flatnonzero(rejected & (statuses == STATUSES.index("trained")))
        ],
        "equal_fingerprints": _rewards_of_equals(probed, programs, rewards),
    }


def _rewards_of_equals(probed, programs, rewards) -> dict:
    """Compare the rewards of rules that share a fingerprint but not a digest."""
    groups = defaultdict(dict)
    for i, p in enumerate(probed):
        if p.rejection is None:
            groups[p.fingerprint].setdefault(decode(programs[i]).digest, i)
    pairs = [p for group in groups.values() for p in itertools.pairwise(group.values())]
    differences = [abs(float(rewards[i] - rewards[j])) for i, j in pairs]
    return {"pairs_not_rejected": len(pairs), "largest_reward_difference": max([0, *differences])}


def measure_fingerprints(samples: int, seed: int) -> dict:
    """Compare fingerprints with digests; nothing is trained."""
    programs = np.unique(random_programs(seed + 1, samples), axis=0)
    probed = Probes(ITERATIONS)(programs)
    digests = [decode(program).digest for program in programs]
    fingerprints = defaultdict(set)
    groups = defaultdict(dict)
    for i, (p, digest) in enumerate(zip(probed, digests, strict=True)):
        fingerprints[digest].add(p.fingerprint)
        groups[p.fingerprint].setdefault(digest, i)
    repeated = {d for d in fingerprints if digests.count(d) > 1}
    pairs = [p for group in groups.values() for p in itertools.pairwise(group.values())]
    unlike = [(unlikeness(programs[i], programs[j]), i, j) for i, j in pairs]
    alive = [p.rejection is None for p in probed]
    unlike_alive = [row for row in unlike if alive[row[1]]]
    return {
        "programs": len(programs),
        "digests": len(set(digests)),
        "fingerprints": len(groups),
        "digests_of_several_programs": len(repeated),
        "programs_of_these": sum(digests.count(d) for d in repeated),
        "digests_with_several_fingerprints": sum(len(fingerprints[d]) > 1 for d in repeated),
        "not_rejected": sum(alive),
        "digests_not_rejected": len({d for d, a in zip(digests, alive, strict=True) if a}),
        "fingerprints_not_rejected": len({p.fingerprint for p in probed if p.rejection is None}),
        "pairs_of_other_digests": len(pairs),
        "pairs_unlike_at_one_entry_in_a_hundred": sum(share > 0.01 for share, *_ in unlike),
        "pairs_not_rejected": len(unlike_alive),
        "of_these_unlike_at_one_entry_in_a_hundred": sum(
            share > 0.01 for share, *_ in unlike_alive
        ),
        "of_these_unlike_at_any_entry": [
            {"share": share, "rules": [str(decode(programs[i])), str(decode(programs[j]))]}
            for share, i, j in unlike_alive
            if share
        ],
    }


def unlikeness(one: np.ndarray, other: np.ndarray, steps: int = 11, size: int = 500) -> float:
    """Return the share of float32 updates on fresh inputs that differ by more than 1 %."""
    rng = np.random.default_rng(1)
    scale = 0.02 * np.exp(rng.normal(size=size))
    g = (scale * (rng.choice([-0.5, 0.5], size) + rng.normal(size=(steps, size)))).astype("f4")
    w = (0.1 * rng.normal(size=size)).astype("f4")
    x, y = (np.asarray(_updates(program, g, w)) for program in (one, other))
    with np.errstate(invalid="ignore"):
        near = np.abs(x - y) <= 0.01 * np.maximum(np.abs(x), np.abs(y))
    return float(np.mean(~(near | (x == y) | (np.isnan(x) & np.isnan(y)))))


@jax.jit
def _updates(program, gradients, w):
    streams, total_steps = program_streams(program), jnp.int32(len(gradients))

    def step(state, g):
        key = jax.random.key(1)
        update, state = apply_program(program, streams, state, g, w, total_steps, key)
        return state, update

    return jax.lax.scan(step, init_program_state(w), gradients)[1]


def main() -> None:
    """Measure both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=3600, help="random rules to train")
    parser.add_argument("--fingerprints", type=int, default=9000, help="random rules to probe only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/rejections.json"
    )
    args = parser.parse_args()
    enable_compilation_cache()

    trainer = PopulationTrainer(load_digits(), iterations=ITERATIONS)
    result = {"seed": args.seed, **measure_rejections(trainer, args.samples, args.seed)}
    print("reason                 rules trained  dead diverged train well  highest  time")
    for row in result["reasons"]:
        print(
            f"{row['reason'] or 'none':21} {row['rules']:6} {row['trained']:7} {row['dead']:5} "
            f"{row['diverged']:8} {row['train_well']:10} {row['highest_reward']:8.3f} "
            f"{row['share_of_seconds']:5.0%}"
        )
    low, high = result["falsely_rejected_interval"]
    print(
        f"falsely rejected: {result['falsely_rejected']} of {result['train_well']} that train well "
        f"(95 % interval {low:.2%} to {high:.2%})"
    )
    result["fingerprints"] = measure_fingerprints(args.fingerprints, args.seed)
    for name, value in result["fingerprints"].items():
        print(f"{name.replace('_', ' ')}: {value}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
