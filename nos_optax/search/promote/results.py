"""What a funnel came to: who stopped where, what was promoted, and what the test tasks say."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from nos_optax._command import printable
from nos_optax.compare import Comparison
from nos_optax.compare.results import cell, interval
from nos_optax.compare.statistics import difference
from nos_optax.grammar import parse
from nos_optax.search.promote.entrants import Entrant
from nos_optax.search.promote.simplify import Deletion
from nos_optax.search.promote.stages import LENGTHS, Heat

FEWEST = 4  # rules whose ranks are correlated
PARTS = dict(zip(LENGTHS, ("a quarter", "a half", "whole"), strict=True))


class Promoted(NamedTuple):
    """A rule that came through all stages.

    Attributes:
        name: what the comparison calls it.
        entrant: as the search found it.
        simplified: what is left of it, in infix form; itself where nothing could go.
        deletions: all that were tried.
    """

    name: str
    entrant: Entrant
    simplified: str
    deletions: tuple[Deletion, ...]


@dataclasses.dataclass(frozen=True)
class Promotion:
    """A funnel that is through.

    Attributes:
        entrants: the rules that entered, in the order of their searches.
        stages: of each the names of its tasks, and what the rules did at each length.
        promoted: the rules that came through, the best first.
        comparison: of these with the rivals on the test tasks; None without such tasks.
        spent: on each rule, in trainings of a task's whole length.
        facts: how it was measured.
    """

    entrants: tuple[Entrant, ...]
    stages: tuple[tuple[tuple[str, ...], tuple[Heat, ...]], ...]
    promoted: tuple[Promoted, ...]
    comparison: Comparison | None
    spent: dict[str, float]
    facts: dict

    @property
    def heats(self) -> list[tuple[str, Heat]]:
        """All heats in order, with what tables call them."""
        return [
            (f"stage {number}, {PARTS[heat.length]}", heat)
            for number, (_, heats) in enumerate(self.stages, 1)
            for heat in heats
        ]

    @property
    def share_in_vain(self) -> float:
        """The part of what was spent that went to rules which did not come through."""
        through = {promoted.entrant.rule for promoted in self.promoted}
        lost = sum(x for rule, x in self.spent.items() if rule not in through)
        return lost / max(sum(self.spent.values()), 1e-9)

    def correlations(self) -> list[tuple[str, str, int, float]]:
        """Return how well each ranking agrees with the next, over the rules that are in both.

        The first is that of the searches, by their bounds. Each row has two names, the number of
        rules, at least four, and Spearman's rank correlation; rules that are all alike have none.
        """
        ranked = [("search", {entrant.rule: entrant.low for entrant in self.entrants})]
        ranked += [
            (name, dict(zip(heat.rules, heat.means, strict=True))) for name, heat in self.heats
        ]
        return [
            (a, b, len(both), float(spearmanr(np.array(both)).statistic))
            for (a, x), (b, y) in itertools.pairwise(ranked)
            if len(both := [(x[rule], y[rule]) for rule in x if rule in y]) >= FEWEST
            and np.ptp(both, axis=0).all()  # else there is no order
        ]

    def sentence(self) -> str:
        """Return what to take home."""
        left: dict[str, str] = {}
        for promoted in self.promoted:
            left.setdefault(parse(promoted.simplified).digest, promoted.simplified)
        said = f"Of {len(self.entrants)} rules {len(self.promoted)} came through"
        if len(left) < len(self.promoted):
            said += f", {len(left)} different ones once they were simplified"
        said += f": {', '.join(left.values())}."
        if self.comparison is not None:
            whole = self.comparison.tasks[0]  # all of them together, where there are several
            said += f" On the test tasks, {self.comparison.sentence(whole)}"
        return said

    def as_json(self) -> dict:
        """Return everything but the comparison, which has a file of its own, as JSON holds it."""
        return {
            "sentence": self.sentence(),
            "entrants": [entrant._asdict() for entrant in self.entrants],
            "stages": [
                {"tasks": tasks, "heats": [_plain(heat) for heat in heats]}
                for tasks, heats in self.stages
            ],
            "promoted": [
                p._asdict()
                | {"entrant": p.entrant._asdict(), "deletions": [d._asdict() for d in p.deletions]}
                for p in self.promoted
            ],
            "rank_correlations": [
                dict(zip(("of", "with", "rules", "spearman"), row, strict=True))
                for row in self.correlations()
            ],
            "spent": self.spent,
            "share_in_vain": self.share_in_vain,
            "facts": self.facts,
        }


def _plain(heat: Heat) -> dict:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in heat._asdict().items()}


def rows(promotion: Promotion) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each rule, where it was found, and its mean in each heat, the furthest first.

    A rule that a heat has stopped has nothing in those that follow.
    """
    means = [dict(zip(heat.rules, heat.means, strict=True)) for _, heat in promotion.heats]

    def reached(entrant: Entrant) -> tuple[int, float]:
        there = [of[entrant.rule] for of in means if entrant.rule in of]
        return len(there), there[-1] if there else entrant.low

    for entrant in sorted(promotion.entrants, key=reached, reverse=True):
        texts = [f"{of[entrant.rule]:+.2f}" if entrant.rule in of else "" for of in means]
        yield entrant.rule, f"{entrant.run}, candidate {entrant.candidate}", texts


