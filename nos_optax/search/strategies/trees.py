"""Changes of a rule's expression tree: what one other token of a program cannot write.

A program computes its results one after another, so that a term more, or one less, is many tokens
at once. In the tree it is one node.
"""

from collections.abc import Iterator

import numpy as np

from nos_optax.grammar import Program, SearchSpace, decode, encode
from nos_optax.grammar.encoding import apply_unary, operand_expressions
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.expression import Binary, Expression, Unary, children, walk
from nos_optax.grammar.rule import UpdateRule
from nos_optax.grammar.vocabulary import OPERANDS, UNARY

MOST = 2  # nodes that change: where there is no iteration left, one goes for another to come
TRIES = 10  # changes of a tree, until one is a program of the space


def restructure(space: SearchSpace, rng, tokens: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Change the tree of each program in a node or two.

    With equal chances a node gets a term or a factor more, gives way to one of its arguments, gets
    a function more, or becomes a part of another program.

    Args:
        space: which programs are allowed.
        rng: a NumPy generator.
        tokens: `int32[B, 5 G]`.
        others: `int32[B, 5 G]`, whose parts may be taken over.

    Returns:
        `int32[B, 5 G]`; those for which no change was found in ten tries are as they were.
    """
    return np.array(
        [_changed(space, rng, *pair) for pair in zip(tokens, others, strict=True)], np.int32
    ).reshape(tokens.shape)


def _changed(space: SearchSpace, rng, row: np.ndarray, other: np.ndarray) -> np.ndarray:
    tree, giver = (decode(Program.from_array(x)).expression for x in (row, other))
    for _ in range(TRIES):
        changed = tree
        for _ in range(rng.integers(1, MOST + 1)):
            changed = _CHANGES[rng.integers(len(_CHANGES))](space, rng, changed, giver)
        try:
            written = encode(UpdateRule(changed), space.iterations).array.ravel()
        except RuleError:  # it takes more iterations, or is no part that has a token
            continue
        if space.allows(written[None])[0] and not np.array_equal(written, row):
            return written
    return row


def _grow(space: SearchSpace, rng, tree: Expression, giver: Expression) -> Expression:
    """Give a node a term or a factor more: `x` becomes `x + a`, say, or `f(a) * x`."""
    node = _any(rng, walk(tree))
    leaf = operand_expressions()[OPERANDS.index(_any(rng, space.operands))]
    if rng.random() < 0.5:
        leaf = apply_unary(UNARY.index(_any(rng, space.unary)), leaf)
    function = _any(rng, [word for word in space.binary if word != "left"] or ["*"])
    pair = (node, leaf) if rng.random() < 0.5 else (leaf, node)
    return _replace(tree, node, Binary(function, *pair))


def _shrink(space: SearchSpace, rng, tree: Expression, giver: Expression) -> Expression:
    """Put one of a node's arguments in its place."""
    inner = [node for node in walk(tree) if children(node)]
    if not inner:
        return tree
    node = _any(rng, inner)
    return _replace(tree, node, _any(rng, children(node)))


def _wrap(space: SearchSpace, rng, tree: Expression, giver: Expression) -> Expression:
    """Apply a function to a node."""
    node = _any(rng, walk(tree))
    return _replace(tree, node, apply_unary(UNARY.index(_any(rng, space.unary)), node))


def _graft(space: SearchSpace, rng, tree: Expression, giver: Expression) -> Expression:
    """Put a part of another rule in a node's place."""
    return _replace(tree, _any(rng, walk(tree)), _any(rng, walk(giver)))


_CHANGES = (_grow, _shrink, _wrap, _graft)


def _replace(tree: Expression, old: Expression, new: Expression) -> Expression:
    """Return the tree with one subtree in place of another, wherever it stands."""
    if tree == old:
        return new
    match tree:
        case Unary(function, argument, parameter):
            return Unary(function, _replace(argument, old, new), parameter)
        case Binary(function, left, right):
            return Binary(function, _replace(left, old, new), _replace(right, old, new))
        case _:
            return tree


def _any(rng, choices: Iterator | tuple | list):
    """Return one of the choices, all with equal chances."""
    listed = list(choices)
    return listed[rng.integers(len(listed))]
