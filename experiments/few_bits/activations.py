"""Rounds the activations of any model: its function is read as a jaxpr and run with roundings.

An activation is what depends on both parameters and examples. It is rounded where it enters a
matrix product or a convolution with something learned, or with another activation: the layers'
inputs have few bits, their sums and what is done to these element by element have many. A product
with a constant belongs to the layer that it prepares (or whose sums it gathers): Winograd's
transforms of our ConvNet's features are exact, the features themselves are rounded.

Calls and loops are entered. `custom_vjp` functions are not, as that would lose their derivatives:
one with an activation and something learned among its arguments is taken for a product. Nor are
`custom_jvp` functions, which are activation functions and the like.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core


class Kind(enum.Enum):
    """Where a value comes from, and where in a layer it is."""

    CONSTANT = enum.auto()  # neither from parameters nor from examples; the state is here too
    EXAMPLE = enum.auto()  # from examples
    LEARNED = enum.auto()  # from parameters
    ACTIVATION = enum.auto()  # from both
    SUM = enum.auto()  # an activation: the result of a product, moved or transformed by constants
    ROUNDED = enum.auto()  # an activation: rounded, and then moved or transformed by constants


class Value(NamedTuple):
    """An array, and what is known of it."""

    array: Any
    kind: Kind


BOTH = (Kind.ACTIVATION, Kind.SUM, Kind.ROUNDED)
UNROUNDED = (Kind.ACTIVATION, Kind.SUM)
PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")
MOVEMENTS = (
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice", "gather"),
    *("expand_dims", "name", "pad", "reshape", "rev", "slice", "split", "squeeze", "stack"),
    *("transpose", "unstack"),
)

Rounding = Callable[[jax.Array], jax.Array]


def round_activations(function: Callable, rounding: Rounding) -> Callable:
    """Return a task's loss or metric with its activations rounded.

    Args:
        function: `(params, state, batch, ...)`, a pure JAX function.
        rounding: of one activation, over all its axes; its derivative is used as it is.

    Returns:
        A function of the same arguments.
    """

    def rounded(params, state, batch, *others):
        args = params, state, batch, *others
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        kinds = (Kind.LEARNED, Kind.CONSTANT, Kind.EXAMPLE, *[Kind.CONSTANT] * len(others))
        values = [
            Value(leaf, kind)
            for arg, kind in zip(args, kinds, strict=True)
            for leaf in jax.tree.leaves(arg)
        ]
        results = _run(rounding, closed, values)
        return jax.tree.unflatten(jax.tree.structure(shapes), [r.array for r in results])

    return rounded


def _run(rounding: Rounding, closed: core.ClosedJaxpr, values: Sequence[Value]) -> list[Value]:
    """Return the results of a jaxpr with its activations rounded."""
    jaxpr = closed.jaxpr
    consts = [Value(const, Kind.CONSTANT) for const in closed.consts]
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))

    def read(atom):
        return Value(atom.val, Kind.CONSTANT) if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        apply = ENTERED.get(eqn.primitive.name, _apply)
        results = apply(rounding, eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(rounding: Rounding, eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
    """Apply a primitive; round the activations that it multiplies."""
    name, kinds = eqn.primitive.name, [v.kind for v in values]
    rounded = [_is_rounded(name, kinds, i) and _is_float(v.array) for i, v in enumerate(values)]
    arrays = [rounding(v.array) if r else v.array for v, r in zip(values, rounded, strict=True)]
    kinds = [Kind.ROUNDED if r else k for k, r in zip(kinds, rounded, strict=True)]
    kind = _result(name, kinds)
    return [Value(result, kind) for result in _bind(eqn, arrays)]


def _bind(eqn: core.JaxprEqn, arrays: Sequence[Any]) -> Sequence[jax.Array]:
    """Apply a primitive as JAX itself does, by a jaxpr of one equation."""
    pairs = zip(eqn.invars, arrays, strict=True)
    arguments = {v: x for v, x in pairs if not isinstance(v, core.Literal)}
    names = core.DebugInfo("round_activations", eqn.primitive.name, None, None)
    jaxpr = core.Jaxpr((), list(arguments), eqn.outvars, [eqn], eqn.effects, names)
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))(*arguments.values())


def _is_float(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _is_rounded(name: str, kinds: Sequence[Kind], i: int) -> bool:
    """Whether a primitive's operand is an activation that it needs rounded."""
    if kinds[i] not in UNROUNDED or not (name in PRODUCTS or name.startswith("custom_vjp")):
        return False
    others = [kind for j, kind in enumerate(kinds) if j != i]
    if any(kind is Kind.LEARNED or kind in BOTH for kind in others):
        return True
    constants = all(kind is Kind.CONSTANT for kind in others)
    return name in PRODUCTS and constants and kinds[i] is Kind.ACTIVATION


