"""Checkpoints of a search's strategy, by Orbax.

The history alone can rebuild a strategy: asked again and told the stored rewards, it comes to the
same state. A checkpoint saves that work, and the dependence on identical arithmetic.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

SHARE = 0.01  # of the time that checkpoints may take


class Checkpoints:
    """The newest states of a strategy.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path):
        # Orbax takes a second to import: a first population need not wait for it.
        self.folder, self._lazy = folder.absolute(), None
        self._saved, self._cost = time.perf_counter(), 0.1

    @property
    def _manager(self):
        if self._lazy is None:
            import orbax.checkpoint as ocp

            options = ocp.CheckpointManagerOptions(
                max_to_keep=3, enable_async_checkpointing=False, create=True
            )
            self._lazy = ocp.CheckpointManager(self.folder, options=options)
        return self._lazy

    def save_if_due(self, populations: int, state: Any) -> None:
        """Save, but so rarely that it takes a hundredth of the time.

        Args:
            populations: how many the strategy was told.
            state: `strategy.state`, a pytree of arrays.
        """
        if time.perf_counter() - self._saved > self._cost / SHARE:
            self.save(populations, state)

    def save(self, populations: int, state: Any) -> None:
        """Save the state; it is on the disk on return.

        Raises:
            OSError: it cannot be written.
        """
        import orbax.checkpoint as ocp

        manager, start = self._manager, time.perf_counter()
        arrays = jax.tree.map(np.asarray, state)
        manager.save(populations, args=ocp.args.StandardSave(arrays), force=True)
        manager.wait_until_finished()
        self._saved = time.perf_counter()
        self._cost = self._saved - start

    def restore(self, template: Any, most: int) -> tuple[int, Any] | None:
        """Return the newest readable state, and the populations that it was told.

        Args:
            template: a state of the same structure.
            most: the populations that the history holds; a later state is left out.

        Returns:
            None where there is no such checkpoint. One that cannot be read gives a warning.
        """
        if not self.folder.exists():
            return None
        import orbax.checkpoint as ocp

        arrays = jax.tree.map(np.asarray, template)
        for step in sorted(self._manager.all_steps(), reverse=True):
            if step <= most:
                try:
                    return step, self._manager.restore(step, args=ocp.args.StandardRestore(arrays))
                except Exception as error:  # whatever a broken file makes a reader raise
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    warnings.warn(
                        f"checkpoint {self.folder / str(step)} cannot be read ({reason:.200}); "
                        "going on from an earlier one and the history",
                        stacklevel=2,
                    )
        return None

    def close(self) -> None:
        """Let go of the folder."""
        if self._lazy is not None:
            self._lazy.close()
