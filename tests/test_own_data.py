"""The README's way from a folder of clips to a page, its own lines, on a few real recordings."""

import json
import shlex
import shutil
import socket
import subprocess
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest
from helpers_commands import own_data_commands

from data_prep.corpora.grid import read_grid
from omni_avsr.report import read_report

SCRIPTS = Path(sysconfig.get_path("scripts"))
SPLITS = ("train", "train", "train", "validation", "test", "test")
STAGES = ("video_encoder", "audio_ctc", "projector", "joint")
SMALL = {
    "train": [*(f"stages.{stage}.num_steps=1" for stage in STAGES), "data.num_workers=0", "data.cache=cache"],
    "evaluate": ["decode.max_new_tokens=4"],
}
"""What is added so that seconds are enough: a step a stage, and short transcripts."""


@pytest.fixture
def workshop(shared: Path, real_models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README's lines name: CLIPS with their table, NOISE.wav and talk.mp4."""
    chosen = read_grid(shared / "data" / "grid")[: len(SPLITS)]
    (tmp_path / "CLIPS").mkdir()
    rows = ["file\ttext\tsplit"]
    for clip, split in zip(chosen, SPLITS, strict=True):
        shutil.copy(clip.media, tmp_path / "CLIPS")
        rows.append(f"{clip.media.name}\t{clip.text}\t{split}")
    (tmp_path / "CLIPS" / "transcripts.tsv").write_text("\n".join(rows) + "\n")
    shutil.copy(chosen[-1].media, tmp_path / "talk.mp4")
    shutil.copy(next((shared / "data" / "noise").glob("babble_train*")), tmp_path / "NOISE.wav")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_from_a_folder_of_clips_to_a_page(workshop: Path) -> None:
    *lines, page = own_data_commands()
    assert [shlex.split(line)[1] for line in lines] == ["prepare", "train", "evaluate", "transcribe"]
    for line in lines:
        _, name, *arguments = shlex.split(line)
        command = [SCRIPTS / "omni-avsr", name, *arguments, *SMALL.get(name, [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, line + done.stdout[-3000:] + done.stderr[-3000:]
    manifest = [json.loads(line) for line in (workshop / "PREPARED" / "manifest.jsonl").read_text().splitlines()]
    assert sorted(clip["split"] for clip in manifest) == sorted(SPLITS)
    assert [s.num_clips for s in read_report(workshop / "RESULTS" / "table.json").scores["test"]] == [2] * 8
    assert_serves(page)


def assert_serves(line: str) -> None:
    """The command serves a page until it is ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, *arguments = shlex.split(line)
    with subprocess.Popen([SCRIPTS / "omni-avsr", *arguments, "--port", str(port)]) as server:
        try:
            assert "omni_avsr" in answer(f"http://127.0.0.1:{port}", server)
        finally:
            server.terminate()


def answer(address: str, server: subprocess.Popen) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return urllib.request.urlopen(address, timeout=5).read().decode()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"nothing answers at {address}")
