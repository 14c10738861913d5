"""Mix babble: many people who talk at once, other people in each split."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from data_prep.noise.store import MANIFEST_NAME, audio_path, stored_clip
from omni_avsr.data.activity import speech_activity
from omni_avsr.data.manifest import read_manifest
from omni_avsr.data.noise_manifest import SPLITS, Split, write_noise_manifest
from omni_avsr.features import SAMPLE_RATE
from omni_avsr.media import read_audio, write_audio
from omni_avsr.types import Clip

PEAK = 0.9
"""The largest sample of a babble, full scale being 1."""

Speakers = dict[str, list[Clip]]
"""The clips of each speaker."""

logger = logging.getLogger(__name__)


def mix_babble(
    manifest: Path,
    output: Path,
    num_speakers: int,
    seconds: float,
    seed: int,
    track: Callable[[Iterable[Split]], Iterable[Split]] = iter,
) -> Path:
    """Write a babble of ``num_speakers`` voices for each split below ``output``, and their noise manifest; its path.

    Each voice is one speaker's utterances in a random order, all voices equally loud (over their speech). No speaker is
    in two splits (``deal_speakers``). The same manifest, numbers and seed give the same bytes. A clip that cannot be
    decoded is left out.

    Args:
        manifest: of prepared speech, with speakers.
        track: wraps the loop over the splits to show progress.

    Raises:
        ValueError: there are too few speakers.
    """
    generator = torch.Generator().manual_seed(seed)
    dealt = deal_speakers(manifest, num_speakers, generator)
    path = output / MANIFEST_NAME
    path.unlink(missing_ok=True)  # an interruption must not leave an old one that tells of other voices
    clips = []
    for split in track(SPLITS):
        babble, heard = _babble(dealt[split], num_speakers, round(seconds * SAMPLE_RATE), generator)
        if len(heard) < num_speakers:
            raise ValueError(f"{manifest}: only {len(heard)} of {num_speakers} speakers for {split} can be decoded")
        id = f"babble-{split}"
        write_audio(audio_path(output, id), babble.numpy())
        clips.append(stored_clip(output, id, split, "babble", tuple(sorted(heard))))
    write_noise_manifest(path, clips)
    logger.info("babble of %d voices for each of %s: %s", num_speakers, ", ".join(SPLITS), path)
    return path


def deal_speakers(manifest: Path, num_speakers: int, generator: torch.Generator) -> dict[Split, Speakers]:
    """At least ``num_speakers`` speakers for each split, in a random order, nobody in two of them.

    They are those of the manifest's own splits, if it keeps them apart and has enough in each. Otherwise the speakers
    of its training clips are dealt out: what is spoken in clips of other splits gets into no babble. ValueError tells
    the numbers if there are too few.
    """
    found: dict[str, Speakers] = {split: defaultdict(list) for split in SPLITS}
    for clip in read_manifest(manifest):
        if clip.speaker is not None and clip.audio is not None and clip.split in found:
            found[clip.split][clip.speaker].append(clip)
    counts = [len(found[split]) for split in SPLITS]
    num_shared = sum(counts) - len(set(chain.from_iterable(found.values())))
    if not num_shared and min(counts) >= num_speakers:
        return {split: _shuffled(found[split], generator) for split in SPLITS}
    train = _shuffled(found["train"], generator)
    if len(train) < len(SPLITS) * num_speakers:
        numbers = ", ".join(f"{count} in {split}" for split, count in zip(SPLITS, counts, strict=True))
        raise ValueError(
            f"{manifest}: babble of {num_speakers} speakers needs {num_speakers} in each split and none of them in "
            f"another, or {len(SPLITS) * num_speakers} in train; it has {numbers}, {num_shared} of them in several"
        )
    order = list(train)
    return {
        split: {speaker: train[speaker] for speaker in order[place :: len(SPLITS)]}
        for place, split in enumerate(SPLITS)
    }


def _shuffled(speakers: Speakers, generator: torch.Generator) -> Speakers:
    names = sorted(speakers)
    return {names[index]: speakers[names[index]] for index in torch.randperm(len(names), generator=generator).tolist()}


def _babble(
    speakers: Speakers, num_speakers: int, num_samples: int, generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    """[num_samples] of the first speakers that can be decoded, as many as wanted if there are, and who they are."""
    babble, heard = torch.zeros(num_samples), list[str]()
    for speaker, clips in speakers.items():
        if len(heard) < num_speakers and (voice := _voice(clips, num_samples, generator)) is not None:
            babble += voice
            heard.append(speaker)
    return babble * (PEAK / babble.abs().max()), heard


def _voice(clips: Sequence[Clip], num_samples: int, generator: torch.Generator) -> Tensor | None:
    """[num_samples] of one speaker, of power 1 over the speech in it; None if no clip can be used."""
    utterances: list[Tensor] = []
    for index in torch.randperm(len(clips), generator=generator).tolist():
        clip = clips[index]
        assert clip.audio is not None
        try:
            samples = torch.from_numpy(read_audio(clip.audio))
        except (OSError, ValueError) as error:
            logger.warning("left out %s: %s", clip.id, error)
            continue
        if bool(samples.any()):
            utterances.append(samples)
        if sum(map(len, utterances)) >= num_samples:
            break
    if not utterances:
        return None
    parts = list(utterances)
    while sum(map(len, parts)) < num_samples:
        parts += [utterances[index] for index in torch.randperm(len(utterances), generator=generator).tolist()]
    voice = torch.cat(parts)[:num_samples]
    level = voice[speech_activity(voice)].double().square().mean().sqrt()
    # Everybody would otherwise begin with the silence in front of a first word.
    return (voice / level).roll(int(torch.randint(num_samples, (), generator=generator))).float()
