"""The static evaluator: an `UpdateRule` as an `optax.GradientTransformation`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nos_optax import _arguments
from nos_optax.grammar import semantics
from nos_optax.grammar.encoding import RuleLike, as_rule
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.expression import (
    Binary,
    Constant,
    Expression,
    Operand,
    Unary,
    draws_numbers,
    structural_hash,
    walk,
)
from nos_optax.grammar.rule import UpdateRule
from nos_optax.grammar.semantics import B1, B2, B3
from nos_optax.grammar.vocabulary import DECAYS


class ScaleByRuleState(NamedTuple):
    """State of `scale_by_rule`: only what the rule reads is kept, the rest is None."""

    count: jax.typing.ArrayLike  # int32 [], steps taken
    mu: optax.Updates | None  # shapes of the parameters, moving average of g
    nu: optax.Updates | None  # of g^2
    gamma: optax.Updates | None  # of g^3
    key: jax.Array | None  # uint32 [2], a PRNG key: it never advances, but is folded with the count


class Environment(NamedTuple):
    """What the leaves of an expression mean for one parameter array at one step.

    What the rule does not read may be None.
    """

    g: jax.Array
    t: jax.Array  # int32 [], steps before this one
    m: Any = None  # shape of g, like v, gamma and w
    v: Any = None
    gamma: Any = None
    w: Any = None
    total_steps: Any = None
    draws: Any = None  # random numbers of the shape of g, by the hash of the part that draws them


def evaluate(
    e: Expression, env: Environment, known: dict[Expression, jax.Array] | None = None
) -> jax.Array:
    """Return the value of an expression: shaped like `env.g`, or `[]` where it reads no array.

    Equal subexpressions are evaluated once: `known` has the values of those that were met before.
    """
    known = {} if known is None else known
    if e not in known:
        known[e] = _evaluate(e, env, lambda x: evaluate(x, env, known))
    return known[e]


def _evaluate(
    e: Expression, env: Environment, value: Callable[[Expression], jax.Array]
) -> jax.Array:
    """Return the value of a node, given how to find those of its parts."""
    match e:
        case Constant(number):
            return jnp.asarray(number, env.g.dtype)
        case Operand():
            return _operand(e, env)
        case Unary("clip", x, float() as c):
            return semantics.clip(value(x), c)
        case Unary("drop", x, float() as p):
            return semantics.drop_by(env.draws[structural_hash(e)], value(x), p)
        case Unary(function, x):
            return semantics.UNARY_FUNCTIONS[function](value(x))
        case Binary("^", x, y) if (k := exact_power(y)) is not None:
            return jax.lax.integer_pow(value(x), k)
        case Binary(function, x, y):
            return semantics.BINARY_FUNCTIONS[function](value(x), value(y))


def exact_power(exponent: Expression) -> int | None:
    """Return a literal exponent, if a whole number from -64 to 64: such a power is a product."""
    match exponent:
        case Constant(k) if k == int(k) and k <= 64:
            return int(k)
        case Unary("neg", Constant(k)) if k == int(k) and k <= 64:
            return -int(k)
        case _:
            return None


def _operand(e: Operand, env: Environment) -> jax.Array:
    match e.name:
        case "g" | "m" | "v" | "gamma" | "w":
            return getattr(env, e.name)
        case "adam":
            return semantics.divide(env.m, semantics.root(env.v))
        case "rmsprop":
            return semantics.divide(env.g, semantics.root(env.v))
        case "noise":
            return semantics.noise_of(env.draws[structural_hash(e)])
        case "annealed_noise":
            return semantics.annealed_noise_of(env.draws[structural_hash(e)], env.t)
        case _:
            return semantics.decay(e.name, e.n, env.t, env.total_steps, env.g.dtype)


def drawing_parts(e: Expression) -> dict[str, list[int]]:
    """Return the hashes of what draws random numbers, under `uniform` and `normal`, once each."""
    draws: dict[str, dict[int, None]] = {"uniform": {}, "normal": {}}
    for x in walk(e):
        if draws_numbers(x):
            draws["uniform" if isinstance(x, Unary) else "normal"][structural_hash(x)] = None
    return {kind: list(streams) for kind, streams in draws.items()}


def scale_by_rule(
    rule: RuleLike,
    total_steps: int | jax.Array | None = None,
    b1: jax.typing.ArrayLike = B1,
    b2: jax.typing.ArrayLike = B2,
    b3: jax.typing.ArrayLike = B3,
    mu_dtype: jax.typing.DTypeLike | None = None,
    key: jax.Array | int | None = None,
) -> optax.GradientTransformation:
    r"""Replace each update by the value of an update rule.

    .. math::

        \begin{align*}
          m_t &\leftarrow \beta_1 m_{t-1} + (1 - \beta_1)\, g_t &
          \hat{m}_t &= m_t / (1 - \beta_1^t) \\
          v_t &\leftarrow \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 &
          \hat{v}_t &= v_t / (1 - \beta_2^t) \\
          \gamma_t &\leftarrow \beta_3 \gamma_{t-1} + (1 - \beta_3)\, g_t^3 &
          \hat{\gamma}_t &= \gamma_t / (1 - \beta_3^t) \\
          u_t &\leftarrow \mathrm{rule}(g_t, \hat{m}_t, \hat{v}_t, \hat{\gamma}_t, w_t, t)
        \end{align*}

    Half-precision gradients are computed in float32; v and gamma are stored so too, and m as
    ``mu_dtype`` says. A random subexpression is one draw per parameter array and step: written
    twice, it is the same draw. The arrays of a tree draw differently by their position among those
    that have a gradient, and different rules draw differently by default. Two transformations by
    one rule in one optimizer need different keys to do so, and so do the shards of a
    ``jax.shard_map``: fold the key with ``jax.lax.axis_index``. The key is kept as numbers, so that
    a state can be saved, compared and cast like that of any other optimizer.

    Args:
        rule: The rule, its text, or a program.
        total_steps: The length T of the whole run, in steps, for rules that read ``ld``, ``cd`` or
            ``rd``.
        b1: Decay rate of m, in [0, 1).
        b2: Decay rate of v, in [0, 1).
        b3: Decay rate of gamma, in [0, 1).
        mu_dtype: dtype in which m is stored; that of the parameters if None.
        key: A key of :mod:`jax.random`, typed or legacy, or an integer seed, for ``noise``,
            ``annealed_noise`` and ``drop``; a seed of the rule's own if None. Under
            ``optax.inject_hyperparams`` name it in ``static_args``, or give a seed: a typed key
            in a state is no array of numbers, which is what libraries save.

    Returns:
        The :class:`optax.GradientTransformation`. It has no learning rate and no minus sign: see
        :func:`nos_optax.from_rule`.

    Raises:
        RuleError: If the text is not a rule, or if the rule reads a decay and ``total_steps`` is
            missing or not a whole number between 1 and 2**30.
        TypeError: If an argument is no number, where one is expected.
        ValueError: If a rate is outside [0, 1); from ``init``, if a parameter is complex; from
            ``update``, if the rule reads the weights and ``params`` is missing, or if the gradients
            do not fit the state.

    Examples:
        >>> import jax.numpy as jnp
        >>> import nos_optax
        >>> tx = nos_optax.scale_by_rule("exp(sign(g) * sign(m)) * g")
        >>> updates, state = tx.update(jnp.array([1.0, -2.0]), tx.init(jnp.zeros(2)))
        >>> print(updates)
        [ 2.7182817 -5.4365635]

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, sections 3.1, 4.1 and 4.2
    """
    rule = as_rule(rule)
    total_steps = _checked_total_steps(rule, total_steps)
    b1, b2, b3 = (
        _arguments.decay_rate(name, rate, usual)
        for name, rate, usual in (("b1", b1, B1), ("b2", b2, B2), ("b3", b3, B3))
    )
    _arguments.check_float_dtype("mu_dtype", mu_dtype)
    _arguments.check_key(key)
    key = structural_hash(rule.expression) if key is None else key
    draws = drawing_parts(rule.expression)

    def init_fn(params):
        jax.tree.map(_arguments.wide_dtype, params)  # raises if one is complex
        return ScaleByRuleState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype) if "m" in rule.moments else None,
            nu=_wide_zeros(params) if "v" in rule.moments else None,
            gamma=_wide_zeros(params) if "gamma" in rule.moments else None,
            key=_arguments.key_data(key) if rule.needs_key else None,
        )

    def update_fn(updates, state, params=None):
        if rule.needs_params and params is None:
            raise ValueError(_NO_PARAMS)
        w = params if rule.needs_params else None
        _arguments.check_state(
            state,
            count=True,
            mu="m" in rule.moments,
            nu="v" in rule.moments,
            gamma="gamma" in rule.moments,
            key=rule.needs_key,
        )
        _arguments.check_trees(updates, params=w, mu=state.mu, nu=state.nu, gamma=state.gamma)
        count = optax.safe_increment(state.count)
        mu = _update_average(updates, state.mu, b1, 1)
        nu = _update_average(updates, state.nu, b2, 2)
        gamma = _update_average(updates, state.gamma, b3, 3)
        trees = {
            "m": _correct_bias(mu, b1, count),
            "v": _correct_bias(nu, b2, count),
            "gamma": _correct_bias(gamma, b3, count),
            "w": w,
        }
        if rule.needs_key:
            step_key = _arguments.typed_key(state.key, like=key)
            trees["draws"] = semantics.draw_all(updates, step_key, state.count, **draws)
        trees = {name: tree for name, tree in trees.items() if tree is not None}

        def value(g, *arrays):
            if g is None:
                return None
            dtype = _arguments.wide_dtype(g)
            read = {"g": g} | dict(zip(trees, arrays, strict=True))
            read = jax.tree.map(lambda x: jnp.asarray(x, dtype), read)
            env = Environment(t=state.count, total_steps=total_steps, **read)
            update = jnp.broadcast_to(evaluate(rule.expression, env), jnp.shape(g))
            return update.astype(jnp.result_type(g))

        updates = _map(value, updates, *trees.values())
        averages = optax.tree.cast_like((mu, nu, gamma), (state.mu, state.nu, state.gamma))
        return updates, ScaleByRuleState(count, *averages, state.key)

    return optax.GradientTransformation(init_fn, update_fn)


def from_rule(
    rule: RuleLike,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    total_steps: int | jax.Array | None = None,
    b1: jax.typing.ArrayLike = B1,
    b2: jax.typing.ArrayLike = B2,
    b3: jax.typing.ArrayLike = B3,
    mu_dtype: jax.typing.DTypeLike | None = None,
    key: jax.Array | int | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Build an optimizer of an update rule.

    .. math::

        w_{t+1} \leftarrow w_t - \eta_t \left( \mathrm{rule}_t + \lambda w_t \right)

    Args:
        rule: The rule, its text, or a program.
        learning_rate: The step size :math:`\eta_t`: a number, or a schedule of the count.
        total_steps: The length T of the whole run, in steps, for rules that read ``ld``, ``cd`` or
            ``rd``.
        b1: Decay rate of m, in [0, 1).
        b2: Decay rate of v, in [0, 1).
        b3: Decay rate of gamma, in [0, 1).
        mu_dtype: dtype in which m is stored; that of the parameters if None.
        key: A key of :mod:`jax.random`, typed or legacy, or an integer seed, for ``noise``,
            ``annealed_noise`` and ``drop``; a seed of the rule's own if None. Under
            ``optax.inject_hyperparams`` name it in ``static_args``, or give a seed: a typed key
            in a state is no array of numbers, which is what libraries save.
        weight_decay: Decay :math:`\lambda` of the parameters, multiplied by the learning rate.
            Unless it is the number 0, ``update`` needs the parameters.
        mask: Which parameters ``weight_decay`` applies to: a tree of booleans with the structure of
            the parameters or a prefix of it, or a function from parameters to such a tree. Under
            ``optax.inject_hyperparams`` name it in ``static_args`` there, or a function is called
            as a schedule.

    Returns:
        The :class:`optax.GradientTransformationExtraArgs`.

    Raises:
        RuleError: As :func:`nos_optax.scale_by_rule`.
        TypeError: As :func:`nos_optax.scale_by_rule`, or if ``mask`` is a single boolean from
            ``optax.inject_hyperparams``.
        ValueError: As :func:`nos_optax.scale_by_rule`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import nos_optax
        >>> import optax
        >>> tx = nos_optax.from_rule(
        ...     "(1 + ld * sign(g) * sign(m)) * g", learning_rate=0.1, total_steps=10
        ... )
        >>> params = jnp.array(1.0)
        >>> updates, state = tx.update(2 * params, tx.init(params), params)
        >>> print(optax.apply_updates(params, updates))
        0.6

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, sections 3.1, 4.1 and 4.2
    """
    scaling = scale_by_rule(rule, total_steps, b1, b2, b3, mu_dtype, key)
    return _arguments.descend(scaling, learning_rate, weight_decay, mask)


