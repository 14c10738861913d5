"""The README of a checkpoint folder, in the layout of Hugging Face's model cards, from what the checkpoint records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from omni_avsr.config import ModelConfig
from omni_avsr.weights import is_hub_id

CARD = "README.md"


def model_card(model: ModelConfig, training: Mapping[str, Any]) -> str:
    """The card's text: YAML facts, then domain, use, base models, and a table of the stages that trained it.

    Args:
        model: with the sha256 of the base models.
        training: as it stands in the checkpoint; what it does not tell is left out.
    """
    bases = model.base_weights.values()
    facts = ModelCardData(
        library_name="omni_avsr",
        pipeline_tag="automatic-speech-recognition",
        base_model=[base.reference for base in bases if is_hub_id(base.reference)] or None,
        tags=["audio-visual-speech-recognition", "lip-reading", "peft", "lora", *map(str, model.tasks)],
    )
    rates = model.compression
    sections = [
        f"---\n{facts.to_yaml()}\n---",
        "# Audio-visual speech recognition with one LLM",
        f"**Domain**: {training.get('domain', 'not stated')}.",
        f"Tasks: {', '.join(task.upper() for task in model.tasks)}. Trained audio rates {list(rates.audio_rates)}, "
        f"video rates {list(rates.video_rates)} (encoder frames to a token; {rates.mode}). Adapters: "
        f"{model.adapters.strategy} LoRA of rank {model.adapters.rank}.",
        "```python\nimport omni_avsr\n\n"
        'model = omni_avsr.load("FOLDER OR HUB ID")\n'
        f'model.transcribe("clip.mp4", task="{model.tasks[-1]}")\n```',
        "## Base models\n\nThey are not part of this folder, and these exact weights are needed.\n\n"
        "| weights | sha256 |\n|---|---|\n"
        + "\n".join(f"| {base.reference} | {base.sha256 or 'unknown'} |" for base in bases),
    ]
    if imported := training.get("imported"):
        sections.append(f"Imported from {imported['file']} of Omni-AVSR's authors (sha256 {imported['sha256']}).")
    if records := training.get("records"):
        sections.append("## Training\n\n" + _stages(records) + _origin(training))
    return "\n\n".join(sections) + "\n"


def _stages(records: list[Mapping[str, Any]]) -> str:
    rows = [
        "| stage | steps | trained parameters | hours | TFLOPs | validation | commit | date |",
        "|---|---:|---:|---:|---:|---|---|---|",
    ]
    for record in records:
        figures = ", ".join(
            f"{name.removeprefix('validation/')} {value:.3f}"
            for name, value in record["metrics"].items()
            if name.endswith("_wer")
        )
        # Records of before FLOPs were counted have none.
        flops = sum(sum(parts.values()) for parts in record.get("flops", {}).values())
        rows.append(
            f"| {record['stage']} | {record['steps']} | {record['num_trainable']:,} | {record['seconds'] / 3600:.2f} | "
            f"{f'{flops / 1e12:,.4g}' if flops else 'unknown'} | {figures} | {record['commit']} | {record['date']} |"
        )
    return "\n".join(rows)


def _origin(training: Mapping[str, Any]) -> str:
    start = training.get("start")
    if not start:
        return ""
    return (
        f"\n\nIt started from {', '.join(start['parts'])} of the checkpoint with sha256 {start['checkpoint_sha256']}."
    )
