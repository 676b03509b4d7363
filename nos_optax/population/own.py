"""Classes and tasks of the user's own, named on the command line as `module:name`."""

import importlib
import traceback
from typing import Any


def import_own(kind: str, name: str, known: tuple[str, ...]) -> Any:
    """Return what a user named, in place of one of the known names.

    Args:
        kind: what it is to be, for messages.
        name: `module:name`, importable.
        known: names that it could have been.

    Raises:
        ValueError: it is not of that form, or cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if not (attribute and all(map(str.isidentifier, module.split(".")))):
        raise ValueError(f"{kind} must be one of {', '.join(known)}, or module:name, got {name!r}")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{kind} {name!r} cannot be imported: {error}; is its folder on PYTHONPATH?"
        ) from error
    except ValueError as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"{kind} {name!r}: importing {module} failed at {line.filename}, line {line.lineno}: "
            f"{error}"
        ) from error
    if not hasattr(found, attribute):
        names = ", ".join(n for n in vars(found) if not n.startswith("_"))
        raise ValueError(f"{kind} {name!r}: {module} has no {attribute!r}; it has {names}")
    return getattr(found, attribute)
