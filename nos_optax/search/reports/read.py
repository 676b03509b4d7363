"""Run folders as values; they may be finished, killed, or still in use."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nos_optax._command import printable, user_path
from nos_optax.search.config import SAMPLES, SearchConfig, is_of_kind
from nos_optax.search.history import FILE as HISTORY
from nos_optax.search.history import Candidate, Training, Watched, is_number
from nos_optax.search.reports.finals import Finals, is_drawable, read_finals, read_json
from nos_optax.search.results import Result, score_name
from nos_optax.search.run_folder import CONFIG, open_history, read_facts

RESULTS = "results.json"
NUMBERS = ("chance", "untrained", "threshold", "sweep_steps")  # facts that are reckoned with


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
        trainings: what became of each, by key; see `judge.training_key`, and `race` for the others.
        watched: what the best rule came to on tasks that the search does not select by, in order.
        finals: the comparison of the best rules with tuned rivals; None without one.
        damage: what could not be read, a sentence each; the rest is as it was written.
    """

    path: Path
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    results: tuple[Result, ...]
    seconds: Mapping[str, float]
    trainings: Mapping[str, Training] = dataclasses.field(default_factory=dict)
    watched: tuple[Watched, ...] = ()
    finals: Finals | None = None
    damage: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def task(self) -> str:
        """What the children train on."""
        return str(self.facts.get("dataset", "unknown data"))

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
    def samples(self) -> int | None:
        """How many candidates were asked for; None where only the trainings were."""
        asked = self.config.get("samples")
        if isinstance(asked, int):
            return asked
        few = SAMPLES.get(str(self.config.get("protocol")))
        return few if self.asked_trainings is None else None

    @property
    def finished(self) -> bool:
        """Whether all candidates that were asked for are there, and the best trained again."""
        retrained = bool(self.results) or self.config.get("finalists") == 0
        asked, most = self.asked_trainings, self.samples
        whole = (most and len(self.candidates) >= most) or (asked and self.trained >= asked)
        return bool(whole and retrained)

    @property
    def trained(self) -> int:
        """How many candidates were trained: the others repeat one or were rejected."""
        return sum(c.is_training for c in self.candidates)

    @property
    def asked_trainings(self) -> int | None:
        """After how many trainings it was to stop; None where it was not told to."""
        asked = self.config.get("trainings")
        return asked if isinstance(asked, int) else None

    @property
    def raced(self) -> bool:
        """Whether its best rules were trained with further seeds."""
        return any(" seed " in key for key in self.trainings)

    @property
    def watch(self) -> tuple[str, ...]:
        """The names of the tasks that the best rule was tried on."""
        names = self.config.get("watch") or ()
        count = len(self.watched[0].rewards) if self.watched else 0
        if len(names) == count and all(isinstance(name, str) for name in names):
            return tuple(map(printable, names))
        return tuple(f"watch task {number}" for number in range(1, count + 1))

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
    """Read a run folder; nothing in it is changed, followed by a link, or imported.

    A file or a value that is damaged is named in `damage`, and the others are read. All texts are
    on one line, and without what a terminal or a picture would obey.

    Raises:
        FileNotFoundError: it holds no run.
        OSError: it cannot be read, holds links, or its history is damaged.
    """
    path, damage = user_path(path), []
    try:
        facts = dict(_plain_text(read_facts(path)))
    except ValueError as error:
        damage.append(str(error))
        facts = {"config": {}}
    config = _known(facts.pop("config"), damage)
    if (path / CONFIG).exists() and (path / HISTORY).exists():
        if not (path / HISTORY).stat().st_size:
            damage.append(f"{HISTORY} is damaged: it is empty, and all candidates are lost")
    with open_history(path) as history:
        candidates, seconds = tuple(history.candidates()), history.seconds()
        trainings = _stored(history.trainings, "further seeds", damage)
        watched = _stored(history.watched, "watch tasks", damage)
    return Run(
        path,
        config,
        _numeric(facts, damage),
        tuple(map(_readable, candidates)),
        _results(path / RESULTS, damage),
        _times(seconds, damage),
        trainings,
        _watched(watched, damage),
        read_finals(path, damage),
        tuple(damage),
    )


def _stored(read: Callable[[], dict], what: str, damage: list[str]) -> dict:
    """Return a table of the history; an empty one of a history that lacks it, or has it damaged."""
    try:
        return read()
    except OSError as error:
        if "no such table" not in str(error):  # histories of other versions have no others
            damage.append(f"{printable(error)}: its {what} are left out")
        return {}


