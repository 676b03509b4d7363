"""Which reward on small tasks likes the rules that are good on larger and longer ones?

Question: how long should the suite's tasks train, and how should the speeds on them become one
          reward, so that what a search likes is ahead of Adam elsewhere?
Method:   All rules and optimizers of `reward_signal.py`, Adam's numerator joined with RMSProp's,
          and the five finalists of each committed search, under a search's own protocol with two
          seeds a training and a tuned Adam of each task and length. Speeds elsewhere are on the
          suite's tasks made larger and on the watch tasks. A reward is a list of tasks with their
          lengths and the order of the power mean of times over them (0: the mean of the speeds;
          inf: the slowest task alone). Agreement is Spearman's rank correlation with the mean
          speed elsewhere, of all rules that learn everywhere and of the better half by that mean.
          Beside it is what the reward's five best gain elsewhere: on the mean, and where they gain
          least. What decides between rewards here are tasks that searches never select by, but
          they are not those of the claims (`experiments/held_out`).
Command:  python benchmarks/reward_lasts.py
Time:     half an hour on 2 cores; each part is kept as it is done, and a killed run goes on.
Writes:   benchmarks/results/reward_lasts.json, .md, and .jsonl, which a killed run goes on from
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from reward_signal import OPTIMIZERS, names
from scipy.stats import spearmanr

import nos_optax
from nos_optax._command import make_console, one_message
from nos_optax.compare.records import Records, write_results
from nos_optax.compare.results import ALL_TASKS
from nos_optax.grammar import encode
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.program import MAX_ITERATIONS, pad_programs
from nos_optax.population.accelerator import enable_compilation_cache, select_devices
from nos_optax.population.protocol import TRAINED
from nos_optax.population.reference import reference_store
from nos_optax.population.suite import (
    LARGER,
    SUITE,
    WATCH,
    SuiteTrainer,
    Workload,
    joint_speed,
    load_suite,
)

ROOT = Path(__file__).parents[1]
FIRST_SEED = 650_000  # far from those of searches, of experiments and of Adam's tuning
JOINED = (
    "adam + rmsprop",
    "ld * (adam + rmsprop)",
    "cd * (adam + rmsprop)",
    "sqrt(ld) * (adam + rmsprop)",
    "sqrt(cd) * (adam + rmsprop)",
)
TASKS = ("characters", "digits-convnet", "digits-mlp", "digits-autoencoder")
LENGTHS = {  # of a training, in steps
    "short": dict(zip(TASKS, (240, 60, 120, 160), strict=True)),
    "the suite": {name: make().horizon for name, make in SUITE.items()},
    "long": dict(zip(TASKS, (960, 240, 480, 640), strict=True)),
}
ORDERS = (0, 1, 2, 4, 8, np.inf)
BEST = 5


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare rewards by what they like elsewhere."""

    seeds: int = 2
    """Of all tasks, each two trainings."""
    searches: Path = ROOT / "experiments" / "results" / "searches"
    """Folders with the results of searches, whose finalists are among the rules."""
    results: Path = Path(__file__).parent / "results"
    """Where the file goes, and beside it what a killed run goes on from."""


def rules_of(searches: Path) -> dict[str, np.ndarray]:
    """Return the program of each rule, by how it is written."""
    texts = [name for name in names() if name not in OPTIMIZERS] + [*JOINED]
    programs = {text: encode(text).array for text in texts}
    for file in sorted(searches.glob("**/results.json")):
        rows = json.loads(file.read_text())["tasks"][ALL_TASKS]["rivals"]
        for row in rows:
            with contextlib.suppress(RuleError):  # a sum may be written with a step too many
                if row["name"].startswith("found"):
                    programs[row["what"]] = encode(row["what"]).array
    return {text: pad_programs(program, MAX_ITERATIONS) for text, program in programs.items()}


def tasks() -> dict[str, Workload]:
    """Return every task at every length."""
    found = {}
    for lengths in LENGTHS.values():
        for name, steps in lengths.items():
            (workload,) = load_suite([name])
            found[f"{name}, {steps} steps"] = dataclasses.replace(workload, horizon=steps)
    return found | {name: make() for name, make in (LARGER | WATCH).items()}


