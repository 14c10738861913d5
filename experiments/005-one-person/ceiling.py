"""What the LLM writes when it is given the words' own embeddings, which EmbedLink's tokens can at best be.

    python experiments/005-one-person/ceiling.py PREPARED

PREPARED: as of run.py. The sentences are those of all talkers' test clips, with and without the adapters of experiment
001, with and without the instruction; ceiling.jsonl beside this script gets a line for each of these four.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from arms import INSTRUCTION, TALKERS
from bases import CHECKPOINT, SEED
from rich.progress import track
from run import MAX_NEW_TOKENS, Folders, clips_of
from torch import Tensor

from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.files import write_atomically
from omni_avsr.model import OmniAVSR
from omni_avsr.provenance import commit, today
from omni_avsr.types import Task

OUTPUT = Path(__file__).resolve().parent / "ceiling.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folders = Folders(options.prepared, options.prepared)
    texts = [clip.text for talker in TALKERS for clip in clips_of(talker, "test", folders)]
    write_atomically(OUTPUT, "".join(json.dumps(line) + "\n" for line in measure(texts)))


@torch.no_grad()
def measure(texts: list[str]) -> Iterator[dict[str, object]]:
    model = load_checkpoint(CHECKPOINT)
    for adapted, instruction in product((True, False), ("", INSTRUCTION)):
        if not adapted:
            for name, value in model.named_parameters():
                if "lora_B" in name:
                    value.zero_()
        name = f"adapters {'on' if adapted else 'off'}"
        written = [repeated(model, text, instruction) for text in track(texts, name)]
        facts = {"adapted": adapted, "instruction": instruction, "commit": commit(), "date": today(), "seed": SEED}
        yield facts | {"references": texts, "texts": written}


def repeated(model: OmniAVSR, text: str, instruction: str) -> str:
    """What follows bos, the embeddings of ``text`` and the instruction."""
    bos = [] if model.text.bos_id is None else [model.text.bos_id]
    ids = torch.tensor([[*bos, *model.text.encode(text), *model.text.encode(instruction)]])
    with model.router.route(Task.ASR):
        embeddings = model.llm.get_input_embeddings()(ids)
        found: Tensor = model.llm.generate(  # type: ignore[operator]  # nn.Module's own attribute type hides the method
            inputs_embeds=embeddings,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=model.text.eos_id,
            pad_token_id=model.text.pad_id,
        )
    return model.text.decode(found[0]).strip()


if __name__ == "__main__":
    main()
