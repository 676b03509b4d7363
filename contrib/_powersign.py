# Copyright 2026 The nos_optax authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""PowerSign optimizer.

A contributed implementation of the method from "Neural Optimizer Search with
Reinforcement Learning" by Bello et al. (https://arxiv.org/abs/1709.07417).
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple, Optional, Union

import jax
import jax.numpy as jnp
from optax._src import base as base_lib
from optax._src import combine
from optax._src import numerics
from optax._src import transform
import optax.tree


class ScaleByPowerSignState(NamedTuple):
  """State of the `GradientTransformation` returned by `scale_by_powersign`."""

  count: jax.typing.ArrayLike  # shape=(), dtype=jnp.int32.
  mu: base_lib.Updates  # Moving average of the gradients.


def _update_average(updates, mu, b1):
  """Returns the moving average with the gradients in it, in at least float32.

  Only its sign is used, and in half precision `(1 - b1) * g` may round to 0,
  which has none.

  Args:
    updates: The gradients.
    mu: The moving average before this step.
    b1: Its decay rate.

  Returns:
    The moving average; unchanged where there is no gradient (None).
  """

  def average(g, m):
    if g is None:
      return m
    dtype = jnp.result_type(g, m, jnp.float32)
    return b1 * jnp.asarray(m, dtype) + (1 - b1) * jnp.asarray(g, dtype)

  return jax.tree.map(average, updates, mu, is_leaf=lambda x: x is None)


def scale_by_powersign(
    b1: jax.typing.ArrayLike = 0.9,
    base: jax.typing.ArrayLike = math.e,
    sign_decay: base_lib.ScalarOrSchedule = 1.0,
    mu_dtype: Optional[jax.typing.DTypeLike] = None,
) -> base_lib.GradientTransformation:
  """Rescale updates according to the PowerSign algorithm.

  See :func:`optax.contrib.powersign` for more details.

  Args:
    b1: Decay rate for the exponentially weighted average of grads.
    base: Multiplier of the gradient where its sign agrees with that of its
      average; the inverse multiplies it where they disagree.
    sign_decay: Exponent of the base, either fixed or a schedule.
    mu_dtype: Optional `dtype` to be used for the moving average; if `None` then
      the `dtype` is inferred from `params`.

  Returns:
    A `GradientTransformation` object.
  """

  def init_fn(params):
    for p in jax.tree.leaves(params):
      if jnp.issubdtype(jnp.result_type(p), jnp.complexfloating):
        raise ValueError(
            'PowerSign compares real signs: wrap it in '
            'optax.contrib.split_real_and_imaginary for complex parameters.'
        )
    mu = optax.tree.zeros_like(params, dtype=mu_dtype)
    return ScaleByPowerSignState(count=jnp.zeros([], jnp.int32), mu=mu)

  def update_fn(updates, state, params=None):
    del params
    f = sign_decay(state.count) if callable(sign_decay) else sign_decay
    f = jnp.asarray(f, jnp.promote_types(jnp.result_type(f), jnp.float32))
    agree, disagree = base**f, base**-f
    mu = _update_average(updates, state.mu, b1)

    # The exponent is -f, 0 or f: two powers per step instead of one per entry.
    def scale(g, m):
      if g is None:
        return None
      product = jnp.sign(g) * jnp.sign(m)
      up = jnp.asarray(agree, product.dtype)
      down = jnp.asarray(disagree, product.dtype)
      # Adding the product (0 or NaN here) hands on NaNs.
      multiplier = jnp.where(
          product > 0, up, jnp.where(product < 0, down, 1.0 + product)
      )
      return (multiplier * g).astype(jnp.result_type(g))

    updates = jax.tree.map(scale, updates, mu, is_leaf=lambda x: x is None)
    mu = optax.tree.cast_like(mu, state.mu)
    count_inc = numerics.safe_increment(state.count)
    return updates, ScaleByPowerSignState(count=count_inc, mu=mu)

  return base_lib.GradientTransformation(init_fn, update_fn)


