"""The folder of a run: what was asked, what was evaluated, what came out."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from nos_optax._command import printable, user_path
from nos_optax._files import refuse_links, write_whole
from nos_optax._version import __version__
from nos_optax.search.config import GIVEN, TASKS, SearchConfig
from nos_optax.search.history import FILE as HISTORY
from nos_optax.search.history import Candidate, History
from nos_optax.search.strategies import STRATEGIES

CONFIG, CANDIDATES, LOCK = "config.json", "candidates.jsonl", "lock"


class RunFolder:
    """A run's folder, held by one process at a time; files appear whole or not at all.

    Used as a context.

    Args:
        config: what is searched. `out` is the folder, `runs/DATE-TIME` where None. It must be new,
            but with `resume` it may hold a run to go on with.

    Raises:
        FileExistsError: it holds another run, or anything else.
        OSError: it cannot be written, another process holds it, it holds links, or it has lost
            its history.
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
            self._check_whole()
            clear_leftovers(self.path)
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

    def _check_whole(self) -> None:
        """Refuse a run whose history is gone: it would begin again."""
        history = self.path / HISTORY
        if (self.path / CONFIG).exists() and not (history.exists() and history.stat().st_size):
            raise FileNotFoundError(
                f"{self.path} is damaged: it has lost its {HISTORY}; restore it, or start a new run"
            )

    def _check_begun(self) -> None:
        """Refuse a history of which nobody knows how it was made, or that has lost rows."""
        if not (self.path / CONFIG).exists() and self.history.candidates():
            self.history.close()
            raise FileNotFoundError(
                f"{self.path} has lost its {CONFIG}; restore it, or start a new run"
            )
        if not (self.path / CANDIDATES).exists():
            return
        with (self.path / CANDIDATES).open("rb") as file:
            written = sum(1 for _ in file)
        if (kept := len(self.history.candidates())) < written:
            self.history.close()
            raise OSError(
                f"{self.path} is damaged: its {HISTORY} has {kept} candidates, and its "
                f"{CANDIDATES} {written}; restore it, or start a new run"
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

    def _check_same_data(self, facts: Mapping[str, Any]) -> None:
        """Refuse to go on with rewards that were earned on something else."""
        begun, now = read_facts(self.path), json.loads(json.dumps(_plain(facts)))
        tasks = begun.get("tasks", [])
        if not isinstance(tasks, list):
            raise ValueError(
                f"{self.path / CONFIG} is damaged: tasks is {printable(tasks):.100}; restore it, "
                "or start a new run"
            )
        begun.setdefault("children", [1] * len(tasks))  # those of older runs
        names = ["dataset", "train_examples", "validation_examples", "data_checksum"]
        names += ["parameters", "chance", "threshold", "tasks", "horizons", "children", "adam"]
        for name in names:
            self._compare(name, begun, now)
        then, today = begun.get("arithmetic"), now.get("arithmetic")
        if isinstance(then, dict) and isinstance(today, dict):
            for name in sorted(then.keys() & today.keys()):
                self._compare(name, then, today)
        # Elsewhere, the same functions may be traced otherwise.
        if all(begun.get(name) == now.get(name) for name in ("versions", "device_kind")):
            self._compare_functions(begun.get("functions"), now.get("functions"))

    def _compare(self, name: str, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        if name in now and begun.get(name, now[name]) != now[name]:
            raise ValueError(
                f"{self.path} was begun with {name} {printable(begun[name]):.200}, now it is "
                f"{printable(now[name]):.200}. Go on with the old data, task and settings of JAX, "
                "or name a new folder"
            )

    def _compare_functions(self, begun: Any, now: Any) -> None:
        """Say which function of a task computes something else now, and what it may be due to."""
        if not isinstance(begun, dict) or not isinstance(now, dict):
            return
        changed = [name for name in now if begun.get(name, now[name]) != now[name]]
        if changed:
            raise ValueError(
                f"{self.path} was begun with another {' and another '.join(changed)} of the task: "
                "what it computes has changed. If its code has not, then it depends on more than "
                "its arguments: on the order of a set, which differs between processes (sort it), "
                "on numbers drawn when it is made, or on settings of JAX such as x64. Go on with "
                "the old task, or name a new folder"
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


def clear_leftovers(path: Path) -> None:
    """Delete the files of a run folder that a killed process left half-written."""
    for file in path.rglob("*.partial"):
        number = re.search(r"\.(\d+)\.partial$", file.name)
        if file.is_file() and not (number and _is_alive(int(number[1]))):
            file.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether another process of this machine has a number; a report may be writing."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def default_path() -> Path:
    """Make a new folder for a run that was not given one: `runs/DATE-TIME`, or `-2` and so on.

    It is made here, so that of two searches that start together each has its own.

    Raises:
        OSError: it cannot be made.
    """
    path = Path("runs").absolute() / time.strftime("%Y%m%d-%H%M%S")
    for name in itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2))):
        with contextlib.suppress(FileExistsError):
            path.with_name(name).mkdir(parents=True)
            return path.with_name(name)
    raise AssertionError("there is always a next number")


