"""How long does one update of a large tree take, against Optax's own optimizers?

Claim:    PowerSign, AddSign and any compiled rule with one slot: at most 1.05x optax.lion and 0.8x
          optax.adam for a tree of 50 million parameters.
Method:   one jitted step (update and apply_updates, buffers donated) of each optimizer in turn,
          round after round in one process; the median over rounds of the ratio within a round.
Command:  python benchmarks/update_time.py
Time:     2 minutes on 2 cores.
Writes:   benchmarks/results/update_time.json
"""

import argparse
import json
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nos_optax

OPTIMIZERS = {
    "optax.lion": optax.lion(1e-4),
    "optax.adam": optax.adam(1e-3),
    "powersign": nos_optax.powersign(1e-2),
    "powersign, linear sign decay": nos_optax.powersign(
        1e-2, sign_decay=optax.linear_schedule(1.0, 0.0, 10_000)
    ),
    "addsign": nos_optax.addsign(1e-2),
    "rule exp(sign(g) * sign(m)) * g": nos_optax.from_rule("exp(sign(g) * sign(m)) * g", 1e-2),
    "rule (1 + sign(g) * sign(m)) * g": nos_optax.from_rule("(1 + sign(g) * sign(m)) * g", 1e-2),
    "rule g + clip(m, 1e-3)": nos_optax.from_rule("g + clip(m, 1e-3)", 1e-2),
}


def make_tree(parameters: int, key: jax.Array) -> dict:
    """Return matrices of a transformer's proportions, about `parameters` numbers in all."""
    width = int((parameters / 12 / 8) ** 0.5)
    shapes = {f"layer{i}": (12 * width, width) for i in range(8)}
    keys = jax.random.split(key, len(shapes))
    return {
        name: 0.02 * jax.random.normal(k, shape)
        for (name, shape), k in zip(shapes.items(), keys, strict=True)
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=50_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    params = make_tree(args.parameters, jax.random.key(0))
    grads = make_tree(args.parameters, jax.random.key(1))
    size = sum(x.size for x in jax.tree.leaves(params))

    def make_step(tx):
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return jax.jit(step, donate_argnums=(0, 1))

    steps = {name: make_step(tx) for name, tx in OPTIMIZERS.items()}
    slots = {
        name: sum(x.size for x in jax.tree.leaves(jax.eval_shape(tx.init, params))) / size
        for name, tx in OPTIMIZERS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds + 1):
        for name, step in steps.items():
            # One state at a time, so that memory is the same for all.
            mine, state = jax.tree.map(jnp.copy, params), OPTIMIZERS[name].init(params)
            mine, state = jax.block_until_ready(step(mine, state, grads))
            start = time.perf_counter()
            for _ in range(2):
                mine, state = step(mine, state, grads)
            jax.block_until_ready(mine)
            seconds[name].append((time.perf_counter() - start) / 2)
    times = {name: np.array(s[1:]) for name, s in seconds.items()}  # the first round compiles

    print(f"{size / 1e6:.1f}M parameters, {jax.devices()[0].device_kind}, {args.rounds} rounds")
    rows = {}
    for name, t in times.items():
        rows[name] = {
            "milliseconds": float(np.median(t) * 1e3),
            "slots": round(slots[name], 3),
            "to_lion": float(np.median(t / times["optax.lion"])),
            "to_adam": float(np.median(t / times["optax.adam"])),
        }
        row = rows[name]
        print(
            f"{name:34} {row['milliseconds']:8.1f} ms  {row['slots']:.2f} slots  "
            f"{row['to_lion']:.3f} x lion  {row['to_adam']:.3f} x adam"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    content = {"parameters": size, "cores": os.cpu_count(), "jax": jax.__version__, "rows": rows}
    (args.out / "update_time.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
