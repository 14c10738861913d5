"""The settings of corpora: their config files, and the readers behind them."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from omni_avsr.cli.corpora import (
    FolderCorpus,
    GridCorpus,
    LibriSpeechCorpus,
    LombardGridCorpus,
    Lrs2Corpus,
    Lrs3Corpus,
)
from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.config import from_mapping

CORPORA = (FolderCorpus(), GridCorpus(), LibriSpeechCorpus(), LombardGridCorpus(), Lrs2Corpus(), Lrs3Corpus())


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.kind)
def test_each_config_file_holds_the_defaults(corpus: Any) -> None:
    values = OmegaConf.to_container(OmegaConf.load(config_folder() / "corpus" / f"{corpus.kind}.yaml"))
    assert isinstance(values, dict)
    assert from_mapping(type(corpus), {str(key): value for key, value in values.items()}) == corpus


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.kind)
def test_each_corpus_tells_what_it_expected(tmp_path: Path, corpus: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        corpus.clips(tmp_path)


@pytest.mark.parametrize("corpus", [Lrs2Corpus, Lrs3Corpus])
def test_pieces_have_a_length(corpus: Any) -> None:
    with pytest.raises(ValueError, match="max_seconds"):
        corpus(max_seconds=0)


def test_settings_reach_the_reader(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("file,text\na.mp4,yes\n")
    (clip,) = FolderCorpus(table="my.csv", split="train", silent=True).clips(tmp_path)
    assert (clip.split, clip.needs_audio) == ("train", False)
