"""Speech with its phoneme and word times, by eSpeak NG as the package espeakng-loader carries it.

eSpeak NG is under the GPL version 3: it is an optional extra, loaded when a corpus is synthesised, and never otherwise.
"""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import av
import numpy as np

from omni_avsr.media import SAMPLE_RATE
from omni_avsr.types import Word

# Constants and structures of eSpeak NG's speak_lib.h.
_SYNCHRONOUS = 2
_PHONEME_EVENTS, _DONT_EXIT = 0x0001, 0x8000
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_WORD_EVENT, _PHONEME_EVENT = 1, 7
_STRESS = "',%="


class _Identifier(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identifier),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Voice:
    """A way to speak. name: a voice of eSpeak NG with a variant ("en-us+f3"). rate: words a minute. pitch, pitch_range:
    0 to 100, 50 is the voice's own."""

    name: str
    rate: int = 160
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True)
class Phoneme:
    """A phoneme in eSpeak NG's own notation without stress, with its time in seconds."""

    symbol: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """samples: [samples] float32 at 16 kHz. phonemes, words: in the order they are spoken."""

    samples: np.ndarray
    phonemes: tuple[Phoneme, ...]
    words: tuple[Word, ...]


def say(words: Sequence[str], voice: Voice) -> Speech:
    """Speak ``words`` as one phrase. Equal arguments give equal samples.

    Raises:
        ValueError: eSpeak NG is not installed, has no such voice, or did not speak every word by itself.
    """
    text = " ".join(words).encode()
    with _espeak() as (library, rate):
        if library.espeak_SetVoiceByName(voice.name.encode()):
            raise ValueError(f"eSpeak NG has no voice {voice.name!r}")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        receiver = _Receiver()
        library.espeak_SetSynthCallback(receiver.callback)
        library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
    samples, events = np.concatenate(receiver.chunks), receiver.events
    return Speech(_resampled(samples, rate), _phonemes(events, len(samples), rate), _words(words, events, rate))


class _Receiver:
    """Collects the samples and events that eSpeak NG hands over while it speaks."""

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []
        self.events: list[tuple[int, int, str]] = []
        self.callback = _Callback(self._receive)

    def _receive(self, samples: Any, count: int, found: Any) -> int:
        if samples and count:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        place = 0
        while found[place].type:
            event = found[place]
            symbol = event.id.string.decode() if event.type == _PHONEME_EVENT else ""
            self.events.append((event.type, event.sample, symbol))
            place += 1
        return 0


@contextmanager
def _espeak() -> Iterator[tuple[ctypes.CDLL, int]]:
    """eSpeak NG, freshly loaded, and its sample rate.

    It keeps the state of its noise and of its pitch's flutter in static variables, which even its own reset leaves
    alone; only unloading the library makes a phrase independent of what was said before. That costs a few ms.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise ValueError("synthetic speech needs eSpeak NG: pip install 'omni-avsr[synthetic]'") from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        data = espeakng_loader.get_data_path().encode()
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS | _DONT_EXIT)
        if rate <= 0:
            raise ValueError(f"eSpeak NG did not start (error {rate})")
        library.espeak_ng_SetRandSeed(1)
        yield library, rate
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)


def _phonemes(events: list[tuple[int, int, str]], num_samples: int, rate: int) -> tuple[Phoneme, ...]:
    found = [(sample, symbol) for kind, sample, symbol in events if kind == _PHONEME_EVENT and symbol]
    ends = [sample for sample, _ in found[1:]] + [num_samples]
    return tuple(
        Phoneme(symbol.strip(_STRESS), start / rate, end / rate)
        for (start, symbol), end in zip(found, ends, strict=True)
        if end > start
    )


def _words(words: Sequence[str], events: list[tuple[int, int, str]], rate: int) -> tuple[Word, ...]:
    starts = [sample for kind, sample, _ in events if kind == _WORD_EVENT]
    if len(starts) != len(words):
        raise ValueError(f"eSpeak NG spoke {len(starts)} words for the {len(words)} of {' '.join(words)!r}")
    pauses = [sample for kind, sample, symbol in events if kind == _PHONEME_EVENT and symbol.startswith("_")]
    last = next((sample for sample in pauses if sample > starts[-1]), starts[-1])
    spans = pairwise([*starts, last])
    return tuple(Word(word, start / rate, end / rate) for word, (start, end) in zip(words, spans, strict=True))


def _resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """16-bit samples at ``rate`` -> float32 in [-1, 1) at 16 kHz."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
    parts = [part.to_ndarray() for given in (frame, None) for part in resampler.resample(given)]
    return np.concatenate(parts, axis=1)[0]
