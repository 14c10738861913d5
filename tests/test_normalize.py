"""Transcript normalisation: what labels look like, and that a second pass changes nothing."""

import csv
import random
import time
from pathlib import Path

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
        ("twenty-one\u2014or 22", "twenty one or twenty two"),
        ("1,000,000 people, 3.5 %", "one million people three point five percent"),
        ("IN THE 1990'S {LAUGH} I WAS 16", "in the nineteen nineties i was sixteen"),
        ("SO THAT'S 2/3 OF A T-SHIRT", "so that's two thirds of a t shirt"),
        ("The '60s; the class of '98", "the sixties the class of ninety eight"),
        ("AT&T, R & B", "at and t r and b"),
        ("a_1 \u2116 5", "a one no five"),
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
    pool = "aJ1&$,.'\u2019\u00b4\u030c\u0301\u200d{}[]<>() \u0130\u0149\u01c5\u03a3\u00ad\ufb00-_ 23\u03a9\u0345"
    generator = random.Random(0)
    texts = ["".join(generator.choices(pool, k=generator.randint(0, 12))) for _ in range(5_000)]
    texts += [f"a{chr(code)}b {chr(code)}" for code in range(0x3000)]
    for text in texts:
        once = normalize_label(text)
        assert normalize_label(once) == once, repr(text)


@pytest.mark.parametrize("char", [chr(code) for code in range(128) if not chr(code).isdigit()])
def test_an_accent_elsewhere_changes_nothing_for_plain_text(char: str) -> None:
    plain = f"a{char}b {char}c 'd{char}'e{char}"
    assert normalize_label(f"{plain} \u00e9") == f"{normalize_label(plain)} \u00e9"


def test_transcripts_without_digits_keep_their_words(shared: Path) -> None:
    texts = []
    for name in ("librispeech_test_other", "lombard_grid", "grid_unseen"):
        with (shared / "data" / name / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
            texts += [row["text"] for row in csv.DictReader(file, delimiter="\t")]
    for alignment in sorted((shared / "data" / "grid" / "s1").glob("*.align"))[:100]:
        texts.append(" ".join(line.split()[2] for line in alignment.read_text(encoding="utf-8").splitlines()))
    assert len(texts) > 300
    for text in texts:
        assert normalize_label(text.upper()) == text


def test_a_hundred_thousand_sentences_take_seconds() -> None:
    sentence = "I'm going to talk about how people think, really. What's more?"
    started = time.process_time()
    for _ in range(10_000):
        normalize_label(sentence)
    assert time.process_time() - started < 1


def test_reference_and_hypothesis_meet_in_scoring() -> None:
    assert normalize_for_scoring("It\u2019s {NS} LATE.") == normalize_for_scoring("it's late")
    assert normalize_for_scoring("In 2007, 105 of them") == "in two thousand seven one hundred five of them"


def test_scoring_rewrites_no_words() -> None:
    assert normalize_for_scoring("one hundred and five") == "one hundred and five"
