"""What of a found rule can go: nodes are deleted one by one, as long as nothing is lost."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nos_optax.compare import Rival
from nos_optax.grammar import RuleError, UpdateRule, encode
from nos_optax.grammar.expression import Binary, Expression, Unary, children
from nos_optax.grammar.program import pad_programs
from nos_optax.population import SuiteTrainer
from nos_optax.search.promote.stages import (
    BOUND,
    LENGTHS,
    Course,
    error_of_differences,
    joint_scores,
)


class Deletion(NamedTuple):
    """A rule with one node less, beside the rule as it was found.

    Attributes:
        rule: in infix form.
        length: part of the tasks' lengths that it was trained for: the whole, unless it was worse
            after less.
        difference: of its mean to that of the rule as found, in doublings.
        error: standard error of that.
        taken: whether it was taken on.
    """

    rule: str
    length: float
    difference: float
    error: float
    taken: bool


def simplify(
    course: Course, found: Rival, rates: np.ndarray, seeds: Sequence[int]
) -> tuple[Rival, list[Deletion]]:
    """Return a rule without the nodes that it does not need, and all deletions that were tried.

    Of the rules that lack one node, the best is taken on, if it is not worse than the rule *as
    found* by more than `BOUND` standard errors: small losses do not add up. Then that one loses
    another node, until none can go. Each is a rule of its own, with its own learning rates.

    Args:
        course: the tasks.
        found: the rule.
        rates: `[T]`, its best learning rates.
        seeds: S of them.
    """
    current, at, tried = found, rates, []
    while variants := shorter(current, course.suite):
        around = at * _relative(course.suite, current, variants)
        able = np.isfinite(around).all(axis=1)
        variants = [variants[i] for i in np.flatnonzero(able)]
        best = _best(course, found, rates, variants, around[able], seeds, tried)
        if best is None:
            break
        current, at = best
    return current, tried


def _best(
    course: Course,
    found: Rival,
    rates: np.ndarray,
    variants: list[Rival],
    around: np.ndarray,
    seeds: Sequence[int],
    tried: list[Deletion],
) -> tuple[Rival, np.ndarray] | None:
    """Return the best variant that is not worse than the rule, and its rates; None if all are."""
    for length in LENGTHS:
        if not variants:
            return None
        speeds, best = course.train([found, *variants], np.vstack([rates, around]), length, seeds)
        scores = joint_scores(speeds)
        error = error_of_differences(scores)
        differences = scores[1:].mean(axis=1) - scores[0].mean()
        equal = differences >= -BOUND * error
        first = int(differences.argmax()) if length == LENGTHS[-1] and equal.any() else None
        tried += [
            Deletion(variant.what, length, float(differences[i]), error, i == first)
            for i, variant in enumerate(variants)
            if length == LENGTHS[-1] or not equal[i]
        ]
        if first is not None:
            return variants[first], best[1:][first]
        rates, around = best[0], best[1:][equal]
        variants = [variants[i] for i in np.flatnonzero(equal)]
    return None


def shorter(rival: Rival, suite: SuiteTrainer) -> list[Rival]:
    """Return the different rules that a rule is with one node less.

    A function of one argument becomes that argument, one of two either of them. Left out are those
    that have no program of the suite's length.
    """
    assert isinstance(rival.optimizer, UpdateRule)
    digests, found = {rival.optimizer.digest}, []
    for expression in deletions(rival.optimizer.expression):
        rule = UpdateRule(expression)
        if rule.digest in digests:
            continue
        digests.add(rule.digest)
        try:
            length = len(encode(rule).array)
        except RuleError:
            continue
        if length <= suite.iterations:
            text = rule.shortest
            found.append(Rival(text, text, rule))
    return found


def deletions(e: Expression) -> Iterator[Expression]:
    """Yield the expressions in which one function is replaced by one of its arguments."""
    yield from children(e)
    match e:
        case Unary(function, argument, parameter):
            yield from (Unary(function, less, parameter) for less in deletions(argument))
        case Binary(function, left, right):
            yield from (Binary(function, less, right) for less in deletions(left))
            yield from (Binary(function, left, less) for less in deletions(right))


def _relative(suite: SuiteTrainer, rival: Rival, others: Sequence[Rival]) -> np.ndarray:
    """Return by how much others' rates are larger than a rule's for updates as large, `[R, T]`."""
    rules = [each.optimizer for each in (rival, *others)]
    programs = [encode(rule).array for rule in rules if isinstance(rule, UpdateRule)]  # all are
    centres = suite.centres(np.stack([pad_programs(p, suite.iterations) for p in programs]))
    return centres[1:] / centres[0]
