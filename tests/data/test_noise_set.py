"""Which noise a setting names, and that training never gets what tests are made in."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_avsr.config import from_mapping
from omni_avsr.data.config import DataConfig
from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_manifest import NoiseClip, Split, read_noise_manifest, write_noise_manifest
from omni_avsr.data.noise_recording import samples_sha256
from omni_avsr.data.noise_set import open_noise
from omni_avsr.media import read_audio, write_audio


def noise_manifest(folder: Path, splits: str, seed: int, speakers: tuple[tuple[str, ...], ...] = ()) -> Path:
    """Recordings 0, 1... of these splits (by their first letters), each of another sound."""
    names: dict[str, Split] = {"r": "train", "v": "validation", "e": "test"}
    clips = []
    for number, letter in enumerate(splits):
        path = folder / f"{number}.wav"
        samples = 0.1 * np.random.default_rng([seed, number]).standard_normal(800)
        write_audio(path, samples)
        voices = speakers[number] if speakers else ()
        id = f"{folder.name}-{number}"
        clips.append(NoiseClip(id, path, 800 / 16_000, names[letter], "hiss", samples_sha256(samples), voices))
    write_noise_manifest(folder / "noise.jsonl", clips)
    return folder / "noise.jsonl"


def data(**values: Any) -> DataConfig:
    sets = {"eval": {"manifest": "m.jsonl"}, "dev": {"manifest": "m.jsonl", "split": "validation"}}
    return from_mapping(DataConfig, {"test_sets": sets} | values, "data")


def ids(source: NoiseSource | None) -> list[str]:
    assert source is not None
    return [recording.id for recording in source.recordings]


def test_training_takes_its_split_and_each_test_set_its_own(tmp_path: Path) -> None:
    manifest = noise_manifest(tmp_path / "a", "rever", 1)
    config = data(noise=manifest, test_noise=manifest, snr_over="clip")
    source = config.read_noise()
    assert ids(source) == ["a-0", "a-4"]
    assert ids(config.read_test_noise("eval")) == ["a-1", "a-3"]
    assert ids(config.read_test_noise("dev")) == ["a-2"]
    assert source is not None
    assert source.snr_over == "clip"


def test_any_audio_file_is_one_recording_of_any_split(tmp_path: Path) -> None:
    for name, seed in (("train.flac", 1), ("test.wav", 2)):
        write_audio(tmp_path / name, 0.1 * np.random.default_rng(seed).standard_normal(800))
    config = data(noise=tmp_path / "train.flac", test_noise=tmp_path / "test.wav")
    source = config.read_noise()
    assert source is not None
    [recording] = source.recordings
    assert recording.read(0, 800).tolist() == read_audio(tmp_path / "train.flac").tolist()
    assert ids(config.read_test_noise("eval")) == ids(config.read_test_noise("dev")) == [str(tmp_path / "test.wav")]


def test_without_noise_there_is_none_to_train_with_and_a_test_in_noise_is_an_error() -> None:
    assert data().read_noise() is None
    with pytest.raises(ValueError, match=r"no noise is named to test in \(data\.test_noise=\.\.\.\)"):
        data().read_test_noise("eval")


@pytest.mark.parametrize("splits", ["ev", "e"])
def test_a_manifest_without_noise_to_train_with_is_an_error_that_tells_what_it_has(splits: str, tmp_path: Path) -> None:
    manifest = noise_manifest(tmp_path / "a", splits, 1)
    has = "1 of test, 1 of validation" if splits == "ev" else "1 of test"
    with pytest.raises(ValueError, match=rf"a/noise\.jsonl: no noise of split train; it has {has}"):
        data(noise=manifest).read_noise()


def test_an_empty_manifest_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "noise.jsonl").write_text("")
    with pytest.raises(ValueError, match="no noise of split train; it has none at all"):
        data(noise=tmp_path / "noise.jsonl").read_noise()


def refused(message: str, **values: Any) -> None:
    with pytest.raises(ValueError, match=f"this would train on test noise: .*{message}"):
        data(**values).read_noise()
    with pytest.raises(ValueError, match=f"this would train on test noise: .*{message}"):
        data(**values).read_test_noise("eval")


def test_one_file_for_training_and_for_tests_is_refused_under_any_name(tmp_path: Path) -> None:
    write_audio(tmp_path / "noise.flac", 0.1 * np.random.default_rng(1).standard_normal(800))
    shutil.copy(tmp_path / "noise.flac", tmp_path / "copy.flac")
    write_audio(tmp_path / "rewritten.wav", read_audio(tmp_path / "noise.flac"))
    (tmp_path / "link.flac").symlink_to(tmp_path / "noise.flac")
    refused("have the id .* in common", noise=tmp_path / "noise.flac", test_noise=tmp_path / "noise.flac")
    for other in ("copy.flac", "rewritten.wav", "link.flac"):
        refused("have the sound .* in common", noise=tmp_path / "noise.flac", test_noise=tmp_path / other)


def test_a_recording_that_another_manifest_holds_out_is_refused(tmp_path: Path) -> None:
    mine, other = noise_manifest(tmp_path / "a", "rre", 1), noise_manifest(tmp_path / "b", "re", 2)
    assert ids(data(noise=mine, test_noise=other).read_noise()) == ["a-0", "a-1"]
    clips = read_noise_manifest(other)
    sound = replace(clips[1], id="renamed", sha256=read_noise_manifest(mine)[1].sha256)
    write_noise_manifest(other, [clips[0], sound])
    refused("a-1 .* and renamed .* have the sound", noise=mine, test_noise=other)
    write_noise_manifest(other, [clips[0], replace(clips[1], id="a-0")])
    refused("a-0 .* have the id 'a-0' in common", noise=mine, test_noise=other)


def test_a_file_of_the_test_split_is_refused_as_noise_to_train_with(tmp_path: Path) -> None:
    manifest = noise_manifest(tmp_path / "a", "re", 1)
    refused("have the sound .* in common", noise=tmp_path / "a" / "1.wav", test_noise=manifest)
    assert ids(data(noise=tmp_path / "a" / "0.wav", test_noise=manifest).read_noise())


def test_babble_whose_speakers_are_heard_in_both_is_refused(tmp_path: Path) -> None:
    mine = noise_manifest(tmp_path / "a", "r", 1, (("s1", "s2"),))
    other = noise_manifest(tmp_path / "b", "re", 2, (("s2",), ("s3", "s4")))
    assert ids(data(noise=mine, test_noise=other).read_noise()) == ["a-0"]
    shared = noise_manifest(tmp_path / "c", "e", 3, (("s4", "s2"),))
    refused("a-0 .* and c-0 .* have the speaker 's2' in common", noise=mine, test_noise=shared)


def test_models_are_not_chosen_in_noise_that_they_trained_on(tmp_path: Path) -> None:
    mine, other = noise_manifest(tmp_path / "a", "r", 1), noise_manifest(tmp_path / "b", "ve", 2)
    clips = read_noise_manifest(other)
    write_noise_manifest(other, [replace(clips[0], sha256=read_noise_manifest(mine)[0].sha256), clips[1]])
    with pytest.raises(ValueError, match="this would train on test noise"):
        data(noise=mine, test_noise=other).read_noise()


def test_a_test_needs_no_training_noise_at_hand_but_training_needs_the_test_noise(tmp_path: Path) -> None:
    manifest = noise_manifest(tmp_path / "a", "re", 1)
    assert ids(data(noise=tmp_path / "gone.wav", test_noise=manifest).read_test_noise("eval")) == ["a-1"]
    with pytest.raises(ValueError, match=r"gone\.wav: no such file"):
        data(noise=manifest, test_noise=tmp_path / "gone.wav").read_noise()


def test_the_fingerprint_follows_the_recordings_of_the_split_and_not_their_place(tmp_path: Path) -> None:
    def fingerprint(path: Path, split: Split = "train") -> str:
        return NoiseSource(open_noise(path, (split,))).fingerprint

    manifest = noise_manifest(tmp_path / "a", "rre", 1)
    first = fingerprint(manifest)
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    assert fingerprint(tmp_path / "moved" / "noise.jsonl") == first
    clips = read_noise_manifest(manifest)
    write_noise_manifest(manifest, [clips[0], clips[1]])
    assert fingerprint(manifest) == first  # of another split
    write_noise_manifest(manifest, clips[:1])
    assert fingerprint(manifest) != first
    write_noise_manifest(manifest, [clips[0], replace(clips[1], sha256="0" * 64)])
    assert fingerprint(manifest) != first
