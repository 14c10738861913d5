"""Labels damaged at random, and file names that are no Unicode: readers never raise, and lose no other clip."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.corpora.folder import read_folder
from data_prep.corpora.grid import read_grid
from data_prep.corpora.librispeech import read_librispeech
from data_prep.corpora.lombard import read_lombard_grid
from data_prep.corpora.lrs import read_lrs2, read_lrs3
from data_prep.corpora.source import SourceClip

WORDS = "Text:  YES IT'S {LAUGH} 42\nConf:  3\n\nWORD START END ASDSCORE\nYES 0.1 0.5 2\nIT'S 9 20 1\n42 20.5 30.1 7\n"
LABELS = {
    read_folder: {"transcripts.tsv": "file\ttext\tsplit\na.mp4\tyes\ttrain\nb/c.wav\tno\ttest\nd.mkv\tperhaps\tdev\n"},
    read_grid: {
        "split.tsv": "clip\tsplit\ns1/a.mpg\ttrain\ns2/b.mpg\ttest\n",
        "s1/a.align": "0 100 sil\n100 500 bin\n500 900 sp\n",
        "align/s2/b.align": "0 100 sil\n100 500 bin\n500 900 sp\n",
    },
    read_librispeech: {
        "test-clean/1/2/1-2.trans.txt": "1-2-0000 YES\n1-2-0001 NO\n",
        "train-clean-5/1/2/1-2.trans.txt": "1-2-0000 YES\n1-2-0001 NO\n",
    },
    read_lombard_grid: {"transcripts.tsv": "file\ttext\nfront/s2_l_bbim3a.mov\tbin\naudio/s3_l_bbim3a.wav\tlay\n"},
    read_lrs2: {
        "train.txt": "1/00001\n1/00002 NF\n",
        "val.txt": "2/00001\n",
        "test.txt": "3/00001 NF\n",
        "pretrain.txt": "1/00001\n",
        "main/1/00001.txt": "Text:  YES\nConf:  3\n",
        "pretrain/1/00001.txt": WORDS,
    },
    read_lrs3: {"trainval/a/00001.txt": WORDS, "pretrain/b/00001.txt": WORDS, "test/c/00001.txt": "Text:  NO\n"},
}
MEDIA = (
    "s1/a.mpg",
    "s2/b.mpg",
    "test-clean/1/2/1-2-0000.flac",
    "audio/s3_l_bbim3a.wav",
    "main/1/00001.mp4",
    "pretrain/1/00001.mp4",
    "trainval/a/00001.mp4",
    "pretrain/b/00001.mp4",
    "test/c/00001.mp4",
)
SPLICES = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\t",
    b"\n",
    b"\r",
    b"../",
    b"/",
    b'"',
    b"\xe2\x80\xa8",
    b"nan",
    b"-1",
    b"1e999",
    b" ",
)

Reader = Callable[[Path], list[SourceClip]]


def write(folder: Path, labels: dict[str, bytes]) -> None:
    for name, content in labels.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Cut off, flipped in a bit, or with a splice put in, once or more, behind the first line of tables."""
    head = content.index(b"\n") + 1 if content.startswith((b"file\t", b"clip\t")) else 0
    body = bytearray(content[head:])
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(body) + 1)
        kind = generator.choice(["cut", "flip", "splice"])
        if kind == "cut":
            body = body[:place]
        elif kind == "flip" and place < len(body):
            body[place] ^= 1 << generator.randrange(8)
        else:
            body[place : place + generator.randint(0, 3)] = generator.choice(SPLICES)
    return content[:head] + bytes(body)


def clips_or_none(read: Reader, folder: Path) -> list[SourceClip]:
    """The clips, or none where the reader says that there are none."""
    try:
        return read(folder)
    except ValueError as error:
        if not str(error).startswith(str(folder)) or ": no " not in str(error):
            raise
        return []


@pytest.mark.parametrize("read", LABELS, ids=lambda read: read.__name__)
def test_damaged_labels_never_stop_a_reader(tmp_path: Path, read: Reader) -> None:
    whole = {name: text.encode() for name, text in LABELS[read].items()}
    generator = random.Random(0)
    write(tmp_path, whole | dict.fromkeys(MEDIA, b""))
    num_problems = 0
    for _ in range(150):
        name = generator.choice(sorted(whole))
        write(tmp_path, {name: damaged(whole[name], generator)})
        clips = clips_or_none(read, tmp_path)
        assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)
        for clip in clips:
            assert clip.problem is not None or ".." not in clip.media.relative_to(tmp_path).parts
            assert clip.problem is None or clip.problem.detail
        num_problems += any(clip.problem is not None for clip in clips)
        write(tmp_path, {name: whole[name]})
    assert num_problems > 10


@pytest.mark.parametrize("read", LABELS, ids=lambda read: read.__name__)
def test_file_names_that_are_no_unicode_are_read(tmp_path: Path, read: Reader) -> None:
    write(tmp_path, {name: text.encode() for name, text in LABELS[read].items()} | dict.fromkeys(MEDIA, b""))
    (tmp_path / "split.tsv").unlink(missing_ok=True)
    if read is read_lombard_grid:
        (tmp_path / "transcripts.tsv").unlink()
    for path in sorted(tmp_path.rglob("*.*")):
        if path.name.count(".") == 1 and path.parent != tmp_path:
            copy = os.path.join(os.fsencode(path.parent), b"\xff" + os.fsencode(path.name))
            Path(os.fsdecode(copy)).write_bytes(path.read_bytes())
    clips = read(tmp_path)
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)
    assert read is read_folder or any("\udcff" in clip.id for clip in clips)
