"""A tiny model trained with the switches of the published code, all at once."""

from pathlib import Path

import pytest
import torch
from helpers_model import model_values, run_config, stage_tensors, stage_values, write_corpus

from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.run import run

AVHUBERT = {
    "kind": "avhubert",
    "dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 32,
    "channels": [4, 4, 8, 8],
    "lora": {"rank": 2, "alpha": 4.0},
}
STAGE = {
    "objective": {"kind": "recognition", "averaging": "clips"},
    "trainable": ["projectors.*", "*lora_*"],
    "drifting": ["encoders"],
    "batching": {"max_clips": 2, "max_frames": 40, "composition": "fixed"},
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_corpus(folder / "corpus")
    model = model_values(
        folder,
        "whisper_full",
        video_encoder=None,
        adapters={"init": "normal"},
        compression={"audio_rates": [2, 4], "video_rates": [1, 2], "tail": "drop"},
        projector={"layer_norm": False},
    )
    model |= {"video_encoder": AVHUBERT, "markers": {"place": "vocabulary", "pad_row": True}, "padding": "attended"}
    stages = {"joint": stage_values("joint", 2, validate_every=1, **STAGE)}
    trainer = {"accelerator": "cpu", "precision": "bf16-true"}
    run(run_config(folder, folder / "run", stages, model=model, trainer=trainer, checkpoint_dtype="bfloat16"))
    return folder / "run"


def test_all_that_is_trained_is_in_bfloat16(output: Path) -> None:
    [tensors] = stage_tensors(output).values()
    assert {value.dtype for name, value in tensors.items() if "num_batches" not in name} == {torch.bfloat16}
    assert {name.split(".")[0] for name in tensors} == {"projectors", "llm", "encoders"}


def test_the_statistics_of_batch_norm_drift_and_are_in_the_checkpoint(output: Path) -> None:
    [tensors] = stage_tensors(output).values()
    name = "encoders.video.encoder.resnet.stem.1.running_mean"
    assert tensors[name].abs().max() > 0
    loaded = load_checkpoint(output / "checkpoint").state_dict()
    assert torch.equal(loaded[name], tensors[name].float())
    assert {tensor.dtype for tensor in loaded.values() if tensor.is_floating_point()} == {torch.float32}
