"""Each corpus in its own layout, with real clips, from its files to a manifest that can be trained on."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_media import write_clip

from data_prep.clip_record import ClipSettings
from data_prep.corpora.auto_avsr import read_auto_avsr
from data_prep.corpora.avhubert import read_avhubert
from data_prep.corpora.grid import read_grid
from data_prep.corpora.librispeech import read_librispeech
from data_prep.corpora.lombard import read_lombard_grid
from data_prep.corpora.lrs import read_lrs2, read_lrs3
from data_prep.corpora.muavic import read_muavic
from data_prep.corpora.source import SourceClip
from data_prep.prepare import PrepareOptions, prepare
from data_prep.rejection import Rejection
from omni_avsr.data.manifest import read_manifest
from omni_avsr.media import read_audio, read_video, write_audio, write_video
from omni_avsr.mouth.video import FaceFinder
from omni_avsr.types import Clip, Word

SECONDS = 3.0


@pytest.fixture(scope="module")
def spoken(shared: Path) -> list[SourceClip]:
    """Real clips of three seconds with word times."""
    return read_grid(shared / "data" / "grid")[:3]


@pytest.fixture
def prepared(no_processes: None, face_model: Path, tmp_path: Path) -> Any:
    """Prepare source clips; gives what is in the manifest, by id, and what was rejected."""

    def run(sources: Sequence[SourceClip]) -> tuple[dict[str, Clip], tuple[Rejection, ...]]:
        settings = ClipSettings(face_model, FaceFinder.DETECTOR)
        report = prepare(sources, tmp_path / "out", PrepareOptions(settings, progress=False))
        clips = read_manifest(report.manifest, check_files=True)
        assert len(clips) + len(report.rejections) == len(sources)
        for clip in clips:
            check_media(clip)
        return {clip.id: clip for clip in clips}, report.rejections

    return run


def check_media(clip: Clip) -> None:
    """Crops and sound are as long as the manifest says."""
    if clip.video is not None:
        frames = read_video(clip.video, grey=True)
        assert frames.shape == (clip.num_frames, 96, 96)
        assert frames.std() > 10
    if clip.audio is not None:
        assert abs(len(read_audio(clip.audio)) / 16_000 - clip.seconds) < 0.2


def lrs_text(words: Sequence[Word], with_times: bool) -> str:
    text = " ".join(word.text for word in words).upper()
    table = "".join(f"{word.text.upper()} {word.start:.2f} {word.end:.2f} 3.1\n" for word in words)
    return f"Text:  {text}\nConf:  5\nRef:  xyz\n" + (f"\nWORD START END ASDSCORE\n{table}" if with_times else "")


def place(folder: Path, name: str, clip: SourceClip) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clip.media, folder / f"{name}.mp4")
    (folder / f"{name}.txt").write_text(lrs_text(clip.words, with_times=False))


def place_long(folder: Path, name: str, clips: Sequence[SourceClip]) -> list[Word]:
    """The clips one behind the other as one recording; returns its words."""
    frames = np.concatenate([read_video(clip.media) for clip in clips])
    samples = np.concatenate([fit(read_audio(clip.media)) for clip in clips])
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_clip(folder / f"{name}.mp4", frames, samples, ("libx264", "aac"))
    words = [
        Word(word.text, word.start + number * SECONDS, word.end + number * SECONDS)
        for number, clip in enumerate(clips)
        for word in clip.words
    ]
    (folder / f"{name}.txt").write_text(lrs_text(words, with_times=True))
    return words


def fit(samples: np.ndarray) -> np.ndarray:
    return np.pad(samples, (0, 48_000))[:48_000]


def check_pieces(pieces: Sequence[Clip], whole: Path, words: Sequence[Word], max_seconds: float) -> None:
    """The pieces hold all words, each where it is said: their sound is the recording's."""
    assert len(pieces) >= 3
    assert [word.text for piece in pieces for word in piece.words] == [word.text for word in words]
    recording = read_audio(whole)
    said = iter(words)
    for piece in pieces:
        assert piece.text == " ".join(word.text for word in piece.words)
        assert piece.seconds <= max_seconds
        assert piece.audio is not None
        samples = read_audio(piece.audio)
        for word, original in zip(piece.words, said, strict=False):
            here = samples[round(word.start * 16_000) : round(word.end * 16_000)]
            there = recording[round(original.start * 16_000) :][: len(here)]
            assert np.corrcoef(here, there)[0, 1] > 0.9, word


