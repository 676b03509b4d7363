"""What does each choice of a search's protocol buy, and what does it cost?

Question: a candidate trains at seven rates, centred by the size of its first updates; the three
          that are best after a quarter of the length train to the end, with two seeds; the
          perceptron's seed is four trainings; and hopelessly slow rules stop early. How well would
          rules be ranked, and how much of the time would be saved, without each of these?
Method:   rules that a search trained (`experiments/results/searches`), every n-th of them, so that
          they are as good and as bad as those a search meets. The truth about a rule is the mean of
          its rewards by the whole protocol, all rules on all tasks, over --seeds seeds that no
          variant has. Each variant gives each rule one reward, with a seed of its own. Agreement is
          Spearman's rank correlation with the truth: of all rules that train, and of the better
          half of them by the truth. Lost is what the rule that a variant likes best, of these, is
          worse than the truly best one. Costs are CPU seconds of the process, the variants in turn,
          in --rounds rounds with seeds of their own; everything is a mean over the rounds. Beside
          the variants, a seed of the truth is compared with the mean of its others: the same seed
          for all rules, and another for each.
Command:  python benchmarks/protocol_choices.py
Time:     about half an hour on 2 cores.
Writes:   benchmarks/results/protocol_choices.json and .md
"""

import contextlib
import copy
import dataclasses
import functools
import json
import lzma
import time
from collections.abc import Generator
from pathlib import Path
from unittest import mock

import numpy as np
import tyro
from rich.progress import track
from scipy.stats import spearmanr

from nos_optax._command import make_console, one_message
from nos_optax.compare.records import write_results
from nos_optax.grammar import Program
from nos_optax.grammar.program import pad_programs
from nos_optax.population import reference, suite
from nos_optax.population.accelerator import enable_compilation_cache, select_devices
from nos_optax.population.reference import reference_store
from nos_optax.population.suite import SuiteTrainer, load_suite
from nos_optax.search import SearchConfig

ROOT = Path(__file__).parents[1]
PAIRED = "one seed for all rules, beside the mean of the others"
UNPAIRED = "another seed for each rule, beside the mean of its others"
FIRST_SEED = 700_000  # far from those of searches, of experiments and of Adam's tuning


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure what each choice of the protocol buys."""

    search: Path = ROOT / "experiments" / "results" / "searches" / "seed-0" / "history.jsonl.xz"
    """An exported history, of which the rules are."""
    rules: int = 96
    """How many."""
    seeds: int = 4
    """Of the truth."""
    rounds: int = 3
    """Of each variant."""
    out: Path = Path(__file__).parent / "results"
    """Where the results go."""


def programs_of(history: Path, count: int) -> np.ndarray:
    """Return programs that a search trained, evenly over its course, `int32[P, G, 5]`."""
    rows = map(json.loads, lzma.decompress(history.read_bytes()).splitlines())
    trained = [Program.from_words(r["tokens"]).array for r in rows if r["origin"] == r["id"]]
    chosen = [trained[i] for i in np.linspace(0, len(trained) - 1, count).astype(int)]
    longest = max(map(len, chosen))
    return np.stack([pad_programs(program, longest) for program in chosen])


def variant(trainer: SuiteTrainer, slack: float | None, one_child: bool = False) -> SuiteTrainer:
    """Return a trainer with the same compiled programs, and nothing known of Adam's rewards."""
    other = copy.copy(trainer)
    other.slack = slack
    if one_child:
        other.workloads = tuple(dataclasses.replace(w, children=1) for w in trainer.workloads)
    other._adam = functools.lru_cache(other._adam_speeds)
    return other


def not_centred(self: SuiteTrainer, sizes: np.ndarray, tasks=slice(None)) -> np.ndarray:
    """Return Adam's rates for every rule that moves, whatever the size of its updates."""
    rates = np.array([r.learning_rate for r in self.references])[tasks]
    return np.where(np.isfinite(sizes) & (sizes > 0), rates, np.nan)


SETTINGS = {
    "the protocol": {},
    "all rules on all tasks": {"slack": None},
    "the perceptron's seed is one training": {"one_child": True},
    "one seed, not two": {"SEEDS": 1},
    "the best rate alone is trained to the end": {"KEPT": 1},
    "rates are chosen after an eighth of the length": {"SWEEP": 1 / 8},
    "five rates a decade apart": {"RATES": tuple(10.0**k for k in range(-2, 3))},
    "rates around Adam's for all rules": {"_centres": not_centred},
}