def _result(name: str, kinds: Sequence[Kind]) -> Kind:
    """Return the kind of a primitive's results."""
    if name in MOVEMENTS:
        known = [kind for kind in kinds if kind is not Kind.CONSTANT]
        return _either(known) if known else Kind.CONSTANT
    if name in PRODUCTS:
        factors = kinds[:2]  # a third operand is where groups of rows end
        if Kind.CONSTANT in factors:
            return factors[1 - factors.index(Kind.CONSTANT)]
        return Kind.SUM if _join(factors) is Kind.ACTIVATION else _join(factors)
    return _join(kinds)


def _join(kinds: Sequence[Kind]) -> Kind:
    """Return the kind of what is computed from values of these kinds."""
    learned = any(kind is Kind.LEARNED or kind in BOTH for kind in kinds)
    example = any(kind is Kind.EXAMPLE or kind in BOTH for kind in kinds)
    if learned:
        return Kind.ACTIVATION if example else Kind.LEARNED
    return Kind.EXAMPLE if example else Kind.CONSTANT


def _either(kinds: Sequence[Kind]) -> Kind:
    """Return the kind of what is a value of one of these kinds, or of parts of several."""
    return kinds[0] if len(set(kinds)) == 1 else _join(kinds)


# Calls and loops.


def _inside(rounding: Rounding, closed: core.ClosedJaxpr, kinds: Sequence[Kind]) -> Callable:
    """Return a jaxpr as a function of arrays of these kinds."""

    def function(*arrays):
        return [r.array for r in _run(rounding, closed, list(map(Value, arrays, kinds)))]

    return function


def _kinds(closed: core.ClosedJaxpr, kinds: Sequence[Kind]) -> list[Kind]:
    """Return the kinds of a jaxpr's results."""
    found: list[Kind] = []

    def function(*arrays):
        # How activations are rounded changes no kind.
        results = _run(lambda x: x, closed, list(map(Value, arrays, kinds)))
        found.extend(r.kind for r in results)
        return [r.array for r in results]

    avals = (v.aval for v in closed.jaxpr.invars)
    jax.eval_shape(function, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
    return found


def _carried(body: core.ClosedJaxpr, before: list[Kind], carry: list[Kind], xs: list[Kind]):
    """Return the kinds of what a loop carries, such that a round does not change them."""
    while True:
        after = _kinds(body, [*before, *carry, *xs])
        both = [_either(pair) for pair in zip(carry, after[: len(carry)], strict=True)]
        if both == carry:
            return carry
        carry = both


def _split(values: list[Value]) -> tuple[list[Any], list[Kind]]:
    return [v.array for v in values], [v.kind for v in values]


def _call(rounding: Rounding, eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
    return _run(rounding, eqn.params.get("jaxpr") or eqn.params["call_jaxpr"], values)


def _remat(rounding: Rounding, eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
    body = core.ClosedJaxpr(eqn.params["jaxpr"], ())
    arrays, kinds = _split(values)
    options = {name: eqn.params[name] for name in ("prevent_cse", "policy")}
    results = jax.checkpoint(_inside(rounding, body, kinds), **options)(*arrays)
    return list(map(Value, results, _kinds(body, kinds)))


def _scan(rounding: Rounding, eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
    params, body = eqn.params, eqn.params["jaxpr"]
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    arrays, kinds = _split(values)
    kinds[first:last] = _carried(body, kinds[:first], kinds[first:last], kinds[last:])
    inside = _inside(rounding, body, kinds)

    def step(carry, xs):
        results = inside(*arrays[:first], *carry, *xs)
        return results[: last - first], results[last - first :]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(step, arrays[first:last], arrays[last:], **options)
    return list(map(Value, [*carry, *ys], _kinds(body, kinds)))


def _while(rounding: Rounding, eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
    going, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    first = eqn.params["cond_nconsts"]
    last = first + eqn.params["body_nconsts"]
    arrays, kinds = _split(values)
    carried = _carried(body, kinds[first:last], kinds[last:], [])
    inside = _inside(rounding, body, [*kinds[first:last], *carried])
    unfinished = _inside(rounding, going, [*kinds[:first], *carried])
    results = jax.lax.while_loop(
        lambda carry: unfinished(*arrays[:first], *carry)[0],
        lambda carry: inside(*arrays[first:last], *carry),
        arrays[last:],
    )
    return list(map(Value, results, carried))


def _cond(rounding: Rounding, eqn: core.JaxprEqn, values: list[Value]) -> list[Value]:
    (index, *arrays), (chooser, *kinds) = _split(values)
    branches = eqn.params["branches"]
    results = jax.lax.switch(index, [_inside(rounding, b, kinds) for b in branches], *arrays)
    of_branches = zip(*(_kinds(branch, kinds) for branch in branches), strict=True)
    chosen = [_either(some) for some in of_branches]
    kinds = chosen if chooser is Kind.CONSTANT else [_join([kind, chooser]) for kind in chosen]
    return list(map(Value, results, kinds))


ENTERED = {
    **dict.fromkeys(("jit", "pjit", "closed_call"), _call),
    **dict.fromkeys(("remat2", "checkpoint"), _remat),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
