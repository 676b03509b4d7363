"""Two test tasks on CIFAR-10 at 16x16 pixels: a Wide ResNet and a variational autoencoder."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness.vision import Images, classification, halve, read_cifar10
from models.convolution import patches_convolution
from models.wide_resnet import WideResNet

from nos_optax.population import Task, Workload
from nos_optax.population.tasks.layers import dense, init_dense, log_likelihood

CIFAR10 = "tensorflow_datasets"  # folder in that of the data sets
TRAIN_EXAMPLES, VALIDATION_EXAMPLES = 10_000, 1_000
CODE = 16  # numbers that an image becomes


def _images(data: Path) -> Images:
    return halve(read_cifar10(data / CIFAR10, TRAIN_EXAMPLES, VALIDATION_EXAMPLES))


def wide_resnet(data: Path) -> Workload:
    """Return WRN-10-1 on 10,000 images, scored by log-likelihood."""
    images = _images(data)
    net = WideResNet(10, 1, conv=patches_convolution)
    by_accuracy = classification(images, net)

    def metric(params, statistics, batch):
        pixels, labels = batch
        standardised = (pixels.astype(jnp.float32) - images.dataset.mean) / images.dataset.std
        variables = {"params": params, "batch_stats": statistics}
        scores: Any = net.apply(variables, standardised, train=False)
        return log_likelihood(scores, labels)

    task = dataclasses.replace(
        by_accuracy,
        name="cifar10-wide-resnet",
        metric=metric,
        test=None,
        chance=-float(np.log(10)),
        perfect=0.0,
    )
    return Workload(task, 64, 320)


def variational_autoencoder(data: Path) -> Workload:
    """Return a perceptron 768-128-16-128-768; its loss is the negative bound of the likelihood.

    Pixels are normal about what is decoded, with a standard deviation of 0.1 on the 0-1 scale.

    References:
        Kingma and Welling, `Auto-Encoding Variational Bayes <https://arxiv.org/abs/1312.6114>`_,
        2013
    """
    dataset = _images(data).dataset
    train, validation = (
        (x.reshape(len(x), -1).astype(np.float32) / 255)
        for x in (dataset.train_images, dataset.validation_images)
    )
    pixels, mean = train.shape[1], train.mean(axis=0)

    def init(key):
        encoder, decoder = jax.random.split(key)
        return {
            "encoder": init_dense(encoder, (pixels, 128, 2 * CODE)),
            "decoder": init_dense(decoder, (CODE, 128, pixels)),
        }, ()

    def bounds(params, images, noise):
        """Return, for each image, the bound of its log-likelihood a pixel, but for a constant."""
        hidden = jax.nn.relu(dense(params["encoder"], 1, images - mean))
        centre, log_variance = jnp.split(dense(params["encoder"], 2, hidden), 2, axis=-1)
        code = centre + jnp.exp(log_variance / 2) * noise
        decoded = dense(params["decoder"], 2, jax.nn.relu(dense(params["decoder"], 1, code)))
        errors = jnp.sum((images - mean - decoded) ** 2, axis=-1) / (2 * 0.1**2)
        divergence = jnp.sum(jnp.exp(log_variance) + centre**2 - 1 - log_variance, axis=-1) / 2
        return -(errors + divergence) / pixels

    def loss(params, state, images, key):
        noise = jax.random.normal(key, (len(images), CODE))
        return -bounds(params, images, noise).mean(), state

    def metric(params, state, images):
        return bounds(params, images, 0.0)

    task = Task(
        "cifar10-vae",
        init,
        loss,
        metric,
        train,
        validation,
        chance=-float(np.mean((validation - mean) ** 2)) / (2 * 0.1**2),
        perfect=0.0,
    )
    return Workload(task, 50, 800)
