"""Three tasks on the 1,797 handwritten digits inside scikit-learn, 8x8 pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.population.convnet import ConvNet
from nos_optax.population.data import load_digits
from nos_optax.population.task import Task, image_task
from nos_optax.population.tasks.layers import dense, init_dense, log_likelihood
from nos_optax.population.tasks.noise import noisy_copies

TRAIN_EXAMPLES = 1000  # as the paper's child on digits has; the other 797 validate
CONVNET_VALIDATION = 400  # as costly as some ten of its steps
CONVNET_PART = 100  # of these at a time: a thousand children's activations must fit in the memory
GREATEST_SCALE = float(np.sqrt(10))
NOISE = 0.6  # standard deviation, of pixels in 0 to 1
VALIDATION_COPIES = 4  # of each noisy image
CHANCE = -float(np.log(10))  # log-likelihood of a blind guess among ten classes


def digits_mlp(width: int = 32, copies: int = 16) -> Task:
    """Return a perceptron 64-width-10 on noisy digits; each seed scales its tensors otherwise.

    Images come in copies with noise of their own (`noise`), as many as are asked for to train.

    Each tensor is a parameter times a fixed number, drawn with the weights, log-uniform over a
    decade and then divided by the four numbers' geometric mean: the network is the same, its
    gradients' sizes are not, nor are those of one tensor beside another's.
    A rule cannot win by fitting one scale. (Celo2's augmentation, which has two decades: then each
    seed has another best rate, and two seeds say little.)
    """
    clean, widths = _pixels(), (64, width, 10)
    random = np.random.default_rng(0)
    train = noisy_copies(clean[0], NOISE, copies, random)
    validation = noisy_copies(clean[1], NOISE, VALIDATION_COPIES, random)

    def init(key):
        weights_key, scale_key = jax.random.split(key)
        params = init_dense(weights_key, widths)
        draws = jax.random.uniform(scale_key, (len(params),), minval=-1.0, maxval=1.0)
        scales = dict(zip(params, GREATEST_SCALE ** (draws - draws.mean()), strict=True))
        return {name: x / scales[name] for name, x in params.items()}, scales

    def logits(params, scales, images):
        params = {name: x * scales[name] for name, x in params.items()}
        return dense(params, 2, jax.nn.relu(dense(params, 1, images)))

    def loss(params, scales, batch, key):
        images, labels = batch
        return -log_likelihood(logits(params, scales, images), labels).mean(), scales

    def metric(params, scales, batch):
        images, labels = batch
        return log_likelihood(logits(params, scales, images), labels)

    return Task(
        "digits-mlp",
        init,
        loss,
        metric,
        train,
        validation,
        chance=CHANCE,
        perfect=0.0,
        evaluation_batch=len(validation[1]),
    )


def digits_autoencoder(width: int = 32) -> Task:
    """Return an autoencoder 64-width-8-width-64; its loss is the squared error of an image."""
    (train, validation), widths = _pixels(), (64, width, 8, width, 64)

    def errors(params, images):
        code = dense(params, 2, jnp.tanh(dense(params, 1, images)))
        restored = dense(params, 4, jnp.tanh(dense(params, 3, code)))
        return jnp.sum((restored - images) ** 2, axis=-1)

    return Task(
        "digits-autoencoder",
        init=lambda key: (init_dense(key, widths), ()),
        loss=lambda params, state, batch, key: (errors(params, batch).mean(), state),
        metric=lambda params, state, batch: -errors(params, batch),
        train=train[0],
        validation=validation[0],
        chance=-float(np.sum(np.var(validation[0], axis=0))),  # of the mean image
        perfect=0.0,
        evaluation_batch=797,
    )


def digits_convnet() -> Task:
    """Return the paper's child (section 4.2), scored by log-likelihood in place of accuracy.

    Its minibatches fit in a CPU's cache as they are, so it is the same on every device.
    """
    data = load_digits(train_examples=TRAIN_EXAMPLES)
    net = ConvNet(data.train_images.shape[1:], data.num_classes)
    by_accuracy = image_task(data, net)

    def metric(params, statistics, batch):
        images, labels = batch
        standardised = (images.astype(jnp.float32) - data.mean) / data.std
        return log_likelihood(net.logits(params, statistics, standardised), labels)

    return Task(
        "digits-convnet",
        net.init,
        by_accuracy.loss,
        metric,
        by_accuracy.train,
        tuple(x[:CONVNET_VALIDATION] for x in by_accuracy.validation),
        chance=CHANCE,
        perfect=0.0,
        evaluation_batch=CONVNET_PART,
    )


def _pixels() -> tuple:
    """Return (images `float32[N, 64]` in 0 to 1, labels `int32[N]`) to train and to validate."""
    data = load_digits(train_examples=TRAIN_EXAMPLES)

    def flat(images):
        return images.reshape(len(images), -1).astype(np.float32) / 255

    return (
        (flat(data.train_images), data.train_labels),
        (flat(data.validation_images), data.validation_labels),
    )
