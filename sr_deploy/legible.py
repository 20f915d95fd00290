"""Text of unknown origin, made fit to be read: nothing in it acts on a terminal, and it has an end.

File names, keys of checkpoints, metadata of graphs and messages of libraries may hold anything: escape sequences that
recolor a terminal or put words into its input, characters that turn the direction of reading, line breaks, half of a
surrogate pair, megabytes.
"""

from __future__ import annotations

import unicodedata

MAX_CHARACTERS = 2000
"""Of a line that is shown."""
_KEPT_AT_END = 400
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what is no visible character: controls, format characters, surrogates, line breaks."""
_JOINERS = "\u200c\u200d"
"""Format characters that only join what stands beside them: words of several scripts and some emoji need them."""


def make_legible(text: str, max_length: int = MAX_CHARACTERS) -> str:
    r"""One line of at most `max_length` characters; of a longer one the middle is left out.

    What is no visible character is shown as `\x1b`, `\n` or `\u202e`; a byte of a file name that is no UTF-8 as that
    byte: `\xff`.
    """
    short = shorten(text, max_length)
    # All but the rarest text is printable; what is not may still be a space of another script.
    return short if short.isprintable() else shorten("".join(map(_escape, short)), max_length)


def shorten(text: str, max_length: int = MAX_CHARACTERS) -> str:
    """The text itself up to `max_length` characters; of a longer one the beginning and the end."""
    if len(text) <= max_length:
        return text
    end = min(_KEPT_AT_END, max_length // 4)
    note = f" ... ({len(text) - max_length} characters left out) ... "
    return text[: max_length - end - len(note)] + note + text[-end:]


def show_value(value: object, max_length: int = 120) -> str:
    """A value that was read from a file, for a message: in at most `max_length` characters."""
    if isinstance(value, int) and value.bit_length() > max_length:  # Python writes no number of more than 4300 digits
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list | tuple | set | dict):
        parts = value.values() if isinstance(value, dict) else value
        if len(value) > max_length or any(map(_is_nested, parts)):
            return f"a {type(value).__name__} of {len(value)}"
    return shorten(repr(value), max_length)


def _is_nested(value: object) -> bool:
    return isinstance(value, list | tuple | set | dict) or (isinstance(value, int) and value.bit_length() > 1000)


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _ACTING or character in _JOINERS:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
