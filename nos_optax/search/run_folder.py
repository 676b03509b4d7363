"""The folder of a run: what was asked, what was evaluated, what came out."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType

import filelock

from nos_optax import __version__
from nos_optax.search.config import SearchConfig
from nos_optax.search.history import FILE as HISTORY
from nos_optax.search.history import Candidate, History

CONFIG, CANDIDATES, CHECKPOINTS, LOCK = "config.json", "candidates.jsonl", "checkpoints", "lock"


class RunFolder:
    """A run's folder, held by one process at a time; files appear whole or not at all.

    Used as a context.

    Args:
        config: what is searched. `out` is the folder, `runs/DATE-TIME` where None. It must be new,
            but with `resume` it may hold a run to go on with.

    Raises:
        FileExistsError: it holds another run, or anything else.
        OSError: it cannot be written, or another process holds it.
        ValueError: the run to go on with has another configuration, or is of another version.
    """

    def __init__(self, config: SearchConfig):
        self.path = config.out or default_path()
        check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.path / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise BlockingIOError(f"another process is searching in {self.path}") from None
        try:
            check(config)  # again: until here another process could have begun a run
            self.history = History(self.path / HISTORY)
            self._check_begun()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.history.close()
        self._lock.release()

    def _check_begun(self) -> None:
        """Refuse a history of which nobody knows how it was made."""
        if not (self.path / CONFIG).exists() and self.history.candidates():
            self.history.close()
            raise FileNotFoundError(
                f"{self.path} has lost its {CONFIG}; restore it, or start a new run"
            )

    def write_config(self, config: SearchConfig, facts: dict) -> None:
        """Record the configuration, the version, and facts about the machine and the data.

        Raises:
            ValueError: the run to go on with has other data.
        """
        if (self.path / CONFIG).exists():
            self._check_same_data(facts)
        content = {"version": __version__, "config": _fields(config), **facts}
        self.write_json(CONFIG, content)

    def _check_same_data(self, facts: dict) -> None:
        """Refuse to go on with rewards that were earned on something else."""
        begun = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        names = ["dataset", "train_examples", "validation_examples", "data_checksum"]
        names += ["parameters", "chance", "threshold", "tasks", "horizons", "adam"]
        if all(begun.get(name) == facts.get(name) for name in ("versions", "device_kind")):
            names.append("task_digest")  # elsewhere, the same functions may be traced otherwise
        now = json.loads(json.dumps(_plain(facts)))
        for name in names:
            if name in now and begun.get(name, now[name]) != now[name]:
                raise ValueError(
                    f"{self.path} was begun with {name} {begun[name]!s:.200}, now it is "
                    f"{now[name]!s:.200}. Go on with the old data and task, or name a new folder"
                )

    def write_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Export the history as JSON, a line each."""
        rows = (json.dumps(dataclasses.asdict(candidate)) + "\n" for candidate in candidates)
        self.write_text(CANDIDATES, "".join(rows))

    def write_json(self, name: str, content) -> None:
        """Write a JSON file; nan becomes null."""
        self.write_text(name, json.dumps(_plain(content), indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        write_whole(self.path / name, content)


def write_whole(target: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, in a folder that is made if need be.

    Raises:
        OSError: it cannot be written.
    """
    # Another process may be writing the same: a report beside the search's own.
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power failure may leave the new name, but empty
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(f"cannot write {target}: {error.strerror}") from error


def default_path() -> Path:
    """Return a new folder for a run that was not given one: `runs/DATE-TIME`, or `-2` and so on."""
    path = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    others = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    return next(p for p in itertools.chain([path], others) if not p.exists())


def check(config: SearchConfig) -> None:
    """Refuse a folder that this configuration cannot write or go on with; see `RunFolder`."""
    path = config.out
    if path is None:
        return
    if (path / CONFIG).exists():
        if not config.resume:
            raise FileExistsError(
                f"--out {path} holds another run; go on with it by --resume, or name a new folder"
            )
        _check_same(config, read_config(path))
    elif path.exists() and not path.is_dir():
        raise NotADirectoryError(f"--out {path} is a file; name a new folder")
    elif path.exists() and not all(_is_first(file.name) for file in path.iterdir()):
        raise FileExistsError(f"--out {path} holds other files; name a new folder")


def _is_first(name: str) -> bool:
    """Whether a run has a file of this name before its configuration."""
    return name == LOCK or name.startswith((HISTORY, CONFIG))


def read_config(path: Path) -> SearchConfig:
    """Return the configuration of a run, as it was recorded.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: it is of another version, or cannot be understood.
    """
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        version, fields = content["version"], YOUNGER | content["config"]
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} holds no run: there is no {CONFIG} in it") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path / CONFIG} is damaged ({reason}); start a new run") from None
    if version != __version__:
        raise ValueError(
            f"{path} was written by nos_optax {version}, this is {__version__}: go on with that "
            "version, or start a new run"
        )
    known = {field.name for field in dataclasses.fields(SearchConfig)}
    if set(fields) != known - {"out", "resume"}:
        wrong = ", ".join(sorted(set(fields) ^ (known - {"out", "resume"})))
        raise ValueError(f"{path / CONFIG} is damaged: look at {wrong}, or start a new run")
    try:
        return SearchConfig(**fields, out=path, resume=True)
    except ValueError as error:
        raise ValueError(f"{path / CONFIG} is damaged: {error}; start a new run") from None


def _check_same(config: SearchConfig, begun: SearchConfig) -> None:
    """Refuse to go on with a run in another way than it was begun."""
    old, new = _fields(begun), _fields(config)
    different = [
        f"--{name.replace('_', '-')} was {old[name]}, is {new[name]}"
        for name in old
        if name not in FREE and old[name] != new[name]
    ]
    if different:
        raise ValueError(
            f"{config.out} was begun with another configuration: {'; '.join(different)}. Go on "
            "with the old one, or name a new folder"
        )


# Settings that the configurations of older runs do not name, as they were then.
YOUNGER = {"live_results": False}
# What may change between the parts of a run: it decides how long and where, not what is sampled.
FREE = (
    "accelerator",
    "data_dir",
    "engine",
    "final_epochs",
    "final_seeds",
    "finalists",
    "lanes",
    "ray_address",
    "samples",
    "tensorboard",
)


def _fields(config: SearchConfig) -> dict:
    """Return the configuration as JSON can hold it."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(SearchConfig)}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
    return {k: v for k, v in plain.items() if k not in ("out", "resume")}


@contextlib.contextmanager
def open_history(path: Path) -> Generator[History]:
    """Open the history of a run folder, also while it is being written, for reading.

    Raises:
        FileNotFoundError: the folder holds no run.
        OSError: it cannot be read.
    """
    if not (path / HISTORY).exists():
        raise FileNotFoundError(f"{path} holds no run: there is no {HISTORY} in it")
    with contextlib.ExitStack() as stack:
        if not os.access(path, os.W_OK):  # a copy: sqlite writes to read
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for file in path.glob(f"{HISTORY}*"):
                shutil.copyfile(file, copy / file.name)
            path = copy
        yield stack.enter_context(contextlib.closing(History(path / HISTORY)))


def read_candidates(path: Path) -> list[Candidate]:
    """Return the candidates of a run folder, in order; also while it is being written.

    Raises:
        FileNotFoundError: the folder holds no run.
        OSError: it cannot be read.
    """
    with open_history(path) as history:
        return history.candidates()


def _plain(value):
    """Return `value` with every non-finite number as None, for strict JSON."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
