"""What a run comes to: the best rules, trained again, as a table and as files."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from nos_optax._command import printable
from nos_optax.grammar import encode, parse, to_python
from nos_optax.search.history import Candidate
from nos_optax.search.probes import Probes
from nos_optax.search.run_folder import RunFolder

STANDARD = {
    "SGD": "g",
    "Momentum": "m",
    "RMSProp": "rmsprop",
    "Adam": "adam",
    "PowerSign": "exp(sign(g) * sign(m)) * g",
    "AddSign": "(1 + sign(g) * sign(m)) * g",
}
STANDARD_ITERATIONS = max(len(encode(rule).iterations) for rule in STANDARD.values())

# Of each module in `best/`. Python looks for an encoding in the first two lines, and editors for
# orders in the first five: none of them may come from a name.
HEADER = """\
# An update rule that a search of nos_optax found, as an Optax gradient transformation.
#
# It needs jax and optax, nothing else. Its scores are those of one network on one task:
# another model will want another learning rate, and may want another rule.
#
"""


class Result(NamedTuple):
    """A rule that was trained again with fresh seeds."""

    name: str  # a standard optimizer's name, or "found 1", "found 2", ..., the best mean first
    rule: str  # infix
    tokens: str  # empty of an optimizer that is no rule
    rewards: tuple[float, ...]  # one a seed
    learning_rates: tuple[float | None, ...]  # the sweeps' choices; None if every rate diverged
    statuses: tuple[str, ...]  # trained, dead or diverged; only the trained have a measured reward
    searched: float | None = None  # its reward in the search

    @property
    def mean(self) -> float:
        """Mean reward over the seeds."""
        return float(np.mean(self.rewards))

    @property
    def deviation(self) -> float:
        """Standard deviation of the rewards over the seeds; nan of a single seed."""
        return float(np.std(self.rewards, ddof=1)) if len(self.rewards) > 1 else float("nan")

    @property
    def usual_rate(self) -> str:
        """The median of the learning rates, in words; empty if every rate diverged."""
        finite = sorted(rate for rate in self.learning_rates if rate is not None)
        return f"{finite[(len(finite) - 1) // 2]:.0e}" if finite else ""


def best_candidates(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the best trained candidates, the shortest of each group whose updates are equal.

    The standard optimizers are not among them, however they are written: they are trained again in
    any case.
    """
    standard = _standard_fingerprints()
    families: dict[str, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: -c.reward):
        if candidate.status == "trained" and candidate.fingerprint not in standard:
            families.setdefault(candidate.fingerprint, []).append(candidate)
    return [min(family, key=lambda c: len(c.rule)) for family in families.values()][:count]


@functools.cache
def _standard_fingerprints() -> frozenset[str]:
    programs = [encode(rule, STANDARD_ITERATIONS).array for rule in STANDARD.values()]
    return frozenset(probed.fingerprint for probed in Probes(STANDARD_ITERATIONS)(programs))


def nothing_learned(results: Sequence[Result], facts: Mapping[str, Any]) -> str | None:
    """Return why not even a standard optimizer learned, if none did; None if one did.

    Args:
        results: of the rules that were trained again.
        facts: of the run, as its configuration records them.
    """
    if not results:
        return None
    if any("trained" in result.statuses for result in results):
        standard = [r for r in results if r.searched is None and "trained" in r.statuses]
        if not standard:  # but a found rule did
            return None
        best = max(result.mean for result in standard)
        untrained, chance = (facts.get(name, -math.inf) for name in ("untrained", "chance"))
        bar = max(untrained, chance)
        if best > bar and not math.isclose(best, bar, rel_tol=1e-5):  # rewards have six digits
            return None
        if untrained >= chance:
            return (
                "Nothing learned: no standard optimizer comes to more than "
                f"{untrained:.6g}, the score of untrained weights. Is the task's metric higher for "
                "better examples? Negate an error."
            )
        return (
            f"Nothing learned: no standard optimizer comes to more than the task's chance, "
            f"{chance:.6g}, and no reward counts for less. Give the score that a blind guess has."
        )
    if "threshold" not in facts:  # the suite, on which Adam was tuned before
        return (
            "Nothing learned, not even a standard optimizer, though Adam did when the suite was "
            "measured: start a new run"
        )
    return (
        "Nothing learned, not even a standard optimizer: none had a score above "
        f"{facts.get('threshold', float('nan')):.6g} in a sweep of {facts.get('sweep_steps', '?')} "
        "steps. Give a smaller minibatch, so that there are more steps, or correct the task: "
        "is its metric higher for better examples, and are its chance and its baseline no higher "
        "than what a model reaches in so few steps?"
    )


def score_name(facts: Mapping[str, Any]) -> str:
    """Return what the rewards of a run are, in words, by the facts of the run."""
    return str(facts.get("score", "validation score"))


def results_table(results: Sequence[Result], score: str = "validation score") -> Table:
    """Return the table of re-trained rules, best mean first; `score` says what they have."""
    seeds = len(results[0].rewards) if results else 0
    table = Table(
        title=f"{score[0].upper()}{score[1:]}, fresh weights and data order ({seeds} of each)",
        title_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("optimizer", no_wrap=True)
    for column in ("mean", "sd", "range", "learned", "rate", "search"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("update rule", overflow="fold")
    for result in sorted(results, key=lambda r: -r.mean):
        table.add_row(
            result.name,
            f"{result.mean:.4f}",
            f"{result.deviation:.4f}" if seeds > 1 else "",
            f"{min(result.rewards):.3f} to {max(result.rewards):.3f}",
            f"{result.statuses.count('trained')}/{seeds}",
            result.usual_rate,
            "" if result.searched is None else f"{result.searched:.4f}",
            result.rule,
        )
    return table


def write_best(folder: RunFolder, results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    """Write `results.json`, and each found rule as a standalone Python module in `best/`."""
    task, unit = facts["dataset"], score_name(facts)
    ranked = sorted(results, key=lambda r: -r.mean)
    rows = [
        result._asdict()
        | {
            "mean": result.mean,
            "deviation": result.deviation,
            "latex": parse(result.rule).latex() if result.tokens else "",
        }
        for result in ranked
    ]
    folder.write_json("results.json", rows)
    for old in (folder.path / "best").glob("found_*.py"):  # of a shorter run, with other finalists
        old.unlink()
    for result in ranked:
        if result.searched is not None:
            name = result.name.replace(" ", "_")
            source = to_python(result.rule, f"scale_by_{name}", result.usual_rate or "0.01")
            scores = ", ".join(f"{reward:.4f}" for reward in result.rewards)
            rates = ", ".join("none" if r is None else f"{r:g}" for r in result.learning_rates)
            folder.write_text(
                f"best/{name}.py",
                HEADER
                + comments(
                    f"Task: {task}",
                    f"Its {unit} there, with fresh seeds: {scores}",
                    f"at the learning rates: {rates}",
                )
                + source,
            )


def comments(*lines: str) -> str:
    """Return lines as comments of a Python module: no text ends its line, whatever it holds."""
    return "".join(f"# {printable(line)}\n" for line in lines)
