"""Text from anywhere, made safe to show."""

import unicodedata


def printable(text: str) -> str:
    r"""
    Text that can only be read: no escape sequence of a trace moves a terminal's cursor, no direction character makes
    it look like another text.

    Args:
        text (`str`):
            Text from anywhere.

    Returns:
        `str`: The text with control and direction characters written out (`\x1b`), but for newlines, tabs and joiners.
    """

    # The joiners of scripts and emoji change no order
    kept = "\n\t\u200c\u200d"

    def shown(character):
        if character in kept or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co"):
            return character
        return character.encode("unicode_escape").decode()

    return "".join(map(shown, text.replace("\r\n", "\n")))