def _checked_total_steps(
    rule: UpdateRule, total_steps: int | jax.Array | None
) -> int | jax.Array | None:
    """Return the total steps, as an int where they are a number, if the rule reads them."""
    if not rule.needs_total_steps:
        return None
    if total_steps is None:
        decays = ", ".join(sorted(rule.leaves & DECAYS))
        raise RuleError(
            f"the rule {rule} reads a decay ({decays}) and must be told the length of the run: "
            "pass total_steps=..."
        )
    try:
        return _arguments.whole_steps("total_steps", total_steps)
    except ValueError as error:
        raise RuleError(str(error)) from None


# Optax's message, which it does not export.
_NO_PARAMS = (
    "You are using a transformation that requires the current value of parameters, but you are not "
    "passing `params` when calling `update`."
)


def _map(function, *trees):
    """Map over trees in which None is a leaf: a parameter that has no gradient."""
    return jax.tree.map(function, *trees, is_leaf=lambda x: x is None)


def _wide_zeros(params):
    """Return zeros in which an average can grow: at a rate of 0.999, half precision rounds it."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=_arguments.wide_dtype(x)), params)


def _update_average(updates, moments, rate, power: int):
    """Return the moving average of `g^power`, in float32 or wider; None where the rule has none."""

    def average(g, moment):
        if g is None:
            return moment
        g = jax.lax.integer_pow(jnp.asarray(g, _arguments.wide_dtype(g)), power)
        return semantics.moving_average(moment.astype(_arguments.wide_dtype(moment)), g, rate)

    return None if moments is None else _map(average, updates, moments)


def _correct_bias(moments, rate, count):
    def correct(moment):
        return moment / semantics.bias_correction(rate, count, moment.dtype)

    return jax.tree.map(correct, moments)
