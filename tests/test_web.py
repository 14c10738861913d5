"""The page of ``omni-avsr demo``: what it shows, and that a real browser can use it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_checkpoint import TRAINING, random_audio, random_video, save_tiny_checkpoint, write_muxed

import omni_avsr
from omni_avsr.media import read_video, write_audio
from omni_avsr.transcribe import Transcriber
from omni_avsr.types import Rates, Task
from omni_avsr.web import ENLARGED, build_page, launch, nearest, show

FRAMES = 30
BROWSER = os.environ.get("OMNI_AVSR_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
SECOND = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    save_tiny_checkpoint(folder)
    write_muxed(folder / "clip.mkv", random_audio(FRAMES, 1), random_video(FRAMES, 1))
    write_audio(folder / "sound.wav", random_audio(FRAMES, 1))
    (folder / "broken.mp4").write_bytes(b"this is no video")
    return folder


@pytest.fixture(scope="module")
def transcriber(folder: Path) -> Transcriber:
    return omni_avsr.load(folder / "checkpoint")


def test_a_clip_is_shown_with_its_mouth_words_cost_and_all_rates(
    transcriber: Transcriber, folder: Path, tmp_path: Path
) -> None:
    shown = show(transcriber, folder / "clip.mkv", "auto", Rates(5, 3), tmp_path)
    assert shown.text == transcriber.transcribe(folder / "clip.mkv", "avsr", (5, 3))
    assert [row[0] for row in shown.words] == shown.text.split()
    assert [row[0] for row in shown.rates] == ["2,1", "2,3", "5,1", "5,3"]
    for row in shown.rates:
        assert row[1] == transcriber.transcribe(folder / "clip.mkv", "avsr", [int(n) for n in str(row[0]).split(",")])
    assert [row[2:4] for row in shown.rates] == [[30, 30], [30, 10], [12, 30], [12, 10]]
    assert "task: avsr at 5,3" in shown.cost
    assert "12 audio tokens, 10 video tokens" in shown.cost
    assert shown.mouth is not None
    assert read_video(shown.mouth).shape == (FRAMES, 96 * ENLARGED, 96 * ENLARGED, 3)


def test_sound_alone_shows_no_mouth_and_says_why(transcriber: Transcriber, folder: Path, tmp_path: Path) -> None:
    shown = show(transcriber, folder / "sound.wav", "auto", Rates(2, 1), tmp_path)
    assert shown.mouth is None
    assert [row[0] for row in shown.rates] == ["2", "5"]
    assert "**note**: no video stream: asr in place of avsr" in shown.cost
    with pytest.raises(ValueError, match="no video stream"):
        show(transcriber, folder / "sound.wav", Task.VSR, Rates(2, 1), tmp_path)


def test_a_sliders_position_is_the_nearest_trained_rate() -> None:
    assert [nearest(value, (16, 4, 8)) for value in (4, 5, 6, 7, 12, 13, 99)] == [4, 4, 4, 8, 8, 16, 16]


@pytest.fixture(scope="module")
def address(transcriber: Transcriber) -> Iterator[str]:
    page = build_page(transcriber)
    yield launch(page, "127.0.0.1", None, block=False)
    page.close()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: install chromium, or name one in OMNI_AVSR_BROWSER")
def test_a_visitor_uploads_a_clip_reads_the_transcript_and_sees_errors(
    address: str, transcriber: Transcriber, folder: Path, tmp_path: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 1100})
        page.goto(address)
        page.get_by_text(f"This checkpoint knows: {TRAINING['domain']}").wait_for(timeout=30 * SECOND)

        page.locator("#transcribe").click()
        page.get_by_text("Choose or record a clip first.").wait_for(timeout=10 * SECOND)

        page.get_by_role("tab", name="Sound").click()
        page.locator("#sound input[type=file]").set_input_files(folder / "sound.wav")
        page.locator("#sound audio, #sound .waveform-container").first.wait_for(state="attached", timeout=20 * SECOND)
        page.locator("#transcribe").click()
        text = transcriber.transcribe(folder / "sound.wav", "asr", (2, 1))
        playwright.expect(page.locator("#transcript textarea")).to_have_value(text, timeout=30 * SECOND)
        page.get_by_text("no video stream: asr in place of avsr").wait_for(timeout=10 * SECOND)
        page.screenshot(path=os.environ.get("OMNI_AVSR_SCREENSHOT", tmp_path / "page.png"), full_page=True)
        browser.close()
