"""A picture of the page of ``omni-avsr demo``: serves it, uses it in a headless browser as a visitor would, and looks.

    python experiments/000-demo/page.py CHECKPOINT CLIP PICTURE.png

Needs Chromium or Chrome (``OMNI_AVSR_BROWSER`` names another place) and playwright, which is in the extra ``dev``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from omni_avsr.transcribe import load
from omni_avsr.web import build_page, launch

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
MINUTE = 60_000


def main() -> None:
    parser = argparse.ArgumentParser(description="A picture of the page of omni-avsr demo.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    browser = os.environ.get("OMNI_AVSR_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no browser: install chromium, or name one in OMNI_AVSR_BROWSER")
    page = build_page(load(options.checkpoint))
    take_picture(launch(page, "127.0.0.1", None), options.clip, options.picture, browser)
    page.close()


def take_picture(address: str, clip: Path, picture: Path, browser: str) -> None:
    """Upload ``clip``, have it transcribed, and write what is seen then."""
    with sync_playwright() as tools:
        window = tools.chromium.launch(executable_path=browser, args=FLAGS)
        page = window.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(address)
        page.locator("#video input[type=file]").set_input_files(clip)
        page.locator("#video video").first.wait_for(state="attached", timeout=MINUTE)
        page.locator("#transcribe").click()
        page.locator("#cost li").first.wait_for(timeout=MINUTE)
        page.locator("#mouth video").first.wait_for(state="attached", timeout=MINUTE)
        page.wait_for_timeout(1500)  # the video of the mouth has to show its first frames
        page.screenshot(path=picture, full_page=True)
        window.close()


if __name__ == "__main__":
    main()
