"""The page of ``omni-avsr demo``: what it shows, and that a real browser can use it."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no browser: install chromium, or name one in OMNI_AVSR_BROWSER"
)


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
    yield launch(page, "127.0.0.1", None)
    page.close()


@pytest.fixture(scope="module")
def visit(address: str, transcriber: Transcriber) -> Iterator[Callable[[str, Path | None], Any]]:
    """Opens the page anew in a real browser, uploads a file to a tab, and asks for its transcript."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=BROWSER, args=flags)

        def open_page(tab: str, file: Path | None) -> Any:
            page = browser.new_page(viewport={"width": 1200, "height": 1100})
            page.set_default_timeout(30 * SECOND)
            page.goto(address)
            page.get_by_text(f"This checkpoint knows: {TRAINING['domain']}").wait_for()
            page.get_by_role("tab", name=tab).click()
            if file is not None:
                upload = "#video" if tab == "Video" else "#sound"
                page.locator(f"{upload} input[type=file]").set_input_files(file)
                page.locator(f"{upload} :is(video, audio, .waveform-container)").first.wait_for(state="attached")
            page.locator("#transcribe").click()
            return page

        yield open_page
        browser.close()


@pytest.mark.slow
@needs_browser
def test_a_visitor_uploads_a_video_and_sees_mouth_transcript_words_cost_and_all_rates(
    visit: Callable[[str, Path | None], Any], transcriber: Transcriber, folder: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    # Before the page does: it shares the model, which one thread at a time may use.
    text = transcriber.transcribe(folder / "clip.mkv", "avsr", (2, 1))
    heard = transcriber.transcribe(folder / "clip.mkv", "asr", (5, 1))
    page = visit("Video", folder / "clip.mkv")
    expect(page.locator("#transcript textarea")).to_have_value(text, timeout=30 * SECOND)
    page.locator("#mouth video").first.wait_for(state="attached")
    page.get_by_text("task: avsr at 2,1").wait_for()
    page.get_by_text("30 audio tokens, 30 video tokens").wait_for()
    for rates in ("2,1", "2,3", "5,1", "5,3"):
        assert page.locator("#rates").get_by_text(rates, exact=True).count() > 0
    assert page.locator("#words").get_by_text(text.split()[0], exact=True).count() > 0
    page.get_by_text("the clip has 1.20 s; reading it took").wait_for()
    page.get_by_text("peak memory of this process").wait_for()
    page.screenshot(path=os.environ.get("OMNI_AVSR_SCREENSHOT", tmp_path / "page.png"), full_page=True)

    page.locator("#task").get_by_text("asr", exact=True).click()
    rate = page.locator("#audio-rate input[type=number]")
    rate.fill("5")
    rate.press("Enter")
    page.locator("#transcribe").click()
    page.get_by_text("task: asr at 5").wait_for()
    expect(page.locator("#transcript textarea")).to_have_value(heard, timeout=30 * SECOND)
    page.close()


@pytest.mark.slow
@needs_browser
def test_a_visitor_with_sound_alone_reads_why_nothing_is_seen(
    visit: Callable[[str, Path | None], Any], transcriber: Transcriber, folder: Path
) -> None:
    from playwright.sync_api import expect

    text = transcriber.transcribe(folder / "sound.wav", "asr", (2, 1))
    page = visit("Sound", folder / "sound.wav")
    expect(page.locator("#transcript textarea")).to_have_value(text, timeout=30 * SECOND)
    page.get_by_text("no video stream: asr in place of avsr").wait_for()
    page.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    ("file", "message"),
    [(None, "Choose or record a clip first."), ("broken.mp4", "broken.mp4: not a readable media file")],
)
def test_a_visitor_sees_what_is_wrong(
    visit: Callable[[str, Path | None], Any], folder: Path, file: str | None, message: str
) -> None:
    page = visit("Video", folder / file if file else None)
    page.get_by_text(message).first.wait_for()
    page.close()


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_message(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        script = Path(sysconfig.get_path("scripts")) / "omni-avsr"
        command = [sys.executable, str(script), "demo", "--checkpoint", str(folder / "checkpoint"), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"omni-avsr demo: Cannot find empty port in range: {port}-{port}" in done.stderr
    assert "Traceback" not in done.stderr
