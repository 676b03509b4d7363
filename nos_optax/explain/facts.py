"""What can be said of a rule without training anything."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nos_optax
from nos_optax.grammar import RuleError, UpdateRule, encode
from nos_optax.grammar.expression import Binary, Constant, Expression, Unary
from nos_optax.grammar.program import MAX_ITERATIONS
from nos_optax.grammar.semantics import DELTA
from nos_optax.search.probes import Probed, Probes

ONE = Constant(1.0)
SIZE = 2**16  # parameters of the cost analysis


class Facts(NamedTuple):
    """What a rule is."""

    rule: UpdateRule
    canonical: UpdateRule
    latex: str
    tokens: str | None  # None: the search's vocabulary cannot write it
    not_encodable: str | None  # why
    moments: tuple[str, ...]  # the moving averages that it keeps, each as large as the parameters
    needs: tuple[str, ...]  # of weights, total steps, random numbers
    operations: float  # arithmetic operations of a parameter's update, by XLA
    bytes: float  # read and written for a parameter's update, float32, by XLA
    same: tuple[str, ...]  # catalogue entries that algebra makes equal, but for a factor
    factor: float  # that factor
    alike: tuple[str, ...]  # others whose updates are equal on the search's probes
    rejection: str | None  # why a search would not train it


def describe(rule: UpdateRule) -> Facts:
    """Return what a rule is.

    Args:
        rule: any; one that is longer than the search's programs has no tokens and is not probed.
    """
    try:
        tokens, reason = str(encode(rule)), None
    except RuleError as error:
        tokens, reason = None, str(error).splitlines()[-1]
    operations, traffic = cost(rule)
    catalogue = {name: entry.rule for name, entry in nos_optax.rules.items()}
    canonical = rule.canonical()
    factor, core = _factor(canonical.expression)
    digest = UpdateRule(core).digest
    same = tuple(name for name, other in catalogue.items() if other.digest == digest)
    probed, *others = _probe([rule, *catalogue.values()])
    alike = tuple(
        name
        for name, other in zip(catalogue, others, strict=True)
        if probed and other and other.fingerprint == probed.fingerprint and name not in same
    )
    return Facts(
        rule=rule,
        canonical=canonical,
        latex=rule.latex(),
        tokens=tokens,
        not_encodable=reason,
        moments=tuple(sorted(rule.moments)),
        needs=tuple(
            name
            for name, needed in (
                ("the weights", rule.needs_params),
                ("the total number of steps", rule.needs_total_steps),
                ("random numbers", rule.needs_key),
            )
            if needed
        ),
        operations=operations,
        bytes=traffic,
        same=same,
        factor=factor,
        alike=alike,
        rejection=None if probed is None else probed.rejection,
    )


def _factor(e: Expression) -> tuple[float, Expression]:
    """Return a rule as a number times another rule."""
    match e:
        case Constant(value):
            return value, ONE
        case Unary("neg", other):
            factor, other = _factor(other)
            return -factor, other
        case Binary("*", left, right):
            (a, left), (b, right) = _factor(left), _factor(right)
            return a * b, Binary("*", left, right)
        case Binary("/", left, right):
            (a, left), (b, divisor) = _factor(left), _factor(right)
            if divisor == ONE and b + DELTA != 0:
                return a / (b + DELTA), left
            return a, Binary("/", left, right)
    return 1.0, e


def _probe(rules: Sequence[UpdateRule]) -> list[Probed | None]:
    """Return what the search's probes tell; None of a rule that its vocabulary cannot write."""
    programs = {}
    for i, rule in enumerate(rules):
        with contextlib.suppress(RuleError):
            programs[i] = encode(rule, MAX_ITERATIONS).array
    if not programs:
        return [None] * len(rules)
    found = Probes(MAX_ITERATIONS)(np.stack(list(programs.values())))
    probed = dict(zip(programs, found, strict=True))
    return [probed.get(i) for i in range(len(rules))]


def cost(rule: UpdateRule) -> tuple[float, float]:
    """Return the operations and the bytes of a parameter's update, as XLA counts them.

    The count is of the compiled update of a float32 vector, its state and the weights included.
    """
    tx = nos_optax.from_rule(rule, 0.1, total_steps=100)
    params = jnp.zeros(SIZE)

    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return params + updates, state

    compiled = jax.jit(step, donate_argnums=(1, 2)).lower(params, tx.init(params), params).compile()
    analysis = compiled.cost_analysis() or {}
    operations = analysis.get("flops", 0.0) + analysis.get("transcendentals", 0.0)
    return operations / SIZE, analysis.get("bytes accessed", 0.0) / SIZE
