"""``omni-avsr merge``: the manifests of all shards of a preparation to one."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.logging import RichHandler

from data_prep.prepare import QUALITY_PAGE_NAME, TARS_FOLDER, PrepareOptions
from data_prep.quality.page import write_quality_page
from data_prep.shards import MANIFEST_NAME, merge_shards
from data_prep.tars import remove_unused_tars
from omni_avsr.cli.prepare import check_rejected

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Merge what `omni-avsr prepare shard=i/n` wrote for each i; an error if a shard is missing."
    )
    parser.add_argument("output", type=Path, help="the output folder of the shards")
    parser.add_argument(
        "--max-rejected", type=float, default=0.1, help="largest share of rejected clips that is no error (0.1)"
    )
    return parser


def main() -> None:
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    output: Path = arguments.output
    try:
        clips, rejections = merge_shards(output)
        remove_unused_tars(output / TARS_FOLDER, clips)
        write_quality_page(
            output / QUALITY_PAGE_NAME, clips, rejections, output.resolve().name, time_limit=PrepareOptions.time_limit
        )
        log.info("%d clips: %s", len(clips), output / MANIFEST_NAME)
        log.info("quality page: %s", output / QUALITY_PAGE_NAME)
        check_rejected(len(rejections), len(clips), output, arguments.max_rejected)
    except ValueError as error:
        log.error("%s", error)
        sys.exit(1)