def _watched(rows: Mapping[int, Watched], damage: list[str]) -> tuple[Watched, ...]:
    """Return the rows of the watch tasks that can be drawn, each with as many tasks as the first.

    A search writes no others.
    """
    found: list[Watched] = []
    for row in rows.values():
        numbers = (row.trained, row.reward, row.low, *row.rewards)
        count = len(found[0].rewards if found else row.rewards)
        if row.rewards and len(row.rewards) == count and all(map(is_drawable, numbers)):
            found.append(row._replace(rule=printable(row.rule)))
        else:
            damage.append(f"{HISTORY} is damaged: row {row.number} of the watch tasks is left out")
    return tuple(found)


def _plain_text(value: Any) -> Any:
    """Return what JSON holds with every text on one line; see `printable`."""
    match value:
        case str():
            return printable(value)
        case dict():
            return {printable(name): _plain_text(item) for name, item in value.items()}
        case list():
            return [_plain_text(item) for item in value]
        case _:
            return value


def _readable(candidate: Candidate) -> Candidate:
    """Return a candidate with every text on one line."""
    values = {f.name: getattr(candidate, f.name) for f in dataclasses.fields(candidate)}
    return Candidate(**{name: _plain_text(value) for name, value in values.items()})


def _known(config: Mapping[str, Any], damage: list[str]) -> dict[str, Any]:
    """Return the flags whose values are of their kinds; those of other versions are as they are."""
    kinds = get_type_hints(SearchConfig)
    found = {}
    for name, value in config.items():
        frozen = tuple(value) if isinstance(value, list) else value
        is_path = isinstance(value, str) and Path in get_args(kinds.get(name))
        if name not in kinds or is_path or is_of_kind(frozen, kinds[name]):
            found[name] = value
        else:
            damage.append(f"{CONFIG} is damaged: {name} is {value!r:.60}; it is left out")
    return found


def _numeric(facts: Mapping[str, Any], damage: list[str]) -> dict[str, Any]:
    """Return the facts without those that should be numbers and are not."""
    wrong = [n for n in NUMBERS if not (facts.get(n) is None or is_number(facts[n]))]
    for name in wrong:
        damage.append(f"{CONFIG} is damaged: {name} is {facts[name]!r:.60}; it is left out")
    absent = [name for name in NUMBERS if name in facts and facts[name] is None]
    return {name: value for name, value in facts.items() if name not in (*wrong, *absent)}


def _times(seconds: Mapping[Any, Any], damage: list[str]) -> dict[str, float]:
    """Return the times that are times."""
    found = {}
    for stage, value in seconds.items():
        if isinstance(stage, str) and is_number(value) and 0 <= value < math.inf:
            found[printable(stage)] = float(value)
        else:
            said = printable(repr(value))
            damage.append(
                f"{HISTORY} is damaged: the seconds of {printable(stage)} are {said:.60}; they are "
                "left out"
            )
    return found


def _results(path: Path, damage: list[str]) -> tuple[Result, ...]:
    """Return the rules that were trained again, the best mean first."""
    rows = read_json(path, _list_of_rules, "its rules are left out", damage) or []
    known = []
    for number, row in enumerate(_plain_text(rows), 1):
        result = _result(row)
        if result is None:
            damage.append(f"{path} is damaged: rule {number} of {len(rows)} is left out")
        elif result.rewards:
            known.append(result)
    return tuple(sorted(known, key=lambda r: -r.mean if math.isfinite(r.mean) else math.inf))


def _list_of_rules(rows: Any) -> list:
    if not isinstance(rows, list):
        raise ValueError("it holds no list of rules")
    return rows


def _result(row: Any) -> Result | None:
    """Return a rule that was trained again; None if the values are not of their kinds."""
    usual: dict[str, Any] = {"tokens": "", "learning_rates": [], "statuses": [], "searched": None}
    match usual | row if isinstance(row, dict) else None:
        case {
            "name": str(name),
            "rule": str(rule),
            "tokens": str(tokens),
            "rewards": list(rewards),
            "learning_rates": list(rates),
            "statuses": list(statuses),
            "searched": searched,
        } if name and rule and all(isinstance(status, str) for status in statuses):
            numbers = [x for x in (*rewards, *rates, searched) if x is not None]
        case _:
            return None
    if not all((is_number(x) and abs(x) <= sys.float_info.max) or x != x for x in numbers):
        return None
    known = tuple(math.nan if x is None else float(x) for x in rewards)
    return Result(name, rule, tokens, known, tuple(rates), tuple(statuses), searched)
