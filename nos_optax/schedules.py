r"""The paper's decays: as schedules, and as plain functions of a step and a horizon.

``optax`` has the single cosine; what it lacks is the product of a linear and a cosine decay, the
same with annealed noise, and cosines that cycle or restart. With :math:`t` the count clamped to
the horizon :math:`T` (``decay_steps``):

.. math::

    \mathrm{ld} = 1 - t/T \qquad
    \mathrm{cd}_n = \tfrac{1}{2} \left(1 + \cos(2 \pi n t / T)\right) \qquad
    \mathrm{rd}_n = \tfrac{1}{2} \left(1 + \cos(\pi\, ((t n) \bmod T) / T)\right)

These three are operands of the paper's language (section 4.1); PowerSign and AddSign decay their
signs by them (section 5.1), and ``ld * cd`` decays the learning rate (section 5.2). That :math:`t`
is 0 at the first step, and stays at :math:`T` afterwards, is TensorFlow's reading.
"""

import math

import jax
import jax.numpy as jnp
import optax

from nos_optax import _arguments


def linear_decay(t: jax.typing.ArrayLike, T: jax.typing.ArrayLike) -> jax.Array:
    """Return ld, which falls linearly from 1 at step 0 to 0 at step T and stays there."""
    return _as_float(T - _clamp(t, T)) / _as_float(T)


def cyclical_decay(
    t: jax.typing.ArrayLike, T: jax.typing.ArrayLike, n: jax.typing.ArrayLike = 0.5
) -> jax.Array:
    """Return cd_n, a cosine between 1 and 0 with n full periods in T steps."""
    # (1 + cos 2x) / 2 = cos^2 x, which does not cancel where it is small.
    return jnp.sin(jnp.pi * (0.5 - _cycle_fraction(t, T, n))) ** 2


def restart_decay(
    t: jax.typing.ArrayLike, T: jax.typing.ArrayLike, n: jax.typing.ArrayLike = 1
) -> jax.Array:
    """Return rd_n, a cosine that falls from 1 to 0 n times in T steps; 1 at T for whole n."""
    return jnp.cos(0.5 * jnp.pi * _cycle_fraction(t, T, n)) ** 2


def linear_cosine(
    init_value: float | jax.Array,
    decay_steps: int | jax.Array,
    num_periods: float | jax.Array = 0.5,
    alpha: float | jax.Array = 0.0,
    beta: float | jax.Array = 0.0,
) -> optax.Schedule:
    r"""Build the linear cosine decay.

    .. math::

        \eta_t = \eta_0 \left((\alpha + \mathrm{ld})\, \mathrm{cd}_n + \beta\right)

    Args:
        init_value: The scale :math:`\eta_0`, and with the defaults the value at count 0.
        decay_steps: The horizon :math:`T`, in counts. The value no longer changes after it.
        num_periods: The full periods :math:`n` of the cosine in ``decay_steps``; one half is a
            single descent.
        alpha: Added to the linear decay.
        beta: Added to the product; ``init_value * beta`` is then the final value of the default.
            TensorFlow's function of this name has 0.001, the paper has none.

    Returns:
        A schedule: a count of shape ``()`` to a value of shape ``()``.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If ``decay_steps`` is not a whole number between 1 and 2**30, or another number
            is not finite.

    Examples:
        >>> import nos_optax
        >>> schedule = nos_optax.linear_cosine(init_value=0.5, decay_steps=10_000)
        >>> print(*(f"{schedule(count):.4f}" for count in (0, 2_500, 5_000, 7_500, 10_000)))
        0.5000 0.3201 0.1250 0.0183 0.0000

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, section 5.2
    """
    _arguments.check_numbers(init_value=init_value, num_periods=num_periods, alpha=alpha, beta=beta)
    decay_steps = _arguments.whole_steps("decay_steps", decay_steps)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        ld = linear_decay(count, decay_steps)
        cd = cyclical_decay(count, decay_steps, num_periods)
        return init_value * ((alpha + ld) * cd + beta)

    return schedule


