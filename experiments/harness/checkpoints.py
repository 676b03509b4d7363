"""Checkpoints of long trainings, by Orbax."""

import hashlib
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

SHARE = 0.01  # of the time that checkpoints may take
SEAL = "sha256"  # a file in each of them: the hash of the others


class Checkpoints:
    """The newest states of a training.

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

    def save_if_due(self, step: int, state: Any) -> None:
        """Save if it is due.

        Args:
            step: after which it is.
            state: a pytree of arrays.
        """
        if self.due:
            self.save(step, state)

    @property
    def due(self) -> bool:
        """Whether a checkpoint now keeps them to a hundredth of the time."""
        return time.perf_counter() - self._saved > self._cost / SHARE

    def save(self, step: int, state: Any) -> None:
        """Save the state; it is on the disk on return.

        Raises:
            OSError: it cannot be written.
        """
        import orbax.checkpoint as ocp

        start, arrays = time.perf_counter(), jax.tree.map(np.asarray, state)
        try:
            self.folder.mkdir(exist_ok=True)
            _take_room(self.folder, 2 * sum(array.nbytes for array in jax.tree.leaves(arrays)))
            manager = self._manager
            manager.save(step, args=ocp.args.StandardSave(arrays), force=True)
            manager.wait_until_finished()
            folder = self.folder / str(step)
            (folder / SEAL).write_text(_digest(folder))
        except Exception as error:  # whatever a writer raises
            raise OSError(
                f"{self.folder}: cannot write a checkpoint ({_reason(error)}); once that is "
                "mended, the same command goes on"
            ) from error
        self._saved = time.perf_counter()
        self._cost = self._saved - start

    def restore(self, template: Any, most: int) -> tuple[int, Any] | None:
        """Return the newest readable state, and the step after which it is.

        Checkpoints that are newer are deleted: their numbers come again. Those that cannot be read
        get another name.

        Args:
            template: a state of the same structure.
            most: the last step of use; later states are deleted.

        Returns:
            None where there is no such checkpoint. One that cannot be read gives a warning.
        """
        steps = [int(file.name) for file in self.folder.glob("*") if file.name.isdecimal()]
        for step in sorted(steps, reverse=True):
            if step <= most:
                try:
                    return step, self._read(step, template)
                except Exception as error:  # whatever a broken file makes a reader raise
                    warnings.warn(
                        f"checkpoint {self.folder / str(step)} cannot be read ({_reason(error)}); "
                        "it is kept as .unreadable; going on from an earlier one",
                        stacklevel=2,
                    )
                    self._put_aside(step)
            else:
                self._delete(step)
        return None

    def _read(self, step: int, template: Any) -> Any:
        """Return the state of a checkpoint.

        Raises:
            ValueError: it is not what was written.
        """
        import orbax.checkpoint as ocp

        folder = self.folder / str(step)
        if (folder / SEAL).read_text() != _digest(folder):
            raise ValueError("its files are not what was written")
        arrays = jax.tree.map(np.asarray, template)
        return self._manager.restore(step, args=ocp.args.StandardRestore(arrays))

    def _delete(self, step: int) -> None:
        """Delete a checkpoint, whatever is left of it."""
        self.close()
        shutil.rmtree(self.folder / str(step), ignore_errors=True)

    def _put_aside(self, step: int) -> None:
        """Rename a checkpoint: the fault may be the disk's, and pass."""
        self.close()
        aside = self.folder / f"{step}.unreadable"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / str(step)).rename(aside)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lazy is not None:
            self._lazy.close()
            self._lazy = None


def _take_room(folder: Path, size: int) -> None:
    """Raise an OSError on a full disk, in place of the hundreds of lines that Orbax logs."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(size + 2**20))


def _digest(folder: Path) -> str:
    """Return a hash of all files: Orbax does not notice every flipped bit, and is loud about it."""
    sha = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != SEAL:
            sha.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return sha.hexdigest()


def _reason(error: Exception) -> str:
    """Return the first line of a message, which can be long."""
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__:.200}"
