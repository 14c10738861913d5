"""Normalises transcripts, for labels and for scoring."""

from __future__ import annotations

import re
import unicodedata

NORMALIZER_VERSION = 1
"""Changes whenever an output of this module changes; results record it, since WERs of two versions do not compare."""

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u02bb\u00b4\u0060\u2032", "'"))
_TAG = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|<[^<>\s]*>")
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def normalize_label(text: str) -> str:
    """The transcript as the model is to write it: lower-case words, single spaces, no punctuation, as in Omni-AVSR.

    NFKC; typographic apostrophes become "'"; noise tags (``{NS}``, ``[laughter]``, ``<unk>``) go with their content,
    while only the signs of round brackets go; apostrophes stay inside words; all other punctuation and symbols separate
    words, except a comma that groups thousands. Digits stay digits. Applying it twice changes nothing more.
    """
    # Invisible characters go first: between a letter and its accent they would keep NFKC from joining the two.
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    # Lower-casing can open new compositions (j with caron exists only in lower case), and NFKC new apostrophes.
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    text = _THOUSANDS_COMMA.sub("", _TAG.sub(" ", text))
    kept = [char if _belongs_to_word(text, at) else " " for at, char in enumerate(text)]
    return " ".join("".join(kept).split())


def normalize_for_scoring(text: str) -> str:
    """What reference and hypothesis both pass through before errors are counted: today the label normalisation."""
    return normalize_label(text)


def _belongs_to_word(text: str, at: int) -> bool:
    if text[at] != "'":
        return _is_word_character(text[at])
    return 0 < at < len(text) - 1 and _is_word_character(text[at - 1]) and _is_word_character(text[at + 1])


def _is_word_character(char: str) -> bool:
    """Letters, numbers, and the combining marks that many scripts write vowels with."""
    return unicodedata.category(char)[0] in "LMN"
