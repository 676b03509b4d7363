"""A rule as the source of a standalone Python module that imports jax, optax and typing only.

The module has the arguments, the state and the helper functions that the rule needs, and no others.
The helpers are this package's own source, so that the numbers are the same.
"""

import inspect
import keyword
import re
import textwrap
from typing import Any

from nos_optax import _arguments, schedules
from nos_optax._version import __version__
from nos_optax.grammar import semantics, static
from nos_optax.grammar.encoding import RuleLike, as_rule
from nos_optax.grammar.expression import (
    ATOM,
    LEVELS,
    NEGATION,
    POWER,
    PRODUCT,
    SUM,
    Binary,
    Constant,
    Expression,
    Operand,
    Unary,
    children,
    number,
    structural_hash,
    walk,
)
from nos_optax.grammar.rule import UpdateRule

DELTA = number(semantics.DELTA)  # as text
# moment -> (field of the state, argument, default, power of g)
_MOMENTS = {
    "m": ("mu", "b1", semantics.B1, 1),
    "v": ("nu", "b2", semantics.B2, 2),
    "gamma": ("gamma", "b3", semantics.B3, 3),
}
_DECAYS = {
    "ld": schedules.linear_decay,
    "cd": schedules.cyclical_decay,
    "rd": schedules.restart_decay,
}
# What a word takes over, beside the decays.
_HELPERS = {
    "drop": [semantics.drop_by],
    "noise": [semantics.noise_of],
    "annealed_noise": [semantics.annealed_noise_of],
    "log": [semantics.log, semantics._log_jvp],
    "^": [semantics.power, semantics._power_jvp],
}
_FUNCTIONS = {
    "exp": "jnp.exp({})",
    "log": "log({})",
    "sqrt": "root({})",
    "sign": "jnp.sign({})",
    "sigmoid": "jax.nn.sigmoid({})",
}


def to_python(
    rule: RuleLike, name: str = "scale_by_found_rule", learning_rate: str = "0.01"
) -> str:
    """Return the source of a Python module with a rule as an Optax transformation.

    Args:
        rule: The rule, or its text.
        name: The name of the module's function, which takes the arguments of
            :func:`nos_optax.scale_by_rule` that the rule needs, and gives the same updates.
        learning_rate: The one in the module's example of its use.

    Returns:
        The source; it imports jax, optax and typing only.

    Raises:
        RuleError: If the text is not a rule.
        ValueError: If the name is not an identifier, or one that the module needs itself.
    """
    rule = as_rule(rule)
    helpers = _helpers(rule)
    taken = ["jax", "jnp", "optax", "NamedTuple", *(helper.__name__ for helper in helpers)]
    if not name.isidentifier() or keyword.iskeyword(name) or name in taken:
        raise ValueError(
            f"{name!r} cannot name the function: pass an identifier that is neither a keyword nor "
            f"one of {', '.join(taken)}."
        )
    state = "".join(word[:1].upper() + word[1:] for word in name.split("_")) + "State"
    imports = "from typing import NamedTuple\n\nimport jax\nimport jax.numpy as jnp\nimport optax"
    sources = (inspect.getsource(helper) for helper in helpers)
    definitions = [
        _state(rule, state),
        _transformation(rule, name, state),
        *(
            re.sub(r"\b(semantics|schedules|_arguments)\.", "", source).rstrip()
            for source in sources
        ),
    ]
    return (
        "\n\n".join([_header(rule, name, learning_rate), imports, *(f"\n{d}" for d in definitions)])
        + "\n"
    )


def _header(rule: UpdateRule, name: str, learning_rate: str) -> str:
    formula = textwrap.fill(str(rule), 96, break_long_words=False)
    arguments = "total_steps=10_000" if rule.needs_total_steps else ""
    return f'''"""An update rule as an Optax gradient transformation.

{textwrap.indent(formula, "    ")}

Here x / y is x / (y + {DELTA}); m, v and gamma are the bias-corrected moving averages of g, g^2 and
g^3. Written by nos_optax {__version__}. Use:

    optimizer = optax.chain({name}({arguments}), optax.scale_by_learning_rate({learning_rate}))
"""'''


def _moments(rule: UpdateRule) -> dict[str, tuple[str, str, float, int]]:
    return {moment: row for moment, row in _MOMENTS.items() if moment in rule.moments}


