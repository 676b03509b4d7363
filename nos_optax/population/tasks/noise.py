"""Noisy copies of examples, which a network cannot learn by heart.

Where it can, the validation loss soon stands still, and how long Adam would have trained for a loss
is chance. Noisy gradients also make it count whether a rule's steps become smaller.
"""

import numpy as np


def noisy_copies(
    data: tuple[np.ndarray, np.ndarray], deviation: float, copies: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of all examples, one after another, each with normal noise; and their labels.

    Args:
        data: `float32[N, d]` and their labels, `[N]`.
        deviation: the noise's standard deviation.
        copies: of each example.
        random: draws the noise.

    Returns:
        `float32[copies N, d]` in whole 256ths, so that no processor's last digits make it another
        task, and labels `[copies N]`.
    """
    inputs, labels = data
    inputs = np.tile(inputs, (copies, 1))
    noisy = inputs + deviation * random.standard_normal(inputs.shape)
    return (np.round(256 * noisy) / 256).astype(np.float32), np.tile(labels, copies)
