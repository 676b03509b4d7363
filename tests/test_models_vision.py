"""The image networks: parameters counted by hand, gradients everywhere, convolutions as patches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.convolution import LAYOUT, patches_convolution
from models.nasnet import NASNetA, _drop_path
from models.wide_resnet import WideResNet

pytestmark = pytest.mark.slow  # networks that take seconds to compile

THIN = {"num_classes": 5, "filters": 8, "cells": 1, "stem_filters": 4}


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def shapes(model, size):
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, keys, train=True), x)


def initial(model, size):
    """Variables like the model's own, whose many draws would take a minute to compile."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree.map_with_path(draw, shapes(model, size))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def gradients(model, x, loss):
    """Gradients by the parameters of `loss` of what the model returns in training."""

    @jax.jit
    def gradient(variables):
        def of_params(params):
            output, _ = model.apply(
                {**variables, "params": params},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(3)},
            )
            return loss(output)

        return jax.grad(of_params)(variables["params"])

    return gradient(initial(model, x.shape[1]))


def unreached(tree):
    """Names of the arrays that are zero, or not finite."""
    leaves = jax.tree.leaves_with_path(jax.device_get(tree))
    return [
        jax.tree_util.keystr(path)
        for path, leaf in leaves
        if not np.isfinite(leaf).all() or not leaf.any()
    ]


def some_scores(logits):
    """A loss that does not treat the classes alike."""
    return (logits * images(*logits.shape)).sum()


# Convolution by patches.


@pytest.mark.parametrize(
    ("shape", "window", "strides"),
    [
        ((2, 6, 6, 3), (3, 3), (1, 1)),
        ((2, 6, 6, 3), (3, 3), (2, 2)),
        ((2, 7, 5, 4), (3, 3), (2, 2)),
        ((2, 7, 5, 4), (1, 1), (1, 1)),
        ((2, 7, 6, 4), (1, 1), (2, 2)),
        ((1, 2, 3, 2), (2, 3), (1, 2)),
    ],
)
def test_patches_are_a_convolution(shape, window, strides):
    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(convolution, x, kernel):
        def convolve(x, kernel):
            return convolution(x, kernel, strides, "SAME", dimension_numbers=LAYOUT)

        value, pullback = jax.vjp(convolve, x, kernel)
        return value, *pullback(1 + images(*value.shape))

    x, kernel = images(*shape), images(*window, shape[-1], 5)
    ours = value_and_gradients(patches_convolution, x, kernel)
    theirs = value_and_gradients(jax.lax.conv_general_dilated, x, kernel)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dimension_numbers": None}, "dimension_numbers must be"),
        ({"padding": "VALID"}, "padding must be SAME .* got VALID"),
        ({"window_strides": (3, 1)}, "window_strides must be 1 or 2 .* got"),
        ({"rhs_dilation": (2, 2)}, "dilations must be 1"),
        ({"feature_group_count": 2}, "group counts must be 1"),
    ],
)
def test_other_convolutions_are_refused(setting, message):
    usual = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": LAYOUT}
    with pytest.raises(ValueError, match=message):
        patches_convolution(images(1, 4, 4, 4), images(3, 3, 4, 4), **{**usual, **setting})


# Wide residual networks.


def wide_resnet_size(depth, width, classes):
    blocks = (depth - 4) // 6
    size, before = 9 * 3 * 16, 16
    for filters in (16 * width, 32 * width, 64 * width):
        kernels = 9 * before * filters + (2 * blocks - 1) * 9 * filters**2
        projection = before * filters if before != filters else 0
        norms = 2 * before + (2 * blocks - 1) * 2 * filters
        size, before = size + kernels + projection + norms, filters
    return size + 2 * before + before * classes + classes


@pytest.mark.parametrize("depth, width, classes", [(40, 4, 10), (16, 1, 7), (28, 10, 100)])
def test_wide_resnet_size(depth, width, classes):
    params = shapes(WideResNet(depth, width, classes), 32)["params"]
    assert count(params) == wide_resnet_size(depth, width, classes)


def test_wrn_40_4_has_9_million_parameters():
    assert wide_resnet_size(40, 4, 10) == 8_949_210  # 8.9M in table 4 of Wide Residual Networks
    assert count(shapes(WideResNet(), 32)["params"]) == 8_949_210


def test_wide_resnet_depth_is_checked():
    with pytest.raises(ValueError, match=r"6 n \+ 4: 10, 16.*, got 12"):
        shapes(WideResNet(12, 1), 8)


def test_wide_resnet_gradients_do_not_depend_on_the_convolution():
    x = images(4, 8, 8, 3)
    ours, theirs = (
        gradients(WideResNet(10, 2, conv=conv), x, some_scores)
        for conv in (patches_convolution, jax.lax.conv_general_dilated)
    )
    assert unreached(ours) == []
    assert all(
        np.allclose(a, b, rtol=1e-3, atol=1e-3)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    )


def test_wide_resnet_averages_are_for_testing():
    model, x = WideResNet(10, 1, conv=patches_convolution), images(4, 8, 8, 3)
    variables = initial(model, 8)
    train = jax.jit(
        functools.partial(model.apply, train=True, mutable=["batch_stats"]),
    )
    for _ in range(100):  # 0.9^100 is nothing
        scores, averages = train(variables, x)
        variables = {**variables, **averages}
    tested = jax.jit(functools.partial(model.apply, train=False))
    assert scores.shape == (4, 10)
    assert np.allclose(tested(variables, x), scores, rtol=1e-2, atol=1e-2)
    assert np.allclose(tested(variables, x[:1]), tested(variables, x)[:1], atol=1e-4)


