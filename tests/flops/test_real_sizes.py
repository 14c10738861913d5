"""The ledger against torch's FLOP counter at the sizes of public models, without weights, and a published table."""

from typing import Any

import pytest
import torch
from helpers_flops import TOLERANCE, counted, deviations
from torch import Tensor

from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.encoders.self_supervised import SelfSupervisedEncoder
from omni_avsr.encoders.whisper import WhisperEncoder
from omni_avsr.features import MOUTH_CROP, SAMPLE_RATE, VIDEO_FPS
from omni_avsr.flops.decoders import LABELS, llm_tape
from omni_avsr.flops.encoders import PAIRS, STEPS, encoder_cost, padded_sizes
from omni_avsr.flops.tape import Flops
from omni_avsr.model import OmniAVSR
from omni_avsr.shapes import shaped_model
from omni_avsr.stages import freeze_all_but
from omni_avsr.types import Task

SECONDS = 10
SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def shaped(llm: str = SMALL, **parts: Any) -> OmniAVSR:
    """A model of real sizes on the meta device; a video encoder stands in where ``parts`` has none."""
    values = {"llm": {"weights": llm}, "adapters": {"strategy": "shared", "rank": 64, "alpha": 8.0}, **parts}
    if not parts.keys() & {"audio_encoder", "video_encoder"}:
        values["video_encoder"] = {"kind": "compact_video"}
    return shaped_model(from_mapping(ModelConfig, values), seed=0, device="meta")


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def check(found: Flops, expected: tuple[int, int]) -> None:
    ways = sum(found.forward.values()), sum(found.backward.values())
    assert max(map(abs, deviations(ways, expected))) < TOLERANCE, (ways, expected)


@pytest.mark.parametrize("context", ["full", "trimmed"])
@pytest.mark.parametrize("trained", [False, True])
def test_whisper_medium(context: str, trained: bool) -> None:
    model = shaped(audio_encoder={"kind": "whisper", "weights": "openai/whisper-medium.en", "context": context})
    encoder = model.encoders["audio"].encoder.requires_grad_(trained)
    assert isinstance(encoder, WhisperEncoder)
    samples = torch.tensor([SECONDS * SAMPLE_RATE])
    num_mel, num_positions = encoder.front.num_computed(samples)
    attended = meta(1, num_positions).bool() if context == "trimmed" else None
    expected = counted(lambda: encoder._encode(meta(1, num_mel, 80), num_positions, attended).sum())
    cost = encoder_cost(model.encoders["audio"])
    check(cost.tape.flops(cost.sizes(samples)), expected)


@pytest.mark.parametrize("trainable", ["encoders.video.*lora_*", "encoders.video.*", "markers*"])
def test_avhubert_large(trainable: str) -> None:
    model = shaped(video_encoder={"kind": "avhubert", "lora": {"rank": 64, "alpha": 128.0}})
    freeze_all_but(model, [trainable])
    encoder = model.encoders["video"].encoder
    assert isinstance(encoder, AVHubertEncoder)
    frames = SECONDS * VIDEO_FPS

    # The whole forward pass would choose the real frames, which the meta device cannot.
    expected = counted(lambda: encoder.encode_clip(meta(1, frames, MOUTH_CROP, MOUTH_CROP)).sum())
    cost = encoder_cost(model.encoders["video"])
    check(cost.tape.flops(cost.sizes(torch.tensor([frames]))), expected)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("wavlm", "microsoft/wavlm-base-plus"), ("hubert", "facebook/hubert-large-ll60k")],
)
def test_self_supervised_encoders(kind: str, weights: str) -> None:
    model = shaped(audio_encoder={"kind": kind, "weights": weights})
    encoder = model.encoders["audio"].encoder.requires_grad_(True)
    assert isinstance(encoder, SelfSupervisedEncoder)
    samples = SECONDS * SAMPLE_RATE

    expected = counted(lambda: encoder.encode_clip(meta(1, samples)).sum())
    cost = encoder_cost(model.encoders["audio"])
    check(cost.tape.flops(cost.sizes(torch.tensor([samples]))), expected)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trainable", ["projectors.*", "llm.*lora_*"])
@pytest.mark.parametrize("name", ["meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-0.5B"])
def test_llms(name: str, trainable: str, checkpointing: bool) -> None:
    model = shaped(name)
    freeze_all_but(model, [trainable])
    if checkpointing:
        model.router.enable_gradient_checkpointing(model.llm)
    rows, length, labels = 2, 300, 40
    embeds = meta(rows, length, model.text.hidden_size).requires_grad_(trainable == "projectors.*")
    # Without both, transformers looks into the values of masks and positions.
    mask, places = meta(rows, 1, length, length).bool(), meta(rows, length).long()

    def forward() -> Tensor:
        with model.router.route(Task.VSR):
            hidden = model.llm.get_decoder()(
                inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False
            ).last_hidden_state
        return model.llm.get_output_embeddings()(hidden[:, :labels].flatten(0, 1)).sum()

    expected = counted(forward)
    tape = llm_tape(model, Task.VSR, embeds.requires_grad, checkpointing)
    check(tape.flops({**padded_sizes(torch.tensor([length] * rows)), LABELS: rows * labels}), expected)


@pytest.mark.parametrize(
    ("rates", "num_tokens", "published"),
    [((1, 1), 757, 11.40), ((4, 2), 257, 3.87), ((4, 5), 182, 2.74), ((16, 2), 163, 2.46), ((16, 5), 88, 1.33)],
)
def test_the_published_inference_table(rates: tuple[int, int], num_tokens: int, published: float) -> None:
    """TFLOPs of Llama-3.1-8B for a 10 s clip and 7 tokens of prompt: 2*N for a token, N without the embedding."""
    model = shaped("meta-llama/Llama-3.1-8B")
    assert num_tokens == 10 * 50 // rates[0] + 10 * 25 // rates[1] + 7
    tape = llm_tape(model, Task.VSR, gradient=False, gradient_checkpointing=False)
    # The table has the logits of all positions, and leaves attention out.
    flops = tape.flops({STEPS: num_tokens, LABELS: num_tokens, PAIRS: 0}, graph=False)
    assert flops.total / 1e12 == pytest.approx(published, abs=0.006)
    weights = sum(value.numel() for value in model.llm.parameters()) - model.llm.get_input_embeddings().weight.numel()
    assert flops.total == pytest.approx(2 * weights * num_tokens, rel=1e-4)
    assert flops.forward["adapters"] / (2 * num_tokens) == pytest.approx(27e6, rel=0.02)
