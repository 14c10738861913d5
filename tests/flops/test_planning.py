"""FLOPs from settings alone: every kind of stage at real sizes, by the conventions that hold for each part."""

from typing import Any

import pytest

from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.flops.planning import planned_ledger, planned_workload
from omni_avsr.flops.tape import Flops
from omni_avsr.stages import StageConfig
from omni_avsr.types import Modality, Rates, Task, Workload

MODEL = {
    "llm": {"weights": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    "audio_encoder": {"kind": "whisper", "weights": "openai/whisper-tiny.en"},
    "video_encoder": {"kind": "compact_video"},
    "adapters": {"strategy": "shared", "rank": 16},
}
RECOGNITION = {"kind": "recognition"}
SECONDS, LABELS = (10.0, 6.0), (30, 12)
PASSES = {Rates(4, 2): tuple(Task)}
STEP = planned_workload(SECONDS, LABELS, PASSES)


def planned(objective: dict[str, Any], trainable: list[str], work: Workload = STEP, **stage: Any) -> Flops:
    values = {"objective": objective, "trainable": trainable, "num_steps": 1, **stage}
    model, config = from_mapping(ModelConfig, MODEL), from_mapping(StageConfig, values)
    return planned_ledger(model, config).count(work)


def ratio(flops: Flops, part: str) -> float:
    """Backward over forward FLOPs: 0 for what is frozen below, 1 above (4*N in all), 2 for what is trained (6*N)."""
    return flops.backward[part] / flops.forward[part]


def test_the_three_stages_of_efin() -> None:
    first = planned({"kind": "whisper_decoder"}, ["encoders.audio.*"])
    assert ratio(first, "audio_encoder") == pytest.approx(2, rel=0.02)
    assert ratio(first, "decoder") > 0.9
    assert ratio(first, "logits") == 1
    assert first.parts.keys() == {"audio_encoder", "decoder", "logits"}
    second = planned(RECOGNITION, ["projectors.*"])
    assert ratio(second, "audio_encoder") == ratio(second, "video_front_end") == 0
    assert 1.4 < ratio(second, "projector") < 2  # nobody needs the gradient of its input
    assert ratio(second, "llm") == pytest.approx(1, abs=0.1)  # 4*N, and attention's two inputs
    third = planned(RECOGNITION, ["projectors.*", "llm.*lora_*"])
    assert ratio(third, "llm") == ratio(second, "llm")
    assert ratio(third, "adapters") == 2
    checkpointed = planned(RECOGNITION, ["projectors.*", "llm.*lora_*"], gradient_checkpointing=True)
    assert 1.7 < ratio(checkpointed, "llm") < 2.1
    assert checkpointed.forward == third.forward


def test_the_llm_runs_over_prompt_tokens_and_labels_and_logits_are_of_labels_alone() -> None:
    one = planned(RECOGNITION, ["projectors.*"], planned_workload((10.0,), (30,), {Rates(4, 2): [Task.ASR]}))
    weights, positions = (
        106.2e6,
        1 + 2 + 500 // 4 + 4 + 30,
    )  # SmolLM2-135M without its embedding; the prompt has 4 words
    attention = 30 * 4 * 576 * positions**2
    assert one.forward["llm"] == pytest.approx(2 * weights * positions + attention, rel=0.001)
    assert one.forward["logits"] == 2 * 576 * 49_152 * 30


def test_padding_is_what_a_batch_costs_more_than_its_clips() -> None:
    whole = planned(RECOGNITION, ["projectors.*"]).total
    alone = sum(
        planned(RECOGNITION, ["projectors.*"], planned_workload((s,), (n,), PASSES)).total
        for s, n in zip(SECONDS, LABELS, strict=True)
    )
    assert 1.2 < whole / alone < 1.3  # 20 s instead of 16 s, and more pairs


@pytest.mark.parametrize(
    ("objective", "trainable", "parts"),
    [
        (
            {"kind": "ctc", "modality": "video", "frame_targets": {"words": 1.0}},
            ["encoders.video.*"],
            {"video_front_end", "video_encoder", "heads"},
        ),
        ({"kind": "embed_link"}, ["projectors.*"], {"audio_encoder", "video_front_end", "video_encoder", "projector"}),
    ],
)
def test_other_stages(objective: dict[str, Any], trainable: list[str], parts: set[str]) -> None:
    assert planned(objective, trainable).parts.keys() == parts


def test_a_workload_of_one_modality() -> None:
    work = planned_workload((1.0,), (3,), modalities=(Modality.VIDEO,))
    assert work.inputs.keys() == {Modality.VIDEO}
    assert work.inputs[Modality.VIDEO].tolist() == [25]


def test_sizes_nobody_knows_are_refused() -> None:
    values = MODEL | {"audio_encoder": {"kind": "whisper", "weights": "openai/whisper-gigantic"}}
    stage = from_mapping(StageConfig, {"objective": RECOGNITION, "trainable": ["projectors.*"], "num_steps": 1})
    with pytest.raises(ValueError, match="whisper-gigantic are not known"):
        planned_ledger(from_mapping(ModelConfig, values), stage)
