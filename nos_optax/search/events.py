"""The course of a search as events for TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nos_optax.search.history import Candidate

FOLDER = "tensorboard"


class Events:
    """Writes a point for each population; the step is the number of candidates so far.

    Args:
        path: the folder of the run; events go to `tensorboard` in it.
        written: candidates whose points an earlier start of the search has written.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, path: Path, written: int = 0):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"--tensorboard needs tensorboardX ({error}): pip install 'nos_optax[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(path / FOLDER), flush_secs=10)
        self._written = written

    def write(self, candidates: Sequence[Candidate]) -> None:
        """Write what the candidates came to that are new since the last call."""
        new, step = candidates[self._written :], len(candidates)
        if not new:
            return
        rewards = np.array([c.reward for c in new])
        add = self._writer.add_scalar
        for name, q in (("lower_quartile", 0.25), ("median", 0.5), ("upper_quartile", 0.75)):
            add(f"reward/{name}", np.quantile(rewards, q), step)
        add("reward/mean", rewards.mean(), step)
        add("reward/best_so_far", max(c.reward for c in candidates), step)
        for status in ("trained", "dead", "diverged", "slow", "rejected"):
            add(f"share/{status}", np.mean([c.status == status for c in new]), step)
        add("share/repeats", np.mean([c.origin not in (None, c.id) for c in new]), step)
        self._written = step

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
