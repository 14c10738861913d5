"""Settings from plain mappings and back, and errors that name the field."""

import json
from typing import Any

import pytest

from omni_avsr.config import (
    CompactAudioConfig,
    CompactVideoConfig,
    CompressionConfig,
    LLMConfig,
    ModelConfig,
    SelfSupervisedConfig,
    WhisperConfig,
    from_mapping,
    to_mapping,
)
from omni_avsr.types import Modality, Task

MINIMAL: dict[str, Any] = {"llm": {"weights": "folder"}, "audio_encoder": {"kind": "compact_audio"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, r"^model\.layers: Unexpected keyword argument \(got 3\)$"),
        ({"audio_encoder": {"kind": "compact_audio", "layers": 3}}, r"^model\.audio_encoder\.layers: Unexpected"),
        ({"audio_encoder": {"kind": "compact_audio", "dim": "many"}}, r"^model\.audio_encoder\.dim: .*'many'"),
        ({"audio_encoder": {"kind": "compact_audio", "dim": 0}}, r"^model\.audio_encoder\.dim: .*greater than 0"),
        ({"audio_encoder": {"kind": "whisper"}}, r"^model\.audio_encoder\.weights: Field required"),
        ({"audio_encoder": {"kind": "wav2vec"}}, r"^model\.audio_encoder: .*'wav2vec'"),
        ({"audio_encoder": {"dim": 8}}, r"^model\.audio_encoder: .*'kind'"),
        ({"llm": {}}, r"^model\.llm\.weights: Field required"),
        ({"llm": {"weights": "x", "dtype": "int3"}}, r"^model\.llm\.dtype: "),
        ({"compression": {"audio_rates": [4, "q"]}}, r"^model\.compression\.audio_rates\.1: "),
        ({"compression": {"audio_rates": [4, 4]}}, r"^model\.compression: .*audio_rates .* each once, got \[4, 4\]"),
        ({"compression": {"video_rates": []}}, r"^model\.compression: .*video_rates must name at least one rate"),
        ({"compression": {"audio_rates": [0]}}, r"^model\.compression\.audio_rates\.0: "),
        ({"adapters": {"strategy": "both"}}, r"^model\.adapters\.strategy: "),
        ({"adapters": {"alpha": 0}}, r"^model\.adapters\.alpha: "),
        ({"prompts": {"lip": "Read."}}, r"^model\.prompts\.lip: "),
        ({"prompts": {"vsr": "Read."}}, r"^model: .*prompts name none for asr"),
        ({"audio_encoder": None}, r"^model: .*audio encoder, a video encoder or both"),
    ],
)
def test_an_error_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(ModelConfig, MINIMAL | change, "model")


def test_a_missing_part_is_named() -> None:
    with pytest.raises(ValueError, match=r"^config\.llm: Field required"):
        from_mapping(ModelConfig, {"audio_encoder": {"kind": "compact_audio"}})


def test_all_errors_are_told_at_once() -> None:
    wrong = {"llm": {"weights": "x", "size": 1}, "audio_encoder": {"kind": "compact_audio", "kernel": -1}}
    with pytest.raises(ValueError) as caught:
        from_mapping(ModelConfig, wrong)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["config.llm.size", "config.audio_encoder.kernel"]


@pytest.mark.parametrize(
    ("audio", "video"),
    [
        (WhisperConfig(weights="whisper", context="full", ctc=True), None),
        (SelfSupervisedConfig(weights="wavlm", kind="wavlm", ctc=True, sha256="ab"), None),
        (CompactAudioConfig(dim=8, num_heads=2), CompactVideoConfig(channels=(4, 8), image_size=16)),
        (None, CompactVideoConfig(dropout=0.25)),
    ],
    ids=["whisper", "wavlm", "compact", "video"],
)
def test_round_trip_through_json(audio: Any, video: Any) -> None:
    config = ModelConfig(
        llm=LLMConfig(weights="folder", dtype="bfloat16", sha256="ab"),
        audio_encoder=audio,
        video_encoder=video,
        compression=CompressionConfig(mode="stack", tail="drop", audio_rates=(3,), video_rates=(1, 2, 5)),
        prompts={task: f"{task}!" for task in Task},
    )
    stored = json.loads(json.dumps(to_mapping(config)))
    assert from_mapping(ModelConfig, stored) == config
    assert set(stored["prompts"]) == {"asr", "vsr", "avsr"}


def test_defaults_are_written_out() -> None:
    """A later change of a default must not change what a stored model is."""
    stored = to_mapping(from_mapping(ModelConfig, MINIMAL))
    assert stored["compression"] == {"mode": "average", "tail": "keep", "audio_rates": [4, 16], "video_rates": [2, 5]}
    assert stored["video_encoder"] is None
    assert stored["audio_encoder"]["kind"] == "compact_audio"
    assert stored["adapters"]["alpha"] == 32.0


@pytest.mark.parametrize(
    ("audio", "video", "tasks"),
    [
        (CompactAudioConfig(), None, (Task.ASR,)),
        (None, CompactVideoConfig(), (Task.VSR,)),
        (CompactAudioConfig(), CompactVideoConfig(), (Task.ASR, Task.VSR, Task.AVSR)),
    ],
    ids=["audio", "video", "both"],
)
def test_tasks_are_those_whose_encoders_exist(audio: Any, video: Any, tasks: tuple[Task, ...]) -> None:
    config = ModelConfig(llm=LLMConfig(weights="x"), audio_encoder=audio, video_encoder=video)
    assert config.tasks == tasks
    assert config.encoder_of(Modality.AUDIO) is audio
    assert config.encoder_of(Modality.VIDEO) is video


def test_a_model_needs_prompts_for_its_own_tasks_alone() -> None:
    config = from_mapping(ModelConfig, MINIMAL | {"prompts": {"asr": "Listen."}})
    assert config.prompts == {Task.ASR: "Listen."}


def test_the_models_do_not_share_their_default_prompts() -> None:
    first, second = from_mapping(ModelConfig, MINIMAL), from_mapping(ModelConfig, MINIMAL)
    assert first.prompts == second.prompts
    assert first.prompts is not second.prompts
