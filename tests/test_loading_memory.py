"""Loading an LLM never holds two copies of its weights: the most memory of a process, in files and in dtypes of all
kinds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_llm import save_tiny_llm, tiny_tokenizer
from safetensors.torch import save_file
from transformers import LlamaConfig

from omni_avsr.skeleton import llm_skeleton, tensor_shapes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")]

SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 4096,
}
CASES = {
    "float32": ("float32", None, 4.0),
    "bfloat16": ("bfloat16", None, 2.0),
    "int8": ("bfloat16", "int8", 1.0),
    "nf4": ("bfloat16", "nf4", 0.57),
}
"""dtype, quantization, bytes a weight (nf4: 4.5 bits, and 8 in the embeddings)."""
SPARE_MIB = 36
"""What slabs, the tokenizer and the allocator need, however large the weights are."""
CODE = """
import gc, json, sys, torch
from benchmarks.measure import peak_memory_mib
from omni_avsr.llm import load_llm

torch.set_num_threads(1)
for name, (dtype, quantization, _) in json.loads(sys.argv[2]).items():
    for folder in (sys.argv[3], sys.argv[1]):  # with the tiny one, libraries import what they import late
        gc.collect()
        open("/proc/self/clear_refs", "w").write("5")  # the peak is now what is resident
        before = peak_memory_mib()
        load_llm(folder, getattr(torch, dtype), quantization=quantization)
        after = peak_memory_mib()
    print(json.dumps([name, after - before]))
"""


def test_the_peak_is_the_loaded_weights_and_little_more(tmp_path: Path) -> None:
    shapes = tensor_shapes(llm_skeleton(LlamaConfig(**SHAPE), torch.float32))
    size = sum(torch.Size(shape).numel() for shape in shapes.values())
    # Two shards in float32, 220 MiB: beside what is loaded, neither they nor their weights in bfloat16 would fit.
    assert size * 2 / 2**20 > size / 2**20 + SPARE_MIB
    generator, names = torch.Generator().manual_seed(0), sorted(shapes)
    files = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        tensors = {name: 0.02 * torch.randn(shapes[name], generator=generator) for name in names if files[name] == file}
        save_file(tensors, tmp_path / file, metadata={"format": "pt"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    LlamaConfig(**SHAPE, bos_token_id=0, eos_token_id=1).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)

    root = Path(__file__).resolve().parents[1]
    # A fixed threshold: glibc otherwise keeps for itself what was freed, as much as it has learnt to expect.
    malloc = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    environment = os.environ | malloc | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    tiny = save_tiny_llm(tmp_path / "tiny")
    command = [sys.executable, "-c", CODE, str(tmp_path), json.dumps(CASES), str(tiny)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peaks = dict(json.loads(line) for line in re.findall(r"^\[.*\]$", done.stdout, re.MULTILINE))
    assert peaks.keys() == CASES.keys()
    for name, (_, _, bytes_each) in CASES.items():
        expected = size * bytes_each / 2**20
        assert expected - 1 < peaks[name] < expected + SPARE_MIB, (name, peaks, expected)