def powersign(
    learning_rate: base_lib.ScalarOrSchedule = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    base: jax.typing.ArrayLike = math.e,
    sign_decay: base_lib.ScalarOrSchedule = 1.0,
    mu_dtype: Optional[jax.typing.DTypeLike] = None,
    weight_decay: base_lib.ScalarOrSchedule = 0.0,
    mask: Optional[Union[Any, Callable[[base_lib.Params], Any]]] = None,
) -> base_lib.GradientTransformationExtraArgs:
  r"""The PowerSign optimizer.

  PowerSign was found by a search over update rules. It takes larger steps where
  the signs of the gradient and of its moving average agree, and smaller ones
  where they disagree. It keeps one moving average, where Adam keeps two.

  Let :math:`\alpha_t`, :math:`\beta_1`, :math:`b`, :math:`f` and
  :math:`\lambda` represent the arguments ``learning_rate``, ``b1``, ``base``,
  ``sign_decay`` and ``weight_decay``. The learning rate and the decay of the
  sign are indexed by :math:`t` since either may also be provided by a schedule
  function.

  The ``init`` function of this optimizer initializes an internal state
  :math:`S_0 := (m_0) = (0)`, representing the initial estimate of the first
  moment. At step :math:`t`, the ``update`` function of this optimizer takes as
  arguments the incoming gradients :math:`g_t`, the optimizer state :math:`S_t`
  and the parameters :math:`w_t`, and computes updates :math:`u_t` and new state
  :math:`S_{t+1}`. Thus, for :math:`t > 0`, we have,

  .. math::

    \begin{align*}
      m_t &\leftarrow \beta_1 \cdot m_{t-1} + (1-\beta_1) \cdot g_t \\
      u_t &\leftarrow -\alpha_t \cdot \left( b^{f_t \cdot \text{sign}(g_t) \cdot
      \text{sign}(m_t)} \cdot g_t + \lambda \cdot w_t \right) \\
      S_t &\leftarrow (m_t).
    \end{align*}

  The moving average needs no bias correction, which would not change its sign.

  Args:
    learning_rate: A global scaling factor, either fixed or evolving along
      iterations with a scheduler, see :func:`optax.scale_by_learning_rate`.
    b1: Decay rate for the exponentially weighted average of grads.
    base: The base of the power, positive. The paper uses :math:`e`.
    sign_decay: Factor of the exponent, either fixed or evolving along
      iterations with a scheduler, whose count is 0 at the first step.
    mu_dtype: Optional `dtype` to be used for the moving average; if `None` then
      the `dtype` is inferred from `params`.
    weight_decay: Strength of the weight decay regularization. Note that this
      weight decay is multiplied with the learning rate. The `update` function
      needs `params` unless this is the number 0.
    mask: A tree with same structure as (or a prefix of) the params PyTree,
      or a Callable that returns such a pytree given the params/updates.
      The leaves should be booleans, `True` for leaves/subtrees you want to
      apply the weight decay to, and `False` for those you want to skip.

  Returns:
    The corresponding :class:`optax.GradientTransformationExtraArgs`.

  Examples:
    >>> import optax
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def f(x): return jnp.sum(x ** 2)  # simple quadratic function
    >>> solver = optax.contrib.powersign(learning_rate=0.1)
    >>> params = jnp.array([1., 2., 3.])
    >>> print('Objective function: ', f(params))
    Objective function:  14.0
    >>> opt_state = solver.init(params)
    >>> for _ in range(5):
    ...  grad = jax.grad(f)(params)
    ...  updates, opt_state = solver.update(grad, opt_state, params)
    ...  params = optax.apply_updates(params, updates)
    ...  print('Objective function: {:.2E}'.format(f(params)))
    Objective function: 2.92E+00
    Objective function: 6.07E-01
    Objective function: 1.26E-01
    Objective function: 2.63E-02
    Objective function: 5.48E-03

  References:
    Bello et al, `Neural Optimizer Search with Reinforcement Learning
    <https://arxiv.org/abs/1709.07417>`_, 2017
  """
  if isinstance(weight_decay, (int, float)) and weight_decay == 0:
    decay_weights = base_lib.identity()  # Needs no params.
  else:
    decay_weights = transform.add_decayed_weights(weight_decay, mask)
  return combine.chain(
      scale_by_powersign(b1, base, sign_decay, mu_dtype),
      decay_weights,
      transform.scale_by_learning_rate(learning_rate),
  )
