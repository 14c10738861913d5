"""``omni-avsr export-onnx``: a checkpoint's encoders, CTC heads and projectors as ONNX files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from omni_avsr.encoders.exported import ExportedParts, Graph
from omni_avsr.export import export_checkpoint


def main() -> None:
    """Exits with 1 when the checkpoint cannot be exported, with 2 on bad arguments."""
    options = parser().parse_args()
    try:
        manifest = export_checkpoint(options.checkpoint, options.output, options.quantize or "none")
    except ValueError as error:
        sys.exit(f"omni-avsr export-onnx: {error}")
    console = Console(highlight=False)
    for parts in manifest.parts.values():
        for graph in _graphs(parts):
            size = (options.output / graph.file).stat().st_size / 1e6
            console.print(f"{graph.file}: {size:.1f} MB, at most {graph.max_error:.2g} off torch", soft_wrap=True)


def _graphs(parts: ExportedParts) -> list[Graph]:
    return [parts.encoder, *([] if parts.ctc is None else [parts.ctc]), *parts.tokens.values()]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omni-avsr export-onnx",
        description="Write a checkpoint's encoders, CTC heads and projectors as ONNX files.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--quantize", choices=["int8"], help="int8 weights of linear layers (default: float32)")
    return parser
