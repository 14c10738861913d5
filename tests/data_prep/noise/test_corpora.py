"""Readers of noise corpora, on small trees in their own layouts: which recordings, of what, in which split."""

from pathlib import Path

import pytest

from data_prep.noise import demand, noisex
from data_prep.noise.demand import read_demand
from data_prep.noise.folder import read_noise_folder
from data_prep.noise.musan import read_musan
from data_prep.noise.noisex import read_noisex
from data_prep.noise.source import SourceNoise, split_of
from omni_avsr.data.noise_manifest import SPLITS


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(sources: list[SourceNoise]) -> list[tuple[str, str, str]]:
    assert all(source.media.is_file() for source in sources)
    return [(source.id, source.split, source.kind) for source in sources]


def musan(folder: Path) -> Path:
    return tree(
        folder,
        "README",
        "noise/free-sound/LICENSE",
        "noise/free-sound/ANNOTATIONS",
        *(f"noise/free-sound/noise-free-sound-{number:04d}.wav" for number in range(40)),
        "noise/sound-bible/noise-sound-bible-0000.wav",
        "music/fma-western-art/music-fma-western-art-0001.wav",
        "speech/us-gov/speech-us-gov-0002.wav",
    )


@pytest.mark.parametrize("place", [".", "musan"])
def test_musan_gives_noise_and_music_and_speech_if_asked_for(place: str, tmp_path: Path) -> None:
    musan(tmp_path / place)
    sources = read_musan(tmp_path)
    assert [source.kind for source in sources] == ["noise"] * 41 + ["music"]
    assert sources[0].id == "noise/free-sound/noise-free-sound-0000"
    speech = read_musan(tmp_path, ["speech"])
    assert found(speech) == [("speech/us-gov/speech-us-gov-0002", speech[0].split, "speech")]


def test_the_split_of_a_musan_recording_is_its_names_wherever_the_corpus_lies(tmp_path: Path) -> None:
    here, there = read_musan(musan(tmp_path / "a")), read_musan(musan(tmp_path / "b" / "c"))
    assert found(here) == found(there)
    assert {source.split for source in here} == set(SPLITS)
    assert all(source.split == split_of(source.media.stem) for source in here)


def test_demand_takes_one_channel_of_each_environment_and_no_environment_is_in_two_splits(tmp_path: Path) -> None:
    names = [f"{place}/ch{channel:02d}.wav" for place in demand.SPLITS for channel in (1, 2, 16)]
    sources = read_demand(tree(tmp_path, *names, "OTHER/ch01.wav", "TCAR/notes.txt"))
    assert len(sources) == len(demand.SPLITS) == 18
    assert {source.media.name for source in sources} == {"ch01.wav"}
    assert ("TBUS", "test", "transportation") in found(sources)
    assert ("PCAFETER", "train", "public") in found(sources)
    assert {split: sum(s.split == split for s in sources) for split in SPLITS} == {
        "train": 10, "validation": 3, "test": 5,
    }  # fmt: skip


def test_noisex_knows_its_recordings_by_name_and_keeps_siblings_in_one_split(tmp_path: Path) -> None:
    names = [f"{'WAV/' if number % 2 else ''}{noise}.wav" for number, noise in enumerate(noisex.SPLITS)]
    sources = read_noisex(tree(tmp_path, *names[1:], names[0].upper(), "readme.wav", "white.mat"))
    assert len(sources) == len(noisex.SPLITS) == 15
    assert {source.split for source in sources} == set(SPLITS)
    splits = {source.id: source.split for source in sources}
    for one in ("buccaneer1", "factory1"):
        assert splits[one] == splits[one.replace("1", "2")]
    assert splits["destroyerengine"] == splits["destroyerops"]


def test_a_folder_says_by_subfolders_what_a_recording_is_for_or_leaves_it_to_names(tmp_path: Path) -> None:
    folder = tree(tmp_path, "train/rain/a.wav", "Val/b.mp3", "test/c.mp4", "street/cars/d.flac", "e.ogg", "notes.txt")
    assert found(read_noise_folder(folder)) == [
        ("Val/b", "validation", "noise"),
        ("e", split_of("e"), "noise"),
        ("street/cars/d", split_of("street/cars/d"), "cars"),
        ("test/c", "test", "noise"),
        ("train/rain/a", "train", "rain"),
    ]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (read_noise_folder, "no recordings; expected files such as"),
        (read_musan, r"noise: no such folder"),
        (read_demand, r"no recordings of DEMAND; expected folders such as DKITCHEN/ch01\.wav"),
        (read_noisex, "no recordings of NOISEX-92; expected WAV files such as babble"),
    ],
)
def test_a_folder_without_recordings_is_an_error_that_says_what_is_expected(
    read: object, message: str, tmp_path: Path
) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match=message):
        read(tree(tmp_path, "notes.txt"))
    with pytest.raises(ValueError, match="no such folder"):
        read(tmp_path / "gone")


def test_musan_without_one_of_its_kinds_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"music: no recordings of MUSAN; expected <source>/music-<source>-0000\.wav"):
        read_musan(tree(tmp_path, "noise/free-sound/noise-free-sound-0000.wav", "music/README"))
