"""The figures of the paper's Tables 1 to 5, beside which the experiments put their own.

Bello, Zoph, Vasudevan and Le, "Neural Optimizer Search with Reinforcement Learning", ICML 2017.
Table 6 is part of the library: ``nos_optax.rules``.
"""

from typing import NamedTuple


class TestAccuracy(NamedTuple):
    """Test accuracies of a row, in per cent, means over 5 runs.

    Attributes:
        best: "Best Test": at the epoch of the best validation accuracy, as Table 6 explains it.
        final: "Final Test", after the last epoch.
    """

    best: float
    final: float


# Table 1: the wide ResNet on CIFAR-10, without a decay of the learning rate.
TABLE_1: dict[str, TestAccuracy] = {
    "SGD": TestAccuracy(93.0, 92.3),
    "Momentum": TestAccuracy(93.0, 92.2),
    "Adam": TestAccuracy(92.6, 92.3),
    "RMSProp": TestAccuracy(92.3, 91.6),
    "PowerSign": TestAccuracy(93.0, 92.4),
    "PowerSign-ld": TestAccuracy(93.6, 93.4),
    "PowerSign-cd": TestAccuracy(93.7, 93.1),
    "PowerSign-rd10": TestAccuracy(94.2, 92.6),
    "PowerSign-rd20": TestAccuracy(94.4, 92.0),
    "AddSign": TestAccuracy(93.0, 92.6),
    "AddSign-ld": TestAccuracy(93.5, 92.0),
    "AddSign-cd": TestAccuracy(93.6, 92.4),
    "AddSign-rd10": TestAccuracy(94.2, 94.0),
    "AddSign-rd20": TestAccuracy(94.4, 94.3),
}

# Table 2: the same network; the decay of the learning rate stands in parentheses.
TABLE_2: dict[str, TestAccuracy] = {
    "SGD (cosine)": TestAccuracy(95.4, 95.3),
    "Momentum (cosine)": TestAccuracy(95.2, 95.1),
    "Adam (cosine)": TestAccuracy(93.9, 93.8),
    "RMSProp (cosine)": TestAccuracy(93.6, 93.5),
    "AddSign-ld (cosine)": TestAccuracy(95.4, 95.3),
    "AddSign-ld (linear cosine)": TestAccuracy(95.3, 95.1),
    "AddSign-ld (noisy linear cosine)": TestAccuracy(95.5, 95.4),
    "AddSign-cd (cosine)": TestAccuracy(95.3, 95.1),
    "AddSign-cd (linear cosine)": TestAccuracy(95.3, 95.2),
    "AddSign-cd (noisy linear cosine)": TestAccuracy(95.3, 95.2),
    "PowerSign (cosine)": TestAccuracy(95.4, 95.3),
    "PowerSign (linear cosine)": TestAccuracy(95.4, 95.2),
    "PowerSign-ld (cosine)": TestAccuracy(95.3, 95.2),
    "PowerSign-ld (linear cosine)": TestAccuracy(95.3, 95.2),
    "PowerSign-cd (cosine)": TestAccuracy(95.4, 95.2),
    "PowerSign-cd (linear cosine)": TestAccuracy(95.4, 95.2),
}


class ImageNetAccuracy(NamedTuple):
    """Accuracies of a row of Table 3, in per cent."""

    top_1: float
    top_5: float


# Table 3: NASNet-A Mobile on ImageNet, cosine decay, 250,000 steps.
TABLE_3: dict[str, ImageNetAccuracy] = {
    "RMSProp": ImageNetAccuracy(73.5, 91.5),
    "PowerSign-cd": ImageNetAccuracy(73.9, 91.9),
    "AddSign-ld": ImageNetAccuracy(73.8, 91.6),
}


class Translation(NamedTuple):
    """A row of Table 4."""

    train_perplexity: float
    test_bleu: float


# Table 4: GNMT, WMT 2014 English to German.
TABLE_4: dict[str, Translation] = {
    "Adam": Translation(1.49, 24.5),
    "PowerSign": Translation(1.39, 25.0),
}


class Perplexity(NamedTuple):
    """Perplexities of a row of Table 5."""

    validation: float
    test: float


# Table 5: Penn Treebank, an LSTM of 10 million parameters, cosine decay.
TABLE_5: dict[str, Perplexity] = {
    "Adam": Perplexity(65.7, 63.3),
    "SGD": Perplexity(71.7, 68.3),
    "PowerSign": Perplexity(68.5, 64.8),
    "AddSign": Perplexity(68.8, 65.2),
}
