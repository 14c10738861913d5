"""The ``omni-avsr`` command: picks the subcommand and imports only that one."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

EXTRAS = {
    "train": "train",
    "evaluate": "train",
    "import-checkpoint": "train",
    "prepare": "prepare",
    "merge": "prepare",
    "splice": "prepare",
    "noise": "prepare",
    "transcribe": "prepare",
    "personalize": "train",
    "export-llm": "runtime",
    "export-onnx": "export",
    "demo": "demo",
    "fit-scaling": "train",
    "plan": "train",
    "plan-edge": "train",
    "calibrate-device": "train",
}
"""The extra of the package that a command needs."""

COMMANDS = {
    "train": "train the stages of an experiment (Hydra key=value)",
    "evaluate": "score a checkpoint on all tasks and rates (Hydra key=value)",
    "import-checkpoint": "make a checkpoint of this project from one of Omni-AVSR's authors (Hydra key=value)",
    "prepare": "turn a corpus into mouth crops, audio and a manifest (Hydra key=value)",
    "merge": "make one manifest of the shards of a preparation",
    "transcribe": "write down what is said in audio and video files",
    "personalize": "learn one person's voice from a few clips, or forget it",
    "export-llm": "write the language model with one task's adapters merged, for other runtimes",
    "export-onnx": "make ONNX files of a checkpoint's encoders and projectors",
    "demo": "serve a page to try a checkpoint on",
    "splice": "make new training clips from pieces of prepared ones",
    "noise": "prepare noise to train and to test in, or mix babble",
    "fit-scaling": "fit laws of error over compute, sizes and data to finished runs",
    "plan": "what to train with a budget, by fitted laws",
    "plan-edge": "what fits a board's memory and a time limit, before anything is loaded",
    "calibrate-device": "measure a board once, for plan-edge",
}

_WARNING_LIBRARIES = ("bitsandbytes", "torch.utils._pytree")
"""Which warn when they are imported, of kernels that nothing here uses and of what torchao registers."""


def main() -> None:
    """Run ``omni-avsr COMMAND ...``; exits with 2 when there is no such command."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command not in COMMANDS:
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}} {summary}" for name, summary in COMMANDS.items()]
        text = "usage: omni-avsr COMMAND ...\n\n" + "\n".join(lines) + "\n"
        wanted = command in ("-h", "--help")
        (sys.stdout if wanted else sys.stderr).write(text)
        sys.exit(0 if wanted else 2)
    sys.argv = [f"omni-avsr {command}", *sys.argv[2:]]
    for library in _WARNING_LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        # Some libraries are imported only when the command runs.
        import_module(f"omni_avsr.cli.{command.replace('-', '_')}").main()
    except ModuleNotFoundError as error:
        extra = EXTRAS[command]
        sys.exit(f"omni-avsr {command}: {error}; run pip install 'omni-avsr[{extra}]', which brings what it needs")
