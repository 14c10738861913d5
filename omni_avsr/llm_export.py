"""The LLM of a checkpoint with one task's adapters in its weights, as a folder that other runtimes read and convert."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from omni_avsr.checkpoint import CheckpointInfo, checkpoint_sha256, load_merged_llm, read_info
from omni_avsr.config import DType
from omni_avsr.files import write_atomically
from omni_avsr.sequence import Slot
from omni_avsr.types import Task

MARKERS = (Slot.AUDIO_START, Slot.AUDIO_END, Slot.VIDEO_START, Slot.VIDEO_END)


def export_llm(checkpoint: Path, task: Task, output: Path, dtype: DType | None = None) -> None:
    """Write ``output``: config, weights and tokenizer as transformers' Auto classes load them, and a README.

    Args:
        dtype: of the written weights; None as the checkpoint's LLM has them.

    Raises:
        ValueError: ``output`` exists, the checkpoint does not do ``task``, or its LLM cannot be merged.
    """
    if output.exists():
        raise ValueError(f"{output} exists already; name a new folder")
    llm = load_merged_llm(checkpoint, task, dtype)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        llm.model.save_pretrained(partial / "llm")
        llm.tokenizer.save_pretrained(partial / "llm")
        write_atomically(partial / "llm" / "README.md", _readme(checkpoint, read_info(checkpoint), task))
        (partial / "llm").rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _readme(checkpoint: Path, info: CheckpointInfo, task: Task) -> str:
    model = info.model
    brackets = " ".join(f"`<{m}>` {m} tokens `</{m}>`" for m in task.modalities)
    projectors = " and ".join(f"`projectors.{modality}.*`" for modality in task.modalities)
    encoders = " and ".join(f"the {modality} encoder" for modality in task.modalities)
    rows = ", ".join(f"{row} {slot.name.lower()}" for row, slot in enumerate(MARKERS))
    first = model.markers.num_rows - len(MARKERS)
    return f"""# {model.llm.weights}, adapted to {task.upper()}

The language model of an omni_avsr checkpoint (`{checkpoint.name}`, sha256 {checkpoint_sha256(checkpoint)}) with the
adapters for {task.upper()} added to its weights, and its tokenizer. Base weights: {model.llm.weights}, sha256
{model.llm.sha256 or "unknown"}; their licence holds for these too.

It reads embeddings, not ids alone. To recognise speech it needs, from the checkpoint's `trained.safetensors` and its
base models: {encoders}, {projectors}, which make tokens of features, and the markers, rows of `markers.weight`
(from row {first} on: {rows}). Its input is `[bos]` {brackets} and the embeddings of the prompt "{model.prompts[task]}";
what it writes then, up to eos, is the transcript. `[bos]` is left out where the tokenizer has none.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```
"""