@pytest.mark.slow
def test_lrs3(prepared: Any, spoken: list[SourceClip], tmp_path: Path) -> None:
    root = tmp_path / "lrs3"
    for name, clip in zip(("trainval/talk1/00001", "trainval/talk2/00001", "test/talk3/00001"), spoken, strict=True):
        place(root, name, clip)
    words = place_long(root, "pretrain/talk4/00001", spoken)
    clips, rejected = prepared(read_lrs3(root, max_seconds=2.5))
    assert not rejected
    assert clips["test/talk3/00001"].split == "test"
    assert sorted(clips[f"trainval/{talk}/00001"].split for talk in ("talk1", "talk2")) == ["train", "validation"]
    pieces = [clip for id, clip in clips.items() if id.startswith("pretrain/talk4/00001/")]
    assert {piece.speaker for piece in pieces} == {"talk4"}
    check_pieces(pieces, root / "pretrain" / "talk4" / "00001.mp4", words, 2.5)


def test_lrs2(prepared: Any, spoken: list[SourceClip], tmp_path: Path) -> None:
    root = tmp_path / "lrs2"
    for number, clip in enumerate(spoken, 1):
        place(root, f"main/{number}/00001", clip)
    words = place_long(root, "pretrain/4/00001", spoken)
    for name, line in (("train", "1/00001"), ("val", "2/00001"), ("test", "3/00001 NF01")):
        (root / f"{name}.txt").write_text(f"{line}\n")
    clips, rejected = prepared(read_lrs2(root, max_seconds=2.5))
    assert not rejected
    assert [clips[f"main/{number}/00001"].split for number in (1, 2, 3)] == ["train", "validation", "test"]
    assert clips["main/1/00001"].text == spoken[0].text
    pieces = [clip for id, clip in clips.items() if id.startswith("pretrain/4/00001/")]
    check_pieces(pieces, root / "pretrain" / "4" / "00001.mp4", words, 2.5)


def test_grid_as_mpeg_1(prepared: Any, spoken: list[SourceClip], tmp_path: Path) -> None:
    """Two speakers, alignments in a folder of their own, a broken video among them."""
    root = tmp_path / "grid"
    for speaker, clip in zip(("s1", "s5"), spoken, strict=False):
        (root / speaker).mkdir(parents=True)
        (root / "alignments" / speaker).mkdir(parents=True)
        frames, samples = read_video(clip.media), fit(read_audio(clip.media))
        write_clip(root / speaker / f"{clip.media.stem}.mpg", frames, samples, ("mpeg1video", "mp2"))
        shutil.copyfile(clip.media.with_suffix(".align"), root / "alignments" / speaker / f"{clip.media.stem}.align")
    (root / "s5" / "broken.mpg").write_bytes(b"no video" * 100)
    (root / "alignments" / "s5" / "broken.align").write_text("0 1000 bin\n")
    clips, rejected = prepared(read_grid(root))
    assert {clip.speaker: clip.text for clip in clips.values()} == {"s1": spoken[0].text, "s5": spoken[1].text}
    assert clips[f"s1/{spoken[0].media.stem}"].split == "test"
    # In MPEG-1 the video may start a little after the audio, which makes one frame more.
    assert all(clip.num_frames in (75, 76) and len(clip.words) == 6 for clip in clips.values())
    assert [line.id for line in rejected] == ["s5/broken"]


