"""Read LRS2 (BBC) and LRS3 (TED), as the corpora unpack.

Chung, Senior, Vinyals, Zisserman, Lip Reading Sentences in the Wild (2017); Afouras, Chung, Zisserman, LRS3-TED (2018).
"""

from __future__ import annotations

from pathlib import Path

from data_prep.corpora.files import inside
from data_prep.corpora.label_lines import LabelLine, read_label_lines
from data_prep.corpora.lrs_clips import LrsPart, folder_of
from data_prep.corpora.source import SourceClip
from data_prep.corpora.spans import MAX_SECONDS
from data_prep.corpora.splits import HELD_OUT, held_out, place_of
from data_prep.rejection import ProblemError

LRS3_VALIDATION_SHARE = 0.025
"""Of the talks of trainval: about 100 of some 4,000, with about 800 clips."""
LRS2_LISTS = {"train.txt": "train", "val.txt": "validation", "test.txt": "test"}


def read_lrs3(folder: Path, max_seconds: float = MAX_SECONDS) -> list[SourceClip]:
    """The clips of LRS3, sorted by id: ``<talk>/<clip>.mp4`` and ``.txt`` below trainval, test and pretrain.

    The corpus has no validation split. It is made of the talks of trainval whose name has a place below 0.025 (the
    first six bytes of its SHA-256 over 2**48; see ``splits``), or if there is none, of the talk in the lowest place.
    The rest of trainval is train, and so is pretrain, but for the clips of talks that are in validation or test or
    would be in validation by their names: these are ``held_out``. The speaker is the talk. Clips of pretrain come in
    pieces of at most ``max_seconds``. ValueError if there is no clip in any of the three.
    """
    trainval, test, pretrain = (LrsPart.find(folder, name) for name in ("trainval", "test", "pretrain"))
    if not (trainval.files or test.files or pretrain.files):
        raise ValueError(f"{folder}: no clips of LRS3; expected <talk>/<clip>.mp4 and .txt in trainval, test, pretrain")
    validation = held_out(trainval.folders, LRS3_VALIDATION_SHARE)
    apart = validation | test.folders | {talk for talk in pretrain.folders if place_of(talk) < LRS3_VALIDATION_SHARE}
    clips = [test.clip(name, "test", folder_of(name)) for name in test.files]
    for name in trainval.files:
        talk = folder_of(name)
        clips.append(trainval.clip(name, "validation" if talk in validation else "train", talk))
    for name in pretrain.files:
        talk = folder_of(name)
        clips += pretrain.pieces(name, HELD_OUT if talk in apart else "train", talk, max_seconds)
    return sorted(clips, key=lambda clip: clip.id)


def read_lrs2(folder: Path, max_seconds: float = MAX_SECONDS) -> list[SourceClip]:
    """The clips of LRS2, sorted by id: ``<broadcast>/<clip>.mp4`` and ``.txt`` below main and pretrain.

    Both are in ``folder`` or its mvlrs_v1. The lists train.txt, val.txt, test.txt, and pretrain.txt if it is there, are
    beside them or one folder above, as the published code has them; a line is ``<broadcast>/<clip>``, and what follows
    it is ignored. Clips of main that no list names are ``held_out``, and so are clips of pretrain whose broadcast is in
    validation or test. There are no speakers, for a broadcast has several. Clips of pretrain come in pieces of at most
    ``max_seconds``. A line that cannot be read is a clip with a problem and an id like ``val.txt:17``.

    ValueError if there are no clips, or a list that tells the splits of main is missing.
    """
    root = folder if any((folder / name).is_dir() for name in ("main", "pretrain")) else folder / "mvlrs_v1"
    main, pretrain = LrsPart.find(root, "main"), LrsPart.find(root, "pretrain")
    if not main.files and not pretrain.files:
        raise ValueError(f"{folder}: no clips of LRS2; expected <broadcast>/<clip>.mp4 and .txt in main and pretrain")
    clips: list[SourceClip] = []
    unlisted = dict(main.files)
    apart: set[str] = set()
    for list_name, split in LRS2_LISTS.items():
        path = _find_list(root, list_name)
        if path is None and main.files:
            raise ValueError(f"{root / list_name}: no such file, but {', '.join(LRS2_LISTS)} tell the splits of main")
        names, bad_lines = _read_list(path, split)
        clips += bad_lines + [main.clip(name, split) for name in names]
        for name in names:
            unlisted.pop(name, None)
            if split != "train":
                apart.add(folder_of(name))
    clips += [main.clip(name, HELD_OUT) for name in unlisted]
    names, bad_lines = _read_list(_find_list(root, "pretrain.txt"), "train")
    clips += bad_lines
    for name in sorted(pretrain.files.keys() | set(names)):
        clips += pretrain.pieces(name, HELD_OUT if folder_of(name) in apart else "train", None, max_seconds)
    return sorted(clips, key=lambda clip: clip.id)


def _find_list(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root.parent / name) if path.is_file()), None)


def _read_list(path: Path | None, split: str) -> tuple[list[str], list[SourceClip]]:
    """The names in a list of clips, and a clip with a problem for each line that cannot be read."""
    names, bad_lines = [], []
    for line in read_label_lines(path) if path is not None else ():
        try:
            if line.content.strip():
                names.append(_name(line))
        except ProblemError as error:
            bad_lines.append(SourceClip(line.place, line.path, "", split, problem=error.problem))
    return names, bad_lines


def _name(line: LabelLine) -> str:
    cells = line.text().split()
    name = inside(cells[0] if cells else "", f"{line.path}:{line.number}")
    if len(name.parts) != 2:
        raise line.bad_label(f"expected <broadcast>/<clip>, got {cells[0]!r}")
    return name.as_posix()