def _helpers(rule: UpdateRule) -> list[Any]:
    """Return the functions that the module takes over, with all that they call."""
    helpers: list[Any] = [static._map, _arguments.wide_dtype]
    if rule.moments & {"v", "gamma"}:
        helpers.append(static._wide_zeros)
    if rule.moments:
        helpers += [static._update_average, semantics.moving_average]
        helpers += [static._correct_bias, semantics.bias_correction]
    if rule.needs_key:
        helpers += [_arguments.key_data, _arguments.as_key, _arguments.typed_key]
        helpers += [semantics.draw_all, semantics.draw_groups, semantics.stream_keys]
        helpers += [semantics.threefry, semantics.draw_rows, semantics.pick_row]
    words = {e.function for e in walk(rule.expression) if isinstance(e, Unary | Binary)}
    words |= rule.leaves
    helpers += [f for word, functions in _HELPERS.items() if word in words for f in functions]
    if words & {"sqrt", "adam", "rmsprop"}:
        helpers += [semantics.root, semantics._root_jvp]
    helpers += [decay for leaf, decay in _DECAYS.items() if leaf in rule.leaves]
    if rule.leaves & {"cd", "rd"}:
        helpers.append(schedules._cycle_fraction)
    if rule.needs_total_steps:
        helpers += [schedules._clamp, schedules._as_float]
    return helpers


def _state(rule: UpdateRule, state: str) -> str:
    fields = ["count: jax.Array  # int32 [], steps taken"]
    for field, _, _, power in _moments(rule).values():
        fields.append(f"{field}: optax.Updates  # moving average of {_power('g', power)}")
    if rule.needs_key:
        fields.append("key: jax.Array  # uint32, a PRNG key: never advanced, folded with the count")
    return _block(f"class {state}(NamedTuple):", fields)


def _transformation(rule: UpdateRule, name: str, state: str) -> str:
    arguments = ["total_steps"] if rule.needs_total_steps else []
    arguments += [f"{rate}={default}" for _, rate, default, _ in _moments(rule).values()]
    arguments += [f"key={_stream(structural_hash(rule.expression))}"] if rule.needs_key else []
    run = ", in a run of `total_steps` updates" if rule.needs_total_steps else ""
    body = [
        f'"""Replace each update by the value of the rule{run}."""',
        "",
        *_init_function(rule, state),
        "",
        *_update_function(rule, state),
        "",
        "return optax.GradientTransformation(init_fn, update_fn)",
    ]
    return _block(f"def {name}({', '.join(arguments)}):", body)


def _init_function(rule: UpdateRule, state: str) -> list[str]:
    fields = ["count=jnp.zeros([], jnp.int32)"]
    fields += [
        f"{field}={'optax.tree.zeros_like' if moment == 'm' else '_wide_zeros'}(params)"
        for moment, (field, *_) in _moments(rule).items()
    ]
    fields += ["key=key_data(key)"] if rule.needs_key else []
    return _block("def init_fn(params):", _call(f"return {state}", fields)).splitlines()


def _update_function(rule: UpdateRule, state: str) -> list[str]:
    moments = _moments(rule)
    trees = {"g": "updates"}
    trees |= {m: f"_correct_bias({f}, {rate}, count)" for m, (f, rate, *_) in moments.items()}
    trees |= {"w": "params"} if rule.needs_params else {}
    body = []
    if rule.needs_params:
        body += ["if params is None:", '    raise ValueError("Pass params: the rule reads them.")']
    body.append("count = optax.safe_increment(state.count)")
    body += [
        f"{field} = _update_average(updates, state.{field}, {rate}, {power})"
        for field, rate, _, power in moments.values()
    ]
    body += ["", *_leaf_function(rule, [*trees]).splitlines(), ""]
    if rule.needs_key:
        arguments = ["updates", "typed_key(state.key, like=key)", "state.count"]
        for kind, streams in static.drawing_parts(rule.expression).items():
            arguments.append(f"{kind}=[{', '.join(map(_stream, streams))}]")
        body += _call("draws = draw_all", arguments)
    body += _call("updates = _map", ["rule", *trees.values(), *(["draws"] * rule.needs_key)])
    averages = [field for field, *_ in moments.values()]
    body += [f"{field} = optax.tree.cast_like({field}, state.{field})" for field in averages]
    fields = ["count", *averages, *(["state.key"] if rule.needs_key else [])]
    body.append(f"return updates, {state}({', '.join(fields)})")
    return _block("def update_fn(updates, state, params=None):", body).splitlines()


def _leaf_function(rule: UpdateRule, arrays: list[str]) -> str:
    """Return the function of one parameter array: the formula, after what it reads."""
    body = ["if g is None:", "    return None", "shape, dtype = jnp.shape(g), jnp.result_type(g)"]
    names = ", ".join(arrays)
    body.append(
        "g = jnp.asarray(g, wide_dtype(g))"
        if arrays == ["g"]
        else f"{names} = (jnp.asarray(x, wide_dtype(g)) for x in ({names}))"
    )
    for e in dict.fromkeys(walk(rule.expression)):
        if isinstance(e, Operand) and e.name in _DECAYS:
            n = "" if e.n is None else f", {number(e.n)}"
            decay = f"{_DECAYS[e.name].__name__}(state.count, total_steps{n})"
            body.append(f"{_variable(e)} = {decay}.astype(g.dtype)")
    value = _assign_parts(rule.expression, {}, body)
    body.append(f"value = {value}")
    body.append("return jnp.broadcast_to(value, shape).astype(dtype)")
    draws = ", draws" if rule.needs_key else ""
    return _block(f"def rule({names}{draws}):", body)