def train(workload: Workload, programs: np.ndarray, seed: int) -> list[float]:
    """Return the speed of each rule and optimizer on a task, nan of those that do not learn."""
    trainer = SuiteTrainer([workload], MAX_ITERATIONS, store=reference_store())
    found = [trainer.evaluate(programs, seed)]
    found += [trainer.evaluate_optimizer(factory, seed) for factory in OPTIMIZERS.values()]
    rewards = np.concatenate([evaluation.reward for evaluation in found])
    status = np.concatenate([evaluation.status for evaluation in found])
    return np.where(status == TRAINED, rewards, np.nan).tolist()


def reward(speeds: np.ndarray, order: float) -> np.ndarray:
    """Return one reward of the speeds `[P, tasks]`."""
    if order == 0:
        return speeds.mean(axis=-1)
    if np.isinf(order):
        return speeds.min(axis=-1)
    return joint_speed(order * speeds) / order


def summary(speeds: Mapping[str, np.ndarray], texts: list[str]) -> dict[str, Any]:
    """Return how well each reward agrees with the speeds elsewhere, `[P]` of each task."""
    learned = np.isfinite(list(speeds.values())).all(axis=0)
    known = np.array(texts)[learned]
    elsewhere = np.stack([speeds[name][learned] for name in (*LARGER, *WATCH)], axis=1)
    truth = elsewhere.mean(axis=1)
    better = truth >= np.median(truth)
    found = {}
    for name, lengths in LENGTHS.items():
        here = [speeds[f"{task}, {steps} steps"][learned] for task, steps in lengths.items()]
        for order in ORDERS:
            liked = reward(np.stack(here, axis=1), order)
            best = np.argsort(-liked)[:BEST]
            found[f"{name}, order {order:g}"] = {
                "agreement": float(spearmanr(liked, truth).statistic),
                "agreement of the better half": float(
                    spearmanr(liked[better], truth[better]).statistic
                ),
                "its best": known[best].tolist(),
                "elsewhere": float(truth[best].mean()),
                "least": float(elsewhere[best].min(axis=1).mean()),
            }
    return {"rules": len(known), "rewards": found}


def markdown(found: Mapping[str, dict]) -> str:
    """Return the table of rewards."""
    lines = [
        "| reward | agreement, all | the better half | its five best elsewhere | where they gain "
        "least | its best |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        lines.append(
            f"| {name} | {row['agreement']:.2f} | {row['agreement of the better half']:.2f} | "
            f"{row['elsewhere']:+.2f} | {row['least']:+.2f} | `{row['its best'][0]}` |"
        )
    return "\n".join(lines) + "\n"


def run(arguments: Arguments) -> None:
    """Measure, print and write."""
    devices = select_devices("cpu")
    enable_compilation_cache()
    programs = rules_of(arguments.searches)
    texts = [*programs, *OPTIMIZERS]
    config = {"rules": texts, "jax": jax.__version__, "version": nos_optax.__version__}
    records = Records(arguments.results / "reward_lasts.jsonl", config)
    speeds: dict[str, list[np.ndarray]] = {}
    for name, workload in tasks().items():
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
            facts = {"steps": workload.horizon, "children": workload.children}
            key = {"task": name, "seed": seed, **facts}
            kept = records.get(key)
            if kept is None:
                kept = {"speeds": train(workload, np.stack(list(programs.values())), seed)}
                records.append(key, kept)
            speeds.setdefault(name, []).append(np.array(kept["speeds"], np.float64))
    means = {name: np.mean(each, axis=0) for name, each in speeds.items()}
    found = summary(means, texts)
    table = markdown(found["rewards"])
    make_console().print(table, markup=False)
    content = {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "jax": jax.__version__,
        "seconds": records.seconds,
        **found,
        "speeds": {
            text: {name: float(mean[i]) for name, mean in means.items()}
            for i, text in enumerate(texts)
        },
    }
    write_results(arguments.results, "reward_lasts", content, table)


if __name__ == "__main__":
    with one_message():
        run(tyro.cli(Arguments, description=Arguments.__doc__))