def noisy_linear_cosine(
    init_value: float | jax.Array,
    decay_steps: int | jax.Array,
    num_periods: float | jax.Array = 0.5,
    alpha: float | jax.Array = 0.0,
    beta: float | jax.Array = 0.001,
    initial_variance: float | jax.Array = 1.0,
    variance_decay: float | jax.Array = 0.55,
    key: jax.Array | int | None = None,
) -> optax.Schedule:
    r"""Build the noisy linear cosine decay: the linear cosine one with annealed Gaussian noise.

    .. math::

        \eta_t = \eta_0 \left((\alpha + \mathrm{ld} + \varepsilon_t)\, \mathrm{cd}_n + \beta\right),
        \qquad \varepsilon_t \sim \mathcal{N}\left(0, \sigma^2_0 / (1 + t)^{\gamma}\right)

    The paper's :math:`(\mathrm{ld} + \varepsilon_t)\, \mathrm{cd} + 0.001` has the defaults; it is
    called both "noisy linear decay" and "noisy linear cosine decay" there.

    The noise is a pure function of the key and the count, so a resumed run sees the values of an
    unbroken one. The value is not clipped: it is negative where the noise is.

    Args:
        init_value: The scale :math:`\eta_0`.
        decay_steps: The horizon :math:`T`, in counts.
        num_periods: The full periods :math:`n` of the cosine in ``decay_steps``; one half is a
            single descent.
        alpha: Added to the linear decay.
        beta: Added to the product.
        initial_variance: The variance :math:`\sigma^2_0` of the noise at count 0.
        variance_decay: The exponent :math:`\gamma` with which the variance falls.
        key: A key of :mod:`jax.random`, typed or legacy, or an integer seed; the seed 0 if None.
            Schedules with one key draw the same noise: give each of several its own.

    Returns:
        A schedule: a count of shape ``()`` to a value of shape ``()``.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If ``decay_steps`` is not a whole number between 1 and 2**30, or another number
            is not finite.

    Examples:
        >>> import nos_optax
        >>> schedule = nos_optax.noisy_linear_cosine(init_value=0.5, decay_steps=10_000)
        >>> bool(schedule(7) == schedule(7)), bool(schedule(7) == schedule(8))
        (True, False)
        >>> print(f"{schedule(10_000):.4f}")
        0.0005

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, section 5.2
    """
    _arguments.check_numbers(
        init_value=init_value,
        num_periods=num_periods,
        alpha=alpha,
        beta=beta,
        variance_decay=variance_decay,
    )
    _arguments.check_number(
        "initial_variance",
        initial_variance,
        "a finite number, 0 or more",
        lambda x: 0 <= x < math.inf,
    )
    decay_steps = _arguments.whole_steps("decay_steps", decay_steps)
    _arguments.check_key(key)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        ld = linear_decay(count, decay_steps)
        cd = cyclical_decay(count, decay_steps, num_periods)
        t = _as_float(_clamp(count, decay_steps))
        variance = initial_variance * (1 + t) ** -variance_decay  # which may be 0, but not infinite
        # The slope of the root of 0 is infinite: there the derivative is that of no noise.
        none = variance == 0
        deviation = jnp.where(none, 0.0, jnp.sqrt(jnp.where(none, 1.0, variance)))
        eps = deviation * _standard_normal(key, count)
        return init_value * ((alpha + ld + eps) * cd + beta)

    return schedule


