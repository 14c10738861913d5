"""A synthetic audio-visual corpus: speakers with a voice and a face, sentences of a grammar, clips and a manifest.

Everything is a function of the settings and the seed: a clip that is made again has the same samples and pixels, and
sentences and speakers of training are not those of validation and test.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from data_prep.clip import SAMPLES_PER_FRAME, fit_length
from data_prep.parallel import run_jobs
from data_prep.rejection import Problem
from data_prep.shards import MANIFEST_NAME
from data_prep.synthetic.face import Face, draw_face, draw_motion, render
from data_prep.synthetic.grammar import NUM_SENTENCES, draw_sentences, sentence
from data_prep.synthetic.visemes import mouth_track
from data_prep.synthetic.voice import Voice, say
from omni_avsr.config import STRICT, Positive
from omni_avsr.data.manifest import clip_from_json, clip_to_json, write_manifest
from omni_avsr.files import write_atomically
from omni_avsr.media import FRAME_RATE, write_audio, write_video
from omni_avsr.types import Clip, Word

RECIPE_VERSION = 2

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc")
VARIANTS = (
    "f1", "m1", "f2", "m2", "f4", "m4", "linda", "m5", "steph", "m6", "belinda", "m8", "Alex", "Andy", "Andrea",
    "Denis", "Annie", "Gene", "Jacky", "Hugo", "shelby", "Diogo", "Lee", "Henrique", "Marco", "Mario", "Michael",
    "Mike", "antonio", "benjamin", "boris", "caleb", "david", "ed", "edward", "john", "klatt2", "marcelo", "max",
    "michel", "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "travis",
    "victor", "zac",
)  # fmt: skip
HELD_OUT_VARIANTS = ("f3", "f5", "m3", "m7", "anika", "adam")
"""Voices of eSpeak NG that only validation and test speakers have."""

log = logging.getLogger(__name__)


@settings(frozen=True, config=STRICT)
class SyntheticCorpus:
    """How large the corpus is. ``speakers`` and ``sentences`` are for training; a sentence is spoken ``takes`` times,
    each time by another speaker as far as there are so many. Validation and test have sentences of their own, one clip
    each, and share speakers that training does not have."""

    kind: Literal["synthetic"] = "synthetic"
    speakers: Positive = 52
    sentences: Positive = 1200
    takes: Positive = 1
    held_out_speakers: Positive = 8
    validation_sentences: Positive = 40
    test_sentences: Positive = 100
    seed: Annotated[int, Field(ge=0)] = 7

    def __post_init__(self) -> None:
        wanted = self.sentences + self.validation_sentences + self.test_sentences
        if wanted > NUM_SENTENCES:
            raise ValueError(
                f"{wanted} different sentences were asked for, the grammar has {NUM_SENTENCES}; raise takes instead"
            )


@dataclass(frozen=True)
class Speaker:
    name: str
    voice: Voice
    face: Face


@dataclass(frozen=True)
class SyntheticClip:
    """One clip to make; ``seed`` decides its motion, noise and pauses."""

    id: str
    split: str
    sentence: int
    speaker: Speaker
    seed: tuple[int, ...]
    output: Path

    @property
    def record(self) -> Path:
        return self.output / "done" / f"{self.id}.json"

    def recipe(self) -> str:
        """What the clip is made from, to notice a change."""
        parts = (RECIPE_VERSION, self.split, sentence(self.sentence), asdict(self.speaker), self.seed)
        return json.dumps(parts)


def synthesize(corpus: SyntheticCorpus, output: Path, workers: int = 1, progress: bool = True) -> Path:
    """Write the corpus's clips and their manifest below ``output``; returns the manifest.

    Clips that are there already, made by the same recipe, are kept.

    Raises:
        ValueError: eSpeak NG is missing, or clips could not be made.
    """
    begun = time.monotonic()
    jobs = plan(corpus, output)
    clips = {job.id: clip for job in jobs if (clip := finished(job)) is not None}
    num_before, failures = len(clips), {}
    new = {job.id for job in jobs} - clips.keys()
    for job, result in run_jobs(make_clip, [job for job in jobs if job.id in new], workers, num_before, progress):
        if isinstance(result, Problem):
            failures[job.id] = result.detail
        else:
            clips[job.id] = result
    if failures:
        first, reason = next(iter(failures.items()))
        raise ValueError(f"{len(failures)} of {len(jobs)} clips could not be made, such as {first}: {reason}")
    path = output / MANIFEST_NAME
    write_manifest(path, [clips[job.id] for job in jobs])
    spoken = sum(clip.seconds for clip in clips.values())
    made, took = sum(clips[job.id].seconds for job in jobs if job.id in new), time.monotonic() - begun
    log.info(
        "%d clips of %.0f s together, %d of them found finished, in %.0f s (%.0f x real time on %d processes): %s",
        len(jobs), spoken, num_before, took, made / took, workers, path,
    )  # fmt: skip
    return path


def plan(corpus: SyntheticCorpus, output: Path) -> list[SyntheticClip]:
    """The clips of the corpus, in the manifest's order."""
    sizes = {"train": corpus.sentences, "validation": corpus.validation_sentences, "test": corpus.test_sentences}
    random = np.random.default_rng([corpus.seed, 0])
    sentences = draw_sentences(sum(sizes.values()), random)
    trained = [_speaker(f"voice{n:03d}", VARIANTS, n, corpus.seed, 1) for n in range(corpus.speakers)]
    held_out = [_speaker(f"new{n:03d}", HELD_OUT_VARIANTS, n, corpus.seed, 2) for n in range(corpus.held_out_speakers)]
    jobs: list[SyntheticClip] = []
    # Test first, so that a larger corpus of the same seed is tested on the same sentences.
    for part, split in enumerate(("test", "validation", "train")):
        speakers, takes = (trained, corpus.takes) if split == "train" else (held_out, 1)
        chosen, sentences = sentences[: sizes[split]], sentences[sizes[split] :]
        for number in range(len(chosen) * takes):
            seed = (corpus.seed, 3 + part, number)
            take, place = divmod(number, len(chosen))
            speaker = speakers[(place + take) % len(speakers)]  # another one for every take
            words = chosen[place]
            jobs.append(SyntheticClip(f"{split}/{number:06d}", split, words, speaker, seed, output))
    return jobs


