"""Runs in groups that differ only in their seeds."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nos_optax.search.reports.read import Run
from nos_optax.search.reports.templates import setting

# Facts that make rewards another thing, whatever the flags.
DATA = ("version", "dataset", "train_examples", "validation_examples")
# Flags that say where and how a search ran, not what it was.
INCIDENTAL = ("seed", "data_dir", "engine", "lanes", "ray_address", "ray_timeout", "tensorboard")
MISSING = "not recorded"  # of a flag that another version lacks


class Group(NamedTuple):
    """Runs of one configuration and version."""

    label: str  # "A", "B", ...; and in what it differs, if that is short
    runs: tuple[Run, ...]  # one a seed, the longest: two of one seed are the same search
    repeats: tuple[Run, ...]  # the others


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Return the groups in the order of their first runs."""
    by_settings = defaultdict(list)
    for run in runs:
        by_settings[json.dumps(_settings(run), sort_keys=True, default=str)].append(run)
    parted = [_one_a_seed(members) for members in by_settings.values()]
    different = differences([kept[0] for kept, _ in parted])
    groups = []
    for number, (kept, repeats) in enumerate(parted):
        values = [setting(values[number]) for values in different.values()]
        short = ", ".join(values) if len(values) <= 3 else ""
        label = f"{_letter(number)}: {short}" if 0 < len(short) <= 24 else _letter(number)
        groups.append(Group(label, kept, repeats))
    return groups


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all runs, with the value of each run."""
    settings = [_settings(run) for run in runs]
    names = dict.fromkeys(name for flags in settings for name in flags)
    values = {name: [s.get(name, MISSING) for s in settings] for name in names}
    return {n: row for n, row in values.items() if any(value != row[0] for value in row)}


def _settings(run: Run) -> Mapping[str, Any]:
    """Return what makes a run what it is, but for its seed."""
    flags = {name: value for name, value in run.config.items() if name not in INCIDENTAL}
    return flags | {name: run.facts[name] for name in DATA if name in run.facts}


def _one_a_seed(runs: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Return the longest run of each seed, and the others."""
    longest: dict[Any, Run] = {}
    for run in runs:
        seed = run.config.get("seed")
        if seed not in longest or len(run.candidates) > len(longest[seed].candidates):
            longest[seed] = run
    kept = tuple(longest.values())
    return kept, tuple(run for run in runs if not any(run is other for other in kept))


def _letter(number: int) -> str:
    """Return A, B, ..., Z, A1, B1, ..."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
