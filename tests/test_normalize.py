"""Transcript normalisation: what labels look like, and that a second pass changes nothing."""

import random

import pytest

from omni_avsr.normalize import normalize_for_scoring, normalize_label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BIN BLUE AT F TWO NOW", "bin blue at f two now"),
        ("  Hello,\t world!\n", "hello world"),
        ("I DON\u2019T KNOW", "i don't know"),
        ("rock 'n' roll, the dogs' \u2018home\u2019", "rock n roll the dogs home"),
        ("and then {NS} we {LG}left", "and then we left"),
        ("well [background noise] yes <unk> no (quietly)", "well yes no quietly"),
        ("a < b and c > d", "a b and c d"),
        ("twenty-one\u2014or 22", "twenty one or 22"),
        ("1,000,000 people, 3.5 %", "1000000 people 3 5"),
        ("\uff26\uff35\uff2c\uff2c caf\u0065\u0301", "full caf\u00e9"),
        ("co\u00adoperate", "cooperate"),
        ("snake_case", "snake case"),
        ("हिन्दी में", "हिन्दी में"),
    ],
)
def test_label_is_lower_case_words_without_punctuation(text: str, expected: str) -> None:
    assert normalize_label(text) == expected


@pytest.mark.parametrize("text", ["", "  ", "{NS}", "...", "'"])
def test_text_without_words_becomes_empty(text: str) -> None:
    assert normalize_label(text) == ""


def test_second_pass_changes_nothing() -> None:
    pool = "aJ1,.'\u2019\u00b4\u030c\u0301\u200d{}[]<>() \u0130\u0149\u01c5\u03a3\u00ad\ufb00-_ 23\u03a9\u0345"
    generator = random.Random(0)
    texts = ["".join(generator.choices(pool, k=generator.randint(0, 12))) for _ in range(5_000)]
    texts += [f"a{chr(code)}b {chr(code)}" for code in range(0x3000)]
    for text in texts:
        once = normalize_label(text)
        assert normalize_label(once) == once, repr(text)


def test_reference_and_hypothesis_meet_in_scoring() -> None:
    assert normalize_for_scoring("It\u2019s {NS} LATE.") == normalize_for_scoring("it's late")
