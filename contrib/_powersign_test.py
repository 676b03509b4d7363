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
"""Specific tests for `_powersign.py`, see `_common_test.py` for usual tests."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from optax._src import test_utils
from optax.contrib import _powersign


def _reference(grads, b1=0.9, base=math.e, sign_decay=lambda t: 1.0):
  """Returns the value of the rule at each step, as the paper writes it."""
  m, values = np.zeros(grads.shape[1:]), []
  for t, g in enumerate(np.asarray(grads, np.float64)):
    m = b1 * m + (1 - b1) * g
    values.append(base ** (sign_decay(t) * np.sign(g) * np.sign(m)) * g)
  return np.stack(values)


def _run(opt, grads):
  update = jax.jit(opt.update)
  state, values = opt.init(grads[0]), []
  for g in grads:
    updates, state = update(g, state)
    values.append(updates)
  return jnp.stack(values)


def _draw_grads():
  """Returns drifting gradients: signs agree and disagree, some are 0."""
  rng = np.random.default_rng(0)
  grads = rng.normal(size=(30, 64)) + np.sin(np.arange(30) / 3)[:, None]
  return jnp.asarray(grads * rng.integers(0, 4, grads.shape), jnp.float32)


class PowerSignTest(parameterized.TestCase):

  @parameterized.parameters(
      {},
      {'b1': 0.5},
      {'base': 2.0},
      {'base': 10.0, 'sign_decay': lambda t: 1.0 - t / 40},
  )
  def test_follows_the_paper(self, **kwargs):
    grads = _draw_grads()
    values = _run(_powersign.scale_by_powersign(**kwargs), grads)
    np.testing.assert_allclose(values, _reference(grads, **kwargs), rtol=2e-6)

  def test_first_two_steps(self):
    opt = _powersign.powersign(learning_rate=0.1)
    grads = jnp.array([[1.0, -2.0, 0.0], [-0.1, -2.0, 3.0]])
    # Averages: (0.1, -0.2, 0), then (0.08, -0.38, 0.3).
    expected = [
        [-0.1 * math.e, 0.2 * math.e, 0.0],
        [0.01 / math.e, 0.2 * math.e, -0.3 * math.e],
    ]
    np.testing.assert_allclose(_run(opt, grads), expected, rtol=1e-6)

  def test_weight_decay_is_scaled_by_the_learning_rate(self):
    params = {'decayed': jnp.array(3.0), 'free': jnp.array(3.0)}
    opt = _powersign.powersign(
        0.1, weight_decay=0.5, mask={'decayed': True, 'free': False}
    )
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = opt.update(grads, opt.init(params), params)
    expected = {'decayed': jnp.array(-0.15), 'free': jnp.array(0.0)}
    test_utils.assert_trees_all_close(updates, expected)

  def test_smallest_numbers_have_signs(self):
    # In half precision, the average of this gradient would be 0.
    smallest = jnp.finfo(jnp.float16).smallest_subnormal
    grads = jnp.array([[smallest]], jnp.float16)
    updates = _run(_powersign.scale_by_powersign(base=2.0), grads)
    test_utils.assert_trees_all_equal(updates, 2 * grads)

  def test_mu_dtype(self):
    opt = _powersign.scale_by_powersign(mu_dtype=jnp.bfloat16)
    grads = jnp.ones(3, jnp.float32)
    updates, state = opt.update(grads, opt.init(grads))
    self.assertEqual(state.mu.dtype, jnp.bfloat16)
    self.assertEqual(updates.dtype, jnp.float32)

  def test_nan_is_handed_on_and_only_there(self):
    opt = _powersign.scale_by_powersign()
    grads = jnp.array([jnp.nan, 1.0])
    updates, _ = opt.update(grads, opt.init(grads))
    np.testing.assert_array_equal(jnp.isnan(updates), [True, False])

  def test_missing_gradients_leave_the_average(self):
    params = {'a': jnp.ones(2), 'b': jnp.ones(2)}
    opt = _powersign.scale_by_powersign()
    _, state = opt.update(params, opt.init(params))
    updates, new_state = opt.update({'a': params['a'], 'b': None}, state)
    self.assertIsNone(updates['b'])
    test_utils.assert_trees_all_equal(new_state.mu['b'], state.mu['b'])

  def test_complex_parameters_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'split_real_and_imaginary'):
      _powersign.powersign().init(jnp.zeros(2, jnp.complex64))


if __name__ == '__main__':
  absltest.main()