@contextlib.contextmanager
def folder_of_its_own(config: SearchConfig) -> Generator[SearchConfig]:
    """Yield a configuration with a folder: a new one where it has none, removed if nothing comes.

    Raises:
        OSError: it cannot be made.
    """
    if config.out is not None:
        yield config
        return
    made = default_path()
    try:
        yield dataclasses.replace(config, out=made)
    finally:
        with contextlib.suppress(OSError):  # it is not empty, as it should be
            made.rmdir()
            made.parent.rmdir()


def check(config: SearchConfig) -> None:
    """Refuse a folder that this configuration cannot write or go on with; see `RunFolder`."""
    path = config.out
    if path is None:
        return
    if os.path.lexists(path / CONFIG):
        if not config.resume:
            raise FileExistsError(
                f"--out {path} holds another run; go on with it by --resume, or name a new folder"
            )
        _check_same(config, read_config(path))
    elif path.exists() and not path.is_dir():
        raise NotADirectoryError(f"--out {path} is a file; name a new folder")
    elif path.exists():
        if not all(_is_first(file.name) for file in path.iterdir()):
            raise FileExistsError(f"--out {path} holds other files; name a new folder")
        refuse_links(path)


def _is_first(name: str) -> bool:
    """Whether a run has a file of this name before its configuration."""
    return name == LOCK or name.startswith((HISTORY, CONFIG))


def read_facts(path: Path) -> dict[str, Any]:
    """Return all that a run folder's `config.json` holds.

    Raises:
        FileNotFoundError: the folder holds no run.
        OSError: it holds links.
        ValueError: the file cannot be understood.
    """
    path = user_path(path)
    if os.path.lexists(path / CONFIG):
        refuse_links(path)
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} holds no run: there is no {CONFIG} in it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path / CONFIG} is damaged ({reason(error)}); restore it, or start a new run"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ValueError(
            f"{path / CONFIG} is damaged: it holds no configuration; restore it, or start a new run"
        )
    return content


def reason(error: Exception) -> str:
    """Return what is wrong with a file in a few words on one line."""
    return f"{type(error).__name__}: {printable(error):.200}"


def read_config(path: Path) -> SearchConfig:
    """Return the configuration of a run, as it was recorded; nothing that it names is imported.

    Raises:
        FileNotFoundError: the folder holds no run.
        OSError: it holds links.
        ValueError: it is of another version, or cannot be understood.
    """
    path = user_path(path)
    content = read_facts(path)
    version, fields = content.get("version"), content["config"]
    if version is None:
        raise ValueError(f"{path / CONFIG} is damaged: it has no version; start a new run")
    if version != __version__:
        raise ValueError(
            f"{path} was written by nos_optax {printable(version):.50}, this is {__version__}: go "
            "on with that version, or start a new run"
        )
    known = {field.name for field in dataclasses.fields(SearchConfig)}
    if set(fields) != known - {"out", "resume"}:
        wrong = printable(", ".join(sorted(set(fields) ^ (known - {"out", "resume"}))))
        raise ValueError(f"{path / CONFIG} is damaged: look at {wrong}, or start a new run")
    try:
        config = SearchConfig(**fields, out=path, resume=True)
    except ValueError as error:
        raise ValueError(
            f"{path / CONFIG} is damaged: {printable(error)}; start a new run"
        ) from None
    # What a protocol has a default for is written as it was; nothing is left to be filled in.
    if empty := [name for name, value in _fields(config).items() if fields[name] != value]:
        raise ValueError(
            f"{path / CONFIG} is damaged: look at {printable(', '.join(empty))}, or start a new run"
        )
    return config


