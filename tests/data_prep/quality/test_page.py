"""The quality page as a file: whole, safe, the same each time, and its counts add up."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from data_prep.quality import sections
from data_prep.quality.page import write_quality_page
from data_prep.quality.sheets import Strip
from data_prep.rejection import Problem, Reason, Rejection
from omni_avsr.media import write_video
from omni_avsr.types import Clip

VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Texts, headings, tables and attributes of a page; asserts that its tags are nested well."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append((self.open[-1], data))
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(autouse=True)
def _charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, so most pages have empty pictures for charts."""
    if "real_charts" not in request.fixturenames:
        monkeypatch.setattr(sections, "histogram", lambda *arguments: "data:image/svg+xml;base64,")


@pytest.fixture
def real_charts() -> None:
    """Charts are drawn in the tests that ask for this."""


def write(path: Path, *arguments: object, **options: object) -> Page:
    write_quality_page(path, *arguments, **options)  # type: ignore[arg-type]
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Six clips of two splits, one of which is heard alone and one of which cannot be read."""
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0).integers(0, 256, (10, 96, 96)).astype(np.uint8)
    write_video(folder / "v.mp4", noise)
    (folder / "torn.mp4").write_bytes((folder / "v.mp4").read_bytes()[:300])
    clips = [
        Clip(
            id=f"s{n % 2}/clip{n}",
            text="bin blue at f two now",
            split="train" if n < 4 else "test",
            seconds=900.0,
            audio=folder / "a.flac",
            video=folder / ("torn.mp4" if n == 3 else "v.mp4"),
            num_frames=10,
            speaker=f"s{n % 2}",
            quality={"detected": 1 - n / 10, "face_size": 100.0 + n},
        )
        for n in range(5)
    ]
    return [*clips, Clip(id="heard", text="only heard", split="test", seconds=900.0, audio=folder / "a.flac")]


REJECTIONS = [
    Rejection("s1/a", "s1/a.mpg", Reason.NO_FACE, "s1/a.mpg: no face in any of 75 frames"),
    Rejection("s1/b", "s1/b.mpg", Reason.CORRUPT, "s1/b.mpg: the file is empty"),
    Rejection("s1/c", "s1/c.mpg", Reason.NO_FACE, "s1/c.mpg: no face in any of 75 frames"),
]


def test_counts_add_up(tmp_path: Path, clips: list[Clip]) -> None:
    page = write(tmp_path / "page.html", clips, REJECTIONS, "A corpus")
    assert re.search(
        r"Clips in\s*9\s*Prepared\s*6\s*66\.7\s%\s*Rejected\s*3\s*33\.3\s%\s*Prepared hours\s*1\.5", page.text
    )
    assert page.rows[:4] == [
        ["split", "clips", "hours", "words", "speakers", "with video", "with audio"],
        ["train", "4", "1.0", "24", "2", "4", "4"],
        ["test", "2", "0.5", "8", "1", "1", "2"],
        ["all", "6", "1.5", "32", "2", "5", "6"],
    ]
    assert page.rows[4:6] == [["reason", "clips", "of clips in"], ["no face", "2", "22.2\u00a0%"]]
    assert page.rows[7] == ["corrupt", "1", "11.1\u00a0%"]
    assert "s1/b s1/b.mpg: the file is empty" in page.text
    assert "1 speaker is in more than one split." in page.text


def test_sections_stand_in_order_under_one_title(tmp_path: Path, clips: list[Clip]) -> None:
    page = write(tmp_path / "page.html", clips, REJECTIONS, "A corpus")
    charts = ("Length", "Words per clip", "Face size", "Frames with a face")
    assert page.headings == [
        ("h1", "A corpus"),
        ("h2", "Splits"),
        ("h2", "Rejected"),
        ("h2", "Distributions"),
        *(("h3", chart) for chart in charts),
        ("h2", "Random clips"),
        ("h2", "Worst clips"),
    ]


@pytest.mark.usefixtures("real_charts")
def test_the_page_needs_nothing_but_itself(tmp_path: Path, clips: list[Clip]) -> None:
    page = write(tmp_path / "page.html", clips, REJECTIONS, "A corpus")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert not {"script", "link", "iframe", "object", "embed", "a", "base", "form"} & set(page.tags)
    sources = [value for _, name, value in page.attributes if name in ("src", "srcset", "href")]
    assert len(sources) > 10
    assert all(source.startswith("data:image/") for source in sources)
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"url\(|@import", text)
    assert any(value.startswith("default-src 'none'; img-src data:;") for _, _, value in page.attributes)


@pytest.mark.usefixtures("real_charts")
def test_same_input_gives_the_same_bytes(tmp_path: Path, clips: list[Clip]) -> None:
    for name in ("a", "b"):
        write_quality_page(tmp_path / name, clips, REJECTIONS, "A corpus")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_seed_chooses_the_random_clips(tmp_path: Path) -> None:
    many = [Clip(f"x{n:02d}", "text", "train", 1.0, video=Path("none.mp4"), num_frames=9) for n in range(60)]
    texts = [write(tmp_path / "page.html", many, [], "A corpus", seed=seed).text for seed in (0, 0, 1)]
    assert texts[0] == texts[1]
    assert set(re.findall(r"x\d\d", texts[0])) != set(re.findall(r"x\d\d", texts[2]))


def test_a_clip_that_cannot_be_read_appears_as_such(tmp_path: Path, clips: list[Clip]) -> None:
    page = write(tmp_path / "page.html", clips, [], "A corpus")
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert "Frames of s1/clip1" in pictures
    assert "Frames of s1/clip3" not in pictures
    assert "torn.mp4" in page.text
    assert "s1/clip3" in page.text


def test_clips_stand_with_their_text_and_figures_and_the_worst_comes_first(tmp_path: Path, clips: list[Clip]) -> None:
    page = write(tmp_path / "page.html", clips, [], "A corpus")
    worst = " ".join(page.text.split("Worst clips")[1].split())
    assert worst.index("s0/clip4") < worst.index("s1/clip3") < worst.index("s0/clip0")
    assert "s0/clip4 face in 60 %, 104 px bin blue at f two now" in worst
    assert "heard" not in worst


def test_names_and_texts_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=y>\u202e\udcff\0"
    clips = [
        Clip(evil, evil, evil, 1.0, video=tmp_path / "v.mp4", num_frames=5, speaker=evil, quality={"detected": 0.5})
    ]
    clips.append(Clip("b", "text", "$test_{", 1.0, audio=tmp_path / "a.flac"))
    page = write(tmp_path / "page.html", clips, [Rejection(evil, evil, Reason.BAD_NAME, evil)], evil)
    assert "script" not in page.tags
    assert {name for _, name, _ in page.attributes}.isdisjoint({"onerror", "onload", "onclick"})
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "\\u202e\\udcff\\x00" in page.text


@pytest.mark.usefixtures("real_charts")
def test_an_empty_corpus_has_a_page(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html", [], [], "Nothing")
    for sentence in (
        "No clip was prepared.",
        "No clip was rejected.",
        "No clip has this figure.",
        "No clip has video.",
    ):
        assert sentence in page.text
    assert "img" not in page.tags


def test_a_corpus_of_which_all_is_rejected_has_a_page(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html", [], REJECTIONS, "Nothing")
    assert ["no face", "2", "66.7\u00a0%"] in page.rows
    assert [value for tag, name, value in page.attributes if (tag, name) == ("i", "class")] == ["rejected"]


def test_a_corpus_without_video_has_charts_of_lengths_and_no_sheets(tmp_path: Path) -> None:
    clips = [Clip(str(n), "some words", "test", 2.0 + n, audio=Path("a.flac")) for n in range(3)]
    page = write(tmp_path / "page.html", clips, [], "Heard")
    assert page.rows[1:] == [["test", "3", "0.1", "6", "\u2013", "0", "3"]]
    assert page.tags.count("img") == 2
    assert page.text.count("No clip has this figure.") == 2
    assert "No clip has video and figures of its face." in page.text


def test_the_size_is_bounded_whatever_the_corpus(tmp_path: Path, clips: list[Clip]) -> None:
    long = "x" * 5_000
    many = [
        Clip(
            f"{n}{long}", long, f"split{n}", 1.0 + n, video=clips[0].video, num_frames=10, quality={"detected": n / 600}
        )
        for n in range(600)
    ]
    rejections = [Rejection(f"{n}{long}", long, reason, long) for n in range(10) for reason in Reason]
    page = write(tmp_path / "page.html", many, rejections, long)
    assert page.tags.count("img") <= 4 + 48
    assert "581 other splits" in page.text
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


def test_with_a_time_limit_another_process_decodes_the_same_page(tmp_path: Path, clips: list[Clip]) -> None:
    write_quality_page(tmp_path / "here.html", clips[:2], [], "A corpus")
    write_quality_page(tmp_path / "there.html", clips[:2], [], "A corpus", time_limit=60)
    assert (tmp_path / "here.html").read_bytes() == (tmp_path / "there.html").read_bytes()


def test_a_decoder_that_hangs_costs_its_clip_alone(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_hangs(function: Callable[[Clip], Strip], jobs: list[Clip], **options: object) -> Iterator[object]:
        assert options["time_limit"] == 7
        yield jobs[0], Problem(Reason.TIMEOUT, "not done after 7 s")
        yield from ((job, function(job)) for job in jobs[1:])

    monkeypatch.setattr("data_prep.quality.page.run_jobs", first_hangs)
    page = write(tmp_path / "page.html", clips[:2], [], "A corpus", time_limit=7)
    assert page.text.count("not done after 7 s") == 2
    assert [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")][-1] == "Frames of s1/clip1"
