"""The one error of the grammar."""


class RuleError(ValueError):
    """A rule that cannot be read or used: the message, its source, and a caret under the fault.

    Attributes:
        source: The text of the rule.
        position: The index in `source` of the fault, or None where there is no text to point at.
    """

    def __init__(self, message: str, source: str | None = None, position: int | None = None):
        self.source = source
        self.position = position
        if source is not None and position is not None:
            line = "".join(" " if c.isspace() else c for c in source)
            # A long rule is shown by the part around the fault.
            start = max(0, position - 60)
            shown = line[start : position + 60]
            message = f"{message}\n  {shown}\n  {' ' * (position - start)}^"
        super().__init__(message)