def config_to_resume(path: Path, given: Mapping[str, Any]) -> SearchConfig:
    """Return the configuration to go on with, if what it trusts has been given again.

    A folder may come from somebody else. What would lead from it to code that is imported, to data
    whose description names code, or to a cluster that is sent code, must therefore be in the call
    or on the command line as well.

    Args:
        path: the run folder.
        given: the settings that the user has given, by name.

    Raises:
        FileNotFoundError: the folder holds no run.
        OSError: it holds links.
        ValueError: it is of another version, cannot be understood, or names what was not given.
    """
    begun = read_config(path)
    if given.get("engine") == "local":  # to go on without the cluster
        begun = dataclasses.replace(begun, engine="local", ray_address=None, ray_timeout=None)
    leads_out = {
        "strategy": begun.strategy not in (*STRATEGIES, GIVEN),
        "task": not set(begun.task) <= {*TASKS, GIVEN},
        "watch": not set(begun.watch or ()) <= set(TASKS),
        "data_dir": begun.data_dir is not None,
        "ray_address": begun.ray_address is not None,
    }
    for name, does in leads_out.items():
        if does and name not in given:
            flag, value = "--" + name.replace("_", "-"), getattr(begun, name)
            value = " ".join(value) if isinstance(value, tuple) else value
            raise ValueError(
                f"{path} names {flag} {printable(value)}, and a run folder alone is not trusted "
                f"with what lies outside it. If you trust that, give {flag} again"
            )
    return begun


def _check_same(config: SearchConfig, begun: SearchConfig) -> None:
    """Refuse to go on with a run in another way than it was begun."""
    old, new = _fields(begun), _fields(config)
    different = [
        f"--{name.replace('_', '-')} was {printable(old[name])}, is {printable(new[name])}"
        for name in old
        if name not in FREE and old[name] != new[name]
    ]
    if different:
        raise ValueError(
            f"{config.out} was begun with another configuration: {'; '.join(different)}. Go on "
            "with the old one, or name a new folder"
        )


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
    "ray_timeout",
    "samples",
    "tensorboard",
    "trainings",
)


def _fields(config: SearchConfig) -> dict:
    """Return the configuration as JSON can hold it."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(SearchConfig)}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
    return {k: v for k, v in plain.items() if k not in ("out", "resume")}


@contextlib.contextmanager
def open_history(path: Path) -> Generator[History]:
    """Open the history of a run folder for reading, also while it is being written.

    Nothing in the folder is made, changed or deleted.

    Raises:
        FileNotFoundError: the folder holds no run.
        OSError: it cannot be read, or holds links.
    """
    path = user_path(path)
    if not os.path.lexists(path / HISTORY):
        raise FileNotFoundError(f"{path} holds no run: there is no {HISTORY} in it")
    refuse_links(path)
    with contextlib.ExitStack() as stack:
        # SQLite's index of a file that is being written, or that a kill left; without it SQLite
        # would make one beside the file, so a copy is read.
        read = path
        if not (path / f"{HISTORY}-shm").exists():
            read = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for file in (path / HISTORY, path / f"{HISTORY}-wal"):
                if file.exists():
                    shutil.copyfile(file, read / file.name)
        history = History(read / HISTORY, read_only=True, shown=path / HISTORY)
        yield stack.enter_context(contextlib.closing(history))


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
