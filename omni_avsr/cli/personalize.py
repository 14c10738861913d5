"""``omni-avsr personalize``: enrol one person from a few clips of theirs, or forget one."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from rich.logging import RichHandler

from omni_avsr.cli.hydra_app import config_folder, read_yaml
from omni_avsr.cli.prepare import PrepareConfig
from omni_avsr.cli.prepare import run as prepare
from omni_avsr.config import QuantizationChoice, from_mapping
from omni_avsr.edge.budget import Profile, memory_gib, process_bytes
from omni_avsr.edge.meter import GIB
from omni_avsr.hub import checkpoint_folder
from omni_avsr.personal import Method, Outcome, PersonalConfig, personalize
from omni_avsr.users import forget, unfinished_folder

METHODS = config_folder() / "personal"
DEFAULT_METHOD = "lora"


def main() -> None:
    """Exits with 1 when what was learnt is not kept; with 2 on bad arguments."""
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        if options.forget:
            found = forget(options.user, options.users)
            sys.stdout.write(f"{options.user}: {'all is deleted' if found else 'nothing was kept'}\n")
            return
        if options.checkpoint is None or options.clips is None:
            raise ValueError("--checkpoint and --clips are needed to enrol")
        outcome = personalize(_config(options))
    except ValueError as error:
        sys.exit(f"omni-avsr personalize: {error}")
    sys.stdout.write(told(options.user, outcome))
    sys.exit(0 if outcome.kept else 1)


def _config(options: argparse.Namespace) -> PersonalConfig:
    profile = None
    if options.memory is not None:
        profile = Profile(process_gib=process_bytes(memory_gib(options.memory)) / GIB, device=options.board)
    path = METHODS / f"{options.method}.yaml"
    return PersonalConfig(
        checkpoint=checkpoint_folder(options.checkpoint, None),
        clips=_manifest(options),
        user=options.user,
        method=from_mapping(Method, read_yaml(path), f"method {options.method}"),
        method_name=options.method,
        users=options.users,
        speaker=options.speaker,
        others=options.others,
        max_other_loss=options.max_other_loss,
        held_back=options.held_back,
        max_seconds=None if options.minutes is None else 60 * options.minutes,
        profile=profile,
        quantization=options.quantize,
        seed=options.seed,
        device=options.device,
    )


def _manifest(options: argparse.Namespace) -> Path:
    """The manifest of the clips; a folder of media with transcripts.tsv is prepared where it is deleted again."""
    if not options.clips.is_dir():
        return Path(options.clips)
    output = unfinished_folder(options.user, options.users) / "prepared"
    settings = {"corpus": {"kind": "folder"}, "source": options.clips, "output": output}
    prepare(from_mapping(PrepareConfig, settings | {"face_model": options.face_model}, "--clips"))
    return output / "manifest.jsonl"


def told(user: str, outcome: Outcome) -> str:
    """What came of it, in lines."""
    enrolment = outcome.enrolment
    lines = [f"{user}: {enrolment.num_clips} clips, {enrolment.seconds:g} s, by {enrolment.method}"]
    for what, pair in (("clips that were held back", enrolment.own_wer), ("other talkers", enrolment.other_wer)):
        if pair is not None:
            lines.append(f"WER on {what}: {pair[0]:.1%} before, {pair[1]:.1%} after")
    lines.append(f"kept in {outcome.folder}" if outcome.kept else f"not kept: {outcome.reason}")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="omni-avsr personalize", description=__doc__.splitlines()[0])
    made.add_argument("--user", required=True, metavar="NAME", help="whom to enrol or to forget")
    made.add_argument("--checkpoint", help="what to start from, which stays as it is")
    made.add_argument(
        "--clips", type=Path, metavar="FOLDER|MANIFEST", help="media with their transcripts.tsv, or prepared clips"
    )
    made.add_argument("--face-model", type=Path, help="face_landmarker.task, for a folder of raw videos")
    made.add_argument("--speaker", metavar="NAME", help="of the manifest, if it has several")
    made.add_argument("--method", choices=sorted(path.stem for path in METHODS.glob("*.yaml")), default=DEFAULT_METHOD)
    made.add_argument("--minutes", type=float, help="of training at most (as many as the method takes)")
    made.add_argument("--memory", metavar="8GB", help="of the board; what it cannot hold is refused")
    made.add_argument("--board", type=Path, metavar="JSON", help="what calibrate-device wrote of it")
    made.add_argument("--quantize", choices=get_args(QuantizationChoice), help="the LLM's weights (as trained)")
    made.add_argument("--others", type=Path, metavar="MANIFEST", help="clips of other talkers, scored before and after")
    made.add_argument(
        "--max-other-loss", type=float, metavar="SHARE", help="how much their WER may rise, 0.05 for five points (any)"
    )
    made.add_argument("--held-back", type=float, default=0.2, metavar="SHARE", help="of the clips, to judge by (0.2)")
    made.add_argument("--users", type=Path, metavar="FOLDER", help="where people are kept (~/.local/share/omni_avsr)")
    made.add_argument("--seed", type=int, default=7)
    made.add_argument("--device", default="cpu", help="to score on; training takes a GPU by itself (cpu)")
    made.add_argument("--forget", action="store_true", help="delete everything that is kept of this person")
    return made


if __name__ == "__main__":
    main()
