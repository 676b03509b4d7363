"""Does a GPU, whose matrix products are tf32 by default, rank rules as a CPU in float32 does?

Method:   rules that a search on a GPU trained, its best 24, 60 at random of those that learned and
          12 of those that did not, are evaluated again on this machine's CPU, with the seeds and
          the measurements of Adam that the search had. The text of the task `characters` is that
          of the running Python, and another one's differs: so the tasks on digits are also
          compared alone.
Command:  python benchmarks/suite_precision.py
Needs:    a history of `benchmarks/gpu/run.py`'s search, such as the committed one.
Time:     a minute or two on 2 cores.
Writes:   benchmarks/results/suite_precision.json
"""

import json
import lzma
import platform
from pathlib import Path

import jax
import numpy as np
from scipy.stats import spearmanr

from nos_optax.grammar import encode
from nos_optax.population import update_size
from nos_optax.population.protocol import TRAINED
from nos_optax.population.reference import from_fields
from nos_optax.population.suite import LEAST, SEEDS, SuiteTrainer, load_suite
from nos_optax.search import enable_compilation_cache, select_devices

RESULTS = Path(__file__).parent / "results"
HISTORY, SEED, ITERATIONS = RESULTS / "gpu_search_h100_seed0.jsonl.xz", 0, 3
CARD = RESULTS / "gpu_NVIDIA_H100_80GB_HBM3.json"  # its section `search` wrote the history
update_size.SEED = 2_000_200  # as at that section's commit: it decides where rates are centred


def chosen_rows(rows: list[dict]) -> list[dict]:
    """Return the best 24 rules, 60 others that learned and 12 that did not."""
    rng = np.random.default_rng(0)
    learned = sorted((r for r in rows if r["status"] == "trained"), key=lambda r: -r["reward"])
    best, others = learned[:24], learned[24:]
    dead = [r for r in rows if r["status"] == "dead"]
    some = [others[i] for i in rng.permutation(len(others))[:60]]
    return best + some + [dead[i] for i in rng.permutation(len(dead))[:12]]


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    return {
        "rank_correlation": float(spearmanr(a, b).statistic),
        "mean_difference": float(np.abs(a - b).mean()),
    }


def main() -> None:
    """Evaluate the rules and compare."""
    select_devices("cpu")
    enable_compilation_cache()
    rows = [json.loads(line) for line in lzma.open(HISTORY, "rt")]
    rows = chosen_rows(rows)
    adam = json.loads(CARD.read_text())["sections"]["search"]["adam"]
    trainer = SuiteTrainer(load_suite(), ITERATIONS, references=[from_fields(r) for r in adam])
    programs = np.stack([encode(r["rule"], ITERATIONS).array for r in rows])
    found = trainer.evaluate(programs, SEED)
    gpu = np.array([r["reward"] for r in rows])
    learned = np.array([r["status"] == "trained" for r in rows]) & (found.status == TRAINED)
    by_task = found.curve.reshape(len(rows), -1, SEEDS).mean(axis=-1)[learned]
    on_gpu = np.array([r["tasks"] for r, both in zip(rows, learned, strict=True) if both])
    names = [workload.task.name for workload in trainer.workloads]
    digits = [i for i, name in enumerate(names) if name.startswith("digits")]
    content = {
        "history": HISTORY.name,
        "machine": f"{platform.machine()}, jax {jax.__version__}, "
        f"Python {platform.python_version()}",
        "rules": len(rows),
        "same_outcome": float(np.mean((gpu > LEAST) == (found.reward > LEAST))),
        "all": agreement(gpu, found.reward),
        "learned": agreement(gpu[learned], found.reward[learned]),
        "learned, tasks on digits": agreement(
            on_gpu[:, digits].mean(axis=1), by_task[:, digits].mean(axis=1)
        ),
        "tasks": {name: agreement(on_gpu[:, i], by_task[:, i]) for i, name in enumerate(names)},
    }
    (RESULTS / "suite_precision.json").write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
