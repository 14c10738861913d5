"""Spells out the digits of an English text, as an American speaker would most likely have said them.

What was said cannot be known from ``1/2`` or ``1500``; one reading is chosen for each form, always the same:

============================================  ==========================================================
``5``, ``105``, ``1,500``                     five, one hundred five (no "and"), one thousand five hundred
``1991``, ``1500``, ``2007``, ``2010``        four digits from 1100 to 2099 without a comma are a year: nineteen ninety
                                              one, fifteen hundred, two thousand seven, twenty ten; 1905 is nineteen
                                              oh five
``1990s``, ``'90s``, ``90's``, ``747s``       nineteen nineties, nineties, nineties, seven hundred forty sevens
``2019's``                                    twenty nineteen's: ``'s`` is a plural behind a multiple of ten alone
``1st``, ``21st``                             first, twenty first
``3.5``, ``.05``, ``2.0.1``                   three point five, point zero five, two point zero point one
``5%``, ``20°``                               five percent, twenty degrees
``$5``, ``£3.50``, ``€1``, ``5€``             five dollars, three pounds fifty pence, one euro, five euros
``$5 million``, ``$2.5bn``                    five million dollars, two point five billion dollars
``10:30``, ``10:05``, ``10:00``               ten thirty, ten oh five, ten
``10-15``, ``1914-18``, ``$5-10``             ten to fifteen, nineteen fourteen to eighteen, five to ten dollars
``50-50``, ``555-123-4567``                   no range unless it rises from one number to another: fifty fifty
``1/2``, ``3/4``, ``2 1/2``                   one half, three quarters, two and a half
``24/7``, ``9/11``                            no fraction unless it is less than 1, in tenths or coarser: nine eleven
``-5``                                        minus five, at the beginning of a word
``3d``, ``mp3``, ``b2b``, ``4x4``             three d, mp three, b two b, four x four
``007``, ``1234567890123456``                 a leading zero, or more than 15 digits: digit by digit
============================================  ==========================================================
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

MAX_CARDINAL_DIGITS = 15
"""Numbers up to hundreds of trillions are read as such; longer ones are identifiers, which people spell."""

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = rf"{_WHOLE}(?:\.\d+)*"
_AMOUNT = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)"
# Bounded, for a pattern that asks for more behind a number would else search long runs of digits again and again.
_SHORT_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,2}|\d{1,9})(?:\.\d{1,9})?"
_SYMBOL = r"[$£€¥₹]"

_DIGIT = re.compile(r"\d")
_YEAR = re.compile(r"1[1-9]\d\d|20\d\d")
_MINUS = re.compile(rf"(?<![^\s(])[-\u2212](?={_SYMBOL}?\.?\d)")
_RANGE = re.compile(
    rf"(?<![\w.,:/-])({_SYMBOL}?)({_SHORT_NUMBER})[-\u2013]({_SYMBOL}?)({_SHORT_NUMBER})(?![\d:/]|[-.,]\d)"
)
_SYMBOL_BEHIND = re.compile(rf"(?<![\d.,$£€¥₹])({_NUMBER})({_SYMBOL})(?!\.?\d)")
_MONEY = re.compile(
    rf"({_SYMBOL})\s?({_AMOUNT})(?:\s?(hundred|thousand|million|billion|trillion)\b|(k|m|mn|b|bn|t|tn)\b)?"
)
_TIME = re.compile(r"(?<![\d:.,])(\d{1,2}):(\d\d)(?![\d:]|[.,]\d)")
_FRACTION = re.compile(
    r"(?<![\w.,:/\u2044])(?:(\d{1,3})\s)?(\d{1,2})[/\u2044]([2-9]|10)(?:(?:nd|rd|th)s?)?(?![\w/\u2044]|[.,]\d)"
)
_ANY_NUMBER = re.compile(rf"({_NUMBER}|(?<![^\s(])\.\d+)(?:\s?([%°])|(st|nd|rd|th)(?!\w)|('?s)(?!\w))?('(?=[a-z]))?")


@dataclass(frozen=True)
class _Currency:
    one: str
    many: str
    one_part: str = ""
    many_parts: str = ""


_CURRENCIES = {
    "$": _Currency("dollar", "dollars", "cent", "cents"),
    "£": _Currency("pound", "pounds", "penny", "pence"),
    "€": _Currency("euro", "euros", "cent", "cents"),
    "¥": _Currency("yen", "yen"),
    "₹": _Currency("rupee", "rupees", "paisa", "paise"),
}
_SCALES = {
    "k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "t": "trillion", "tn": "trillion"
}  # fmt: skip


def spell_numbers(text: str) -> str:
    """``text`` (lower case, NFKC) with words in place of all decimal digits, of whatever script, and of the signs that
    belong to them. The words are set off by spaces; the rest stays as it is. Never raises.
    """
    if not _DIGIT.search(text):
        return text
    text = _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
    text = _MINUS.sub(" minus ", text)
    text = _RANGE.sub(_spell_range, text)
    text = _SYMBOL_BEHIND.sub(r"\2\1", text)
    text = _MONEY.sub(_spell_money, text)
    text = _TIME.sub(_spell_time, text)
    text = _FRACTION.sub(_spell_fraction, text)
    return _ANY_NUMBER.sub(_spell_number, text)


def _spell_range(match: re.Match[str]) -> str:
    """Only the dash is spelled, and a symbol that stands for both numbers moves to the second."""
    symbol, low, second_symbol, high = match.groups()
    start, end = (float(number.replace(",", "")) for number in (low, high))
    if _YEAR.fullmatch(low) and len(high) == 2:
        end += start // 100 * 100
    if start >= end or _has_leading_zero(low) or _has_leading_zero(high):
        return match[0]
    return f"{symbol}{low} to {second_symbol}{high}" if second_symbol else f"{low} to {symbol}{high}"


def _spell_money(match: re.Match[str]) -> str:
    symbol, amount, scale, short_scale = match.groups()
    currency = _CURRENCIES[symbol]
    whole, _, parts = amount.partition(".")
    if scale or short_scale:
        return f" {_cardinal(amount)} {scale or _SCALES[short_scale]} {currency.many} "
    if len(parts) != 2 or not currency.one_part:
        return f" {_cardinal(amount)} {currency.one if amount == '1' else currency.many} "
    coins = f"{_cardinal(str(int(parts)))} {currency.one_part if parts == '01' else currency.many_parts}"
    if whole in ("", "0"):
        return f" {coins} "
    notes = f"{_cardinal(whole)} {currency.one if whole == '1' else currency.many}"
    return f" {notes} " if parts == "00" else f" {notes} {coins} "


def _spell_time(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    if hour > 24 or minute > 59:
        return match[0]
    minutes = "" if minute == 0 else f"oh {_say(minute)}" if minute < 10 else _say(minute)
    return f" {_say(hour)} {minutes} "


def _spell_fraction(match: re.Match[str]) -> str:
    numerator, denominator = int(match[2]), int(match[3])
    if not 0 < numerator < denominator:
        return match[0]
    part = {2: "half", 4: "quarter"}.get(denominator) or _say(denominator, "ordinal")
    parts = part if numerator == 1 else _plural(part)
    if match[1] is None:
        return f" {_say(numerator)} {parts} "
    return f" {_cardinal(match[1])} and {'a' if numerator == 1 else _say(numerator)} {parts} "


def _spell_number(match: re.Match[str]) -> str:
    number, unit, ordinal, plural, apostrophe = match.groups()
    if unit is not None:
        name = "percent" if unit == "%" else "degree" if number == "1" else "degrees"
        words = f"{_cardinal(number)} {name}"
    elif ordinal is not None:
        words = _ordinal(number) or f"{_cardinal(number)} {ordinal}"
    else:
        words = _say(int(number), "year") if _YEAR.fullmatch(number) else _cardinal(number)
    if plural is not None:
        is_plural = plural == "s" or (number.endswith("0") and number != "0")
        words = _plural(words) if is_plural else f"{words}'s"
    return f" {words}'" if apostrophe else f" {words} "


def _cardinal(number: str) -> str:
    """Digits with commas between thousands and any number of points, which are said."""
    whole, *fractions = number.replace(",", "").split(".")
    spelled = len(whole) > MAX_CARDINAL_DIGITS or _has_leading_zero(whole)
    words = [_digit_by_digit(whole) if spelled else _say(int(whole))] if whole else []
    return " ".join([*words, *(f"point {_digit_by_digit(fraction)}" for fraction in fractions)])


def _ordinal(number: str) -> str | None:
    """None for what has no ordinal: decimals, and numbers that are read digit by digit."""
    digits = number.replace(",", "")
    if "." in digits or len(digits) > MAX_CARDINAL_DIGITS or _has_leading_zero(digits):
        return None
    return _say(int(digits), "ordinal")


def _has_leading_zero(number: str) -> bool:
    return number[:1] == "0" and number[1:2].isdecimal()


def _digit_by_digit(digits: str) -> str:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return " ".join(names[int(digit)] for digit in digits)


def _plural(words: str) -> str:
    if words.endswith("half"):
        return f"{words[:-1]}ves"
    return f"{words[:-1]}ies" if words.endswith("ty") else f"{words}es" if words.endswith("x") else f"{words}s"


def _say(number: int, kind: Literal["cardinal", "ordinal", "year"] = "cardinal") -> str:
    # Imported with the first digit: the library loads all of its languages, and most texts hold no digit.
    from num2words import num2words

    words = num2words(number, lang="en", to=kind)
    return words.replace(",", "").replace("-", " ").replace(" and ", " ")
