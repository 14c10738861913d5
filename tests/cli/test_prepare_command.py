"""The command ``omni-avsr prepare``: its settings, its console script with spawned workers, its messages and status."""

import json
import logging
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from data_prep.corpora.grid import read_grid
from data_prep.synthetic.corpus import SyntheticCorpus
from omni_avsr.cli import merge
from omni_avsr.cli.corpora import (
    FolderCorpus,
    GridCorpus,
    LibriSpeechCorpus,
    LombardGridCorpus,
    Lrs2Corpus,
    Lrs3Corpus,
)
from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.cli.imports import AutoAvsrImport, AvHubertImport, MuavicImport
from omni_avsr.cli.prepare import PrepareConfig, run
from omni_avsr.config import from_mapping
from omni_avsr.data.manifest import read_manifest
from omni_avsr.media import write_audio, write_video


def composed(*overrides: str) -> dict[Any, Any]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        values = OmegaConf.to_container(compose("prepare", list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return values


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed console script in ``folder``, without a face model in its environment."""
    script = Path(sysconfig.get_path("scripts")) / "omni-avsr"
    environment = {name: value for name, value in os.environ.items() if name != "OMNI_AVSR_FACE_MODEL"}
    return subprocess.run(
        [script, "prepare", *arguments],
        cwd=folder,
        env=environment | {"COLUMNS": "1000"},  # rich wraps its lines at this width
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.nice(10),
    )


def audio_folder(folder: Path, *missing: str) -> Path:
    """Two audio clips with a table that may name further files, which do not exist."""
    for name in ("a.flac", "b.flac"):
        write_audio(folder / name, np.zeros(3200, np.float32))
    rows = "".join(f"{name}\tbin blue\n" for name in ("a.flac", "b.flac", *missing))
    (folder / "transcripts.tsv").write_text(f"file\ttext\n{rows}")
    return folder


CORPORA = (
    FolderCorpus(),
    GridCorpus(),
    LombardGridCorpus(),
    Lrs2Corpus(),
    Lrs3Corpus(),
    LibriSpeechCorpus(),
    AutoAvsrImport(),
    AvHubertImport(),
    MuavicImport(),
    SyntheticCorpus(),
)


def test_every_corpus_config_is_known() -> None:
    files = {path.stem for path in (config_folder() / "corpus").glob("*.yaml")}
    assert files == {corpus.kind for corpus in CORPORA}


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.kind)
def test_each_corpus_config_composes_to_the_defaults_of_the_settings(corpus: Any) -> None:
    config = from_mapping(PrepareConfig, composed(f"corpus={corpus.kind}", "source=in", "output=out"))
    assert config == PrepareConfig(corpus=corpus, source=Path("in"), output=Path("out"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 0}, r"prepare\.workers: .*greater than 0"),
        ({"crf": 52}, r"prepare\.crf: .*less than or equal to 51"),
        ({"threads": 2}, r"prepare\.threads: Unexpected"),
        ({"corpus": {"kind": "grid", "table": "x.tsv"}}, r"prepare\.corpus\.table: Unexpected"),
        ({"corpus": {"kind": "lrs4"}}, r"prepare\.corpus: .*'lrs4'"),
        ({"finder": "dlib"}, r"prepare\.finder: .*'landmarker' or 'detector'"),
        ({"max_rejected": 1.5}, r"prepare\.max_rejected: .*less than or equal to 1"),
        ({"storage": "zip"}, r"prepare\.storage: .*'files' or 'tars'"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], message: str) -> None:
    values = composed("corpus=grid", "source=in", "output=out")
    with pytest.raises(ValueError, match=message):
        from_mapping(PrepareConfig, values | change, "prepare")


def test_source_and_output_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prepare\.output: .*valid path"):
        from_mapping(PrepareConfig, composed("corpus=grid", "source=in"), "prepare")
    with pytest.raises(ValueError, match=r"prepare\.source: a corpus needs the folder it is in"):
        run(PrepareConfig(corpus=GridCorpus(), output=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_prepared_must_not_become_part_of_the_corpus(tmp_path: Path) -> None:
    write_video(tmp_path / "s1" / "a.mp4", np.zeros((3, 32, 32), np.uint8))
    for output in (tmp_path, tmp_path / "out"):
        with pytest.raises(ValueError, match=r"prepare\.output: .* is inside .*, whose files are all read"):
            run(PrepareConfig(corpus=GridCorpus(), source=tmp_path, output=output))


def test_a_synthetic_corpus_has_no_source(tmp_path: Path) -> None:
    sizes = {"speakers": 1, "sentences": 1, "held_out_speakers": 1, "validation_sentences": 1, "test_sentences": 1}
    overrides = [f"corpus.{name}={size}" for name, size in sizes.items()]
    run(from_mapping(PrepareConfig, composed("corpus=synthetic", f"output={tmp_path}", "workers=1", *overrides)))
    assert [clip.split for clip in read_manifest(tmp_path / "manifest.jsonl")] == ["test", "validation", "train"]


def test_the_command_prepares_grid_clips_with_spawned_workers(shared: Path, tmp_path: Path) -> None:
    speaker = tmp_path / "grid" / "s1"
    speaker.mkdir(parents=True)
    for media in [clip.media for clip in read_grid(shared / "data" / "grid")[:2]]:
        for file in (media, media.with_suffix(".align")):
            shutil.copyfile(file, speaker / file.name)
    face_model = shared / "models" / "face_landmarker.task"
    arguments = (
        "corpus=grid",
        "corpus.split=test",
        "source=grid",
        "output=out",
        f"face_model={face_model}",
        "workers=2",
    )
    done = command(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 clips prepared in") == 1, done.stdout
    assert "x real time; 0 found finished" in done.stdout
    assert "manifest: out/manifest.jsonl" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    clips = read_manifest(tmp_path / "out" / "manifest.jsonl", check_files=True)
    assert [(clip.id, clip.split, clip.num_frames) for clip in clips] == [
        ("s1/bbaf2n", "test", 75),
        ("s1/bbaf3s", "test", 75),
    ]
    assert {entry.name for entry in tmp_path.iterdir()} == {"grid", "out"}, "Hydra left something in the folder"


def test_some_rejected_clips_are_a_warning_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No face is needed for sound, and none for a line that cannot be read."""
    monkeypatch.setenv("OMNI_AVSR_FACE_MODEL", str(tmp_path / "none.task"))
    source = audio_folder(tmp_path, "gone.flac")
    with (source / "transcripts.tsv").open("a") as table:
        table.write("c.flac\tone\ttwo\n")
    output = tmp_path / "out"
    config = PrepareConfig(FolderCorpus(), output, source, workers=1, progress=False, max_rejected=0.6)
    for told in ("2 clips prepared in", "nothing to do: 2 clips found finished"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run(config)
        assert told in caplog.text
        assert f"quality page: {tmp_path / 'out' / 'quality.html'}" in caplog.text
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert f"2 clips (50.0%) were rejected; the reasons are in {tmp_path / 'out' / 'rejected.jsonl'}" in warnings
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [line["id"] for line in rejected] == ["gone", "transcripts.tsv:5"]


def test_too_many_rejected_clips_are_an_error_after_everything_is_written(tmp_path: Path) -> None:
    source, output = audio_folder(tmp_path, "gone.flac"), tmp_path / "out"
    with pytest.raises(ValueError) as error:
        run(PrepareConfig(FolderCorpus(), output, source, workers=1, progress=False))
    assert str(error.value) == (
        f"1 clips (33.3%) were rejected; the reasons are in {output / 'rejected.jsonl'}, and at most 10.0% may be "
        "(max_rejected)"
    )
    assert len(read_manifest(output / "manifest.jsonl", check_files=True)) == 2


def test_nothing_but_rejected_clips_is_one_message_and_status_1_whatever_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "transcripts.tsv").write_text("file\ttext\ngone.flac\tbin blue\n")
    done = command(tmp_path, "corpus=folder", "source=.", "output=out", "workers=1", "max_rejected=1.0")
    assert done.returncode == 1
    assert "1 clips (100.0%) were rejected; the reasons are in out/rejected.jsonl" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_shards_run_by_hydras_submitit_launcher_and_merge_to_one_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By its local executor, which starts jobs as the one for SLURM does."""
    audio_folder(tmp_path)
    output = tmp_path / "out"
    arguments = ("corpus=folder", f"source={tmp_path}", f"output={output}", "workers=1", "shard=0/2,1/2")
    done = command(tmp_path, "-m", "hydra/launcher=submitit_local", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setattr("sys.argv", ["omni-avsr merge", str(output)])
    summary = output / "shards" / "00001-of-00002" / "summary.json"
    summary.rename(tmp_path / "kept.json")
    with pytest.raises(SystemExit) as status:
        merge.main()
    assert status.value.code == 1
    assert "1 of 2 are missing: shard=1/2" in caplog.text
    (tmp_path / "kept.json").rename(summary)
    merge.main()
    assert [clip.id for clip in read_manifest(output / "manifest.jsonl", check_files=True)] == ["a", "b"]
    assert (output / "quality.html").is_file()


def test_video_needs_the_face_model_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_AVSR_FACE_MODEL", str(tmp_path / "none.task"))
    write_video(tmp_path / "grid" / "s1" / "a.mp4", np.zeros((3, 32, 32), np.uint8))
    (tmp_path / "grid" / "s1" / "a.align").write_text("0 3000 bin\n")
    config = PrepareConfig(corpus=GridCorpus(), source=tmp_path / "grid", output=tmp_path / "out")
    with pytest.raises(ValueError, match=r"none\.task does not exist"):
        run(config)
    assert [path.name for path in tmp_path.iterdir()] == ["grid"]
