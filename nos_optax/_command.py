"""What every command of the package says: errors in one line, tables that fit."""

import contextlib
import re
import sys
from collections.abc import Generator, Sequence

from rich.console import Console

from nos_optax.population.accelerator import AcceleratorError


@contextlib.contextmanager
def one_message() -> Generator[None]:
    """Turn what a user can mend into `error: ...` and exit code 1, without a traceback."""
    try:
        yield
    except (ValueError, OSError, AcceleratorError, ImportError) as error:
        sys.exit(f"error: {error}")


def make_console() -> Console:
    """Return the terminal, or where the output goes instead, which has no width of its own."""
    console = Console()
    return console if console.is_terminal or console.is_jupyter else Console(width=160)


def protect_minus(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments with rules that begin with a minus in parentheses.

    `-sign(m) * g` would be read as an option otherwise.
    """

    def is_rule(text: str) -> bool:
        return bool(re.match(r"-[\w(]", text)) and not re.fullmatch(r"-h|-[\d.]+(e-?\d+)?", text)

    return [f"({text})" if is_rule(text) else text for text in arguments]