# NASNet-A.


def separable(window, before, filters):
    """Parameters of both separable convolutions and their normalisations."""
    first = window**2 * before + before * filters + 2 * filters
    return first + window**2 * filters + filters**2 + 2 * filters


def cell_size(filters, current, previous, reduction):
    """Parameters of a cell; `previous` None is the raw input of the very first cell."""
    size = current * filters + 2 * filters
    if previous is not None:
        size += previous * filters + 2 * filters
        previous = filters
    else:
        previous = current
    if reduction:
        windows = [(5, filters), (7, previous), (7, previous), (5, previous), (3, filters)]
    else:
        windows = [(5, filters), (3, previous), (5, previous), (3, previous), (3, filters)]
    return size + sum(separable(window, before, filters) for window, before in windows)


def nasnet_size(filters, cells, stem_filters, classes, stem):
    previous, current = None, stem_filters
    size = 9 * 3 * stem_filters + 2 * stem_filters
    layout = [(filters * 2**i, False) for i in range(3) for _ in range(cells)]
    layout.insert(2 * cells, (filters * 4, True))
    layout.insert(cells, (filters * 2, True))
    if stem == "imagenet":
        layout = [(filters // 4, True), (filters // 2, True), *layout]
    else:
        previous = stem_filters
    for width, reduction in layout:
        size += cell_size(width, current, previous, reduction)
        previous, current = current, width * (4 if reduction else 6)
    return size + current * classes + classes


def auxiliary_size(features, positions, classes):
    return features * 128 + 256 + positions * 128 * 768 + 2 * 768 + 768 * classes + classes


def test_nasnet_mobile_has_as_many_parameters_as_its_authors_say():
    size = nasnet_size(44, 4, 32, 1000, "imagenet")
    assert size == pytest.approx(5.3e6, rel=0.01)  # table 3 of NASNet's paper
    assert size == 5_289_978  # the trainable parameters of the authors' TensorFlow code
    mobile = shapes(NASNetA(), 224)["params"]
    head = mobile.pop("AuxiliaryHead_0")
    assert count(mobile) == size
    assert count(head) == auxiliary_size(6 * 88, 16, 1000)
    assert mobile["Dense_0"]["kernel"].shape == (1056, 1000)


def test_nasnet_for_cifar_has_as_many_parameters_as_its_authors_say():
    model = NASNetA(10, 32, 6, stem="cifar", stem_filters=96, auxiliary=False)
    size = count(shapes(model, 32)["params"])
    assert size == nasnet_size(32, 6, 96, 10, "cifar")
    assert size == pytest.approx(3.3e6, rel=0.01)  # NASNet-A (6 @ 768), table 1 of NASNet's paper


def test_nasnet_parameters_do_not_depend_on_the_image_size():
    sizes = [shapes(NASNetA(**THIN), size)["params"] for size in (19, 32, 64, 224)]
    for params in sizes:
        params.pop("AuxiliaryHead_0")
    assert all(params == sizes[0] for params in sizes)


@pytest.mark.parametrize("stem, smallest", [("imagenet", 19), ("cifar", 3)])
def test_nasnet_refuses_images_that_are_too_small(stem, smallest):
    model = NASNetA(**THIN, stem=stem)
    assert shapes(model, smallest)
    with pytest.raises(ValueError, match=f"at least {smallest} pixels .* got "):
        shapes(model, smallest - 1)


def test_nasnet_returns_auxiliary_scores_in_training_only():
    model, x = NASNetA(**THIN), jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    variables = shapes(model, 224)

    def scores(train, variables, x):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, x, train=train, mutable=["batch_stats"], rngs=rngs)[0]

    trained, tested = (
        jax.eval_shape(functools.partial(scores, train), variables, x) for train in (True, False)
    )
    assert trained.logits.shape == trained.auxiliary.shape == tested.logits.shape == (2, 5)
    assert tested.auxiliary is None


def both_scores(scores):
    return some_scores(scores.logits) + some_scores(scores.auxiliary)


def test_nasnet_gradient_reaches_every_parameter():
    model = NASNetA(**THIN, stem="cifar", keep_path=0.9)
    assert unreached(gradients(model, images(8, 8, 8, 3), both_scores)) == []


def test_dropped_paths_are_whole_images_and_keep_the_mean():
    x = 1 + np.abs(images(4000, 2, 2, 3))
    dropped = np.asarray(_drop_path(x, 0.75, jax.random.key(4)))
    kept = dropped.any((1, 2, 3))
    assert kept.mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(dropped[kept], x[kept] / 0.75, rtol=1e-6)
    assert not dropped[~kept].any()


def test_paths_are_dropped_as_the_training_goes_on():
    model = NASNetA(**THIN, stem="cifar", auxiliary=False, dropout=0.0, keep_path=0.5)
    variables, x = initial(model, 8), images(4, 8, 8, 3)

    @jax.jit
    def logits(progress, seed):
        keys = {"dropout": jax.random.key(seed, impl="unsafe_rbg")}  # compiles in half the time
        scores, _ = model.apply(
            variables, x, train=True, progress=progress, mutable=["batch_stats"], rngs=keys
        )
        return scores.logits

    assert np.array_equal(logits(0.0, 1), logits(0.0, 2))
    assert not np.allclose(logits(1.0, 1), logits(1.0, 2), atol=1e-3)