def _assign_parts(e: Expression, variables: dict[Expression, str], body: list[str]) -> str:
    """Return the source of `e`; where that is long, assign its parts to variables before."""
    source = _source(e, variables)
    if len(source) <= 70:
        return source
    for child in children(e):
        part = _assign_parts(child, variables, body)
        if len(part) > 30:
            variables[child] = f"x{len(variables) + 1}"
            body.append(f"{variables[child]} = {part}")
    return _source(e, variables)


def _source(e: Expression, variables: dict[Expression, str], level: int = SUM) -> str:
    """Return `e` as a Python expression, in parentheses where `level` asks for them."""

    def source(e: Expression, level: int = SUM) -> str:
        return _source(e, variables, level)

    if e in variables:
        return variables[e]
    own = ATOM
    match e:
        case Constant(value):
            text = repr(value)
        case Operand("adam" | "rmsprop" as name):
            own, text = PRODUCT, f"{'m' if name == 'adam' else 'g'} / (root(v) + {DELTA})"
        case Operand("noise"):
            text = f"noise_of({_draw(e)})"
        case Operand("annealed_noise"):
            text = f"annealed_noise_of({_draw(e)}, state.count)"
        case Operand():
            text = _variable(e)
        case Unary("neg", x):
            own, text = NEGATION, f"-{source(x, NEGATION)}"
        case Unary("clip", x, c):
            text = f"jnp.clip({source(x)}, -{c!r}, {c!r})"
        case Unary("drop", x, p):
            array = source(x) if _is_array(x) else f"jnp.full_like(g, {source(x)})"
            text = f"drop_by({_draw(e)}, {array}, {p!r})"
        case Unary(function, x):
            text = _FUNCTIONS[function].format(source(x))
        case Binary("^", x, y):
            k = static.exact_power(y)
            if k is None or _is_number(x):
                numbers = _is_number(x) and _is_number(y)
                function = "jnp.power" if numbers else "power"
                text = f"{function}({source(x)}, {source(y) if k is None else k})"
            else:
                own, text = POWER, _power(source(x, ATOM), k)
        case Binary("/", x, y) if _is_number(x) and _is_number(y):
            text = f"jnp.divide({source(x)}, {source(y)} + {DELTA})"
        case Binary("/", x, y):
            own, text = PRODUCT, f"{source(x, PRODUCT)} / ({source(y)} + {DELTA})"
        case Binary(function, x, y):
            own, left, right = LEVELS[function]
            # Python, like our parser, reads x * -y; the printed rule is x * (-y), for people.
            text = f"{source(x, left)} {function} {source(y, min(right, NEGATION))}"
    return f"({text})" if own < level else text


def _variable(e: Operand) -> str:
    """Return the name of an operand: `g`, `ld`, `cd`, `rd_10`."""
    if e.n is None or e == Operand("cd", 0.5):
        return e.name
    return re.sub(r"\W", "_", f"{e.name}_{number(e.n)}")


def _draw(e: Expression) -> str:
    return f"draws[{_stream(structural_hash(e))}]"


def _stream(stream: int) -> str:
    return f"0x{stream:08X}"


def _power(base: str, k: int) -> str:
    if k == 1:
        return base
    return f"{base}**{k}" if base.isidentifier() else f"{base} ** {k}"


def _is_array(e: Expression) -> bool:
    """Whether the value of `e` has the shape of g; a decay or a number is a scalar."""
    leaves = (x.name for x in walk(e) if isinstance(x, Operand))
    drops = any(isinstance(x, Unary) and x.function == "drop" for x in walk(e))
    return drops or not _DECAYS.keys() >= set(leaves)


def _is_number(e: Expression) -> bool:
    """Whether Python, not JAX, would compute the value of `e`."""
    match e:
        case Constant():
            return True
        case Unary("neg", x):
            return _is_number(x)
        case Binary("+" | "-" | "*", x, y):
            return _is_number(x) and _is_number(y)
        case _:
            return False


def _block(head: str, body: list[str]) -> str:
    return "\n".join([head, *(f"    {line}".rstrip() for line in body)])


def _call(head: str, arguments: list[str]) -> list[str]:
    line = f"{head}({', '.join(arguments)})"
    return [line] if len(line) <= 80 else [f"{head}(", *(f"    {a}," for a in arguments), ")"]
