"""Which model the commands for devices are about: a checkpoint, or settings by name or file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omni_avsr.checkpoint import read_info
from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.config import ModelConfig, from_mapping

DEFAULT_MODEL, DEFAULT_LLM = "omni_avsr", "llama_3_2_1b"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--checkpoint", type=Path, metavar="DIR", help="a trained model")
    group.add_argument(
        "--config",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help=f"settings of a model: a name in conf/model, or a YAML or JSON file ({DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--encoder-dtype",
        choices=("float32", "bfloat16"),
        help="of the frozen encoders of --config (default: as it says)",
    )


def model_of(arguments: argparse.Namespace, llm: str = DEFAULT_LLM) -> ModelConfig:
    """The settings that the arguments name; ``llm``, a name in conf/language_model, is for those that have none."""
    if arguments.checkpoint is not None:
        if arguments.encoder_dtype is not None:
            raise ValueError("--encoder-dtype is for --config; a checkpoint's encoders are as it says")
        return read_info(arguments.checkpoint).model
    values = _read(arguments.config, "model")
    if "llm" not in values:
        values = _merged(values, _read(llm, "language_model"))
    if arguments.encoder_dtype is not None:
        for encoder in (values.get(name) for name in ("audio_encoder", "video_encoder")):
            if encoder and not encoder["kind"].startswith("compact"):
                encoder["dtype"] = arguments.encoder_dtype
    return from_mapping(ModelConfig, values, "model")


def names_its_llm(arguments: argparse.Namespace) -> bool:
    """Whether the model has an LLM of its own."""
    return arguments.checkpoint is not None or "llm" in _read(arguments.config, "model")


def known_llms() -> list[str]:
    """The names in conf/language_model, by which a model without an LLM gets one."""
    return sorted(path.stem for path in (config_folder() / "language_model").glob("*.yaml"))


def _read(name: str, group: str) -> dict[str, Any]:
    """Settings by their name in a group of configs, or from a file."""
    from omegaconf import OmegaConf  # a checkpoint needs none of it

    path = Path(name) if Path(name).suffix else config_folder() / group / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in (config_folder() / group).glob("*.yaml")))
        raise ValueError(f"there is no {path}; give a file, or one of {there}")
    values = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings of a model")
    return {str(key): value for key, value in values.items()}


def _merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """``values`` with ``more`` in it, group by group."""
    return {
        **values,
        **{key: {**values.get(key, {}), **value} if isinstance(value, dict) else value for key, value in more.items()},
    }
