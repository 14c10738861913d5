"""Where the time goes inside ``model.loss``, which takes the gradient of each task before it turns to the next."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.measure import Stopwatch
from omni_avsr.model import OmniAVSR


class Laps:
    """Hooks that stop ``watch`` in the parts of ``FORWARD``; what follows a task's loss is the lap "backward".

    Call ``restart`` before every step.
    """

    FORWARD = ("assemble", "llm", "loss")

    def __init__(self, model: OmniAVSR) -> None:
        self.watch = Stopwatch()
        llm: Any = model.llm
        decoder, head, tokens = llm.get_decoder(), llm.get_output_embeddings(), model.tokens
        assert isinstance(decoder, nn.Module)
        assert isinstance(head, nn.Module)

        def timed_tokens(*arguments: Any) -> Any:
            self.watch.lap("backward")
            return tokens(*arguments)

        model.tokens = timed_tokens  # type: ignore[assignment,method-assign]  # goes before the method of the class
        decoder.register_forward_pre_hook(lambda *_: self.watch.lap("assemble"))
        decoder.register_forward_hook(lambda *_: self.watch.lap("llm"))
        head.register_full_backward_pre_hook(lambda *_: self.watch.lap("loss"))

    def restart(self) -> Stopwatch:
        self.watch = Stopwatch()
        return self.watch
