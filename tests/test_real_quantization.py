"""The checkpoint of experiment 001 with its language model in 8 and 4 bits: it writes what it writes in bfloat16."""

from pathlib import Path

import jiwer
import pytest

from data_prep.corpora.grid import read_grid
from omni_avsr.transcribe import load

CHECKPOINT = Path(__file__).resolve().parents[1] / "experiments" / "001-grid-s1" / "checkpoint"
NUM_CLIPS = 6

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(shared: Path) -> list[Path]:
    """Test clips of GRID's speaker s1."""
    clips = [clip for clip in read_grid(shared / "data" / "grid") if clip.split == "test"]
    return [clip.media for clip in clips[:NUM_CLIPS]]


@pytest.mark.usefixtures("real_models")
def test_real_clips_get_nearly_the_text_that_bfloat16_gives_them(files: list[Path]) -> None:
    texts = {}
    for kind in ("none", "int8", "nf4"):
        model = load(CHECKPOINT, llm_dtype="bfloat16", quantization=kind, merged_task="asr" if kind == "nf4" else None)
        texts[kind] = [model.transcribe(file, "asr") for file in files]
    num_words = sum(len(text.split()) for text in texts["none"])
    assert num_words == 6 * NUM_CLIPS
    for kind, most in (("int8", 1), ("nf4", 3)):
        assert jiwer.wer(texts["none"], texts[kind]) * num_words <= most
