"""``omni-avsr noise``: corpora and babble to a noise manifest, and mistakes as one message with a status."""

import sys
from pathlib import Path

import numpy as np
import pytest

from omni_avsr.cli import noise
from omni_avsr.cli.main import main
from omni_avsr.data.manifest import write_manifest
from omni_avsr.data.noise_manifest import read_noise_manifest
from omni_avsr.media import write_audio
from omni_avsr.types import Clip


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["omni-avsr", "noise", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def write_hiss(path: Path, seed: int) -> None:
    write_audio(path, 0.1 * np.random.default_rng(seed).standard_normal(2000))


def test_a_corpus_becomes_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("noise/sound-bible/noise-sound-bible-0000.wav", "music/rfm/music-rfm-0000.wav")):
        write_hiss(tmp_path / "source" / name, number)
    options = ("--kinds", "music", "--workers", "1")
    assert call(monkeypatch, "musan", tmp_path / "source", tmp_path / "out", *options) == 0
    assert [clip.kind for clip in read_noise_manifest(tmp_path / "out" / "noise.jsonl")] == ["music"]


@pytest.mark.parametrize(
    ("corpus", "id"),
    [("folder", "TBUS/ch01"), ("musan", "noise/free-sound/x"), ("demand", "TBUS"), ("noisex", "volvo")],
)
def test_each_corpus_is_read_as_what_it_is(
    corpus: str, id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TBUS/ch01.wav", "noise/free-sound/x.wav", "music/rfm/x.wav", "volvo.wav"):
        write_hiss(tmp_path / name, 0)
    read: list[str] = []
    monkeypatch.setattr(noise, "prepare_noise", lambda sources, *_: read.extend(source.id for source in sources))
    assert call(monkeypatch, corpus, tmp_path, tmp_path / "out") == 0
    assert id in read
    assert len(read) == {"folder": 4, "musan": 2}.get(corpus, 1)


def test_prepared_speech_becomes_babble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = []
    for number in range(6):
        write_hiss(tmp_path / f"{number}.wav", number)
        clips.append(Clip(str(number), "a", "train", 0.125, tmp_path / f"{number}.wav", speaker=f"s{number}"))
    write_manifest(tmp_path / "manifest.jsonl", clips)
    options = ("--speakers", "2", "--minutes", "0.01", "--seed", "3")
    assert call(monkeypatch, "babble", tmp_path / "manifest.jsonl", tmp_path / "out", *options) == 0
    babble = read_noise_manifest(tmp_path / "out" / "noise.jsonl")
    assert [(clip.split, len(clip.speakers), clip.seconds) for clip in babble] == [
        ("train", 2, 0.6),
        ("validation", 2, 0.6),
        ("test", 2, 0.6),
    ]


def test_mistakes_are_one_message_and_a_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert call(monkeypatch, "folder", tmp_path / "gone", tmp_path / "out") == 1
    assert caplog.messages == [f"{tmp_path / 'gone'}: no such folder"]
    assert call(monkeypatch, "babble", tmp_path / "gone.jsonl", tmp_path / "out") == 1
    assert call(monkeypatch) == 2
    assert call(monkeypatch, "babble", tmp_path / "gone.jsonl", tmp_path / "out", "--minutes", "0") == 2
    assert "--minutes must be positive, got 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
