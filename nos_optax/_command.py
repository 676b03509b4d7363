"""What every command of the package does: errors in one line, output that a terminal cannot obey.

Names of tasks, paths and files of others go into what is printed. All of it passes `printable`, and
none of it is read as markup.
"""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from nos_optax._printable import printable as printable
from nos_optax.population.accelerator import AcceleratorError

Arguments = TypeVar("Arguments")
VOCABULARIES = ("operands", "unary", "binary")  # options that take words of rules


@contextlib.contextmanager
def one_message() -> Generator[None]:
    """Turn what a user can mend into `error: ...` and exit code 1, without a traceback."""
    try:
        yield
    except (ValueError, OSError, AcceleratorError, ImportError) as error:
        sys.exit(f"error: {printable(str(error), keep=chr(10))}")


def start(
    arguments: type[Arguments],
    run: Callable[[Arguments], None],
    program: str,
    repeatable: Collection[str] = (),
) -> None:
    """Parse the command line and run what goes on, after an interruption, by the same command.

    A user's mistake is one message and exit code 1 or 2.

    Args:
        arguments: the dataclass of the options; its docstring is the command's description.
        run: what the command does.
        program: how it is called.
        repeatable: as for `command_line`.
    """
    import tyro  # only commands need it

    with stoppable("interrupted; the same command goes on from here"), one_message():
        args = command_line(sys.argv[1:], repeatable)
        run(tyro.cli(arguments, prog=program, description=arguments.__doc__, args=args))


@contextlib.contextmanager
def stoppable(said: str) -> Generator[None]:
    """Let Ctrl-C end the process at once, with one line and exit code 130.

    As an exception it would be printed and forgotten in a callback of the garbage collector, such
    as JAX has, or wait for what trains in another thread. What commands keep is whole at any
    moment, as it must be for a kill. In another thread than the main one nothing changes.
    """

    def stop(number: int, frame: object) -> None:
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
        os.write(2, f"{cursor}{said}\n".encode())
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def say(value: object) -> None:
    """Print one line for people, wherever its parts come from."""
    print(printable(value), flush=True)


class _PlainConsole(Console):
    """Prints texts as they are: no markup, and no escape sequences but its own."""

    def render_str(self, text: str, **options: Any) -> Text:
        options |= {"markup": False, "emoji": False}
        return super().render_str(printable(text, keep="\n"), **options)

    def on_broken_pipe(self) -> None:
        """Go on where nobody reads the output any more: what counts is in files."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


def make_console() -> Console:
    """Return the terminal, or where the output goes instead, which has no width of its own.

    What is printed there as a string, also in cells and titles of tables, is text and no markup;
    `rich.text.Text` has styles.
    """
    console = _PlainConsole(markup=False, emoji=False)
    if console.is_terminal or console.is_jupyter:
        return console
    return _PlainConsole(markup=False, emoji=False, width=160)


def user_path(path: Path | str) -> Path:
    """Return a path with `~` as the home folder, as a shell would have given it.

    Raises:
        ValueError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}; give the path of the folder itself") from None


def command_line(arguments: Sequence[str], repeatable: Collection[str] = ()) -> list[str]:
    """Return a command's arguments as its parser can read them.

    Args:
        arguments: as the shell gave them.
        repeatable: names of options that may be given several times, such as `task`.

    Raises:
        ValueError: another option is given twice: the parser would drop the words of the first.
    """
    seen = options(arguments)
    for name in seen:
        if seen.count(name) > 1 and name not in repeatable:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is given more than once: give all its words at once")
    return protect_minus(arguments)


def options(arguments: Sequence[str]) -> list[str]:
    """Return the names of the options among a command's arguments; `--no-reuse` is of `reuse`."""
    words = [argument.partition("=")[0] for argument in arguments]
    names = [word[2:].replace("-", "_") for word in words if re.match(r"--\w", word)]
    return [name.removeprefix("no_") for name in names]


def protect_minus(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments with rules that begin with a minus in parentheses.

    `-sign(m) * g` would be read as an option otherwise; `unprotected` takes words of the
    vocabulary, such as `-x`, out of them again. What follows an option at once is its value and
    no rule, unless the option takes such words; what follows a `--` are rules.
    """

    def is_rule(text: str) -> bool:
        number = r"-h|-[\d.]+([eE][-+]?\d+)?"
        return bool(re.match(r"-\s*[\w(.]", text)) and not re.fullmatch(number, text)

    end = arguments.index("--") if "--" in arguments else len(arguments)
    protected, option = [], None
    for text in arguments[:end]:
        rule = is_rule(text) and (option is None or option in VOCABULARIES)
        protected.append(f"({text})" if rule else text)
        if re.match(r"--\w", text):
            option = None if "=" in text else options([text])[0]
        elif option not in VOCABULARIES:
            option = None
    return protected + [f"({text})" if text[:1] == "-" else text for text in arguments[end + 1 :]]


def unprotected(words: Sequence[str]) -> tuple[str, ...]:
    """Return words of the vocabulary without the parentheses of `protect_minus`."""
    return tuple(word[1:-1] if re.fullmatch(r"\(-.*\)", word) else word for word in words)
