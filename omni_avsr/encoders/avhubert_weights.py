"""AV-HuBERT's published checkpoints to the weights of ``AVHubertEncoder``: read safely, every name accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni_avsr.config import AVHubertConfig
from omni_avsr.encoders.avhubert import BLOCKS_PER_STAGE, AVHubertEncoder
from omni_avsr.pickles import load_with_stubs

_UNUSED = re.compile(r"mask_emb|label_embs_concat|final_proj\..*|feature_extractor_audio\..*")
"""What only pretraining and the sound need."""
_RESNET = "feature_extractor_video.resnet."
_RENAMED = (
    (r"feature_extractor_video\.proj\.", "project."),
    (r"post_extract_proj\.", "fuse."),
    (r"layer_norm\.", "fusion_norm."),
    (r"encoder\.layer_norm\.", "norm."),
    (r"encoder\.pos_conv\.0\.bias", "position.bias"),
    (r"encoder\.pos_conv\.0\.weight_g", "position.parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v", "position.parametrizations.weight.original1"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"layers.\1.attention_norm."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"layers.\1."),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.", r"layers.\1.ffn_norm."),
    (r"encoder\.layers\.(\d+)\.", r"layers.\1."),
    (rf"{re.escape(_RESNET)}frontend3D\.", "resnet.stem."),
)
_BLOCK = re.compile(rf"{re.escape(_RESNET)}trunk\.layer(\d+)\.(\d+)\.(.*)")


def load_avhubert(path: Path, config: AVHubertConfig, dtype: torch.dtype = torch.float32) -> AVHubertEncoder:
    """The encoder in a checkpoint such as large_vox_iter5.pt, without LoRA, in eval mode.

    Raises:
        ValueError: the file is no such checkpoint, or has names, shapes or sizes that ``config`` does not.
    """
    return from_official(read_checkpoint(path), str(path), config, dtype)


def from_official(
    state: Mapping[str, Tensor], source: str, config: AVHubertConfig, dtype: torch.dtype = torch.float32
) -> AVHubertEncoder:
    """The encoder from a state dict under fairseq's names.

    Raises:
        ValueError: naming ``source`` and every name that is missing, left over, or of another shape.
    """
    renamed = rename(state)
    _check_sizes(renamed, source, config)
    with torch.device("meta"):
        encoder = AVHubertEncoder(config)
    expected = {name: value.shape for name, value in encoder.state_dict().items()}
    wrong = [
        *(f"no {name}" for name in sorted(expected.keys() - renamed.keys())),
        *(f"{name} is left over" for name in sorted(renamed.keys() - expected.keys())),
        *(
            f"{name} has {list(renamed[name].shape)}, expected {list(shape)}"
            for name, shape in sorted(expected.items())
            if name in renamed and renamed[name].shape != shape
        ),
    ]
    if wrong:
        raise ValueError(f"{source} holds no AV-HuBERT that is known here: {'; '.join(wrong)}")
    # Counts are copied, since the file would stay mapped for their sake.
    own = {n: v.to(dtype) if v.is_floating_point() else v.clone() for n, v in renamed.items()}
    encoder.load_state_dict(own, assign=True)
    return encoder.eval()


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as ``AVHubertEncoder`` has them, and the stem's kernel as it has it; names that nobody knows stay."""
    renamed = {}
    for name, value in state.items():
        if _UNUSED.fullmatch(name):
            continue
        new = _new_name(name)
        renamed[new] = value.squeeze(1) if new == "resnet.stem.0.weight" and value.ndim == 5 else value
    return renamed


def sizes_of(renamed: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The sizes of the model whose tensors these are, as ``AVHubertConfig`` names them; no tensor tells the heads.

    Raises:
        ValueError: a tensor that tells a size is missing.
    """
    try:
        stages = [f"resnet.blocks.{BLOCKS_PER_STAGE * stage}.conv1.weight" for stage in range(4)]
        return {
            "dim": renamed["norm.weight"].shape[0],
            "num_layers": len({name.split(".")[1] for name in renamed if name.startswith("layers.")}),
            "ffn_dim": renamed["layers.0.fc1.weight"].shape[0],
            "channels": tuple(renamed[name].shape[0] for name in stages),
        }
    except KeyError as error:
        raise ValueError(f"{source} holds no AV-HuBERT: no {error.args[0]}") from error


def _check_sizes(renamed: Mapping[str, Tensor], source: str, config: AVHubertConfig) -> None:
    wanted = asdict(config)
    wrong = [f"{n} {size} for {wanted[n]}" for n, size in sizes_of(renamed, source).items() if size != wanted[n]]
    if wrong:
        raise ValueError(f"{source} holds an AV-HuBERT of other sizes than the settings say: {', '.join(wrong)}")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The model's state dict in a checkpoint of fairseq. Nothing in the file is run: its settings become empty stubs.

    Raises:
        ValueError: the file cannot be read so, or asks for classes of other packages.
    """
    checkpoint = load_with_stubs(path)
    state = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is no checkpoint of fairseq: there is no state dict under 'model'")
    return state


def _new_name(name: str) -> str:
    if block := _BLOCK.fullmatch(name):
        stage, number, rest = int(block[1]), int(block[2]), block[3]
        rest = rest.replace("bn1.", "norm1.").replace("bn2.", "norm2.").replace("downsample.", "shortcut.")
        return f"resnet.blocks.{BLOCKS_PER_STAGE * (stage - 1) + number}.{rest}"
    for old, new in _RENAMED:
        if re.match(old, name):
            return re.sub(f"^{old}", new, name)
    return name
