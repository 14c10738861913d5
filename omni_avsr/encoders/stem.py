"""What the stems of the video encoders read: each frame with its neighbours."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

STEM_FRAMES = 5
"""Frames that a stem's 3-D convolution sees at once (200 ms)."""


def with_neighbours(video: Tensor) -> Tensor:
    """[B, T, H, W] -> [B, T, H, W, STEM_FRAMES], zeros before the first frame and behind the last.

    A 3-D convolution over one input channel equals a 2-D one over the stacked frames, which CPUs run much faster.
    """
    reach = STEM_FRAMES // 2
    return F.pad(video, (0, 0, 0, 0, reach, reach)).unfold(1, STEM_FRAMES, 1)
