"""Characters that nobody sees, made visible where text from outside is shown.

A name with U+202E in it is read backwards, one with U+2028 or a line break stands on two lines and
may pose as another entry, and two names that differ by a zero-width space alone look the same.
"""

import unicodedata

#: Controls, formats (directions and zero widths among them), halves of characters, separators of
#: lines and paragraphs.
_UNSEEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
#: Letters and a symbol that are blank (Unicode, Default_Ignorable_Code_Point, and Braille).
_BLANKS = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"


def visible(text: str, keep: str = "") -> str:
    r"""Text in which characters that can't be seen are written out, such as ``\u202e``.

    Args:
        text: Any text.
        keep: Characters that stay, such as line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _written_out(char) if char not in keep and _is_unseen(char) else char for char in text
    )


def _is_unseen(char: str) -> bool:
    return unicodedata.category(char) in _UNSEEN_CATEGORIES or char in _BLANKS


def _written_out(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
