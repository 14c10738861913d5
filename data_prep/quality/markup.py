"""Text and figures as they stand in the page: safe as HTML, visible, of bounded length."""

from __future__ import annotations

import html

MAX_LENGTH = 240


def visible(text: str, max_length: int = MAX_LENGTH) -> str:
    """``plain`` text as HTML that shows just its characters."""
    return html.escape(plain(text, max_length))


def plain(text: str, max_length: int) -> str:
    """``text`` with an escape for each character that cannot be seen or encoded; the end of a longer text is cut off.

    Names may hold all that a file system takes: line ends, signs that turn the direction of writing, and lone
    surrogates, which stand for bytes that are no UTF-8.
    """
    shown = text if len(text) <= max_length else f"{text[: max_length - 1]}…"
    return "".join(char if char.isprintable() else _escape(char) for char in shown)


def count(number: int) -> str:
    return f"{number:,}"


def percent(part: float, whole: float) -> str:
    """``part`` of ``whole`` to a tenth; only nothing is told as 0 and only all of it as 100."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "&lt; 0.1\u00a0%"
    if 99.9 < share < 100:
        return "&gt; 99.9\u00a0%"
    return f"{share:.1f}".removesuffix(".0") + "\u00a0%"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