def cyclical_cosine(
    init_value: float | jax.Array,
    decay_steps: int | jax.Array,
    num_periods: float | jax.Array = 0.5,
    zero_after: float | jax.Array | None = None,
) -> optax.Schedule:
    r"""Build the cyclical cosine decay, which goes back up as smoothly as it came down.

    .. math::

        \eta_t = \eta_0\, \mathrm{cd}_n

    Args:
        init_value: The value :math:`\eta_0` at count 0.
        decay_steps: The horizon :math:`T`, in counts. The value no longer changes after it.
        num_periods: The full periods :math:`n` in ``decay_steps``; one half is a single descent.
        zero_after: The number of full periods after which the value is 0: from the first count with
            :math:`n t / T \ge` ``zero_after`` on, as in TensorFlow's ``get_cosine_decay_fn``. More
            than ``num_periods`` are never reached. None: never.

    Returns:
        A schedule: a count of shape ``()`` to a value of shape ``()``.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If ``decay_steps`` is not a whole number between 1 and 2**30, or another number
            is not finite, or ``zero_after`` is negative or nan.

    Examples:
        >>> import nos_optax
        >>> schedule = nos_optax.cyclical_cosine(1.0, decay_steps=100, num_periods=2)
        >>> print(*(f"{schedule(count):.1f}" for count in (0, 25, 50, 75, 100)))
        1.0 0.0 1.0 0.0 1.0
        >>> schedule = nos_optax.cyclical_cosine(1.0, 100, num_periods=2, zero_after=1)
        >>> print(*(f"{schedule(count):.1f}" for count in (0, 25, 49, 50, 75, 100)))
        1.0 0.0 1.0 0.0 0.0 0.0

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, section 4.1
    """
    _arguments.check_numbers(init_value=init_value, num_periods=num_periods)
    decay_steps = _arguments.whole_steps("decay_steps", decay_steps)
    _check_zero_after(zero_after)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        value = init_value * cyclical_decay(count, decay_steps, num_periods)
        if zero_after is None:
            return value
        over = _periods_are_over(count, decay_steps, num_periods, zero_after)
        return jnp.where(over, 0.0, value)

    return schedule


def restart_cosine(
    init_value: float | jax.Array,
    decay_steps: int | jax.Array,
    num_periods: float | jax.Array = 1,
    zero_after: float | jax.Array | None = None,
) -> optax.Schedule:
    r"""Build the cosine decay with warm restarts, which jumps back up after each descent.

    .. math::

        \eta_t = \eta_0\, \mathrm{rd}_n

    Args:
        init_value: The value :math:`\eta_0` at count 0 and at each restart.
        decay_steps: The horizon :math:`T`, in counts. The value no longer changes after it.
        num_periods: The descents :math:`n` in ``decay_steps``. For whole numbers the horizon itself
            is a restart: from there on the value is ``init_value``, unless ``zero_after`` is given.
        zero_after: The number of descents after which the value is 0: from the first count with
            :math:`n t / T \ge` ``zero_after`` on, as in TensorFlow's ``get_restart_decay_fn``. With
            ``num_periods`` the value at the horizon is 0; more are never reached. None: never.

    Returns:
        A schedule: a count of shape ``()`` to a value of shape ``()``.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If ``decay_steps`` is not a whole number between 1 and 2**30, or another number
            is not finite, or ``zero_after`` is negative or nan.

    Examples:
        >>> import nos_optax
        >>> schedule = nos_optax.restart_cosine(1.0, decay_steps=100, num_periods=2)
        >>> print(*(f"{schedule(count):.1f}" for count in (0, 25, 49, 50, 75, 99, 100)))
        1.0 0.5 0.0 1.0 0.5 0.0 1.0

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, section 4.1
    """
    _arguments.check_numbers(init_value=init_value, num_periods=num_periods)
    decay_steps = _arguments.whole_steps("decay_steps", decay_steps)
    _check_zero_after(zero_after)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        value = init_value * restart_decay(count, decay_steps, num_periods)
        if zero_after is None:
            return value
        over = _periods_are_over(count, decay_steps, num_periods, zero_after)
        return jnp.where(over, 0.0, value)

    return schedule


