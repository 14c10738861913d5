"""Hundreds of damaged label files: every reader gives clips or says what is wrong, and no name leads elsewhere."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from data_prep.checks import find_problems
from data_prep.corpora.auto_avsr import read_auto_avsr
from data_prep.corpora.avhubert import read_avhubert
from data_prep.corpora.folder import read_folder
from data_prep.corpora.grid import read_grid
from data_prep.corpora.librispeech import read_librispeech
from data_prep.corpora.lombard import read_lombard_grid
from data_prep.corpora.lrs import read_lrs2, read_lrs3
from data_prep.corpora.muavic import read_muavic
from data_prep.corpora.source import SourceClip
from data_prep.prepare import PrepareOptions, prepare
from data_prep.rejection import Rejection, read_rejections, write_rejections
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.media import write_audio
from omni_avsr.types import Clip

Reader = Callable[[Path], list[SourceClip]]
ROUNDS = 60

LRS_TEXT = "Text:  WE'RE {NS} HERE\nConf:  4\n\nWORD START END ASDSCORE\nWE'RE 0.1 0.5 3.1\nHERE 0.6 19.9 2.0\n"
CORPORA: Mapping[str, tuple[Reader, Mapping[str, str]]] = {
    "tsv": (read_folder, {"transcripts.tsv": "file\ttext\tsplit\na.flac\tone two\ttrain\nb/c.mp4\tü it's\ttest\n"}),
    "csv": (
        lambda folder: read_folder(folder, "labels.csv"),
        {"labels.csv": 'file,text,speaker\na.flac,"one, two",s1\nb.flac,three,s2\n'},
    ),
    "grid": (
        read_grid,
        {
            "split.tsv": "clip\tsplit\ns1/a.mpg\ttrain\ns2/b.mpg\ttest\n",
            "s1/a.align": "0 1000 sil\n1000 2000 bin\n2000 3000 blue\n",
            "s2/b.align": "0 1000 sil\n1000 2000 lay\n",
            "s1/a.mpg": "",
            "s2/b.mpg": "",
        },
    ),
    "lombard": (
        read_lombard_grid,
        {
            "transcripts.tsv": "file\tsplit\ttext\ns30/s30_l_bbbm4a.flac\ttrain\tbin blue by m four again\n",
            "s30/s30_l_bbbm4a.flac": "",
        },
    ),
    "lrs3": (
        read_lrs3,
        {f"{part}/talk/{n}.{kind}": LRS_TEXT if kind == "txt" else ""
         for part in ("trainval", "test", "pretrain") for n in ("00001", "00002") for kind in ("txt", "mp4")},
    ),
    "lrs2": (
        read_lrs2,
        {f"{part}/111/{n}.{kind}": LRS_TEXT if kind == "txt" else ""
         for part in ("main", "pretrain") for n in ("00001", "00002", "00003") for kind in ("txt", "mp4")}
        | {"train.txt": "111/00001\n", "val.txt": "111/00002\n", "test.txt": "111/00003 NF1\n"},
    ),
    "librispeech": (
        read_librispeech,
        {f"{part}/1/2/1-2.trans.txt": "1-2-0000 HELLO\n1-2-0001 IT'S\n" for part in ("train-clean-100", "test-other")}
        | {f"{part}/1/2/1-2-000{n}.flac": "" for part in ("train-clean-100", "test-other") for n in (0, 1)},
    ),
    "auto_avsr": (
        read_auto_avsr,
        {
            "labels/lrs3_train_transcript_lengths_seg16s.csv": "lrs3,lrs3_video_seg16s/trainval/a/1.mp4,30,12 4 5\n",
            "labels/lrs3_test_transcript_lengths_seg16s.csv": "lrs3,lrs3_video_seg16s/test/a/1.mp4,30,some text\n",
            "lrs3/lrs3_text_seg16s/trainval/a/1.txt": "SOME TEXT\n",
            "lrs3/lrs3_video_seg16s/trainval/a/1.mp4": "",
            "lrs3/lrs3_video_seg16s/trainval/a/1.wav": "",
            "lrs3/lrs3_video_seg16s/test/a/1.mp4": "",
            "lrs3/lrs3_video_seg16s/test/a/1.wav": "",
        },
    ),
    "avhubert": (
        read_avhubert,
        {
            f"{split}.{kind}": text
            for split in ("train", "valid", "test")
            for kind, text in (("tsv", "/\nx/1\tv/1.mp4\ta/1.wav\t25\t16000\n"), ("wrd", "some text\n"))
        },
    ),
    "muavic": (
        read_muavic,
        {
            f"en/{split}_avsr.{kind}": text
            for split in ("train", "valid", "test")
            for kind, text in (("tsv", "/\nx/1\tv/1.mp4\ta/1.wav\t25\t16000\n"), ("en", "some text\n"))
        },
    ),
}  # fmt: skip

PIECES = (
    b"\xff\xfe", b"\x00", b"\xc3", "\u2028".encode(), "\u202e深😀".encode(), b"\r", b"\r\n", b"\t", b",", b'"', b"'",
    b"../../../../etc/passwd", b"/etc/passwd", b"-1", b"1e400", b"nan", b"99999999999999999999", b"{LAUGH}", b" " * 300,
    b"<script>alert(1)</script>", b"a" * 5000, b"\x1b[31m", b"$(touch x)", b"WORD START END ASDSCORE\n",
)  # fmt: skip


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """The label cut short, with flipped bits, an odd piece put in, a line dropped or doubled, or another encoding."""
    at = int(random.integers(len(data) + 1))
    lines = data.split(b"\n")
    line = int(random.integers(len(lines)))
    match int(random.integers(7)):
        case 0:
            return data[:at]
        case 1:
            changed = bytearray(data)
            for place in random.integers(len(data), size=int(random.integers(1, 6))):
                changed[place] ^= 1 << int(random.integers(8))
            return bytes(changed)
        case 2:
            return b"\n".join([*lines[:line], *lines[line + 1 :]])
        case 3:
            return b"\n".join([*lines[: line + 1], *lines[line:]])
        case 4:
            return data.decode().encode(str(random.choice(["utf-16", "latin-1", "utf-8-sig", "cp1252"])))
        case 5:
            cells = lines[line].replace(b",", b"\t").split(b"\t")
            cells[int(random.integers(len(cells)))] = PIECES[int(random.integers(len(PIECES)))]
            return b"\n".join([*lines[:line], (b"," if b"," in lines[line] else b"\t").join(cells), *lines[line + 1 :]])
    return data[:at] + PIECES[int(random.integers(len(PIECES)))] + data[at:]


def write_tree(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """The corpus's files; returns those that hold labels."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [folder / name for name, text in files.items() if text]


