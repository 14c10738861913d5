"""Frozen encoders in bfloat16 beside a bfloat16 LLM: half the memory, and what is trained stays in float32."""

from pathlib import Path

import pytest
import torch
from helpers_model import AUDIO_ENCODERS, SELF_SUPERVISED, model_values, single, tiny_batch

from omni_avsr.build import build_model
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.model import OmniAVSR
from omni_avsr.stages import freeze_all_but, set_modes
from omni_avsr.types import Batch, Modality, Rates, Task

RATES = Rates(2, 3)
PUBLISHED = ("projectors.*", "encoders.video.*lora_*", "llm.*lora_*")
AVHUBERT = {"kind": "avhubert", "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32, "channels": [4, 4, 8, 8]}
PRETRAINED = [name for name in (*AUDIO_ENCODERS, *SELF_SUPERVISED) if name != "compact_audio"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def published_model(folder: Path, dtype: str, audio: str = "whisper_trimmed") -> OmniAVSR:
    """The published recipe in small; the same weights in every dtype, up to its rounding."""
    values = model_values(folder, audio=audio, llm={"dtype": dtype}, audio_encoder={"dtype": dtype})
    values["video_encoder"] = {**AVHUBERT, "dtype": dtype, "lora": {"rank": 2, "alpha": 4.0}}
    model = build_model(from_mapping(ModelConfig, values), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.3, generator=generator)
    freeze_all_but(model, PUBLISHED)
    set_modes(model)
    return model


@pytest.mark.parametrize("audio", PRETRAINED)
def test_frozen_weights_are_in_bfloat16_and_trained_ones_and_features_in_float32(audio: str, folder: Path) -> None:
    model = published_model(folder, "bfloat16", audio)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype is torch.float32, name
        elif name.startswith(("encoders.", "llm.")):
            assert parameter.dtype is torch.bfloat16, name
    batch = tiny_batch()
    with torch.no_grad():
        found, exact = model.encode(batch.inputs), published_model(folder, "float32", audio).encode(batch.inputs)
    for modality in Modality:
        assert found[modality].values.dtype is torch.float32
        distance = (found[modality].values - exact[modality].values).norm() / exact[modality].values.norm()
        assert 0 < float(distance) < 0.05


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "autocast"])
def test_a_step_reaches_all_that_is_trained_and_texts_are_written(mixed: bool, folder: Path) -> None:
    model, batch = published_model(folder, "bfloat16"), tiny_batch()
    loss = loss_of(model, batch, mixed)
    loss.backward()
    of_other_rates = ("projectors.audio.by_rate.5.", "projectors.video.by_rate.1.")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith(of_other_rates):
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    exact = loss_of(published_model(folder, "float32"), batch, False)
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.05)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        texts = model.generate(model.encode(batch.inputs), Task.AVSR, RATES, max_new_tokens=3)
    assert len(texts) == len(batch)


def test_padding_changes_losses_by_no_more_than_rounding(folder: Path) -> None:
    model, batch = published_model(folder, "bfloat16"), tiny_batch()
    with torch.no_grad():
        together = loss_of(model, batch, False)
        alone = sum(float(loss_of(model, single(batch, row), False)) for row in range(len(batch)))
    assert float(together) == pytest.approx(alone, rel=2e-2)


def loss_of(model: OmniAVSR, batch: Batch, mixed: bool) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        features = model.encode(batch.inputs)
        return model.loss(features, batch.texts, RATES, dict.fromkeys(Task, 1.0), batch.num_label_tokens).loss
