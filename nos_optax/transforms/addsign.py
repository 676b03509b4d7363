"""AddSign: larger steps where the gradient agrees with its average, none where it does not.

Discovered in "Neural Optimizer Search with Reinforcement Learning" by Bello et al.
(https://arxiv.org/abs/1709.07417).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nos_optax import _arguments
from nos_optax.transforms import _sign_agreement


class ScaleByAddSignState(NamedTuple):
    """State of AddSign: one moving average."""

    count: jax.typing.ArrayLike  # shape=(), dtype=jnp.int32
    mu: optax.Updates  # shapes of the parameters


def scale_by_addsign(
    b1: jax.typing.ArrayLike = 0.9,
    alpha: jax.typing.ArrayLike = 1.0,
    sign_decay: optax.ScalarOrSchedule = 1.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Rescale updates by the AddSign rule, without a learning rate.

    See :func:`nos_optax.addsign` for the mathematics.

    Args:
        b1: Decay rate of the moving average of the gradient, in [0, 1).
        alpha: The constant part of the multiplier.
        sign_decay: Factor of the signs: a number, or a schedule of the count before the step.
        mu_dtype: dtype of the moving average; that of the parameters if None.

    Returns:
        The :class:`optax.GradientTransformation`.

    Raises:
        TypeError: If an argument is no number, where one is expected.
        ValueError: If ``b1`` is outside [0, 1); from ``init``, if a parameter is complex.
    """
    b1 = _arguments.decay_rate("b1", b1, 0.9)
    _arguments.check_numbers(alpha=alpha)
    _arguments.check_numbers_or_schedules(sign_decay=sign_decay)
    _arguments.check_float_dtype("mu_dtype", mu_dtype)
    alpha = _arguments.widen(alpha)

    def init_fn(params):
        mu = _sign_agreement.init_average(params, mu_dtype)
        return ScaleByAddSignState(count=jnp.zeros([], jnp.int32), mu=mu)

    def update_fn(updates, state, params=None):
        del params
        _arguments.check_state(state, count=True, mu=True)
        f = _sign_agreement.value_at(sign_decay, state.count)
        mu = _sign_agreement.update_average(updates, state.mu, b1)
        updates = _sign_agreement.scale_by_agreement(
            updates, mu, agree=alpha + f, neutral=alpha, disagree=alpha - f
        )
        mu = optax.tree.cast_like(mu, state.mu)
        return updates, ScaleByAddSignState(optax.safe_increment(state.count), mu)

    return optax.GradientTransformation(init_fn, update_fn)


def addsign(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    alpha: jax.typing.ArrayLike = 1.0,
    sign_decay: optax.ScalarOrSchedule = 1.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Build the AddSign optimizer.

    .. math::

        \begin{align*}
          m_t &\leftarrow \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
          u_t &\leftarrow -\eta_t \left(
              \left(\alpha + f(t)\, \mathrm{sign}(g_t)\, \mathrm{sign}(m_t)\right) g_t
              + \lambda w_t \right)
        \end{align*}

    Where the gradient and its average agree in sign the step is :math:`\alpha + f(t)` times that of
    gradient descent, where they disagree it is :math:`\alpha - f(t)` times (with the defaults there
    is no step), and where either is 0 it is :math:`\alpha` times. The average needs no bias
    correction, which never changes a sign. The rule has one parameter-sized slot of state, Adam
    has two.

    Args:
        learning_rate: The step size :math:`\eta_t`: a number, or a schedule of the count. With the
            default the updates already point downhill, ready for ``optax.scale_by_schedule``.
        b1: Decay rate :math:`\beta_1` of the moving average of the gradient, in [0, 1).
        alpha: The constant part :math:`\alpha` of the multiplier. The paper calls the rule AddSign
            where it is 1.
        sign_decay: The decay :math:`f(t)` of the signs: a number, or a schedule of the count before
            the step, which is 0 at the first update.
        mu_dtype: dtype of the moving average; that of the parameters if None.
        weight_decay: Decay :math:`\lambda` of the parameters, multiplied by the learning rate.
            Unless it is the number 0, ``update`` needs the parameters.
        mask: Which parameters ``weight_decay`` applies to: a tree of booleans with the structure of
            the parameters or a prefix of it, or a function from parameters to such a tree. Under
            ``optax.inject_hyperparams`` name it in ``static_args`` there, or a function is called
            as a schedule.

    Returns:
        The :class:`optax.GradientTransformationExtraArgs`.

    Raises:
        TypeError: If an argument is no number, where one is expected.
        ValueError: If ``b1`` is outside [0, 1); from ``init``, if a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import nos_optax
        >>> import optax
        >>> def loss(w):
        ...     return jnp.sum(w**2)
        >>> tx = nos_optax.addsign(learning_rate=0.1)
        >>> params = jnp.array([1.0, 2.0, 3.0])
        >>> state = tx.init(params)
        >>> for _ in range(5):
        ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        ...     print(f"{loss(params):.2e}")
        5.04e+00
        1.81e+00
        6.53e-01
        2.35e-01
        8.47e-02

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, section 5.1; 4.1 for the decays and 8.1 for the
        choice of a learning rate
    """
    scaling = scale_by_addsign(b1=b1, alpha=alpha, sign_decay=sign_decay, mu_dtype=mu_dtype)
    return _arguments.descend(scaling, learning_rate, weight_decay, mask)
