"""Run folders as values; they may be finished, killed, or still in use."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nos_optax.search.history import Candidate
from nos_optax.search.results import Result, score_name
from nos_optax.search.run_folder import CONFIG, open_history

RESULTS = "results.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: the folder.
        config: the flags that it was begun with, as they were recorded.
        facts: what else was recorded: data, devices, versions.
        candidates: all so far, in order.
        results: the rules that were trained again at the end, the best mean first; none before.
        seconds: the time of each stage; empty for a run that did not record it.
    """

    path: Path
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    results: tuple[Result, ...]
    seconds: Mapping[str, float]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def task(self) -> str:
        """What the children train on."""
        return str(self.facts.get("dataset", self.config.get("dataset", "unknown data")))

    @property
    def score(self) -> str:
        """What its rewards are, in words."""
        return score_name(self.facts)

    @property
    def title(self) -> str:
        """The run in a few words."""
        words = [str(self.config.get("strategy", "search"))]
        if "seed" in self.config:
            words.append(f"seed {self.config['seed']}")
        return f"{self.task}: {', '.join(words)}"

    @property
    def samples(self) -> int:
        """How many candidates were asked for."""
        asked = self.config.get("samples")
        return asked if isinstance(asked, int) else len(self.candidates)

    @property
    def finished(self) -> bool:
        """Whether all candidates that were asked for are there, and the best trained again."""
        retrained = bool(self.results) or self.config.get("finalists") == 0
        return len(self.candidates) >= self.samples and retrained

    @property
    def chance(self) -> float | None:
        """The reward of a child that never learns; None where no candidate had it."""
        failed = (c.reward for c in self.candidates if c.status in ("rejected", "dead", "diverged"))
        return next(failed, None)

    @property
    def found(self) -> tuple[Result, ...]:
        """The results that the search found, the best mean first."""
        return tuple(result for result in self.results if result.searched is not None)

    @property
    def standard(self) -> tuple[Result, ...]:
        """The results of the standard optimizers, the best mean first."""
        return tuple(result for result in self.results if result.searched is None)


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: it holds no run.
        OSError: it cannot be read.
        ValueError: a file in it is damaged.
    """
    path = Path(path)
    content = _json(path / CONFIG)
    if content is None:
        raise FileNotFoundError(f"{path} holds no run: there is no {CONFIG} in it")
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ValueError(f"{path / CONFIG} is damaged: it holds no configuration")
    config = content.pop("config")
    with open_history(path) as history:
        candidates, seconds = tuple(history.candidates()), history.seconds()
    return Run(path, config, content, candidates, _results(path / RESULTS), seconds)


def _results(path: Path) -> tuple[Result, ...]:
    """Return the rules that were trained again, the best mean first."""
    rows = _json(path)
    if rows is None:
        return ()
    try:
        results = [
            Result(
                row["name"],
                row["rule"],
                row.get("tokens", ""),
                tuple(math.nan if x is None else float(x) for x in row["rewards"]),
                tuple(row.get("learning_rates", ())),
                tuple(row.get("statuses", ())),
                row.get("searched"),
            )
            for row in rows
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged ({reason}); remove it, or restore it") from None
    known = [result for result in results if result.rewards]
    return tuple(sorted(known, key=lambda r: -r.mean if math.isfinite(r.mean) else math.inf))


def _json(path: Path) -> Any:
    """Return what a JSON file holds; None where there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged ({reason}); restore it") from None
