"""``omni-avsr noise``: recordings of noise, or babble mixed from speech, to a noise manifest."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.logging import RichHandler
from rich.progress import track

from data_prep.cores import num_cores
from data_prep.noise.babble import mix_babble
from data_prep.noise.demand import read_demand
from data_prep.noise.folder import read_noise_folder
from data_prep.noise.musan import KINDS, read_musan
from data_prep.noise.noisex import read_noisex
from data_prep.noise.prepare import prepare_noise
from data_prep.noise.source import SourceNoise

CORPORA = {
    "folder": "any audio or video files; a subfolder named train, validation or test says what is in it",
    "musan": "MUSAN",
    "demand": "DEMAND, the first channel of each environment",
    "noisex": "NOISEX-92, as WAV files",
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Prepare noise to train and to test in: OUTPUT/noise.jsonl, for data.noise and data.test_noise."
    )
    commands = parser.add_subparsers(dest="corpus", required=True)
    for name, summary in CORPORA.items():
        corpus = commands.add_parser(name, help=summary, description=f"Prepare {summary}.")
        corpus.add_argument("source", type=Path, help="the corpus's folder")
        corpus.add_argument("output", type=Path, help="folder for the recordings and their noise.jsonl")
        corpus.add_argument("--workers", type=int, default=num_cores(), help="processes (one for each core)")
        if name == "musan":
            corpus.add_argument(
                "--kinds", nargs="+", choices=KINDS, default=["noise", "music"], help="what to take (noise music)"
            )
    babble = commands.add_parser("babble", help="babble of many voices", description="Mix babble of many voices.")
    babble.add_argument("manifest", type=Path, help="manifest.jsonl of prepared speech with speakers")
    babble.add_argument("output", type=Path, help="folder for the babble and its noise.jsonl")
    babble.add_argument("--speakers", type=int, default=20, help="voices of each split's babble (20)")
    babble.add_argument("--minutes", type=float, default=5.0, help="length of each split's babble (5)")
    babble.add_argument("--seed", type=int, default=7)
    return parser


def main() -> None:
    arguments = parser().parse_args()
    for name in ("workers", "speakers", "minutes"):
        if getattr(arguments, name, 1) <= 0:
            parser().error(f"--{name} must be positive, got {getattr(arguments, name)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        if arguments.corpus == "babble":
            mix_babble(
                arguments.manifest,
                arguments.output,
                arguments.speakers,
                60 * arguments.minutes,
                arguments.seed,
                lambda speakers: track(list(speakers), "mixing"),
            )
        else:
            prepare_noise(_read(arguments), arguments.output, arguments.workers)
    except ValueError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(1)


def _read(arguments: argparse.Namespace) -> list[SourceNoise]:
    if arguments.corpus == "musan":
        return read_musan(arguments.source, arguments.kinds)
    readers = {"folder": read_noise_folder, "demand": read_demand, "noisex": read_noisex}
    return readers[arguments.corpus](arguments.source)
