"""The paper's experiments: every switch of the published code, none of them in ours, their counts, their page."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import pytest
from helpers_commands import CONFIGS, README, ROOT, commands, composed, settings_of
from helpers_scores import decoded

from omni_avsr.cli import train
from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.config import CompressionConfig, MarkerConfig, ModelConfig, ProjectorConfig, WhisperConfig, from_mapping
from omni_avsr.evaluation import EvaluateConfig
from omni_avsr.facts import Facts, count
from omni_avsr.metrics import score
from omni_avsr.report import Report, write_report
from omni_avsr.run import RunConfig
from omni_avsr.shapes import LLM_SHAPES
from omni_avsr.stages import RecognitionObjectiveConfig, StageConfig
from omni_avsr.types import Task

SCRIPT = ROOT / "experiments" / "published" / "page.py"
KINDS = ("published", "corrected")
METHODS = ("llama_avsr", "llama_mtsk", "llama_mt", "omni_s", "omni_t", "omni_st")
PATHS = ("data.root=CORPUS", "data.noise_root=NOISE", "output=RUN")


def names(kind: str) -> list[str]:
    return sorted(path.stem for path in (config_folder() / "experiment" / kind).glob("*.yaml"))


def trainings(kind: str) -> list[str]:
    return [name for name in names(kind) if not name.startswith("evaluate_")]


ROWS = [(kind, name) for kind in KINDS for name in trainings(kind)]


def load_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["published_page"] = module
    spec.loader.exec_module(module)
    return module


page = load_page()


def jobs_of(kind: str, name: str) -> list:
    return page.jobs_of(f"{kind}/{name}")


def configs(kind: str, name: str) -> list[RunConfig]:
    return [job.config for job in jobs_of(kind, name)]


def stage_of(config: RunConfig) -> StageConfig:
    [stage] = config.stages.values()
    return stage


def facts_of(config: RunConfig) -> Facts:
    assert config.facts is not None
    return config.facts


def test_both_kinds_have_the_same_experiments() -> None:
    assert names("published") == names("corrected")
    assert set(names("published")) >= {f"{corpus}_{method}" for corpus in ("lrs2", "lrs3") for method in METHODS}


@pytest.mark.parametrize("name", trainings("published"))
def test_a_published_experiment_sets_every_faithful_switch(name: str) -> None:
    for config in configs("published", name):
        model, stage, objective = config.model, stage_of(config), stage_of(config).objective
        is_baseline, is_qwen = name[4:].startswith("_llama_"), "qwen" in name
        assert model.projector.layer_norm is is_baseline
        assert model.compression.tail == "drop"
        assert model.markers == MarkerConfig("vocabulary", not is_qwen, 151_665 if is_qwen else None)
        assert (model.padding, model.waveform, model.adapters.init) == ("attended", "layer_norm", "normal")
        if isinstance(model.audio_encoder, WhisperConfig):
            assert (model.audio_encoder.context, model.audio_encoder.length) == ("full", "published")
        assert isinstance(objective, RecognitionObjectiveConfig)
        assert (objective.averaging, objective.score_padding) == ("clips", is_qwen)
        assert stage.drifting == ("encoders",)
        assert stage.batching.composition == "fixed"
        assert config.data.shared_noise
        assert config.data.noise == config.data.test_noise
        assert (config.data.snr_over, config.data.validation_split) == ("clip", "test")
        assert (config.trainer["precision"], config.trainer["sync_batchnorm"]) == ("bf16-true", True)


@pytest.mark.parametrize("name", trainings("corrected"))
def test_a_corrected_experiment_sets_none_of_them(name: str) -> None:
    defaults = RecognitionObjectiveConfig()
    for config in configs("corrected", name):
        model, stage, objective = config.model, stage_of(config), stage_of(config).objective
        assert model.projector == ProjectorConfig(2048)
        assert model.compression == CompressionConfig("average", "keep", *_rates(model))
        assert model.markers == MarkerConfig()
        assert (model.padding, model.waveform, model.adapters.init) == ("masked", "raw", "zero")
        assert model.audio_encoder in (None, WhisperConfig("openai/whisper-medium.en"))
        assert isinstance(objective, RecognitionObjectiveConfig)
        assert replace(objective, task_weights=defaults.task_weights, rates="drawn") == defaults
        assert "markers.*" in stage.trainable
        assert stage.drifting == ()
        assert stage.batching.composition == "drawn"
        assert not config.data.shared_noise
        assert (config.data.snr_over, config.data.validation_split) == ("speech", "validation")
        assert config.trainer["precision"] == "bf16-mixed"


def _rates(model: ModelConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return model.compression.audio_rates, model.compression.video_rates


@pytest.mark.parametrize("name", trainings("published"))
def test_both_kinds_train_the_same_parts_for_as_long(name: str) -> None:
    for ours, theirs in zip(configs("corrected", name), configs("published", name), strict=True):
        assert _rates(ours.model) == _rates(theirs.model)
        assert (ours.model.tasks, ours.model.llm) == (theirs.model.tasks, theirs.model.llm)
        assert replace(ours.model.adapters, init="normal") == theirs.model.adapters
        assert ours.model.video_encoder == theirs.model.video_encoder
        assert stage_of(ours).optimizer == stage_of(theirs).optimizer
        assert stage_of(ours).num_steps == stage_of(theirs).num_steps
        assert ours.seed == theirs.seed == 7
        assert facts_of(ours).llm_passes == facts_of(theirs).llm_passes


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [row for row in ROWS if row[1].startswith("lrs3")])
def test_the_facts_are_those_of_the_models(kind: str, name: str) -> None:
    jobs = configs(kind, name)
    assert count([(config.model, stage_of(config)) for config in jobs]) == facts_of(jobs[0])


@pytest.mark.parametrize(("kind", "name"), [row for row in ROWS if row[1].startswith("lrs2")])
def test_rows_of_lrs2_train_the_models_of_lrs3_for_fewer_steps(kind: str, name: str) -> None:
    other = "lrs3_omni_t" if "task_weights" in name else name.replace("lrs2", "lrs3")
    for config, same in zip(configs(kind, name), configs(kind, other), strict=True):
        assert config.model == same.model
        assert config.facts == same.facts
        assert stage_of(config).trainable == stage_of(same).trainable
        assert (stage_of(config).num_steps, stage_of(same).num_steps) == (8 * 225 * 30, 8 * 433 * 30)
        assert config.domain.startswith("LRS2")


@pytest.mark.parametrize(
    ("name", "trained", "active"),
    [("omni_s", 38.29, 25.7), ("omni_t", 51.92, 25.7), ("omni_st", 58.74, 32.5)],
)
def test_the_counts_are_the_papers(name: str, trained: float, active: float) -> None:
    facts = facts_of(configs("published", f"lrs3_{name}")[0])
    assert round(facts.trained_parameters["asr+vsr+avsr"] / 1e6, 2) == trained
    assert round(facts.active_parameters / 1e6, 1) == active
    assert (round(facts.lora_set / 1e6, 2), facts.projector) == (6.82, 6_295_552)
    assert facts.tokens_per_second["avsr 16,2"] == pytest.approx(15.6, abs=0.03)


def test_models_and_passes_are_the_papers() -> None:
    for kind in KINDS:
        found = [facts_of(configs(kind, f"lrs3_{method}")[0]) for method in METHODS]
        assert [(facts.models, facts.llm_passes) for facts in found] == [(8, 8), (3, 8), (4, 12), *3 * [(1, 3)]]


@pytest.mark.parametrize(
    "path", sorted((config_folder() / "language_model").glob("*.yaml")), ids=lambda path: path.stem
)
def test_lora_of_an_llm_follows_from_its_width(path: Path) -> None:
    values = composed("train", ["model=omni_avsr", f"language_model={path.stem}", "data=lrs3", *PATHS])
    model = from_mapping(ModelConfig, values["model"])
    rank = round(LLM_SHAPES[model.llm.weights]["hidden_size"] / 32)
    assert (model.adapters.rank, model.adapters.alpha) == (rank, rank * 4 / 32)


def test_single_task_baselines_train_what_the_authors_train() -> None:
    found = {}
    for job in jobs_of("published", "lrs3_llama_avsr"):
        [task] = job.objective.tasks
        encoder = job.config.model.video_encoder
        found[task] = (encoder is not None and encoder.lora is not None, stage_of(job.config).optimizer.lr)
    assert found == {Task.ASR: (False, 1e-3), Task.VSR: (True, 5e-4), Task.AVSR: (False, 1e-3)}


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("lrs2_llama_avsr", ["asr_4", "asr_16", "vsr_2", "vsr_5", "avsr_4_2", "avsr_4_5", "avsr_16_2", "avsr_16_5"]),
        ("lrs3_llama_mtsk", ["asr", "vsr", "avsr"]),
        ("lrs3_llama_mt", ["4_2", "4_5", "16_2", "16_5"]),
        ("lrs3_omni_st", [""]),
    ],
)
def test_an_experiment_trains_its_models_into_folders_of_their_own(
    name: str, runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[RunConfig] = []
    started: list[list[str]] = []

    def start(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(train, "run", trained.append)
    monkeypatch.setattr(subprocess, "run", start)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["omni-avsr train", f"experiment=corrected/{name}", *PATHS[:2]])
    train.main()
    # Every run of a sweep is a process of its own, which does not sweep.
    assert len(started) == (len(runs) if len(runs) > 1 else 0)
    for python, *arguments in started:
        assert (python, arguments[0], arguments[-1]) == (sys.executable, train.__file__, "hydra.mode=RUN")
        monkeypatch.setattr(sys, "argv", arguments)
        train.main()
    jobs = jobs_of("corrected", name)
    assert [job.name for job in jobs] == runs
    assert [config.output for config in trained] == [tmp_path / "runs" / "corrected" / name / run for run in runs]
    assert [config.model for config in trained] == [job.config.model for job in jobs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["evaluate_lrs2", "evaluate_lrs3", "evaluate_lrs3_noise"])
def test_tests_are_the_authors_or_ours(kind: str, name: str) -> None:
    values = composed("evaluate", [f"experiment={kind}/{name}", "checkpoint=in", *PATHS])
    config = from_mapping(EvaluateConfig, values, "evaluate")
    is_published = kind == "published"
    assert list(config.data.test_sets) == [name.split("_")[1]]
    assert config.decode.num_beams == 15
    assert (config.decode.published is not None and config.decode.published.temperature == 0.6) == is_published
    assert (config.zero_db == "published") == config.data.shared_noise == is_published
    assert config.snr_db == ((5, 2.5, 0, -2.5, -5) if name.endswith("noise") else ())
    assert config.tasks == ((Task.AVSR,) if name.endswith("noise") else tuple(Task))


def test_the_page_is_what_the_script_writes() -> None:
    written = page.page(SCRIPT.parent / "results")
    assert (SCRIPT.parent / "README.md").read_text(encoding="utf-8") == written, "run experiments/published/page.py"
    assert set(trainings("published")) == {line[4:] for line in written.splitlines() if line.startswith("### ")}


def test_its_commands_have_settings_that_they_take() -> None:
    written = commands((SCRIPT.parent / "README.md").read_text(encoding="utf-8"))
    assert len(written) > 2 * len(trainings("published"))
    # One of each kind, since there are many that differ in their paths alone.
    chosen = {tuple(part for part in command.split() if "/runs" not in part)[1:3]: command for command in written}
    for command in chosen.values():
        assert settings_of(command if " evaluate " in command else f"{command} output=RUN")


def test_the_papers_averages_are_those_of_its_columns() -> None:
    tables = [table for table in page.read_tables() if "averages" in table]
    assert len(tables) == 2
    for table in tables:
        for name, (_, *values) in table["rows"].items():
            assert sum(values) / len(values) == pytest.approx(table["averages"][name], abs=0.051), name


def test_measured_rates_and_no_others_fill_our_cells(tmp_path: Path) -> None:
    folder = tmp_path / "corrected" / "lrs3_omni_st" / "evaluate_lrs3"
    folder.mkdir(parents=True)
    scores = {"lrs3": score([*decoded("ASR 4", 3), *decoded("AVSR 4,2", 2)], seed=0)}
    command = "omni-avsr evaluate experiment=corrected/evaluate_lrs3 checkpoint=x"
    write_report(folder, Report(scores, metadata={"command": command}))
    lines = page.page(tmp_path).splitlines()
    ours = [line for line in lines if line.startswith("| | `experiment=corrected/lrs3_omni_st`")]
    assert ours[0] == "| | `experiment=corrected/lrs3_omni_st` | 3.0 |  |  |  | 2.0 |  |  |  |  |"
    assert sum("not measured" not in line for line in lines if line.startswith("| | `experiment=")) == len(ours)
    write_report(folder, Report(scores, metadata={"command": command.replace("corrected", "published")}))
    with pytest.raises(ValueError, match="was not made by omni-avsr evaluate experiment=corrected/evaluate_"):
        page.page(tmp_path)


SWITCHES = [
    cell.strip("` ")
    for line in README.partition("## Where the published code differs")[2].partition("\n## ")[0].splitlines()
    if (cell := line.strip("|").split("|")[-1].strip()).startswith("`")
]
OF_OTHERS = ("model.projector.layer_norm={", "stages.joint.objective={")
"""Switches of stacking and of Qwen, which Omni-AVSR's own rows do not have."""


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_of_the_readme_changes_ours_and_is_set_in_the_published_experiments(switch: str) -> None:
    is_test = switch.startswith(("zero_db", "decode"))
    command, name, config_class = ("train", "lrs3_omni_st", RunConfig)
    paths = list(PATHS)
    if is_test:
        command, name, config_class = ("evaluate", "evaluate_lrs3", EvaluateConfig)
        paths.append("checkpoint=in")

    def settings(kind: str, *overrides: str) -> RunConfig | EvaluateConfig:
        return from_mapping(config_class, composed(command, [f"experiment={kind}/{name}", *paths, *overrides]))

    assert settings("corrected", f"++{switch}") != settings("corrected")
    if not switch.startswith(OF_OTHERS):
        assert settings("published", f"++{switch}") == settings("published")


def test_the_readme_has_a_switch_in_every_line() -> None:
    table = README.partition("## Where the published code differs")[2].partition("\n## ")[0]
    assert len(SWITCHES) == sum(line.startswith("|") for line in table.splitlines()) - 2 > 20


def test_no_config_group_takes_the_place_of_a_setting() -> None:
    """Hydra would read ``facts=null`` as the choice of a group ``facts``."""
    config = from_mapping(RunConfig, composed("train", ["experiment=published/lrs3_omni_st", *PATHS, "facts=null"]))
    assert config.facts is None
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    keys = {field.name for settings in CONFIGS.values() for field in fields(settings)}
    assert groups & keys == {"model", "data", "stages", "trainer", "corpus", "profile"}


def test_the_facts_travel_as_plain_values() -> None:
    values = composed("train", ["experiment=published/lrs3_omni_st", *PATHS])
    assert from_mapping(Facts, json.loads(json.dumps(values["facts"]))).models == 1
