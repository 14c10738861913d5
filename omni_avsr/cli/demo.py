"""``omni-avsr demo``: a page to try a checkpoint on."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    """Serve the page until it is interrupted; exits with 1 where there is no checkpoint, device or free port."""
    options = parser().parse_args()
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from omni_avsr.transcribe import load
    from omni_avsr.web import build_page, launch

    try:
        page = build_page(load(options.checkpoint, options.device, face_model=options.face_model))
        address = launch(page, options.host, options.port)
    except (ValueError, OSError) as error:
        sys.exit(f"omni-avsr demo: {error}")
    sys.stderr.write(f"open {address} in a browser; Ctrl-C ends it\n")
    page.block_thread()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="omni-avsr demo", description="A page to try a checkpoint on.")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="folder, or id on the Hugging Face Hub")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 shows the page to the network")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--face-model", type=Path, metavar="FILE", help="MediaPipe's face_landmarker.task")
    return parser
