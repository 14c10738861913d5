"""``make demo``: from nothing to a transcript with the project's own commands, each shown before it runs.

Every command goes on from what an earlier call left, so an interrupted demo is simply called again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import av
from rich import get_console
from rich.markup import escape

from omni_avsr.conditions import SHUFFLED
from omni_avsr.data.manifest import read_manifest
from omni_avsr.files import replacing, write_atomically
from omni_avsr.metrics import Score
from omni_avsr.provenance import commit, today
from omni_avsr.report import read_report
from omni_avsr.types import MATCHED, Clip, Task

CEILINGS = {Task.ASR: 0.10, Task.VSR: 0.40, Task.AVSR: 0.10}
SHUFFLED_FLOOR = 0.70
"""Word error rates that the model has to reach at every rate, and the least with inputs that belong to other clips."""

TIMES = "times.json"

CORPUS_SETTINGS = ("corpus.validation_sentences=16", "corpus.test_sentences=60")


@dataclass(frozen=True)
class Step:
    """One command. summary: what it does. about: how long that takes on two cores. command: without the program."""

    summary: str
    about: str
    command: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description="From nothing to a transcript, in minutes on two cores.")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="where everything goes")
    parser.add_argument("--corpus", nargs="*", default=CORPUS_SETTINGS, metavar="KEY=VALUE", help="of `prepare`")
    parser.add_argument("--train", nargs="*", default=(), metavar="KEY=VALUE", help="settings of `train`")
    options = parser.parse_args()
    steps = plan(options.output, options.corpus, options.train)
    console = get_console()
    console.print(f"From nothing to a transcript in {len(steps)} steps; everything goes to {options.output}.")
    for number, step in enumerate(steps, 1):
        console.print(f"  {number}. {step.summary} ({step.about})", highlight=False)
    times = read_times(options.output)
    for number, step in enumerate(steps, 1):
        after = f"next: {steps[number].summary}" if number < len(steps) else "the last step"
        console.rule(f"[bold]{number} of {len(steps)}: {step.summary}", align="left", style="dim")
        console.print(f"{step.about}; {_clock(sum(times.values()))} so far; {after}", highlight=False)
        begun = time.monotonic()
        if step is steps[-1]:
            console.print(f"What is said: {write_example(options.output).text}", highlight=False)
        status = _run(step.command)
        times[step.command[0]] = times.get(step.command[0], 0.0) + time.monotonic() - begun
        write_atomically(options.output / TIMES, json.dumps(times))
        if status:
            console.print(f"Step {number} failed, as said above. Once that is mended, the same call goes on from here.")
            sys.exit(status)
    summary = to_markdown(steps, times, scores(options.output))
    write_atomically(options.output / "summary.md", summary)
    console.rule("[bold]done", align="left", style="dim")
    console.print(summary, markup=False, highlight=False)
    checkpoint = options.output / "run" / "checkpoint"
    console.print(f"Plots: {options.output}/results/*.png, learning curves: {options.output}/run/stages/*/*.png")
    console.print(f"A page to try it on: {_program()} demo --checkpoint {checkpoint}", highlight=False, soft_wrap=True)


def read_times(output: Path) -> dict[str, float]:
    """Seconds that each command took, over all calls so far."""
    path = output / TIMES
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def plan(output: Path, corpus: Sequence[str] = CORPUS_SETTINGS, train: Sequence[str] = ()) -> list[Step]:
    """The steps of the demo, which leave everything below ``output``."""
    data, run = f"data.root={output / 'corpus'}", output / "run"
    cache = f"data.cache={output / 'cache'}"
    return [
        Step(
            "make a corpus of talking mouths",
            "about a minute",
            ("prepare", "corpus=synthetic", f"output={output / 'corpus'}", *corpus),
        ),
        Step(
            "train: lips, sounds, projectors, then all through the language model",
            "about seven minutes, in four stages",
            ("train", "experiment=demo", data, cache, f"output={run}", *train),
        ),
        Step(
            "measure it on unseen sentences, voices and faces",
            "one or two minutes",
            ("evaluate", "data=manifest", data, f"checkpoint={run / 'checkpoint'}", f"output={output / 'results'}",
             "shuffle_inputs=true", "batch_size=30"),
        ),
        Step(
            "transcribe a clip, with the time of every word",
            "seconds",
            ("transcribe", str(example(output)), "--checkpoint", str(run / "checkpoint"), "--format", "srt"),
        ),
    ]  # fmt: skip


def example(output: Path) -> Path:
    return output / "example.mp4"


def write_example(output: Path) -> Clip:
    """Put picture and sound of the first test clip into one file, not encoded again; returns the clip."""
    clip = next(clip for clip in read_manifest(output / "corpus" / "manifest.jsonl") if clip.split == "test")
    sources = [path for path in (clip.video, clip.audio) if path is not None]
    with replacing(example(output)) as temporary, av.open(str(temporary), "w", format="mp4") as target:
        inputs = [av.open(str(path)) for path in sources]
        outputs = [target.add_stream_from_template(source.streams[0]) for source in inputs]
        for source, stream in zip(inputs, outputs, strict=True):
            for packet in source.demux(source.streams[0]):
                if packet.dts is not None:  # the last one is empty
                    packet.stream = stream
                    target.mux(packet)
            source.close()
    return clip


def scores(output: Path) -> list[Score]:
    return list(read_report(output / "results" / "table.json").scores["test"])


def verdicts(found: Sequence[Score]) -> Iterator[tuple[str, float, str, bool]]:
    """What was measured, in words; the worst of all rates, as a fraction; what it should be; whether it is."""
    for task, ceiling in CEILINGS.items():
        matched = max(s.wer for s in found if s.setting.task is task and s.setting.condition == MATCHED)
        yield f"{task.upper()}, at its worst rates", matched, f"at most {100 * ceiling:.0f} %", matched <= ceiling
    guessed = min(s.wer for s in found if s.setting.condition == SHUFFLED)
    yield "inputs of another clip, lowest", guessed, f"at least {100 * SHUFFLED_FLOOR:.0f} %", guessed >= SHUFFLED_FLOOR


def to_markdown(steps: Sequence[Step], times: Mapping[str, float], found: Sequence[Score]) -> str:
    """The summary of a demo: how long its steps took, over all calls, and what the model reached."""
    lines = ["| step | time |", "|---|---:|"]
    lines += [f"| {step.summary} | {_clock(times[step.command[0]])} |" for step in steps]
    lines += [
        f"| together | {_clock(sum(times.values()))} |",
        "",
        "| word error rate | measured | wanted | |",
        "|---|---:|---:|---|",
    ]
    for name, measured, wanted, met in verdicts(found):
        lines.append(f"| {name} | {100 * measured:.1f} % | {wanted} | {'met' if met else 'missed'} |")
    lines += ["", f"{os.cpu_count()} cores, commit {commit()}, {today()}.", ""]
    return "\n".join(lines)


def _run(command: Sequence[str]) -> int:
    get_console().print(
        f"$ {escape(shlex.join(['omni-avsr', *command]))}", style="cyan", highlight=False, soft_wrap=True
    )
    return subprocess.run([_program(), *command], check=False).returncode


def _program() -> str:
    """The command that is installed beside this interpreter."""
    return str(Path(sys.executable).with_name("omni-avsr"))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    main()