def markdown(promotion: Promotion) -> str:
    """Return everything as Markdown but the comparison, which has a file of its own."""
    names = [name for name, _ in promotion.heats]
    agreement = ", ".join(
        f"{a} with {b} {rho:.2f} (n = {n})" for a, b, n, rho in promotion.correlations()
    )
    lines = [
        "# From a search to a discovery",
        "",
        promotion.sentence(),
        "",
        "A number is the speed against tuned Adam by the mean time over a stage's tasks, in "
        "doublings, the mean over the seeds: 0 is as good, 1 twice as fast. After a quarter and a "
        "half of the tasks' lengths those rules stop that are worse than the last which "
        "would come through, by more than two standard errors.",
        "",
        *(
            f"- Stage {number}: {', '.join(tasks)}."
            for number, (tasks, _) in enumerate(promotion.stages, 1)
        ),
        "",
        f"| rule | found | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
        *(
            f"| {cell(rule)} | {cell(where)} | {' | '.join(texts)} |"
            for rule, where, texts in rows(promotion)
        ),
        "",
        f"Ranks agree from one column to the next (Spearman): {agreement or 'too few rules'}. Of "
        f"all trainings {promotion.share_in_vain:.0%} were of rules that did not come through.",
        "",
        "## What can go",
    ]
    for promoted in promotion.promoted:
        lines += ["", *_deletions(promoted)]
    if promotion.comparison is not None:
        lines += ["", "## Test tasks", "", "See [the comparison](test/results.md)."]
        lines += ["", *_ahead(promotion.comparison, [p.name for p in promotion.promoted])]
    return "\n".join(lines) + "\n"


def _ahead(comparison: Comparison, found: Sequence[str]) -> list[str]:
    """Return how far each found rule is ahead of each rival, the best rival first."""
    rows = comparison.of(comparison.tasks[0])
    ours = [row for row in rows if row.name in found]
    if not ours:  # they are rivals' rules
        return []
    lines = [
        "How far a found rule is ahead of a rival, in doublings, paired by seed, with its 95 % "
        f"interval ({printable(comparison.tasks[0])}; no correction for their number):",
        "",
        f"| rival | {' | '.join(row.name for row in ours)} |",
        "|---|" + "---|" * len(ours),
    ]
    for rival in (row for row in rows if row.name not in found):
        ahead = " | ".join(interval(difference(row.scores, rival.scores)) for row in ours)
        lines.append(f"| {cell(rival.name)} | {ahead} |")
    return lines


def _deletions(promoted: Promoted) -> list[str]:
    """Return what became of a rule with less."""
    found, left = promoted.entrant.rule, promoted.simplified
    return [
        f"### {promoted.name}: {cell(found)}",
        "",
        "Nothing can go." if left == found else f"{cell(left)} is left.",
        "",
        "| with one node less | of the length | difference | standard error | |",
        "|---|---|---|---|---|",
        *(
            f"| {cell(d.rule)} | {PARTS[d.length]} | {d.difference:+.2f} | {d.error:.2f} | "
            f"{'taken on' if d.taken else ''} |"
            for d in promoted.deletions
        ),
    ]
