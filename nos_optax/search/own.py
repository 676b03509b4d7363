"""Classes and tasks of the user's own, named on the command line as `module:name`."""

import importlib
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
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{kind} {name!r} cannot be imported: {error}; is its folder on PYTHONPATH?"
        ) from error