@pytest.mark.parametrize("corpus", CORPORA)
def test_damaged_labels_are_problems_of_their_clips(tmp_path: Path, corpus: str) -> None:
    read, files = CORPORA[corpus]
    labels = write_tree(tmp_path / "in", files)
    assert any(clip.text for clip in read(tmp_path / "in")), "the sound tree is not read"
    random = np.random.default_rng(len(corpus))
    num_read = 0
    for _ in range(ROUNDS):
        label = labels[int(random.integers(len(labels)))]
        sound = label.read_bytes()
        label.write_bytes(damaged(sound, random))
        try:
            clips = read(tmp_path / "in")
        except ValueError as error:
            message = str(error)
            if str(tmp_path) not in message:
                pytest.fail(f"an error has to name the file: {message}")
        else:
            num_read += 1
            problems = find_problems(clips, 1000)
            listed = [
                Rejection(clip.id, str(clip.media), problem.reason, problem.detail)
                for clip, problem in zip(clips, problems, strict=True)
                if problem
            ]
            write_rejections(tmp_path / "rejected.jsonl", listed)
            assert read_rejections(tmp_path / "rejected.jsonl") == listed
            good = [
                Clip(clip.id, clip.text, clip.split, 1.0, tmp_path / "a.flac", speaker=clip.speaker, words=clip.words)
                for clip, problem in zip(clips, problems, strict=True)
                if not problem
            ]
            write_manifest(tmp_path / "manifest.jsonl", good)
            assert read_manifest(tmp_path / "manifest.jsonl") == good
            for clip, problem in zip(clips, problems, strict=True):
                assert problem or (tmp_path / "out" / clip.id).resolve().is_relative_to(tmp_path / "out")
        label.write_bytes(sound)
    assert num_read > ROUNDS / 4
    assert {
        path.relative_to(tmp_path / "in").as_posix() for path in (tmp_path / "in").rglob("*") if path.is_file()
    } == set(files)


def test_names_that_lead_elsewhere_write_nothing_elsewhere(tmp_path: Path) -> None:
    """Through the whole preparation; the files that the names lead to exist."""
    corpus = tmp_path / "deep" / "corpus"
    write_audio(corpus / "good.flac", np.zeros(1600, np.float32))
    for stolen in (tmp_path / "stolen.flac", tmp_path / "deep" / "stolen.flac"):
        shutil.copyfile(corpus / "good.flac", stolen)
    names = ["good.flac", "../stolen.flac", "x/../../stolen.flac", str(tmp_path / "stolen.flac"), "..", ".", "a\0.flac"]
    (corpus / "transcripts.tsv").write_text("file\ttext\n" + "".join(f"{name}\tbin blue\n" for name in names))
    report = prepare(read_folder(corpus), tmp_path / "deep" / "out", PrepareOptions(progress=False))
    assert (report.num_clips, len(report.rejections)) == (1, len(names) - 1)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "deep/out" not in path.as_posix()]
    assert len(written) == 4
