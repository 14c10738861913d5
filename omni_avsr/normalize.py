"""Normalises transcripts, for labels and for scoring."""

from __future__ import annotations

import re
import unicodedata

from omni_avsr.numerals import spell_numbers

NORMALIZER_VERSION = 2
"""Changes whenever an output of this module changes; results record it, since WERs of two versions do not compare.

Version 2 spells out digits, percent, currencies and "&", which version 1 left as they were or dropped.
"""

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u02bb\u00b4\u0060\u2032", "'"))
_TAG = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|<[^<>\s]*>")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")


def normalize_label(text: str) -> str:
    """The transcript as the model is to write it: lower-case words, single spaces, no punctuation, as in Omni-AVSR.

    NFKC; typographic apostrophes become "'"; noise tags (``{NS}``, ``[laughter]``, ``<unk>``) go with their content,
    while only the signs of round brackets go; numbers become English words (``omni_avsr.numerals`` tells how) and "&"
    becomes "and"; apostrophes stay inside words; all other punctuation and symbols separate words. Applying it twice
    changes nothing more.
    """
    text = _TAG.sub(" ", _canonical(text)).replace("&", " and ")
    return " ".join(_words(spell_numbers(text)))


def normalize_for_scoring(text: str) -> str:
    """What reference and hypothesis both pass through before errors are counted: today the label normalisation.

    Words are never rewritten: "one hundred and five" against "one hundred five" is one error. To forgive it would take
    every "and" beside a number for its part, and would change the scores of corpora that hold no digits at all.
    """
    return normalize_label(text)


def _canonical(text: str) -> str:
    """Lower case, one code for one character, "'" for every apostrophe."""
    if text.isascii():
        return text.lower().translate(_APOSTROPHES)
    # Invisible characters go first: between a letter and its accent they would keep NFKC from joining the two.
    text = "".join(_set_apart(char) for char in text if unicodedata.category(char) != "Cf")
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    # Lower-casing can open new compositions (j with caron exists only in lower case), and NFKC new apostrophes.
    return unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)


def _set_apart(char: str) -> str:
    """NFKC would make 102 of 10², and 11/2 of 1½."""
    return f" {char} " if unicodedata.category(char) == "No" else char


def _words(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return "".join(char if _belongs_to_word(text, at) else " " for at, char in enumerate(text)).split()


def _belongs_to_word(text: str, at: int) -> bool:
    if text[at] != "'":
        return _is_word_character(text[at])
    return 0 < at < len(text) - 1 and _is_word_character(text[at - 1]) and _is_word_character(text[at + 1])


def _is_word_character(char: str) -> bool:
    """Letters, numbers, and the combining marks that many scripts write vowels with."""
    return unicodedata.category(char)[0] in "LMN"