def _cycle_fraction(
    t: jax.typing.ArrayLike, T: jax.typing.ArrayLike, n: jax.typing.ArrayLike
) -> jax.Array:
    """Return ((t n) mod T) / T, rounded only where n is fractional and in the last division."""
    t = _clamp(t, T)
    n = jnp.asarray(n)
    whole = jnp.floor(n).astype(jnp.int32)
    rest = (n - whole) * _as_float(t)
    quotient = jnp.floor(n * (_as_float(t) / _as_float(T))).astype(jnp.int32)
    # Both products may overflow and wrap around. Their difference does not: it lies between -T and
    # 2T, as the float quotient is off by one at most.
    remainder = (whole * t - quotient * T + jnp.floor(rest).astype(jnp.int32)) % T
    return (_as_float(remainder) + rest % 1) / _as_float(T)


def _check_zero_after(zero_after: object) -> None:
    """Raise if this is neither None nor a number of periods."""
    if zero_after is None:
        return
    must = "None, or a number of periods, 0 or more (it does not count steps)"
    _arguments.check_number("zero_after", zero_after, must, lambda x: x >= 0)
    if jnp.issubdtype(jnp.result_type(zero_after), jnp.bool_):
        raise TypeError(f"zero_after is {zero_after}, but must be {must}.")


def _periods_are_over(
    t: jax.typing.ArrayLike,
    T: jax.typing.ArrayLike,
    n: jax.typing.ArrayLike,
    periods: jax.typing.ArrayLike,
) -> jax.Array:
    """Return whether n t/T, with t at most T, has reached this number of periods."""
    t = _clamp(t, T)
    if isinstance(T, int) and isinstance(n, int | float) and isinstance(periods, int | float):
        return jnp.greater_equal(t, _first_count(T, n, periods))
    # One is an array, perhaps a tracer, and float32 has to do. The slack is more than the rounding
    # of both products, so that equal ones count as reached; below a million, no two counts are as
    # near to each other.
    slack = 4 * jnp.finfo(jnp.result_type(n, periods, jnp.float32)).eps
    return jnp.greater_equal(n * _as_float(t), periods * _as_float(T) * (1 - slack))


def _first_count(T: int, n: float, periods: float) -> int:
    """Return the least whole t with n t/T >= periods; T + 1 if it would be beyond T."""
    if periods == 0:
        return 0
    if not n > 0:
        return T + 1
    # The slack is more than the rounding here, and less than one count in 2**30.
    return math.ceil(min(periods / n * T * (1 - 1e-12), T + 1))


def _standard_normal(key: jax.Array | int | None, count: jax.typing.ArrayLike) -> jax.Array:
    """Draw the standard normal number that belongs to each count."""
    # The default key is made here, not with the schedule, which must not start JAX's backends.
    key = _arguments.as_key(key)
    draw = jnp.vectorize(lambda c: jax.random.normal(jax.random.fold_in(key, c), dtype=float))
    return draw(_clamp(count, _arguments.MAX_STEPS))


def _clamp(t: jax.typing.ArrayLike, T: jax.typing.ArrayLike) -> jax.Array:
    """Return t between 0 and T, of any type: counts of a narrow one wrap around beside T.

    `optax.join_schedules` calls a schedule before its start, too, and drops the value. What is not
    finite there would still make the derivative nan.
    """
    if isinstance(t, int):
        t = min(max(t, 0), 2**30)
    elif not isinstance(t, float | complex) and jnp.issubdtype(t.dtype, jnp.integer):
        # Before JAX makes 32 bits of NumPy's 64.
        t = t.clip(0, min(2**30, jnp.iinfo(t.dtype).max))
        t = jnp.asarray(t, jnp.int32)
    elif not isinstance(t, float | complex):
        t = jnp.asarray(t, _arguments.wide_dtype(t))  # in half precision a T could be infinite
    return jnp.clip(t, 0, T)


def _as_float(x: jax.typing.ArrayLike) -> jax.Array:
    return jnp.asarray(x, dtype=float)
