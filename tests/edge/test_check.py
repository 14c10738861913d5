"""What a profile's memory cannot hold is refused before anything is loaded."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_model import model_values, stage_values

from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.edge.budget import Profile
from omni_avsr.edge.check import check_training, check_transcribing
from omni_avsr.edge.device import Device, write_device
from omni_avsr.edge.ledger import MemoryConstants
from omni_avsr.stages import StageConfig
from omni_avsr.types import Task

ROOM, NONE = Profile(process_gib=4.0), Profile(process_gib=0.5)


def published() -> ModelConfig:
    """The published recipe, of which there are no weights here."""
    values = {
        "llm": {"weights": "meta-llama/Llama-3.2-1B", "dtype": "bfloat16"},
        "audio_encoder": {"kind": "whisper", "weights": "openai/whisper-medium.en", "dtype": "bfloat16"},
        "video_encoder": {
            "kind": "avhubert",
            "weights": "large_vox_iter5.pt",
            "lora": {"rank": 64, "alpha": 128},
            "dtype": "bfloat16",
        },
        "projector": {"hidden_dim": 2048},
        "adapters": {"rank": 64, "alpha": 8},
    }
    return from_mapping(ModelConfig, values)


def test_the_published_recipe_fits_eight_gigabytes_but_not_in_float32() -> None:
    profile = Profile(process_gib=6.0)
    check_transcribing(profile, published(), tuple(Task), 16.0, 1, 1, 32)
    wide = replace(published().llm, dtype="float32")
    with pytest.raises(ValueError, match=r"asr of 1 x 16\.0 s takes 6\.\d+ GiB \(llm 3\.\d+.*of 6\.00 GiB that the"):
        check_transcribing(profile, replace(published(), llm=wide), tuple(Task), 16.0, 1, 1, 32)
    small = Profile(process_gib=3.7)
    with pytest.raises(ValueError, match="Quantise the LLM"):
        check_transcribing(small, published(), [Task.AVSR], 16.0, 1, 1, 32)
    check_transcribing(
        small, replace(published(), llm=replace(published().llm, quantization="int8")), [Task.AVSR], 16.0, 1, 1, 32
    )


def stage_of(kind: str, **changes: Any) -> StageConfig:
    return from_mapping(StageConfig, stage_values(kind, 1, **changes))


def test_a_stage_is_checked_with_its_largest_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = from_mapping(ModelConfig, model_values(tmp_path))
    stage = stage_of("joint", batching={"max_clips": 8, "max_frames": 500})
    with caplog.at_level(logging.INFO):
        check_training(ROOM, model, "joint", stage, 4.0, 20, "32-true")
    assert "stage joint with 5 x 4.0 s" in caplog.text
    with pytest.raises(ValueError, match=r"stage joint with 5 x 4\.0 s takes"):
        check_training(NONE, model, "joint", stage, 4.0, 20, "32-true")


def test_a_stage_that_is_not_described_is_let_pass_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = from_mapping(ModelConfig, model_values(tmp_path))
    check_training(NONE, model, "lips", stage_of("video_ctc"), 4.0, 20, "32-true")
    assert "whether stage lips fits in 0.50 GiB is not foretold" in caplog.text


def test_the_constants_are_those_of_the_device(tmp_path: Path) -> None:
    model = from_mapping(ModelConfig, model_values(tmp_path))
    write_device(tmp_path / "device.json", Device(MemoryConstants(libraries=1000, overhead=0, scale=1.0)))
    check_transcribing(replace(NONE, device=tmp_path / "device.json"), model, [Task.ASR], 1.0, 1, 1, 8)
    with pytest.raises(ValueError, match="libraries"):
        check_transcribing(NONE, model, [Task.ASR], 1.0, 1, 1, 8)
