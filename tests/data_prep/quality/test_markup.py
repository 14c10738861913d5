"""Text in the page: whatever a name holds, it is shown and does nothing."""

import pytest

from data_prep.quality.markup import count, percent, plain, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s1/bbaf2n", "s1/bbaf2n"),
        ("<b>&\"'", "&lt;b&gt;&amp;&quot;&#x27;"),
        ("caf\u00e9 \u0939\u093f", "caf\u00e9 \u0939\u093f"),
        ("a\nb\tc\0d", "a\\nb\\tc\\x00d"),
        ("\u202eflipped\u200b", "\\u202eflipped\\u200b"),
        ("lone \udcff byte", "lone \\udcff byte"),
    ],
)
def test_text_shows_its_characters_and_no_more(text: str, expected: str) -> None:
    assert visible(text) == expected
    visible(text).encode("utf-8")


def test_long_text_is_cut_before_it_is_escaped() -> None:
    assert plain("x" * 12, 10) == "x" * 9 + "\u2026"
    assert plain("x" * 10, 10) == "x" * 10
    assert visible("<" * 12, 10) == "&lt;" * 9 + "\u2026"


def test_shares_are_rounded_but_never_to_nothing_or_all() -> None:
    assert [percent(part, 100_000) for part in (0, 1, 12_345, 50_000, 99_999, 100_000)] == [
        "0\u00a0%",
        "&lt; 0.1\u00a0%",
        "12.3\u00a0%",
        "50\u00a0%",
        "&gt; 99.9\u00a0%",
        "100\u00a0%",
    ]
    assert percent(0, 0) == "\u2013"
    assert count(1234567) == "1,234,567"
