"""CTC-drafted decoding against greedy search, and beams that share their prompt against transformers' own, on GRID.

    python experiments/004-edge/drafting.py PREPARED NOISE [--clips N] [--only PART ...] [--summary]

PREPARED: the folder that holds grid/manifest.jsonl. NOISE: the folder of babble_test.flac. results/drafting-PART.jsonl
beside this script gets a line per setting, with what each clip took; drafting.md and plots are made of these lines
(with --summary, without measuring again). One thread, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from drafting_tables import Line, read_lines, summarize
from torch import Tensor

from omni_avsr.beams import shared_prompt
from omni_avsr.checkpoint import load_checkpoint, read_info
from omni_avsr.config import DraftConfig, from_mapping
from omni_avsr.data.config import DataConfig
from omni_avsr.drafts import ctc_drafts
from omni_avsr.edge.ledger import WEIGHT_FORMATS, WeightFormat, in_format
from omni_avsr.files import write_atomically
from omni_avsr.model import OmniAVSR
from omni_avsr.provenance import commit, today
from omni_avsr.recording import Recording
from omni_avsr.scorer import EncodedBatch, Scorer, ScoringConfig
from omni_avsr.transcribe import TranscribeOptions, Transcriber
from omni_avsr.transcript import Transcript
from omni_avsr.types import MATCHED, Clip, Features, Modality, Rates, Task

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CHECKPOINT = HERE.parent / "001-grid-s1" / "checkpoint"
SEED = 7
"""Places the noise."""
RATES = (Rates(4, 2), Rates(16, 5))
SNR_DB = (-5.0, 0.0, 5.0)
RELAXED = ((Task.ASR, None), (Task.VSR, None), (Task.AVSR, None), (Task.ASR, 5.0), (Task.AVSR, 5.0))
"""Tasks and SNRs that thresholds are tried on."""
THRESHOLDS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
BATCH_SIZE = 8
NUM_JOINED = 4
BEAMS = ((1, 4), (1, 15), (BATCH_SIZE, 4))
"""(clips at once, beams)."""
MAX_NEW_TOKENS = 32


@dataclass
class Bench:
    """The test clips, and what was read and encoded of them so far."""

    scorer: Scorer
    clips: Sequence[Clip]
    encoded: dict[tuple[int, float | None], dict[Modality, Features]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    @property
    def model(self) -> OmniAVSR:
        return self.scorer.model

    def features(self, index: int, level: float | None = None) -> dict[Modality, Features]:
        """Of one clip, encoded alone; the seconds that both encoders took are kept, of the first time."""
        if (index, level) not in self.encoded:
            clip = self.clips[index]
            batch = EncodedBatch(
                self.scorer, [index], [self.scorer.reader.waveform(clip)], [self.scorer.reader.video(clip)]
            )
            start = time.perf_counter()
            self.encoded[index, level] = batch.features(Task.AVSR, level, MATCHED)
            self.seconds.setdefault(index, time.perf_counter() - start)
        return self.encoded[index, level]

    def together(self, indices: Iterable[int], level: float | None = None) -> dict[Modality, Features]:
        rows = [self.features(index, level) for index in indices]
        return {modality: Features.pad([row[modality].values[0] for row in rows]) for modality in Modality}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path, nargs="?")
    parser.add_argument("noise", type=Path, nargs="?")
    parser.add_argument("--clips", type=int, default=80, help="of the test set (80, all)")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.summary:
        if options.prepared is None or options.noise is None:
            parser.error("PREPARED and NOISE are needed to measure")
        options.results.mkdir(parents=True, exist_ok=True)
        for weights in WEIGHT_FORMATS:
            measure(options, weights)
    summarize({part: read_lines(options.results / f"drafting-{part}.jsonl") for part in PARTS}, options.results)


@torch.no_grad()
def measure(options: argparse.Namespace, weights: WeightFormat) -> None:
    parts = [part for part in options.only if weights in PARTS[part].formats]
    if not parts:
        return
    test_set = {"manifest": options.prepared / "grid" / "manifest.jsonl", "noisy": True}
    data = from_mapping(DataConfig, {"test_sets": {"grid": test_set}, "test_noise": options.noise / "babble_test.flac"})
    clips = data.read_test_set("grid")[: options.clips]
    dtype, quantization = in_format(weights, read_info(CHECKPOINT).model.llm)
    model = load_checkpoint(CHECKPOINT, dtype, quantization or "none")
    scorer = Scorer(model, clips, tuple(Task), ScoringConfig(seed=SEED), data.read_test_noise("grid"), SNR_DB)
    bench = Bench(scorer, clips)
    model.write(bench.features(0), Task.AVSR, RATES[0], draft=DraftConfig())  # a warm-up
    for part in parts:
        path = options.results / f"drafting-{part}.jsonl"
        before = [line for line in read_lines(path) if line["weights"] != weights]
        lines = []
        for values in PARTS[part].run(bench):
            lines.append(
                {"part": part, "weights": weights, "commit": commit(), "date": today(), "seed": SEED, **values}
            )
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in [*before, *lines]))
            log.info("%s: %s", part, {key: value for key, value in lines[-1].items() if key != "clips"})


@dataclass
class Clock:
    """When the passes of an LLM ended, from the call of ``timed`` on."""

    start: float = 0.0
    ends: list[float] = field(default_factory=list)
    stop: float = 0.0

    @property
    def first(self) -> float:
        return self.ends[0] - self.start

    @property
    def total(self) -> float:
        return self.stop - self.start


@contextmanager
def timed(model: OmniAVSR) -> Iterator[Clock]:
    clock = Clock()
    handle = model.llm.register_forward_hook(lambda *_: clock.ends.append(time.perf_counter()))
    clock.start = time.perf_counter()
    try:
        yield clock
    finally:
        clock.stop = time.perf_counter()
        handle.remove()


def single(bench: Bench) -> Iterator[Line]:
    """Clip by clip: passes and seconds of greedy and of drafted search, by turns."""
    for rates in RATES:
        for task in Task:
            found = []
            for index, clip in enumerate(bench.clips):
                features = bench.features(index)
                row: Line = {"id": clip.id, "reference": clip.text, "encode_seconds": bench.seconds[index]}
                ids = {}
                order = (("greedy", None), ("drafted", DraftConfig()))
                for name, draft in order if index % 2 else reversed(order):
                    with timed(bench.model) as clock:
                        written = bench.model.write(features, task, rates, 1, MAX_NEW_TOKENS, draft=draft)
                    ids[name] = written.ids
                    row |= {
                        f"{name}_text": bench.model.text.decode(written.ids[0]).strip(),
                        f"{name}_passes": len(clock.ends),
                        f"{name}_seconds": clock.total,
                        f"{name}_first_seconds": clock.first,
                    }
                    for counts in written.counts:
                        row |= {"num_drafted": counts.drafted, "num_accepted": counts.accepted}
                found.append({**row, "same": torch.equal(ids["greedy"], ids["drafted"])})
            yield {"task": task, "rates": rates.label(task), "clips": found}


def noisy(bench: Bench) -> Iterator[Line]:
    """In babble and clean, in batches: passes by drafts of the surer stream, and AVSR's by each stream's alone."""
    rates = RATES[0]
    for task in Task:
        for level in (None, *SNR_DB) if Modality.AUDIO in task.modalities else (None,):
            streams: dict[str, Task] = {"passes": task}
            if task is Task.AVSR:
                streams |= {"audio_passes": Task.ASR, "video_passes": Task.VSR}
            found: list[Line] = []
            for indices in batches(bench, BATCH_SIZE):
                features = bench.together(indices, level)
                greedy = bench.model.write(features, task, rates, 1, MAX_NEW_TOKENS)
                rows = [clip_facts(bench, index, greedy.ids[place]) for place, index in enumerate(indices)]
                for name, source in streams.items():
                    with patch("omni_avsr.model.ctc_drafts", reads(source)):
                        written = bench.model.write(features, task, rates, 1, MAX_NEW_TOKENS, draft=DraftConfig())
                    for row, ids, own, counts in zip(rows, written.ids, greedy.ids, written.counts, strict=True):
                        row |= {name: counts.passes, "same": row.get("same", True) and torch.equal(ids, own)}
                found += rows
            yield {"task": task, "rates": rates.label(task), "snr_db": level, "clips": found}


def batches(bench: Bench, size: int) -> Iterator[range]:
    """The places of clips that are taken together."""
    for first in range(0, len(bench.clips), size):
        yield range(first, min(first + size, len(bench.clips)))


def reads(source: Task) -> Callable[..., list[str]]:
    """Drafts as those of ``source``, whatever task is to be written."""
    return lambda model, features, _: ctc_drafts(model, features, source)


def clip_facts(bench: Bench, index: int, ids: Tensor) -> Line:
    clip, eos = bench.clips[index], bench.model.text.eos_id
    written = [*ids.tolist(), eos]
    length = min(written.index(eos) + 1, len(ids))
    return {
        "id": clip.id,
        "reference": clip.text,
        "text": bench.model.text.decode(ids).strip(),
        "greedy_passes": length,
    }


def relaxed(bench: Bench) -> Iterator[Line]:
    """Passes and texts by threshold, clean and where drafts err more (null: lossless)."""
    rates = RATES[0]
    for task, level in RELAXED:
        for threshold in (None, *THRESHOLDS):
            found: list[Line] = []
            for indices in batches(bench, BATCH_SIZE):
                features = bench.together(indices, level)
                written = bench.model.write(features, task, rates, 1, MAX_NEW_TOKENS, draft=DraftConfig(threshold))
                for place, index in enumerate(indices):
                    facts = clip_facts(bench, index, written.ids[place])
                    found.append(facts | {"passes": written.counts[place].passes})
            yield {"task": task, "rates": rates.label(task), "snr_db": level, "threshold": threshold, "clips": found}


def joined(bench: Bench) -> Iterator[Line]:
    """Four clips as one recording, which ``transcribe`` cuts again at its pauses: pieces one by one, and together."""
    transcriber = Transcriber(bench.model, {"longest_clip_seconds": 3.0})
    for task in Task:
        for batch_size in (1, NUM_JOINED):
            found = []
            for number, indices in enumerate(batches(bench, NUM_JOINED)):
                recording = join([bench.clips[index] for index in indices], bench, task)
                row: Line = {"reference": " ".join(bench.clips[index].text for index in indices)}
                order = (("greedy", None), ("drafted", DraftConfig()))
                for name, draft in order if number % 2 else reversed(order):
                    options = TranscribeOptions(
                        task, RATES[0], max_new_tokens=MAX_NEW_TOKENS, batch_size=batch_size, draft=draft
                    )
                    start = time.perf_counter()
                    transcript, clocks = transcribed(transcriber, recording, options)
                    row |= {
                        f"{name}_text": transcript.text,
                        f"{name}_whole_seconds": time.perf_counter() - start,
                        f"{name}_seconds": sum(clock.total for clock in clocks),
                        f"{name}_first_seconds": sum(clock.first for clock in clocks),
                        f"{name}_passes": sum(len(clock.ends) for clock in clocks),
                    }
                found.append({"id": str(number), **row, "same": row["greedy_text"] == row["drafted_text"]})
            yield {"task": task, "rates": RATES[0].label(task), "batch_size": batch_size, "clips": found}


def join(clips: Sequence[Clip], bench: Bench, task: Task) -> Recording:
    reader = bench.scorer.reader
    sound = torch.cat([reader.waveform(clip) for clip in clips]).numpy()
    crops = torch.cat([reader.video(clip) for clip in clips]).numpy()
    heard = sound if Modality.AUDIO in task.modalities else None
    return Recording(Path("joined"), task, heard, crops if Modality.VIDEO in task.modalities else None)


def transcribed(
    transcriber: Transcriber, recording: Recording, options: TranscribeOptions
) -> tuple[Transcript, list[Clock]]:
    """The transcript, and a clock for each batch of pieces that was written."""
    clocks, write = [], transcriber.model.write

    def watched(*args: Any, **kwargs: Any) -> Any:
        with timed(transcriber.model) as clock:
            written = write(*args, **kwargs)
        clocks.append(clock)
        return written

    with patch.object(transcriber.model, "write", watched):
        return transcriber.of_recording(recording, options), clocks


def beams(bench: Bench) -> Iterator[Line]:
    """Beam search that reads a prompt once, and transformers' own, which reads it once for each beam; by turns."""
    for batch_size, num_beams in BEAMS:
        found = []
        for indices in batches(bench, batch_size):
            if len(indices) < batch_size:
                continue
            features = bench.together(indices)
            row: Line = {"id": bench.clips[indices[0]].id}
            ids = {}
            for name in ("shared", "own") if len(found) % 2 else ("own", "shared"):
                start = time.perf_counter()
                with patch("omni_avsr.model.shared_prompt", shared_prompt if name == "shared" else nothing_shared):
                    ids[name] = bench.model.generate_ids(features, Task.AVSR, RATES[0], num_beams, MAX_NEW_TOKENS)
                row[f"{name}_seconds"] = time.perf_counter() - start
            found.append({**row, "same": torch.equal(ids["own"], ids["shared"])})
        rates = RATES[0].label(Task.AVSR)
        if found:
            yield {"task": Task.AVSR, "rates": rates, "batch_size": batch_size, "num_beams": num_beams, "clips": found}


def nothing_shared(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Part:
    run: Callable[[Bench], Iterator[Line]]
    formats: Sequence[WeightFormat] = WEIGHT_FORMATS[:1]


PARTS: Mapping[str, Part] = {
    "single": Part(single, WEIGHT_FORMATS),
    "noisy": Part(noisy, WEIGHT_FORMATS),
    "relaxed": Part(relaxed),
    "joined": Part(joined),
    "beams": Part(beams),
}


if __name__ == "__main__":
    main()
