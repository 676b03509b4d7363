"""What does a rule that is data cost, within a child's step?

Claim:    the traced evaluator takes at most 10 % of a child's step, a little more for rules that
          draw normal numbers.
Method:   the population trainer on digits with one learning rate and 100 epochs; the seconds a step
          of some rules, against those of a trainer in which the rule is replaced by the gradient
          itself; the median over rounds of the ratio within a round. One device, so that nothing
          else competes.
Command:  python benchmarks/interpreter_share.py
Time:     1 minute.
Writes:   benchmarks/results/interpreter_share.json
"""

import argparse
import json
import os
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

RULES = (
    "g",
    "adam",
    "exp(sign(g) * sign(m)) * g",
    "(1 + ld * sign(g) * sign(m)) * g",
    "drop(g, 0.3) * exp(sign(g) * sign(m))",
    "noise + g",
)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    from nos_optax.grammar import encode
    from nos_optax.population import PopulationTrainer, Protocol, load_digits, loop

    protocol = Protocol(learning_rates=(0.01,), epochs=100)

    def make_trainer() -> PopulationTrainer:
        trainer = PopulationTrainer(load_digits(), protocol, devices=jax.devices()[:1])
        trainer.evaluate(encode("g", 4).array[None])  # compiles
        return trainer

    def step_seconds(trainer: PopulationTrainer, rule: str) -> float:
        program = encode(rule, 4).array[None]
        start = time.perf_counter()
        status = trainer.evaluate(program).status[0]
        assert status == 0, f"{rule} did not train: there is nothing to measure"
        seconds = time.perf_counter() - start
        return seconds / (trainer.sweep_steps + trainer.train_steps)

    def the_gradient(program, streams, state, g, w, total_steps, key):
        return g, state

    interpreted = make_trainer()
    with mock.patch.object(loop, "apply_program", the_gradient):
        plain = make_trainer()

    ratios: dict[str, list[float]] = {rule: [] for rule in RULES}
    base = []
    for _ in range(args.rounds):
        base.append(step_seconds(plain, "g"))
        for rule in RULES:
            ratios[rule].append(step_seconds(interpreted, rule) / base[-1])
    shares = {rule: 1 - 1 / float(np.median(r)) for rule, r in ratios.items()}
    print(f"child step without a rule: {1e3 * np.median(base):.3f} ms")
    for rule, share in shares.items():
        low, high = (1 - 1 / x for x in (min(ratios[rule]), max(ratios[rule])))
        print(f"{share:6.1%} ({low:.1%} to {high:.1%}) of the step: {rule}")
    args.out.mkdir(parents=True, exist_ok=True)
    content = {"cores": os.cpu_count(), "step_seconds": base, "shares": shares}
    (args.out / "interpreter_share.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
