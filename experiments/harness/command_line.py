"""From the command line to an experiment's `run`; a user's mistake is one message."""

import sys
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TypeVar

import tyro
from rich.console import Console

from nos_optax._command import command_line, make_console, one_message
from nos_optax.search import enable_compilation_cache

Config = TypeVar("Config")
Name = TypeVar("Name")


def main(
    run: Callable[[Config, Console], None],
    presets: Mapping[Name, Config],
    key: Callable[[Config], Name] = attrgetter("scale"),
) -> None:
    """Parse the command line and run; a user's mistake is one message and exit code 1 or 2.

    Args:
        run: the experiment.
        presets: by name, configurations of one frozen dataclass; the first is the default.
        key: the name of the preset that a configuration belongs to. What the command line does
            not give is as in that preset.
    """
    try:
        with one_message():
            config = parse(presets, key)
            enable_compilation_cache()
            run(config, make_console())
    except KeyboardInterrupt:
        goes_on = hasattr(next(iter(presets.values())), "out")
        sys.exit("interrupted" + "; the same command goes on from here" * goes_on)


def parse(presets: Mapping[Name, Config], key: Callable[[Config], Name]) -> Config:
    """Return the configuration that the command line asks for.

    Raises:
        ValueError: no preset has the name that was given, or a number is out of range.
    """
    default = next(iter(presets.values()))
    kind = type(default)
    args = command_line(sys.argv[1:])
    name = key(tyro.cli(kind, default=default, description=kind.__doc__, args=args))
    if name not in presets:
        raise ValueError(f"there is no preset {name}; there are {', '.join(map(str, presets))}")
    return tyro.cli(kind, default=presets[name], description=kind.__doc__, args=args)
