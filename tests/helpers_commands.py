"""Checks a command of this project as written: that its settings compose, or its arguments parse. Runs nothing."""

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from omni_avsr.cli import (
    calibrate_device,
    demo,
    export_llm,
    export_onnx,
    fit_scaling,
    merge,
    noise,
    personalize,
    plan,
    plan_edge,
    splice,
    transcribe,
)
from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.cli.prepare import PrepareConfig
from omni_avsr.config import from_mapping
from omni_avsr.evaluation import EvaluateConfig
from omni_avsr.published.facts import ImportConfig
from omni_avsr.run import RunConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

CONFIGS: Mapping[str, type] = {
    "prepare": PrepareConfig,
    "train": RunConfig,
    "evaluate": EvaluateConfig,
    "import-checkpoint": ImportConfig,
}
PARSERS: Mapping[str, ArgumentParser] = {
    "transcribe": transcribe.parser(),
    "personalize": personalize.parser(),
    "export-llm": export_llm.parser(),
    "export-onnx": export_onnx.parser(),
    "demo": demo.parser(),
    "merge": merge.parser(),
    "noise": noise.parser(),
    "splice": splice.parser(),
    "fit-scaling": fit_scaling.parser(),
    "plan": plan.parser(),
    "plan-edge": plan_edge.parser(),
    "calibrate-device": calibrate_device.parser(),
}


def composed(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """A config as its command composes it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        values = OmegaConf.to_container(compose(name, list(overrides)), resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def settings_of(command: str) -> Any:
    """The settings that ``omni-avsr ...`` would run with; an error, or SystemExit of argparse, when it could not."""
    program, name, *arguments = shlex.split(command, comments=True)
    assert program == "omni-avsr"
    if "-m" in arguments:
        # Every job of a sweep is checked; the first one's settings stand for all.
        swept = OverridesParser.create().parse_overrides([argument for argument in arguments if argument != "-m"])
        jobs = [job for batch in BasicSweeper.split_arguments(swept, max_batch_size=None) for job in batch]
        settings = [from_mapping(CONFIGS[name], composed(_config_name(name), job), name) for job in jobs]
        return settings[0]
    if name in CONFIGS:
        return from_mapping(CONFIGS[name], composed(_config_name(name), arguments), name)
    return PARSERS[name].parse_args(arguments)


def _config_name(command: str) -> str:
    return command.replace("-", "_")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a Markdown text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of all shell blocks, without comments; a line that ends in a backslash goes on in the next."""
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def own_data_commands() -> list[str]:
    """The README's lines for a folder of one's own clips."""
    return commands(README.partition("## Your own data")[2].partition("\n## ")[0])