def finished(job: SyntheticClip) -> Clip | None:
    """The clip that an earlier run made by the same recipe, or None."""
    try:
        record = json.loads(job.record.read_text(encoding="utf-8"))
        clip = clip_from_json(record["clip"], job.output)
    except (OSError, ValueError, KeyError):
        return None
    there = all(file is not None and file.is_file() for file in (clip.audio, clip.video))
    return clip if there and record["recipe"] == job.recipe() else None


def make_clip(job: SyntheticClip) -> Clip:
    """Speak and draw one clip, write its files, then its record."""
    random = np.random.default_rng(job.seed)
    speech = say(sentence(job.sentence), job.speaker.voice)
    before, after = random.uniform(0.1, 0.3, 2)
    frames = int(np.ceil((before + len(speech.samples) / (SAMPLES_PER_FRAME * FRAME_RATE) + after) * FRAME_RATE))
    silence = np.zeros(round(before * FRAME_RATE * SAMPLES_PER_FRAME), np.float32)
    samples = fit_length(np.concatenate([silence, speech.samples]), frames * SAMPLES_PER_FRAME)
    samples = samples * random.uniform(0.3, 0.9) / np.abs(samples).max()
    samples = samples + random.standard_normal(len(samples)) * 10 ** random.uniform(-4, -2.7)
    times = (np.arange(frames) + 0.5) / FRAME_RATE
    track = mouth_track(speech.phonemes, times - before)
    crops = render(job.speaker.face, track, draw_motion(random), times, random)
    clip = Clip(
        id=job.id,
        text=" ".join(sentence(job.sentence)),
        split=job.split,
        seconds=frames / FRAME_RATE,
        audio=job.output / "audio" / f"{job.id}.flac",
        video=job.output / "video" / f"{job.id}.mp4",
        num_frames=frames,
        speaker=job.speaker.name,
        words=_shifted(speech.words, float(before)),
    )
    assert clip.audio is not None
    assert clip.video is not None
    write_audio(clip.audio, samples)
    write_video(clip.video, crops, FRAME_RATE)
    write_atomically(job.record, json.dumps({"recipe": job.recipe(), "clip": clip_to_json(clip, job.output)}) + "\n")
    return clip


def _speaker(name: str, variants: Sequence[str], number: int, seed: int, group: int) -> Speaker:
    """A speaker by number: variants in turn, so that few speakers differ as much as possible."""
    random = np.random.default_rng([seed, group, number])
    voice = Voice(
        f"{ACCENTS[int(random.integers(len(ACCENTS)))]}+{variants[number % len(variants)]}",
        rate=int(random.integers(135, 185)),
        pitch=int(random.integers(30, 70)),
        pitch_range=int(random.integers(30, 70)),
    )
    return Speaker(name, voice, draw_face(random))


def _shifted(words: Sequence[Word], seconds: float) -> tuple[Word, ...]:
    return tuple(Word(word.text, round(word.start + seconds, 4), round(word.end + seconds, 4)) for word in words)
