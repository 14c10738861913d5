"""Noise manifests: written and read back, every mistake with its line, and no noise in two splits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_avsr.data.noise_manifest import NoiseClip, read_noise_manifest, write_noise_manifest
from omni_avsr.data.noise_recording import MemoryRecording, WaveRecording, piece, read_wave, samples_sha256
from omni_avsr.media import write_audio


def noise_clip(folder: Path, id: str, split: Any, seed: int, speakers: tuple[str, ...] = ()) -> NoiseClip:
    path = folder / "audio" / f"{id}.wav"
    samples = 0.1 * np.random.default_rng(seed).standard_normal(1000 + seed)
    write_audio(path, samples)
    return NoiseClip(id, path, len(samples) / 16_000, split, "rain", samples_sha256(samples), speakers)


@pytest.fixture
def clips(tmp_path: Path) -> list[NoiseClip]:
    return [
        noise_clip(tmp_path, "rain/über 1", "train", 1),
        noise_clip(tmp_path, "babble-2", "test", 2, ("s1", "s2")),
        noise_clip(tmp_path, "babble-3", "test", 3, ("s1",)),
        noise_clip(tmp_path, "rain/4", "validation", 4),
    ]


def changed(clips: list[NoiseClip], folder: Path, line: int, **changes: Any) -> Path:
    """A manifest in which one line (from 1) has other values; None takes a key away."""
    write_noise_manifest(folder / "noise.jsonl", clips)
    lines = (folder / "noise.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[line - 1]) | changes
    lines[line - 1] = json.dumps({key: value for key, value in record.items() if value is not None})
    (folder / "noise.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "noise.jsonl"


def test_what_is_written_is_read_back_and_the_bytes_are_the_same(clips: list[NoiseClip], tmp_path: Path) -> None:
    write_noise_manifest(tmp_path / "noise.jsonl", clips)
    content = (tmp_path / "noise.jsonl").read_bytes()
    assert read_noise_manifest(tmp_path / "noise.jsonl") == clips
    write_noise_manifest(tmp_path / "noise.jsonl", read_noise_manifest(tmp_path / "noise.jsonl"))
    assert (tmp_path / "noise.jsonl").read_bytes() == content
    first = json.loads(content.splitlines()[0])
    assert list(first) == ["id", "audio", "seconds", "split", "kind", "sha256"]
    assert first["audio"] == "audio/rain/über 1.wav"


def test_a_manifest_may_be_moved_with_its_folder(clips: list[NoiseClip], tmp_path: Path) -> None:
    write_noise_manifest(tmp_path / "noise.jsonl", clips)
    (tmp_path / "audio").rename(tmp_path / "kept")
    (tmp_path / "moved").mkdir()
    (tmp_path / "kept").rename(tmp_path / "moved" / "audio")
    (tmp_path / "noise.jsonl").rename(tmp_path / "moved" / "noise.jsonl")
    found = read_noise_manifest(tmp_path / "moved" / "noise.jsonl")
    assert [clip.audio.is_relative_to(tmp_path / "moved") for clip in found] == [True] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "dev"}, r"noise\.split: .*'train', 'validation' or 'test'"),
        ({"seconds": None}, r"noise\.seconds: Field required"),
        ({"seconds": 0}, r"noise\.seconds: .*greater than 0"),
        ({"seconds": float("inf")}, r"noise\.seconds: .*finite"),
        ({"colour": "pink"}, r"noise\.colour: Unexpected keyword argument"),
        ({"id": ""}, r"noise\.id: "),
        ({"sha256": "abc"}, r"noise\.sha256: "),
        ({"speakers": "s1"}, r"noise\.speakers: "),
        ({"audio": "gone.wav"}, r"gone\.wav does not exist; run `omni-avsr noise` again"),
        ({"id": "rain/über 1"}, "id 'rain/über 1' is in split 'train' on line 1; splits must not share noise"),
        ({"id": "babble-3"}, "id 'babble-3' is already on line 2; recordings must be different"),
    ],
)
def test_a_mistake_is_named_with_its_line(
    changes: dict[str, Any], message: str, clips: list[NoiseClip], tmp_path: Path
) -> None:
    line = 2 if changes.get("id") == "babble-3" else 3
    manifest = changed(clips, tmp_path, line, **changes)
    with pytest.raises(ValueError, match=rf"noise\.jsonl:3: .*{message}"):
        read_noise_manifest(manifest)


@pytest.mark.parametrize("line", ["{", "[]", "3"])
def test_a_line_that_is_no_object_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "noise.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=r"noise\.jsonl:2: .*JSON"):
        read_noise_manifest(tmp_path / "noise.jsonl")


def test_a_missing_manifest_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such noise manifest; `omni-avsr noise` writes one"):
        read_noise_manifest(tmp_path / "gone.jsonl")


def test_a_sound_or_a_speaker_in_two_splits_is_refused(clips: list[NoiseClip], tmp_path: Path) -> None:
    copy = replace(clips[1], id="other name", split="train", speakers=())
    write_noise_manifest(tmp_path / "noise.jsonl", [*clips, copy])
    with pytest.raises(ValueError, match=r"noise\.jsonl:5: the sound of babble-2\.wav .* is in split 'test' on line 2"):
        read_noise_manifest(tmp_path / "noise.jsonl")
    twice = replace(clips[0], id="other name")
    write_noise_manifest(tmp_path / "noise.jsonl", [*clips, twice])
    with pytest.raises(ValueError, match=r"noise\.jsonl:5: the sound of .* is already on line 1"):
        read_noise_manifest(tmp_path / "noise.jsonl")
    voice = noise_clip(tmp_path, "babble-5", "validation", 5, ("s3", "s2"))
    write_noise_manifest(tmp_path / "noise.jsonl", [*clips, voice])
    with pytest.raises(ValueError, match=r"noise\.jsonl:5: speaker 's2' is in split 'test' on line 2"):
        read_noise_manifest(tmp_path / "noise.jsonl")


def test_a_piece_of_a_file_is_that_of_the_same_recording_in_memory(clips: list[NoiseClip]) -> None:
    recording = WaveRecording(clips[0])
    samples = torch.from_numpy(read_wave(clips[0].audio).astype(np.float32) / 32768)
    whole = MemoryRecording(samples)
    assert (recording.num_samples, recording.sha256) == (whole.num_samples, whole.sha256)
    for start, num_samples in ((0, 10), (990, 11), (1000, 1), (400, 5000), (0, 1001)):
        assert torch.equal(piece(recording, start, num_samples), piece(whole, start, num_samples))
        assert torch.equal(piece(whole, start, num_samples), samples.repeat(6)[start : start + num_samples])


def test_a_file_that_is_not_what_the_manifest_says_is_an_error(clips: list[NoiseClip]) -> None:
    with pytest.raises(ValueError, match=r"über 1\.wav: .* s of noise, but the manifest says 3"):
        WaveRecording(replace(clips[0], seconds=3.0))
    flac = clips[0].audio.with_suffix(".flac")
    write_audio(flac, np.full(100, 0.1))
    with pytest.raises(ValueError, match=r"über 1\.flac: no WAV file as noise manifests have"):
        WaveRecording(replace(clips[0], audio=flac))
    data = bytearray(clips[0].audio.read_bytes())
    data[22] = 2  # channels
    clips[0].audio.write_bytes(data)
    with pytest.raises(ValueError, match="it is not 16-bit mono at 16 kHz"):
        WaveRecording(clips[0])
    clips[0].audio.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="no WAV file as noise manifests have"):
        WaveRecording(clips[0])
