"""The corpora that are imported: each config file holds the defaults of its settings."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.cli.imports import AutoAvsrImport, AvHubertImport, MuavicImport
from omni_avsr.config import from_mapping
from omni_avsr.media import FRAME_RATE


def file_values(kind: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(config_folder() / "corpus" / f"{kind}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.mark.parametrize("corpus", [AutoAvsrImport(), AvHubertImport(), MuavicImport()])
def test_each_config_file_holds_the_defaults(corpus: Any) -> None:
    assert from_mapping(type(corpus), file_values(corpus.kind)) == corpus


def test_auto_avsr_reads_the_label_files_that_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "my" / "my_video_seg16s").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "labels" / f"{name}.csv").write_text(f"my,my_video_seg16s/{name}.mp4,50,1 2")
        (tmp_path / "my" / "my_video_seg16s" / f"{name}.mp4").touch()
    (tmp_path / "units.txt").write_text("▁HELLO 1\n▁THERE 2\n")
    values = {"train": ["a.csv"], "validation": ["b.csv"], "units": str(tmp_path / "units.txt"), "sound": "none"}
    corpus = from_mapping(AutoAvsrImport, file_values("auto_avsr") | values)
    clips = corpus.clips(tmp_path)
    assert [(clip.split, clip.text, clip.problem) for clip in clips] == [
        ("train", "hello there", None),
        ("validation", "hello there", None),
    ]


@pytest.mark.parametrize(("kind", "names"), [("avhubert", "{}.tsv {}.wrd"), ("muavic", "en/{}_avsr.tsv en/{}_avsr.en")])
def test_moved_manifests_are_read(tmp_path: Path, kind: str, names: str) -> None:
    table, texts = (tmp_path / name for name in names.format("test", "test").split())
    table.parent.mkdir(exist_ok=True)
    table.write_text("/\na\t/old/a.mp4\t\t50\t\n")
    texts.write_text("hello\n")
    (tmp_path / "a.mp4").touch()
    config = AvHubertImport if kind == "avhubert" else MuavicImport
    corpus: Any = from_mapping(config, file_values(kind) | {"moved": ["/old", str(tmp_path)]})
    (clip,) = corpus.clips(tmp_path)
    assert (clip.media, clip.seconds, clip.problem) == (tmp_path / "a.mp4", 50 / FRAME_RATE, None)
