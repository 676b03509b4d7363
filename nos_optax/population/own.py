"""Classes and tasks of the user's own, named on the command line as `module:name`.

To import is to run code. So a name is looked at as text first, by `check_name`, and imported only
once it is known that the user gave it.
"""

import importlib
import traceback
from collections.abc import Callable
from typing import Any


def check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Raise unless a text is one of the known names or of the form `module:name`; import nothing.

    Args:
        kind: what it is to be, for messages.
        name: the text.
        known: names that it could be.

    Raises:
        ValueError: it is neither.
    """
    module, _, attribute = name.partition(":")
    if name not in known and not (attribute and all(map(str.isidentifier, module.split(".")))):
        raise ValueError(f"{kind} must be one of {', '.join(known)}, or module:name, got {name!r}")


def import_own(kind: str, name: str, known: tuple[str, ...]) -> Any:
    """Return what a user named, in place of one of the known names.

    Args:
        kind: what it is to be, for messages.
        name: `module:name`, importable.
        known: names that it could have been.

    Raises:
        ValueError: it is not of that form, or cannot be imported.
    """
    check_name(kind, name, known)
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{kind} {name!r} cannot be imported: {error}; is its folder on PYTHONPATH?"
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise ValueError(
            f"{kind} {name!r}: importing {module} failed at {_place(error)}"
        ) from error
    if not hasattr(found, attribute):
        names = ", ".join(n for n in vars(found) if not n.startswith("_"))
        raise ValueError(f"{kind} {name!r}: {module} has no {attribute!r}; it has {names}")
    return getattr(found, attribute)


def call_own(kind: str, name: str, factory: Callable[[], Any]) -> Any:
    """Return what a function of the user's own returns.

    Raises:
        ValueError: it failed, with the line.
    """
    try:
        return factory()
    except Exception as error:  # whatever the user's function raises
        raise ValueError(f"{kind} {name!r} failed at {_place(error)}") from error


def _place(error: Exception) -> str:
    """Return the line that raised an error, what it is and what it says, in one line."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())
    kind = "" if isinstance(error, ValueError) and said else f"{type(error).__name__}: "
    return f"{line.filename}, line {line.lineno}: {kind}{said}"