def test_lombard_grid_with_video_and_sound_in_files_of_their_own(
    prepared: Any, spoken: list[SourceClip], tmp_path: Path
) -> None:
    root = tmp_path / "lombardgrid"
    for name in ("s2_l_bbim3a", "s3_p_lgwz1s"):
        for folder in ("front", "audio"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        frames, samples = read_video(spoken[0].media)[:50], fit(read_audio(spoken[0].media))
        write_clip(root / "front" / f"{name}.mov", frames, samples[:800], ("libx264", "aac"))
        write_audio(root / "audio" / f"{name}.wav", np.full(32_000, 0.25, np.float32))
    clips, rejected = prepared(read_lombard_grid(root))
    assert not rejected
    assert sorted(clip.text for clip in clips.values()) == ["bin blue in m three again", "lay green with z one soon"]
    for clip in clips.values():
        assert clip.num_frames == 50
        assert clip.audio is not None
        np.testing.assert_allclose(read_audio(clip.audio), 0.25)


def test_librispeech(prepared: Any, shared: Path, tmp_path: Path) -> None:
    chapter = tmp_path / "LibriSpeech" / "test-other" / "1688" / "142285"
    chapter.mkdir(parents=True)
    for number in range(2):
        name = f"1688-142285-000{number}"
        shutil.copyfile(shared / "data" / "librispeech_test_other" / f"{name}.flac", chapter / f"{name}.flac")
    (chapter / "1688-142285.trans.txt").write_text("1688-142285-0000 THERE'S IRON\n1688-142285-0001 MARGARET SAID\n")
    clips, rejected = prepared(read_librispeech(tmp_path / "LibriSpeech"))
    assert not rejected
    assert [(clip.text, clip.split, clip.video) for clip in clips.values()] == [
        ("there's iron", "test", None),
        ("margaret said", "test", None),
    ]


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Videos of mouth crops and their sound, as other projects leave them."""
    random = np.random.default_rng(0)
    for name in ("train", "valid", "test"):
        write_video(tmp_path / "crops" / f"{name}.mp4", random.integers(0, 256, (25, 96, 96), np.uint8))
        write_audio(tmp_path / "crops" / f"{name}.wav", random.uniform(-0.1, 0.1, 16_000).astype(np.float32))
    return tmp_path / "crops"


def test_auto_avsr(prepared: Any, crops: Path, tmp_path: Path) -> None:
    root = tmp_path / "auto_avsr"
    for part in ("trainval", "test"):
        folder = root / "lrs3" / "lrs3_video_seg16s" / part / "talk"
        shutil.copytree(crops, folder)
        labels = root / "labels" / f"lrs3_{part.replace('val', '')}_transcript_lengths_seg16s.csv"
        labels.parent.mkdir(exist_ok=True)
        labels.write_text(f"lrs3,lrs3_video_seg16s/{part}/talk/test.mp4,25,hello there\n")
    clips, rejected = prepared(read_auto_avsr(root))
    assert not rejected
    assert sorted((clip.split, clip.text, clip.num_frames) for clip in clips.values()) == [
        ("test", "hello there", 25),
        ("train", "hello there", 25),
    ]


def test_av_hubert(prepared: Any, crops: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        line = f"trainval/{split}/1\t{crops}/{split}.mp4\t{crops}/{split}.wav\t25\t16000\n"
        (tmp_path / f"{split}.tsv").write_text(f"/\n{line}")
        (tmp_path / f"{split}.wrd").write_text("HELLO there\n")
    clips, rejected = prepared(read_avhubert(tmp_path))
    assert not rejected
    assert sorted(clip.split for clip in clips.values()) == ["test", "train", "validation"]
    assert {clip.text for clip in clips.values()} == {"hello there"}


def test_muavic(prepared: Any, crops: Path, tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    for split in ("train", "valid", "test"):
        line = f"talk{split}/1\t{crops}/{split}.mp4\t{crops}/{split}.wav\t25\t16000\n"
        (tmp_path / "en" / f"{split}_avsr.tsv").write_text(f"/\n{line}")
        (tmp_path / "en" / f"{split}_avsr.en").write_text("it's here\n")
    clips, rejected = prepared(read_muavic(tmp_path))
    assert not rejected
    assert sorted(clip.split for clip in clips.values()) == ["test", "train", "validation"]
    assert {clip.text for clip in clips.values()} == {"it's here"}
