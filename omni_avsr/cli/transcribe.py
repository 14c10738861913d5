"""``omni-avsr transcribe``: media files to text, JSON or subtitles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omni_avsr.checkpoint import changed_llm, read_info
from omni_avsr.config import DraftConfig, QuantizationChoice, from_mapping
from omni_avsr.edge.allocator import return_large_blocks
from omni_avsr.edge.budget import memory_gib, process_bytes
from omni_avsr.edge.device import DEFAULT, read_device
from omni_avsr.edge.elastic import ElasticOptions, check_room
from omni_avsr.edge.plan import Budget, WerKey
from omni_avsr.files import write_atomically
from omni_avsr.hub import checkpoint_folder
from omni_avsr.recording import Tell, VideoOptions
from omni_avsr.transcribe import Failure, TranscribeOptions, Transcriber, load
from omni_avsr.transcript import Transcript, formatted
from omni_avsr.types import Rates, Task
from omni_avsr.users import user_folder

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}


def main() -> None:
    """Exits with 1 when a file could not be transcribed, after all others were; with 2 on bad arguments."""
    options = parser().parse_args()
    errors = Console(stderr=True, highlight=False)
    return_large_blocks()
    try:
        _check(options)
        elastic = _elastic(options)
        if elastic is not None:
            config = read_info(checkpoint_folder(options.checkpoint, None)).model
            check_room(changed_llm(config, None, options.quantize), elastic)
        transcriber = load(
            options.checkpoint,
            options.device,
            face_model=options.face_model,
            quantization=options.quantize,
            merged_task=options.task if options.merge else None,
            encoders=options.encoders,
            user=None if options.user is None else user_folder(options.user, options.users),
        )
        failed = _run(transcriber, options, elastic, errors)
    except ValueError as error:
        sys.exit(f"omni-avsr transcribe: {error}")
    sys.exit(1 if failed else 0)


def _run(transcriber: Transcriber, options: argparse.Namespace, elastic: ElasticOptions | None, errors: Console) -> int:
    """Transcribe the files, write what comes of them, and return how many failed."""
    errors.print(f"training domain of this checkpoint: {transcriber.training.get('domain', 'not stated')}", style="dim")
    failed = 0
    with _progress(errors) as tell:
        for result in transcriber.run(options.files, _settings(options, elastic, transcriber), tell):
            try:
                if isinstance(result, Failure):
                    raise ValueError(result.reason)
                for note in result.notes:
                    errors.print(f"{result.file}: {note}", style="yellow", markup=False)
                _write(result, options)
            except (ValueError, OSError) as error:
                failed += 1
                errors.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    return failed


def _write(transcript: Transcript, options: argparse.Namespace) -> None:
    text = formatted(transcript, options.format)
    if options.output is not None:
        name = Path(transcript.file).with_suffix(SUFFIXES[options.format]).name
        write_atomically(options.output / name, text)
        return
    label = f"{transcript.file}: " if options.format == "text" and len(options.files) > 1 else ""
    sys.stdout.write(label + text)
    sys.stdout.flush()


def _check(options: argparse.Namespace) -> None:
    if options.merge and options.task == "auto":
        raise ValueError(f"--merge is of one task's adapters; choose it with --task {'|'.join(map(str, Task))}")
    several = len(options.files) > 1
    if several and options.format in ("srt", "vtt") and options.output is None:
        raise ValueError(f"{options.format} of several files needs a folder to write them to: --output FOLDER")
    names = [file.stem for file in options.files]
    if options.output is not None and (doubled := sorted({name for name in names if names.count(name) > 1})):
        raise ValueError(f"several files are named {', '.join(doubled)}; their transcripts would overwrite each other")


def _settings(
    options: argparse.Namespace, elastic: ElasticOptions | None, transcriber: Transcriber
) -> TranscribeOptions:
    default = transcriber.default_rates
    rates = Rates(options.audio_rate or default.audio, options.video_rate or default.video)
    return TranscribeOptions(
        task="auto" if options.task == "auto" else Task(options.task),
        rates=rates if elastic is None else None,
        num_beams=options.beams,
        max_new_tokens=options.max_new_tokens,
        draft=_draft(options),
        elastic=elastic,
        window=options.window,
        batch_size=options.batch_size if elastic is None else 1,
        video=VideoOptions(True if options.cropped else None, options.face, options.face_model),
    )


def _draft(options: argparse.Namespace) -> DraftConfig | None:
    if options.draft_threshold is not None:
        return from_mapping(DraftConfig, {"threshold": options.draft_threshold}, "--draft")
    return DraftConfig() if options.draft else None


def _elastic(options: argparse.Namespace) -> ElasticOptions | None:
    """ValueError: a limit cannot be read, or rates are given beside it."""
    if options.memory is None and options.latency is None:
        if options.board is not None or options.results:
            raise ValueError("--board and --results serve --memory and --latency; give one of these")
        return None
    if options.audio_rate or options.video_rate:
        raise ValueError("--memory and --latency choose the rates: leave --audio-rate and --video-rate")
    memory = sys.maxsize if options.memory is None else process_bytes(memory_gib(options.memory))
    device = DEFAULT if options.board is None else read_device(options.board)
    return ElasticOptions(Budget(memory, options.latency), device, _known_wers(options.results))


def _known_wers(tables: list[Path]) -> dict[WerKey, float]:
    if not tables:
        return {}
    from omni_avsr.edge.known_errors import known_wers  # here: results are read with what the extra train brings

    return known_wers(tables)


@contextmanager
def _progress(console: Console) -> Iterator[Tell]:
    """A bar for work that takes several steps; nothing for a short file, and nothing where nobody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Redirected, what is printed would go to the bar's console: transcripts to standard error, wrapped.
    quiet = not console.is_terminal
    with Progress(
        *columns, console=console, transient=True, disable=quiet, redirect_stdout=False, redirect_stderr=False
    ) as progress:
        bar = progress.add_task("", visible=False)

        def tell(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total, visible=done < total)

        yield tell


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="omni-avsr transcribe", description="Transcribe audio and video files.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio or video, of any format and length")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--encoders", type=Path, metavar="FOLDER", help="run those that export-onnx made (onnxruntime)")
    parser.add_argument("--task", choices=["auto", *map(str, Task)], default="auto", help="auto: by what a file has")
    parser.add_argument("--audio-rate", type=_positive, help="compression of audio (default: the lowest trained rate)")
    parser.add_argument("--video-rate", type=_positive, help="compression of video (default: the lowest trained rate)")
    parser.add_argument("--format", choices=sorted(SUFFIXES), default="text")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write a file for each input instead of printing")
    parser.add_argument("--cropped", action="store_true", help="the videos show mouth crops of 96 x 96 pixels")
    parser.add_argument(
        "--face", type=_natural, metavar="N", help="which of several faces, 0 is the largest that stays"
    )
    parser.add_argument("--face-model", type=Path, metavar="FILE", help="MediaPipe's face_landmarker.task")
    parser.add_argument("--beams", type=_positive, default=1, help="1: greedy (default)")
    parser.add_argument(
        "--draft", action="store_true", help="greedy, in fewer passes: the LLM corrects what the CTC heads wrote"
    )
    parser.add_argument(
        "--draft-threshold",
        type=float,
        metavar="SHARE",
        help="--draft that keeps words at least so probable, beside the LLM's best ones: fewer passes, more errors",
    )
    parser.add_argument("--max-new-tokens", type=_positive, default=64, help="longest transcript of a piece")
    parser.add_argument("--window", type=float, metavar="SECONDS", help="longest piece at once (default: as trained)")
    parser.add_argument("--batch-size", type=_positive, default=8, metavar="PIECES")
    parser.add_argument("--memory", help="the board's, such as 8GB (6.0 GiB for the process): fits rates to each file")
    parser.add_argument("--latency", type=float, metavar="SECONDS", help="for each piece: fits rates to it")
    parser.add_argument("--board", type=Path, metavar="FILE", help="what calibrate-device wrote, for these two")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="TABLE.json", help="of evaluate, to rank rates by"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--quantize",
        choices=get_args(QuantizationChoice),
        help="the LLM's weights in 8 or 4 bits (default: as trained)",
    )
    parser.add_argument(
        "--merge", action="store_true", help="add the adapters of --task to the LLM's weights: a little faster"
    )
    parser.add_argument("--user", metavar="NAME", help="whom omni-avsr personalize enrolled for this checkpoint")
    parser.add_argument("--users", type=Path, metavar="FOLDER", help="where people are kept (~/.local/share/omni_avsr)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {value}")
    return value
