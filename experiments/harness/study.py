"""What every experiment is: a configuration of a scale, records, and results that are published."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from rich.console import Console
from rich.table import Table

from harness.tables import markdown
from nos_optax.compare.records import write_results

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parents[1] / "shared"  # data beside the project
# Where something lies, or is computed: it says nothing about the results.
PLACES = {"accelerator", "data_dir", "ptb_dir", "golden", "check", "out", "results"}


@dataclasses.dataclass(frozen=True)
class Study:
    """What the configurations of experiments share; presets set all numbers by the scale."""

    # Of each experiment, which sets its own; what has a type is an option.
    experiment = ""
    at_least = ()  # pairs of an option and its least value
    not_empty = ()  # options
    may_grow = ()  # options: what is in the records is of use with more of these

    scale: Literal["paper", "small", "smoke"] = "paper"
    """Sets all other numbers, unless they are given too."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes the best device that is present."""
    out: Path | None = None
    """Folder of the records, from which a killed run goes on (default: runs/NAME)."""
    results: Path = ROOT / "results"
    """Folder of the tables and the picture."""

    def __post_init__(self):
        getattr(super(), "__post_init__", lambda: None)()
        for name, least in self.at_least:
            given = getattr(self, name)
            if given is not None and given < least:
                raise ValueError(f"{_flag(name)} must be at least {least}, got {given}")
        for name in self.not_empty:
            if getattr(self, name) == ():
                raise ValueError(f"{_flag(name)} is empty: give at least one")

    @classmethod
    def like(cls, other: Any, **changes: Any) -> Self:
        """Return another experiment's configuration as one of this, with some changes."""
        return cls(**dataclasses.asdict(other) | changes)

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"{self.experiment}_{self.scale}"

    @property
    def folder(self) -> Path:
        """Of the records."""
        return self.out or Path("runs") / self.name

    @property
    def picture(self) -> Path:
        """Where the picture goes."""
        return self.results / f"{self.name}.png"

    def measured(self) -> dict[str, Any]:
        """Return what decides the results."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in PLACES}

    def training(self) -> dict[str, Any]:
        """Return what decides how a training ends, but for what differs between trainings."""
        return {k: v for k, v in self.measured().items() if k not in self.may_grow}

    def publish(
        self,
        console: Console,
        title: str,
        tables: Mapping[str, Table],
        notes: Sequence[str],
        content: Mapping[str, Any],
    ) -> None:
        """Print everything, and write NAME.json and NAME.md.

        Args:
            console: to print on.
            title: what was measured on what.
            tables: by their headings.
            notes: what the tables say, and do not.
            content: of the JSON file, beside the arguments.
        """
        console.print(title, markup=False)
        for heading, table in tables.items():
            console.print(f"\n{heading}", markup=False)
            console.print(table)
        for note in notes:
            console.print(note, markup=False)
        if "seconds" in content:
            console.print(f"{content['seconds']:.0f} s")
        sections = [f"{heading}:\n\n{markdown(table)}" for heading, table in tables.items()]
        text = "\n".join([f"{title}\n", *sections, *(f"{note}\n" for note in notes)])
        full = {"arguments": self.measured(), **content}
        self.results.mkdir(parents=True, exist_ok=True)
        write_results(self.results, self.name, full, text)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
