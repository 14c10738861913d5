"""The command line: which commands there are, what evaluate writes, and errors as one message with a status."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_checkpoint import TRAINING, save_tiny_checkpoint, write_test_set
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.cli.main import COMMANDS, main
from omni_avsr.config import from_mapping
from omni_avsr.evaluation import EvaluateConfig
from omni_avsr.hypotheses import read_hypotheses
from omni_avsr.report import read_report
from omni_avsr.types import Task

DATA = ("data.root=corpora", "data.noise_root=noises")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a prepared corpus."""
    root = tmp_path_factory.mktemp("commands")
    save_tiny_checkpoint(root)
    write_test_set(root / "corpus")
    return root


@pytest.fixture(autouse=True)
def _clean_hydra() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
    assert found, f"conf/{group} is empty"
    return found


def composed(config: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        values = OmegaConf.to_container(compose(config, list(overrides)), resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def data_overrides(name: str) -> list[str]:
    """What a data config asks for on the command line."""
    return [f"data={name}", *(override for override in DATA if name != "manifest" or "noise" not in override)]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["omni-avsr", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_without_a_command_the_commands_are_listed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 0
    output = capsys.readouterr()
    assert output.out.startswith("usage: omni-avsr COMMAND")
    for name, summary in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", output.out, re.MULTILINE)
    assert output.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_whose_libraries_are_missing_says_what_to_install(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"omni_avsr.cli.{command.replace('-', '_')}", None)
    monkeypatch.setattr(sys, "argv", ["omni-avsr", command])
    with pytest.raises(SystemExit, match=rf"omni-avsr {command}: .*; run pip install 'omni-avsr\[\w+\]'"):
        main()


def test_a_library_that_is_imported_late_is_named_as_well(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "omni_avsr.web", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["omni-avsr", "demo", "--checkpoint", str(root / "checkpoint")])
    with pytest.raises(SystemExit, match=r"omni-avsr demo: .*gradio.*; run pip install 'omni-avsr\[demo\]'"):
        main()


def test_an_unknown_command_is_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "sing", "checkpoint=x") == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "usage: omni-avsr COMMAND" in output.err


@pytest.mark.parametrize("name", names("data"))
def test_every_data_config_is_one_to_evaluate(name: str) -> None:
    values = composed("evaluate", *data_overrides(name), "checkpoint=folder", "output=out")
    config = from_mapping(EvaluateConfig, values, "evaluate")
    assert config.tasks == tuple(Task)
    assert config.data.test_sets
    for test_set in config.data.test_sets.values():
        assert test_set.manifest.parts[0] == "corpora"
    if config.data.test_noise is not None:
        noisy = from_mapping(EvaluateConfig, values | {"snr_db": [-5, 0]}, "evaluate")
        assert noisy.snr_db == (-5.0, 0.0)


def test_the_settings_of_evaluate_are_the_defaults_of_its_config() -> None:
    values = composed("evaluate", *data_overrides("manifest"), "checkpoint=folder", "output=out")
    few = {key: values[key] for key in ("checkpoint", "data", "output")}
    assert from_mapping(EvaluateConfig, values) == from_mapping(EvaluateConfig, few)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("evaluate", ["colour=red"], "colour"),
        ("evaluate", ["data=nowhere"], "nowhere"),
        ("train", ["experiment=grid_s1", "colour=red"], "colour"),
        ("train", [], "You must specify 'data'"),
        ("train", ["model=omni_smollm2_tiny", "data=manifest", "experiment=nowhere"], "experiment/nowhere"),
    ],
)
def test_a_key_that_hydra_does_not_know_is_a_short_error(
    command: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, command, *arguments) == 1
    output = capfd.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err + output.out
    assert len(output.err.splitlines()) < 25


GIVEN = ("data.root=nowhere", "checkpoint=nowhere", "output=out")


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("evaluate", ["data.root=x", "output=out"], "Missing mandatory value: checkpoint"),
        ("evaluate", ["checkpoint=x", "output=out"], "data.root"),
        ("evaluate", [*GIVEN, "+colour=red"], "evaluate.colour: Unexpected keyword argument"),
        ("evaluate", [*GIVEN, "decode.num_beams=0"], "evaluate.decode.num_beams: Input should be greater than 0"),
        ("evaluate", [*GIVEN, "tasks=[lips]"], "evaluate.tasks.0: Input should be 'asr', 'vsr' or 'avsr'"),
        ("evaluate", [*GIVEN, "snr_db=[0]"], "no noise file is given (data.test_noise=...)"),
        ("evaluate", list(GIVEN), "nowhere is no checkpoint: it has no config.json"),
        ("train", ["experiment=grid_s1", *DATA, "output=out", "+colour=red"], "train.colour: Unexpected"),
        ("train", ["experiment=grid_s1", *DATA, "output=out"], "corpora/grid/manifest.jsonl: no such manifest"),
    ],
)
def test_a_setting_that_is_wrong_is_one_message_and_status_1(
    command: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, command, *arguments) == 1
    output = capsys.readouterr()
    assert message in " ".join(output.out.split())  # rich wraps its lines
    assert "Traceback" not in output.err + output.out
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_evaluate_writes_its_table_and_nothing_into_the_folder_it_is_called_from(root: Path, tmp_path: Path) -> None:
    """The installed command, in a process of its own."""
    done = subprocess.run(
        [
            Path(sysconfig.get_path("scripts")) / "omni-avsr",
            "evaluate",
            f"checkpoint={root / 'checkpoint'}",
            f"data.root={root / 'corpus'}",
            f"data.test_noise={root / 'corpus' / 'noise.wav'}",
            "output=out",
            "snr_db=[0]",
            "decode.max_new_tokens=4",
            "num_threads=1",
        ],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"training domain of this checkpoint: {TRAINING['domain']}" in done.stdout
    assert "table with intervals, hypotheses and plots: out" in done.stdout
    shown = [line.split() for line in done.stdout.splitlines() if line.strip().startswith(("clean", "0 dB SNR"))]
    assert [len(line) for line in shown] == [1 + 8 + 1, 3 + 6 + 1]  # a label, its columns, their average
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "- command: omni-avsr evaluate checkpoint=" in table
    report = read_report(tmp_path / "out" / "table.json")
    hypotheses = read_hypotheses(tmp_path / "out" / "hypotheses-test.jsonl")
    assert {s.setting.snr_db for s in report.scores["test"]} == {h.snr_db for h in hypotheses} == {None, 0.0}
    assert sum(s.num_clips for s in report.scores["test"]) == len(hypotheses) == 5 * (8 + 6) + 2 + 2
