"""Transcribe media files with a checkpoint from Python; needs neither Lightning nor Hydra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omni_avsr.checkpoint import load_checkpoint, read_info
from omni_avsr.compression import all_rates
from omni_avsr.config import DType
from omni_avsr.features import MOUTH_SIZE, prepare_video, prepare_waveform
from omni_avsr.media import iter_video, probe, read_audio, read_video
from omni_avsr.model import OmniAVSR
from omni_avsr.types import Features, Modality, Rates, Task


@dataclass(frozen=True)
class Transcriber:
    """A loaded checkpoint.

    training: what it says of its training, the domain it knows among others.
    face_model: MediaPipe's face_landmarker.task for raw video; None takes the environment variable's.
    """

    model: OmniAVSR
    training: Mapping[str, Any]
    face_model: Path | None = None

    @property
    def default_rates(self) -> Rates:
        """The lowest trained rates: most tokens, best quality."""
        return min(all_rates(self.model.config.compression))

    @torch.no_grad()
    def transcribe(
        self,
        path: str | Path,
        task: Task | str = Task.AVSR,
        rates: Rates | Sequence[int] | None = None,
        num_beams: int = 1,
        max_new_tokens: int = 64,
    ) -> str:
        """Transcribe one file.

        Args:
            path: any audio or video file. A video of 96 x 96 pixels is taken as mouth crops, in any other the face is
                found first.
            task: asr, vsr or avsr.
            rates: (audio, video) compression; the lowest trained ones by default.

        Raises:
            ValueError: the file cannot be read or lacks what the task needs, or the model was not trained for the task
                or the rate.
        """
        task = Task(task)
        if task not in self.model.config.tasks:
            raise ValueError(f"this model is for {', '.join(self.model.config.tasks)}, not for {task}")
        pair = rates if isinstance(rates, Rates) else Rates(*rates) if rates else self.default_rates
        self.model.config.compression.check(pair, task)
        inputs = {modality: self._read(Path(path), modality) for modality in task.modalities}
        features = self.model.encode(inputs)
        return self.model.generate(features, task, pair, num_beams, max_new_tokens)[0]

    def _read(self, path: Path, modality: Modality) -> Features:
        has_audio, has_video = probe(path)
        if not (has_audio if modality is Modality.AUDIO else has_video):
            raise ValueError(f"{path} has no {modality} stream")
        if modality is Modality.AUDIO:
            waveform = torch.from_numpy(read_audio(path))
            values = prepare_waveform(waveform, self.model.config.waveform)
        else:
            values = prepare_video(torch.from_numpy(self._crops(path)))
        return Features.pad([values]).to(self.model.device)

    def _crops(self, path: Path) -> np.ndarray:
        """Mouth crops: the frames themselves where they are crops already, else cut from around the face."""
        frame = next(iter_video(path, grey=True))
        if frame.shape == (MOUTH_SIZE, MOUTH_SIZE):
            return read_video(path, grey=True)
        # MediaPipe is heavy and an extra: it is imported only when a face has to be found.
        try:
            from omni_avsr.mouth.face import find_face_model
            from omni_avsr.mouth.video import crop_video
        except ImportError as error:
            raise ValueError(
                f"{path} is no video of mouth crops ({MOUTH_SIZE} x {MOUTH_SIZE}), and to find a face in it needs what "
                f"pip install 'omni-avsr[prepare]' brings ({error})"
            ) from error

        return crop_video(path, find_face_model(self.face_model))[0]


def load(
    folder: str | Path, device: str = "cpu", llm_dtype: DType | None = None, face_model: Path | None = None
) -> Transcriber:
    """Load a checkpoint folder for inference.

    Raises:
        ValueError: the folder is no checkpoint, or its base models are missing or others than it was trained on.
    """
    model = load_checkpoint(Path(folder), llm_dtype)
    return Transcriber(model.to(device), read_info(Path(folder)).training, face_model)
