"""Text that nobody obeys: what names of others become wherever they are printed or written."""

import unicodedata


def printable(value: object, keep: str = "") -> str:
    r"""Return text on one line that no reader obeys: a terminal, an editor or a parser of lines.

    Control characters, line separators, marks that turn the direction of writing, and halves of
    surrogate pairs, which no encoding holds, become escapes as in Python.

    Args:
        value: any value; its text is taken.
        keep: control characters that stay, such as a line break.

    Examples:
        >>> printable("red\x1b[31m\nline")
        'red\\x1b[31m\\nline'
        >>> printable("naïve Σ")
        'naïve Σ'
    """

    def escaped(character: str) -> str:
        obeyed = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        if not obeyed or character in keep:
            return character
        return character.encode("unicode_escape", "surrogatepass").decode()

    return "".join(map(escaped, str(value)))
