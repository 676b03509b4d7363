"""The static evaluator: an `UpdateRule` as an `optax.GradientTransformation`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nos_optax.grammar import semantics
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.expression import (
    Binary,
    Constant,
    Expression,
    Operand,
    Unary,
    structural_hash,
)
from nos_optax.grammar.program import Program
from nos_optax.grammar.rule import UpdateRule, as_rule


class ScaleByRuleState(NamedTuple):
    """State of `scale_by_rule`: only what the rule reads is kept, the rest is None."""

    count: jax.Array  # int32 []: steps taken
    mu: optax.Updates | None  # moving average of g, shaped like the parameters
    nu: optax.Updates | None  # of g^2
    gamma: optax.Updates | None  # of g^3
    key: jax.Array | None  # PRNG key of `noise` and `drop`; never advanced: it is folded with the count


class Environment(NamedTuple):
    """What the leaves of an expression mean for one parameter at one step."""

    g: jax.Array
    m: jax.Array | None
    v: jax.Array | None
    gamma: jax.Array | None
    w: jax.Array | None
    t: jax.Array  # int32 []: steps before this one
    total_steps: int | jax.Array | None
    key: jax.Array | None  # of this parameter at this step


def evaluate(e: Expression, env: Environment) -> jax.Array:
    """Return the value of an expression: an array shaped like `env.g`, or a scalar where it reads no array."""
    match e:
        case Constant(value):
            return jnp.asarray(value, env.g.dtype)
        case Operand():
            return _operand(e, env)
        case Unary("clip", x, c):
            return semantics.clip(evaluate(x, env), c)
        case Unary("drop", x, p):
            value = jnp.broadcast_to(evaluate(x, env), env.g.shape)
            return semantics.drop(_draw_key(e, env), value, p)
        case Unary(function, x):
            return semantics.UNARY_FUNCTIONS[function](evaluate(x, env))
        case Binary("^", x, Constant(k)) if k == int(k) and k <= MAX_EXACT_POWER:
            return jax.lax.integer_pow(evaluate(x, env), int(k))
        case Binary("^", x, Unary("neg", Constant(k))) if k == int(k) and k <= MAX_EXACT_POWER:
            return jax.lax.integer_pow(evaluate(x, env), -int(k))
        case Binary(function, x, y):
            return semantics.BINARY_FUNCTIONS[function](evaluate(x, env), evaluate(y, env))


MAX_EXACT_POWER = 64


def _operand(e: Operand, env: Environment) -> jax.Array:
    match e.name:
        case "g" | "m" | "v" | "gamma" | "w":
            return getattr(env, e.name)
        case "adam":
            return semantics.divide(env.m, jnp.sqrt(env.v))
        case "rmsprop":
            return semantics.divide(env.g, jnp.sqrt(env.v))
        case "noise":
            return semantics.noise(_draw_key(e, env), env.g.shape, env.g.dtype)
        case "annealed_noise":
            return semantics.annealed_noise(_draw_key(e, env), env.g.shape, env.g.dtype, env.t)
        case _:
            return semantics.decay(e.name, e.n, env.t, env.total_steps, env.g.dtype)


def _draw_key(e: Expression, env: Environment) -> jax.Array:
    return jax.random.fold_in(env.key, np.uint32(structural_hash(e)))


def scale_by_rule(
    rule: UpdateRule | str | Program,
    total_steps: int | jax.Array | None = None,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: jax.typing.ArrayLike = 0.999,
    mu_dtype: jax.typing.DTypeLike | None = None,
    key: jax.Array | int | None = None,
) -> optax.GradientTransformation:
    r"""Replace each update by the value of an update rule.

    .. math::
      m_t = b_1 m_{t-1} + (1 - b_1) g_t, \quad v_t = b_2 v_{t-1} + (1 - b_2) g_t^2, \quad
      \gamma_t = b_3 \gamma_{t-1} + (1 - b_3) g_t^3,

    each divided by :math:`1 - b_i^t` where the rule reads it. Half-precision gradients are computed in float32 and
    rounded once. A random subexpression is one draw per parameter and step: written twice, it is the same draw.

    Args:
      rule: the rule, its text, or a program.
      total_steps: T, the number of steps of the whole run, for rules that read `ld`, `cd` or `rd`.
      b1: rate of m, in [0, 1).
      b2: rate of v.
      b3: rate of gamma.
      mu_dtype: dtype in which m is stored; the parameter's where None.
      key: PRNG key (or an integer seed) of `noise`, `annealed_noise` and `drop`; 0 where None.

    Returns:
      The transformation. It has no learning rate and no minus sign: see `from_rule`.

    Raises:
      RuleError: the text is not a rule, or the rule reads a decay and `total_steps` is missing or not positive.
      ValueError: at the update, the rule reads the weights and `params` is missing (Optax's message); at construction,
        a rate is outside [0, 1).

    Example:
      >>> import jax.numpy as jnp, nos_optax
      >>> tx = nos_optax.scale_by_rule("exp(sign(g) * sign(m)) * g")
      >>> updates, state = tx.update(jnp.array([1.0, -2.0]), tx.init(jnp.zeros(2)))
      >>> print(updates.round(3))
      [ 2.718 -5.437]

    References:
      Bello et al., 2017, section 3.
    """
    rule = as_rule(rule)
    _check_total_steps(rule, total_steps)
    for name, rate in (("b1", b1), ("b2", b2), ("b3", b3)):
        if isinstance(rate, int | float) and not 0 <= rate < 1:
            raise ValueError(f"{name} must be in [0, 1), got {rate}")

    def init_fn(params):
        def zeros(moment, dtype=None):
            return optax.tree.zeros_like(params, dtype=dtype) if moment in rule.moments else None

        return ScaleByRuleState(
            count=jnp.zeros([], jnp.int32),
            mu=zeros("m", mu_dtype),
            nu=zeros("v"),
            gamma=zeros("gamma"),
            key=semantics.as_key(key) if rule.needs_key else None,
        )

    def update_fn(updates, state, params=None):
        if rule.needs_params and params is None:
            raise ValueError(optax.base.NO_PARAMS_MSG)
        count = optax.safe_increment(state.count)

        def average(moments, rate, power):
            if moments is None:
                return None
            return jax.tree.map(
                lambda mean, g: semantics.moving_average(
                    _widen(mean), jax.lax.integer_pow(_widen(g), power), rate
                ),
                moments,
                updates,
            )

        mu = average(state.mu, b1, 1)
        nu = average(state.nu, b2, 2)
        gamma = average(state.gamma, b3, 3)

        leaves, treedef = jax.tree.flatten(updates)

        def column(tree):
            return treedef.flatten_up_to(tree) if tree is not None else [None] * len(leaves)

        rows = zip(
            leaves,
            column(mu),
            column(nu),
            column(gamma),
            column(params if rule.needs_params else None),
            strict=True,
        )
        values = []
        for i, (g, m, v, third, w) in enumerate(rows):
            wide = _widen(g)
            env = Environment(
                g=wide,
                m=_corrected(m, b1, count, wide.dtype),
                v=_corrected(v, b2, count, wide.dtype),
                gamma=_corrected(third, b3, count, wide.dtype),
                w=None if w is None else w.astype(wide.dtype),
                t=state.count,
                total_steps=total_steps,
                key=semantics.stream_key(state.key, state.count, i) if rule.needs_key else None,
            )
            value = evaluate(rule.expression, env)
            values.append(jnp.broadcast_to(value, g.shape).astype(g.dtype))

        def stored(new, old):
            return None if old is None else jax.tree.map(lambda x, y: x.astype(y.dtype), new, old)

        new_state = ScaleByRuleState(
            count=count,
            mu=stored(mu, state.mu),
            nu=stored(nu, state.nu),
            gamma=stored(gamma, state.gamma),
            key=state.key,
        )
        return treedef.unflatten(values), new_state

    return optax.GradientTransformation(init_fn, update_fn)


def from_rule(
    rule: UpdateRule | str | Program,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    total_steps: int | jax.Array | None = None,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: jax.typing.ArrayLike = 0.999,
    mu_dtype: jax.typing.DTypeLike | None = None,
    key: jax.Array | int | None = None,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Callable | None = None,
) -> optax.GradientTransformation:
    """Make an optimizer of an update rule: `w <- w - learning_rate * (rule + weight_decay * w)`.

    Args:
      rule: the rule, its text, or a program.
      learning_rate: a number or a schedule.
      total_steps: as in `scale_by_rule`.
      b1: as in `scale_by_rule`.
      b2: as in `scale_by_rule`.
      b3: as in `scale_by_rule`.
      mu_dtype: as in `scale_by_rule`.
      key: as in `scale_by_rule`.
      weight_decay: strength of the decoupled weight decay.
      mask: a tree of bools, or a function from parameters to one, that says which parameters decay.

    Returns:
      The optimizer.

    Raises:
      RuleError: as `scale_by_rule`.
      ValueError: as `scale_by_rule`.

    Example:
      >>> import jax.numpy as jnp, nos_optax, optax
      >>> tx = nos_optax.from_rule("(1 + ld * sign(g) * sign(m)) * g", learning_rate=0.1, total_steps=10)
      >>> params = jnp.array(1.0)
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      0.6
    """
    transforms = [scale_by_rule(rule, total_steps, b1, b2, b3, mu_dtype, key)]
    if not (isinstance(weight_decay, int | float) and weight_decay == 0):
        transforms.append(optax.add_decayed_weights(weight_decay, mask))
    return optax.chain(*transforms, optax.scale_by_learning_rate(learning_rate))


def _check_total_steps(rule: UpdateRule, total_steps) -> None:
    if not rule.needs_total_steps:
        return
    if total_steps is None:
        raise RuleError(
            f"the rule {rule} reads a decay ({', '.join(sorted(rule.leaves & {'ld', 'cd', 'rd'}))}) and must be told "
            "the length of the run: pass total_steps=..."
        )
    if isinstance(total_steps, int | float) and not total_steps > 0:
        raise RuleError(f"total_steps must be positive, got {total_steps}")


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _corrected(moment, rate, count, dtype) -> jax.Array | None:
    if moment is None:
        return None
    return moment.astype(dtype) / semantics.bias_correction(rate, count, dtype)
