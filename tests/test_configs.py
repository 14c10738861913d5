"""Every config file composes into valid settings, and every stage trains exactly the names it means to."""

from dataclasses import replace
from typing import Any

import pytest
from helpers_model import model_values, save_tiny_whisper
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from omni_avsr.build import build_model
from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.edge.budget import process_bytes
from omni_avsr.evaluation import EvaluateConfig
from omni_avsr.model import OmniAVSR
from omni_avsr.run import RunConfig
from omni_avsr.stages import freeze_all_but


def composed(name: str, *overrides: str) -> dict[str, Any]:
    """A config as its command composes it, with the values that it leaves to the command line."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        values = OmegaConf.to_container(compose(name, list(overrides)), resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def names_in(group: str) -> list[str]:
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


EXPERIMENT_PATHS = {name: ["start.checkpoint=earlier"] for name in ("grid_s1_more", "grid_s1_third")}
"""What single experiments leave to the command line beside ``PATHS``."""

PART_OVERRIDES = {"omni_avsr": ["language_model=llama_3_2_1b"], "paper": ["stages.joint.num_steps=8"]}
"""What single parts leave to other groups."""

PATHS = ("data.root=corpus", "++data.noise_root=noise", "output=out")
"""What these configs leave to the command line."""


def group_overrides() -> list[tuple[str, str]]:
    return [(group, name) for group in ("model", "data", "stages", "trainer") for name in names_in(group)]


@pytest.mark.parametrize(("group", "name"), group_overrides())
def test_every_part_of_a_training_config_composes_into_a_run(group: str, name: str) -> None:
    parts = {"model": "omni_smollm2_tiny", "data": "manifest", "stages": "omni", "trainer": "default"} | {group: name}
    overrides = [f"{key}={value}" for key, value in parts.items()]
    config = from_mapping(RunConfig, composed("train", *overrides, *PATHS, *PART_OVERRIDES.get(name, [])), "train")
    assert config.stages
    assert config.data.manifests[0].is_relative_to("corpus")


@pytest.mark.parametrize("name", names_in("experiment"))
def test_every_experiment_composes_into_a_run(name: str) -> None:
    values = composed("train", f"experiment={name}", *PATHS, *EXPERIMENT_PATHS.get(name, []))
    config = from_mapping(RunConfig, values, "train")
    assert config.domain != "not stated"
    levels = [stage.augment.snr_db for stage in config.stages.values() if stage.augment]
    assert config.data.noise is not None or not any(any(level is not None for level in row) for row in levels)


@pytest.mark.parametrize("name", names_in("data"))
def test_every_data_config_composes_into_an_evaluation(name: str) -> None:
    values = composed("evaluate", f"data={name}", "checkpoint=in", *PATHS)
    assert from_mapping(EvaluateConfig, values, "evaluate").data.test_sets


@pytest.mark.parametrize("name", names_in("profile"))
def test_a_profile_changes_numbers_of_training_and_of_evaluation(name: str) -> None:
    def run_of(*overrides: str) -> RunConfig:
        values = composed("train", "model=omni_smollm2_tiny", "data=manifest", *PATHS, *overrides)
        return from_mapping(RunConfig, values, "train")

    def evaluation_of(*overrides: str) -> EvaluateConfig:
        return from_mapping(EvaluateConfig, composed("evaluate", "checkpoint=in", *PATHS, *overrides), "evaluate")

    run, evaluation = run_of(f"profile={name}"), evaluation_of(f"profile={name}")
    profile, joint = run.profile, run.stages["joint"]
    assert profile is not None
    assert profile == evaluation.profile
    assert profile.process_bytes == process_bytes(float(name.removeprefix("edge_").removesuffix("gb")))
    assert (run.model.llm.dtype, run.model.llm.quantization) == (profile.llm_dtype, profile.quantization)
    assert run.trainer["precision"] == profile.precision
    assert (joint.batching.max_frames, joint.gradient_checkpointing) == (profile.max_frames, True)
    assert (evaluation.llm_dtype, evaluation.quantization) == (profile.llm_dtype, profile.quantization)
    assert (evaluation.batch_size, evaluation.decode.num_beams) == (profile.batch_size, profile.num_beams)
    # The same model, and what is said on the command line counts.
    plain = run_of()
    assert replace(run.model, llm=plain.model.llm) == plain.model
    assert plain.model.llm.dtype == "float32"
    other = evaluation_of(f"profile={name}", "batch_size=3", "quantization=none")
    assert (other.batch_size, other.quantization) == (3, "none")


def test_every_config_file_is_composed_by_a_test() -> None:
    """Others have tests of their own: ``corpus``, ``prepare``, ``import_checkpoint``, ``personal``, ``hydra`` (SLURM's
    launcher) and what only the paper's experiments use. Every file of ``stage`` is a part of some file of ``stages``.
    """
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    of_the_paper = {"language_model", "recipe", "training_set", "task", "dedicated", "counted"}
    parts = {"model", "data", "stages", "trainer", "stage", "experiment", "corpus", "hydra", "profile", "personal"}
    assert groups == parts | of_the_paper
    assert {path.stem for path in config_folder().glob("*.yaml")} == {
        "train",
        "evaluate",
        "prepare",
        "import_checkpoint",
    }


@pytest.fixture(scope="module")
def named_model(tmp_path_factory: pytest.TempPathFactory) -> OmniAVSR:
    """The parts and rates of conf/model/omni_smollm2_tiny.yaml, each tiny, with Whisper tiny's number of layers."""
    folder = tmp_path_factory.mktemp("named")
    save_tiny_whisper(folder / "whisper", num_layers=4)
    values = model_values(folder, "whisper_trimmed", compression={"audio_rates": [4, 16], "video_rates": [2, 5]})
    values["audio_encoder"]["ctc"] = True
    return build_model(from_mapping(ModelConfig, values), seed=0)


