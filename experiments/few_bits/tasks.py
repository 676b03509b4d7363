"""Environments for a search: arithmetic of a few bits, and workers that may send only a few.

Each takes a task and returns one, so whatever trains a task trains it in the environment too. What
an environment does to the gradient it does in the loss's backward pass, before `max_grad_norm` and
the rule. All else is exact: the rule's own arithmetic and moving averages, and the weights that are
kept from step to step.

References:
    Seide et al., `1-bit stochastic gradient descent and its application to data-parallel
    distributed training of speech DNNs <https://doi.org/10.21437/Interspeech.2014-274>`_, 2014

    Gupta et al., `Deep learning with limited numerical precision
    <https://arxiv.org/abs/1502.02551>`_, 2015

    Alistarh et al., `QSGD <https://arxiv.org/abs/1610.02132>`_, 2017

    Bernstein et al., `signSGD <https://arxiv.org/abs/1802.04434>`_, 2018
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from few_bits.activations import round_activations
from nos_optax.population.task import Params, State, Task
from nos_optax.population.task_check import check_init

MAX_BITS = 24  # of a float32's significand
GRADIENT_STREAM = 0x6269  # of the loss's key: apart from the keys that a loss is likely to make

Tensors = Callable[[Params], Any]
Compress = Callable[[jax.Array, jax.Array], jax.Array]


def fake_quantize(x: jax.Array, bits: int, key: jax.Array | None = None) -> jax.Array:
    """Round to the nearest of `2^bits - 1` levels, as integers with one scale would hold an array.

    The levels are symmetric and equally far apart; the outermost are plus and minus the largest
    magnitude. The derivative is that of the identity (straight through).

    Args:
        x: any shape; all of it has one scale.
        bits: from 2 to 24.
        key: where given, each entry is rounded up or down at random, right in the mean; consumed.

    Returns:
        The same shape and dtype; nan throughout where an entry is not finite.

    Raises:
        ValueError: the bits are too few or too many.

    Example:
        >>> fake_quantize(jnp.array([0.2, -0.6, 1.5]), bits=3).tolist()
        [0.0, -0.5, 1.5]
    """
    _check_bits(bits, least=2)
    most = 2 ** (bits - 1) - 1
    exact = jax.lax.stop_gradient(x)
    step = jnp.max(jnp.abs(exact), initial=0) / most
    step = jnp.where(step == 0, 1, step)  # nan stays
    steps = exact / step
    if key is None:
        whole = jnp.round(steps)
    else:
        whole = jnp.floor(steps + jax.random.uniform(key, x.shape, x.dtype))
    # `x - exact` is 0 with the derivative 1.
    return jnp.clip(whole, -most, most) * step + (x - exact)


def low_precision(
    task: Task,
    bits: int = 4,
    weights: bool = True,
    activations: bool = True,
    gradients: bool = True,
    tensors: Tensors | None = None,
) -> Task:
    """Return a task whose network computes with few bits.

    Rounded, each array by a scale of its own, are

    - weights, before they are used, also by the metric: the parameter arrays of two or more axes,
      while biases and scales stay as they are. To the nearest level: they are the same at every
      use. What the rule changes are exact weights.
    - activations, where they enter a matrix product or a convolution, also in the metric; see
      `few_bits.activations`. One scale for all examples, to the nearest level: the
      metric has no random numbers.
    - the gradient of each parameter array, before the rule sees it; up or down at random, by the
      loss's key, because most entries are less than half a level and to the nearest would be 0.

    Derivatives pass straight through, with all their bits until they reach the parameters.

    Args:
        task: any.
        bits: from 2 to 24; 24 changes next to nothing.
        weights: whether to round them.
        activations: whether to round them.
        gradients: whether to round them.
        tensors: the arrays inside the parameters, each entry once, where these are one flat vector,
            such as `ConvNet.unflatten`; the leaves where None.

    Raises:
        ValueError: `bits` is out of range, there are no weights to round, or `tensors` does not
            hand out every parameter once.

    Example:
        >>> from nos_optax.population import image_task, load_digits, paper_child
        >>> digits = load_digits()
        >>> net = paper_child(digits)
        >>> low_precision(image_task(digits, net), tensors=net.unflatten).name
        'digits in 4 bits'
    """
    _check_bits(bits, least=2)
    tensors = _checked(task, tensors)
    if weights and not any(_is_weight(x) for x in jax.tree.leaves(_shapes(task, tensors))):
        raise ValueError(
            f"{task.name}: no parameter array has two axes, so no weights would be rounded; name "
            "the arrays inside a flat vector by tensors=, as in tensors=net.unflatten, or give "
            "weights=False"
        )
    rounding = partial(fake_quantize, bits=bits)
    compress = _each(tensors, lambda g, key: fake_quantize(g, bits, key))
    loss_function, metric_function = task.loss, task.metric
    if activations:
        loss_function = round_activations(task.loss, rounding)
        metric_function = round_activations(task.metric, rounding)

    def used(params):
        return _rounded_weights(params, tensors, rounding) if weights else params

    def loss(params, state, batch, key):
        if gradients:
            params = _sent(compress, params, jax.random.fold_in(key, GRADIENT_STREAM))
        return loss_function(used(params), state, batch, key)

    def metric(params, state, batch):
        return metric_function(used(params), state, batch)

    return dataclasses.replace(task, name=f"{task.name} in {bits} bits", loss=loss, metric=metric)


def compressed_exchange(
    task: Task, workers: int = 10, bits: int = 1, tensors: Tensors | None = None
) -> Task:
    """Return a task whose minibatches are split among workers that send few bits.

    The rule sees the mean of what the workers send. With one bit per entry a worker sends signs, a
    coin's where an entry is 0, and one number for each array: the mean magnitude of its gradient
    (1-bit SGD, scaled signSGD; without error feedback, as a task keeps nothing of the gradient).
    With more it sends the levels of `fake_quantize`, up or down at random, and the largest
    magnitude (QSGD with that norm). What workers get back is exact, and so is the metric.

    Args:
        task: its loss is a mean over examples. Its state becomes the mean over the workers; what is
            not a floating-point number, the first worker's.
        workers: must divide the minibatches.
        bits: from 1 to 24.
        tensors: as in `low_precision`.

    Raises:
        ValueError: a number is out of range, `tensors` does not hand out every parameter once, or
            the task's state goes along with the examples; when the loss is first traced: the
            workers do not divide the minibatch.

    Example:
        >>> from nos_optax.population import image_task, load_digits, paper_child
        >>> digits = load_digits()
        >>> net = paper_child(digits)
        >>> compressed_exchange(image_task(digits, net), tensors=net.unflatten).name
        'digits with 10 workers, 1 bit'
    """
    _check_bits(bits, least=1)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if not task.shuffle:
        raise ValueError(
            f"{task.name}: its examples are kept in order, for a state that goes along with them; "
            "such minibatches cannot be split among workers: give a task with shuffle=True"
        )
    code = _signs if bits == 1 else lambda g, key: fake_quantize(g, bits, key)
    compress = _each(_checked(task, tensors), code)

    def loss(params, state, batch, key):
        parts = _split(task, batch, workers)
        # A copy for each worker: the gradient of one array would be summed before it is sent.
        copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (workers, *x.shape)), params)
        sending = jax.random.split(jax.random.fold_in(key, GRADIENT_STREAM), workers)
        # One worker has the random numbers that the plain task has.
        own = key[None] if workers == 1 else jax.random.split(key, workers)

        def worker(copy, part, own_key, sending_key):
            return task.loss(_sent(compress, copy, sending_key), state, part, own_key)

        losses, states = jax.vmap(worker)(copies, parts, own, sending)
        return losses.mean(), _mean_state(states)

    plural = "" if bits == 1 else "s"
    name = f"{task.name} with {workers} workers, {bits} bit{plural}"
    return dataclasses.replace(task, name=name, loss=loss)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sent(compress: Compress, params: Params, key: jax.Array) -> Params:
    """Return the parameters; their gradient will be compressed."""
    return params


_sent.defvjp(
    lambda compress, params, key: (params, key),
    lambda compress, key, gradient: (compress(gradient, key), None),
)


def _signs(g: jax.Array, key: jax.Array) -> jax.Array:
    """Return one of two numbers for each entry."""
    coin = jax.random.rademacher(key, g.shape, g.dtype)
    return jnp.where(g == 0, coin, jnp.sign(g)) * jnp.mean(jnp.abs(g))


def _each(tensors: Tensors, code: Compress) -> Compress:
    """Return the compression of a whole gradient, array by array."""

    def compress(gradient, key):
        arrays, assemble = jax.vjp(tensors, gradient)
        leaves, structure = jax.tree.flatten(arrays)
        coded = map(code, leaves, jax.random.split(key, len(leaves)))
        return assemble(structure.unflatten(coded))[0]

    return compress


def _is_weight(x) -> bool:
    return x.ndim >= 2


def _rounded_weights(params: Params, tensors: Tensors, rounding: Callable) -> Params:
    arrays, assemble = jax.vjp(tensors, params)
    return assemble(jax.tree.map(lambda x: rounding(x) if _is_weight(x) else x, arrays))[0]


def _split(task: Task, batch, workers: int):
    """Return a minibatch, arrays `[B, ...]`, as `[W, B / W, ...]`."""
    examples = task.num_examples(batch)
    if examples % workers:
        raise ValueError(
            f"{task.name}: {workers} workers do not divide a minibatch of {examples}; give a "
            f"multiple of {workers} (--minibatch-size), or other workers"
        )
    return jax.tree.map(lambda x: x.reshape(workers, -1, *x.shape[1:]), batch)


def _mean_state(states: State) -> State:
    def mean(x):
        return x.mean(0) if jnp.issubdtype(x.dtype, jnp.floating) else x[0]

    return jax.tree.map(mean, states)


def _shapes(task: Task, tensors: Tensors):
    return jax.eval_shape(lambda key: tensors(task.init(key)[0]), jax.random.key(0))


def _checked(task: Task, tensors: Tensors | None) -> Tensors:
    """Return `tensors`, once it is known to hand out every parameter once.

    What is done to the arrays is put together again by the transpose of `tensors`.
    """
    check_init(task)
    if tensors is None:
        return lambda params: params
    ones = task.unflatten(jnp.ones(task.num_params))
    arrays, assemble = jax.vjp(tensors, ones)
    again = jax.tree.leaves(assemble(arrays)[0])
    if sum(x.size for x in jax.tree.leaves(arrays)) != task.num_params or any(
        np.any(x != 1) for x in again
    ):
        raise ValueError(
            f"{task.name}: tensors must hand out each of the {task.num_params} parameters once, "
            "in slices and reshapes of the parameters"
        )
    return tensors


def _check_bits(bits: int, least: int) -> None:
    if not least <= bits <= MAX_BITS:
        raise ValueError(f"bits must be from {least} to {MAX_BITS}, got {bits}")
