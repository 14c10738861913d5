"""Babble: as many voices as asked for, equally loud, nobody in two splits, and the same bytes for a seed."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.noise.babble import PEAK, deal_speakers, mix_babble
from omni_avsr.data.manifest import write_manifest
from omni_avsr.data.noise_manifest import SPLITS, NoiseClip, read_noise_manifest
from omni_avsr.data.noise_recording import read_wave
from omni_avsr.media import write_audio
from omni_avsr.types import Clip

SECOND = 16_000


def frequency(speaker: str) -> int:
    """Everybody hums a tone of their own."""
    return 200 + 40 * int(speaker)


def write_speech(folder: Path, speakers: dict[str, str]) -> Path:
    """Two clips of every speaker (name -> splits): half a second of a tone between silences, each of another level."""
    clips = []
    for speaker, splits in speakers.items():
        for number, split in enumerate(splits.split("+") * 2):
            id = f"{speaker}-{number}"
            time = np.arange(SECOND // 2) / SECOND
            tone = 0.02 * (1 + int(speaker)) * np.sin(2 * np.pi * frequency(speaker) * time)
            samples = np.concatenate([np.zeros(4000), tone, np.zeros(3000 + 500 * number)])
            write_audio(folder / f"{id}.wav", samples)
            clips.append(Clip(id, "a", split, len(samples) / SECOND, folder / f"{id}.wav", speaker=speaker))
    write_manifest(folder / "manifest.jsonl", clips)
    return folder / "manifest.jsonl"


def heard(clip: NoiseClip, num_speakers: int) -> dict[str, float]:
    """Who is in a babble, by their tones, and how loud."""
    spectrum = np.abs(np.fft.rfft(read_wave(clip.audio) / 32768)) ** 2
    bins_per_hz = clip.seconds
    powers = {}
    for speaker in map(str, range(num_speakers)):
        centre = round(frequency(speaker) * bins_per_hz)
        width = round(15 * bins_per_hz)
        powers[speaker] = float(spectrum[centre - width : centre + width].sum())
    loudest = max(powers.values())
    return {speaker: power / loudest for speaker, power in powers.items() if power > 0.05 * loudest}


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers in each split."""
    splits = {str(number): SPLITS[number // 3] for number in range(9)}
    return write_speech(tmp_path_factory.mktemp("apart"), splits)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine speakers who train, two of them in the test split too."""
    splits = {str(number): "train+test" if number < 2 else "train" for number in range(9)}
    return write_speech(tmp_path_factory.mktemp("mixed"), splits)


def test_splits_that_keep_speakers_apart_are_those_of_the_babble(apart: Path, tmp_path: Path) -> None:
    clips = read_noise_manifest(mix_babble(apart, tmp_path, 3, 4.0, seed=1))
    assert [clip.split for clip in clips] == list(SPLITS)
    for number, clip in enumerate(clips):
        assert clip.speakers == tuple(str(3 * number + voice) for voice in range(3))
        assert clip.seconds == 4.0
        assert clip.kind == "babble"
        levels = heard(clip, 9)
        assert set(levels) == set(clip.speakers)
        # Utterances are up to three times as loud as each other, voices are not.
        assert min(levels.values()) > 0.8
        assert np.abs(read_wave(clip.audio)).max() / 32768 == pytest.approx(PEAK, abs=1e-3)


def test_otherwise_those_who_train_are_dealt_out_and_nobody_is_heard_twice(mixed: Path, tmp_path: Path) -> None:
    clips = read_noise_manifest(mix_babble(mixed, tmp_path, 2, 3.0, seed=1))
    everybody = [speaker for clip in clips for speaker in clip.speakers]
    assert len(everybody) == len(set(everybody)) == 6
    assert all(set(heard(clip, 9)) == set(clip.speakers) for clip in clips)


def test_what_is_said_in_test_clips_gets_into_no_babble_that_is_dealt_out(mixed: Path) -> None:
    dealt = deal_speakers(mixed, 3, torch.Generator().manual_seed(2))
    clips = [clip for split in SPLITS for clips in dealt[split].values() for clip in clips]
    assert len(clips) == 18  # two of each
    assert {clip.split for clip in clips} == {"train"}


def test_the_seed_decides_who_is_heard_where(mixed: Path, tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    for folder, seed in ((first, 1), (again, 1), (other, 2)):
        mix_babble(mixed, folder, 2, 1.0, seed)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 4
    for file in files:
        assert (first / file).read_bytes() == (again / file).read_bytes()
        assert (first / file).read_bytes() != (other / file).read_bytes()


def test_no_voice_pauses_where_the_others_do(apart: Path, tmp_path: Path) -> None:
    """All utterances begin with a quarter of a second of silence, the babble does not."""
    starts = []
    for seed in range(4):
        clip = read_noise_manifest(mix_babble(apart, tmp_path / str(seed), 3, 2.0, seed))[0]
        starts.append(float(np.abs(read_wave(clip.audio)[:2000]).max()))
    assert max(starts) > 3000


def test_a_clip_that_cannot_be_decoded_is_left_out_and_a_speaker_without_any_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_speech(tmp_path, {str(number): "train" for number in range(6)})
    (tmp_path / "0-0.wav").write_bytes(b"broken")
    for number in range(2):
        (tmp_path / f"1-{number}.wav").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        for seed in range(6):
            clips = read_noise_manifest(mix_babble(manifest, tmp_path / "out", 1, 2.0, seed))
            everybody = {speaker for clip in clips for speaker in clip.speakers}
            assert len(everybody) == 3
            assert "1" not in everybody
    assert "left out 0-0: " in caplog.text
    assert "left out 1-0: " in caplog.text
    for number in range(12):
        (tmp_path / f"{number // 2}-{number % 2}.wav").write_bytes(b"broken")
    with pytest.raises(ValueError, match="only 0 of 2 speakers for train can be decoded"):
        mix_babble(manifest, tmp_path / "out", 2, 2.0, seed=3)
    assert not (tmp_path / "out" / "noise.jsonl").exists()


def test_too_few_speakers_are_an_error_with_the_numbers(mixed: Path, tmp_path: Path) -> None:
    message = (
        r"babble of 4 speakers needs 4 in each split and none of them in another, or 12 in train; it has 9 in train, "
        r"0 in validation, 2 in test, 2 of them in several"
    )
    with pytest.raises(ValueError, match=message):
        mix_babble(mixed, tmp_path, 4, 1.0, seed=1)


def test_clips_without_a_speaker_make_no_babble(apart: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in apart.read_text().splitlines()]
    manifest = apart.with_name("nobody.jsonl")
    manifest.write_text("\n".join(json.dumps({k: v for k, v in line.items() if k != "speaker"}) for line in lines))
    with pytest.raises(ValueError, match="it has 0 in train, 0 in validation, 0 in test"):
        mix_babble(manifest, tmp_path, 2, 1.0, seed=1)


def test_silent_clips_are_no_voice(tmp_path: Path) -> None:
    manifest = write_speech(tmp_path, {str(number): "train" for number in range(6)})
    for number in range(2):
        write_audio(tmp_path / f"2-{number}.wav", np.zeros(8000))
    for seed in range(4):
        clips = read_noise_manifest(mix_babble(manifest, tmp_path / "out", 1, 1.0, seed))
        assert all("2" not in clip.speakers for clip in clips)
