"""The test tasks: what a found rule has to be good at, chosen before any rule was tried there.

They differ from the tasks that a search selects by, and from those that it watches, in kind, data,
size and minibatch. They were frozen, with their sizes and lengths, on 27 November 2026, when Adam
alone had trained on them:

- `cifar10-wide-resnet`: the paper's large network (sections 5.1, 6.2), small: batch normalisation,
  convolutions, photographs.
- `ptb-lstm`: the paper's language model (section 6.5), small: recurrence, clipped gradients, a
  vocabulary in which most words are rare, so that most of an embedding has no gradient.
- `ptb-transformer`: what most networks are today, of 0.2 million parameters: attention, another
  alphabet and another text than the watched transformer's.
- `multi30k-gnmt`: the paper's translation (section 6.4), small: an encoder, a decoder, attention.
- `friedman-table`: regression on numbers in columns, with noise that no model can explain.
- `cifar10-vae`: a variational autoencoder, whose loss is random itself.

Each trains so long that Adam's best rate is inside its grid, and that its loss is respectable for
the size. There is one regression, three kinds of text and two of images; none is embedded, but for
the table: the data is read from a folder.
"""

from collections.abc import Callable
from pathlib import Path

from held_out.images import variational_autoencoder, wide_resnet
from held_out.table import friedman
from held_out.text import gnmt, lstm, transformer
from nos_optax.population import Workload

HELD_OUT: dict[str, Callable[[Path], Workload]] = {
    "friedman-table": friedman,
    "cifar10-vae": variational_autoencoder,
    "multi30k-gnmt": gnmt,
    "ptb-lstm": lstm,
    "ptb-transformer": transformer,
    "cifar10-wide-resnet": wide_resnet,
}
"""By name: a function of the folder that holds the data sets' folders. The fastest come first."""