@contextlib.contextmanager
def changed(trainer: SuiteTrainer, setting: dict) -> Generator[SuiteTrainer]:
    """Give a trainer of a variant."""
    with contextlib.ExitStack() as stack:
        for name in ("SEEDS", "KEPT", "SWEEP", "RATES"):
            if name in setting:
                stack.enter_context(mock.patch.object(suite, name, setting[name]))
        if "SWEEP" in setting:  # what Adam has learned by then, too
            stack.enter_context(mock.patch.object(reference, "SWEEP", setting["SWEEP"]))
        if "_centres" in setting:
            patched = mock.patch.object(SuiteTrainer, "_centres", setting["_centres"])
            stack.enter_context(patched)
        slack = setting.get("slack", SearchConfig.slack)
        yield variant(trainer, slack, setting.get("one_child", False))


def agreement(rewards: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return how well rewards rank rules whose true rewards are known, both `[P]`."""
    better = truth >= np.median(truth)
    return {
        "all": float(spearmanr(rewards, truth).statistic),
        "better_half": float(spearmanr(rewards[better], truth[better]).statistic),
        "lost": float(truth.max() - truth[rewards.argmax()]),
    }


def pairing(rewards: np.ndarray) -> dict[str, dict[str, float]]:
    """Return how well one seed agrees with the mean of the others, `[S, P]` of P rules.

    It is the same seed for all rules, or each has another.
    """
    count, rules = rewards.shape
    found: dict[str, list[dict]] = {PAIRED: [], UNPAIRED: []}
    for seed in range(count):
        for name, own in (
            (PAIRED, np.full(rules, seed)),
            (UNPAIRED, (seed + np.arange(rules)) % count),
        ):
            one = rewards[own, np.arange(rules)]
            found[name].append(agreement(one, (rewards.sum(axis=0) - one) / (count - 1)))
    return {name: _mean(rows) for name, rows in found.items()}


def _mean(rows: list[dict]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def measure(arguments: Arguments) -> dict:
    """Return the truth's spread, and the agreement and the cost of each variant."""
    programs = programs_of(arguments.search, arguments.rules)
    trainer = SuiteTrainer(load_suite(), programs.shape[1], store=reference_store())
    trainer.compile()
    whole = variant(trainer, None)
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    found = [whole.evaluate(programs, seed) for seed in track(seeds, "the truth")]
    truth = np.mean([x.reward for x in found], axis=0)
    trains = np.all([x.status == suite.TRAINED for x in found], axis=0)
    rows: dict[str, list[dict]] = {name: [] for name in SETTINGS}
    for i in track(range(arguments.rounds), "the variants"):
        for name, setting in SETTINGS.items():
            with changed(trainer, setting) as other:
                seed = seeds.stop + i
                other._adam(seed)  # once a search, so not in the time
                began = time.process_time()
                rewards = other.evaluate(programs, seed).reward
                cost = (time.process_time() - began) / len(programs)
            rows[name].append(agreement(rewards[trains], truth[trains]) | {"cpu_seconds": cost})
    return {
        "rules": len(programs),
        "that_train": int(trains.sum()),
        "truth": {"best": float(truth.max()), "sd": float(truth[trains].std())},
        "variants": {name: _mean(of) for name, of in rows.items()},
        "pairing": pairing(np.array([x.reward[trains] for x in found])),
        "rounds": rows,
    }


def table(found: dict) -> str:
    """Return the variants as Markdown."""
    usual = found["variants"]["the protocol"]["cpu_seconds"]
    lines = [
        f"{found['rules']} rules of a search, of which {found['that_train']} train.",
        "",
        "| variant | agreement, all | the better half | lost by its favourite, doublings | cost of "
        "a candidate |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["variants"].items():
        lines.append(
            f"| {name} | {row['all']:.3f} | {row['better_half']:.3f} | {row['lost']:.3f} | "
            f"{row['cpu_seconds'] / usual:.2f} x |"
        )
    for name, row in found["pairing"].items():
        lines.append(
            f"| {name} | {row['all']:.3f} | {row['better_half']:.3f} | {row['lost']:.3f} | |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table and write it."""
    arguments = tyro.cli(Arguments, description=Arguments.__doc__)
    console = make_console()
    select_devices("cpu")
    enable_compilation_cache()
    with one_message():
        found = measure(arguments)
        console.print(table(found), highlight=False)
        write_results(arguments.out, "protocol_choices", found, table(found))


if __name__ == "__main__":
    main()