WEIGHT_AND_BIAS = ("weight", "bias")
PROJECTORS = {
    f"projectors.{modality}.by_rate.{rate}.layers.{layer}.{end}"
    for modality, rates in (("audio", (4, 16)), ("video", (2, 5)))
    for rate in rates
    for layer in (0, 2, 3)
    for end in WEIGHT_AND_BIAS
}
LORA = {
    f"llm.model.layers.{layer}.self_attn.{projection}.lora_{matrix}.{adapter}.weight"
    for layer in (0, 1)
    for projection in ("q_proj", "v_proj")
    for matrix in "AB"
    for adapter in ("shared", "asr", "vsr", "avsr")
}
AUDIO_CTC = {f"encoders.audio.ctc.linear.{end}" for end in WEIGHT_AND_BIAS}
VIDEO_PARTS = {"stem", "resnet", "project", "trunk"}


def stage_sets(name: str, model: OmniAVSR) -> dict[str, set[str]]:
    stages = composed("train", f"stages={name}", "model=omni_smollm2_tiny", "data=manifest", *PATHS)["stages"]
    return {stage: freeze_all_but(model, values["trainable"]) for stage, values in stages.items()}


def test_the_stages_train_exactly_these_names(named_model: OmniAVSR) -> None:
    sets = stage_sets("omni", named_model)
    assert list(sets) == ["video_encoder", "audio_ctc", "projector", "joint"]
    video = {
        name for name in dict(named_model.named_parameters()) if name.split(".")[1] == "video" and "encoders" in name
    }
    assert sets["video_encoder"] == video
    assert {name.split(".")[3] for name in video if ".ctc." not in name} == VIDEO_PARTS
    assert {name for name in video if ".ctc." in name} == {
        f"encoders.video.ctc.linear.{end}" for end in WEIGHT_AND_BIAS
    }
    assert sets["audio_ctc"] == AUDIO_CTC
    assert sets["projector"] == PROJECTORS | {"markers.weight"}
    assert sets["joint"] == PROJECTORS | {"markers.weight"} | LORA


def test_the_stages_of_grid_train_the_upper_half_of_whisper_as_well(named_model: OmniAVSR) -> None:
    sets = stage_sets("grid_s1", named_model)
    upper = sets["audio_encoder"] - AUDIO_CTC
    assert sets["audio_encoder"] > AUDIO_CTC
    prefix = "encoders.audio.encoder.encoder."
    own = {name for name in dict(named_model.named_parameters()) if name.startswith(prefix)}
    lower = ("conv", "embed_positions", "layers.0.", "layers.1.")
    assert upper == {name for name in own if not name.removeprefix(prefix).startswith(lower)}
    assert sets["joint"] == PROJECTORS | {"markers.weight"} | LORA


ENCODERS_ALONE = {"asr": ["audio_encoder"], "vsr": ["video_encoder"], "avsr": ["video_encoder", "audio_encoder"]}
STRATEGIES = {
    "projector_only": ["projector"],
    "frozen_encoder": ["lora"],
    "joint": ["joint"],
    "projector_then_joint": ["projector", "joint"],
    "efin": ["projector", "lora"],
}


@pytest.mark.parametrize("task", list(ENCODERS_ALONE))
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_strategy_trains_the_parts_of_its_task_in_its_order(strategy: str, task: str, named_model: OmniAVSR) -> None:
    sets = stage_sets(f"{strategy}_{task}", named_model)
    alone = ENCODERS_ALONE[task] if strategy == "efin" else []
    assert list(sets) == [*alone, *STRATEGIES[strategy]]
    heard = {"asr": ("audio",), "vsr": ("video",), "avsr": ("audio", "video")}[task]
    projectors = {name for name in PROJECTORS if name.split(".")[1] in heard} | {"markers.weight"}
    encoders = {
        name
        for name in dict(named_model.named_parameters())
        if name.startswith(tuple(f"encoders.{modality}.encoder." for modality in heard))
        and "embed_positions" not in name
    }
    expected = {"projector": projectors, "lora": projectors | LORA, "joint": projectors | LORA | encoders}
    for stage in STRATEGIES[strategy]:
        assert sets[stage] == expected[stage]
    for stage in alone:
        modality = stage.removesuffix("_encoder")
        assert {name for name in sets[stage] if ".ctc." not in name} == {
            name for name in encoders if name.startswith(f"encoders.{modality}.")
        }


@pytest.mark.parametrize("task", list(ENCODERS_ALONE))
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_the_rate_of_a_strategy_is_constant_and_its_task_its_own(strategy: str, task: str) -> None:
    values = composed("train", f"stages={strategy}_{task}", "model=omni_smollm2_tiny", "data=manifest", *PATHS)
    for stage in from_mapping(RunConfig, values, "train").stages.values():
        assert stage.optimizer.schedule == "constant"
        if stage.objective.kind == "recognition":
            assert stage.objective.tasks == (task,)
