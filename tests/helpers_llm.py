"""Tiny random language models with tiny tokenizers, in memory, as folders and as GGUF files."""

import string
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from omni_avsr.llm import LLM, load_llm

HIDDEN_SIZE, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS = 32, 2, 4, 2
KV_DIM = HIDDEN_SIZE // NUM_HEADS * NUM_KV_HEADS
CHARACTERS = string.ascii_letters + string.digits + " '.,?!-"


def tiny_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """One token per character, round trip exact; ``<bos>`` (when asked for), ``<eos>`` and ``<unk>`` come first."""
    special = ["<bos>", "<eos>", "<unk>"] if bos else ["<eos>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>" if bos else None, eos_token="<eos>", unk_token="<unk>"
    )


def tiny_model(family: str = "llama", vocab_size: int = 96, seed: int = 0) -> PreTrainedModel:
    """A random 2-layer causal LM of width 32 with grouped queries.

    ``family`` is llama, qwen2 (biases on q, k, v) or qwen3 (norms on q and k, heads of their own width).
    """
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 48,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KV_HEADS,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        # wide enough that the random model's predictions differ from position to position
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=0, eos_token_id=1)).eval()
        if family == "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=12, bos_token_id=0, eos_token_id=0)).eval()
        # Qwen2.5's config names a bos id although its tokenizer has none.
        return Qwen2ForCausalLM(Qwen2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def save_tiny_llm(folder: Path, family: str = "llama", vocab_size: int = 96, seed: int = 0) -> Path:
    """Save a tiny model and its tokenizer as ``load_llm`` expects a folder."""
    tiny_model(family, vocab_size, seed).save_pretrained(folder)
    tiny_tokenizer(bos=family == "llama").save_pretrained(folder)
    return folder


def tiny_llm(folder: Path, family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32) -> LLM:
    """A tiny LLM as the library would load it, by way of ``folder``."""
    return load_llm(str(save_tiny_llm(folder, family, seed=seed)), dtype)


def save_tiny_gguf(path: Path, quantised: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Write a tiny Llama as a GGUF file; returns what its tensors mean, by their GGUF names.

    Quantised: Q4_1 matrices, as in the SmolLM2 package; else F16, which float16 holds exactly.
    """
    random = np.random.default_rng(seed)
    heads_dim, feed_forward = HIDDEN_SIZE // NUM_HEADS, 64
    # GPT-2's byte-level alphabet writes a space as U+0120.
    tokens = ["<bos>", "<eos>", *CHARACTERS.replace(" ", "\u0120"), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN_SIZE)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_rope_dimension_count(heads_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokens) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd.weight": (len(tokens), HIDDEN_SIZE), "output_norm.weight": (HIDDEN_SIZE,)}
    for layer in range(NUM_LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (HIDDEN_SIZE,),
            f"blk.{layer}.ffn_norm.weight": (HIDDEN_SIZE,),
            f"blk.{layer}.attn_q.weight": (HIDDEN_SIZE, HIDDEN_SIZE),
            f"blk.{layer}.attn_k.weight": (KV_DIM, HIDDEN_SIZE),
            f"blk.{layer}.attn_v.weight": (KV_DIM, HIDDEN_SIZE),
            f"blk.{layer}.attn_output.weight": (HIDDEN_SIZE, HIDDEN_SIZE),
            f"blk.{layer}.ffn_gate.weight": (feed_forward, HIDDEN_SIZE),
            f"blk.{layer}.ffn_up.weight": (feed_forward, HIDDEN_SIZE),
            f"blk.{layer}.ffn_down.weight": (HIDDEN_SIZE, feed_forward),
        }
    meant = {}
    for name, shape in shapes.items():
        values = random.normal(0, 0.2, shape).astype(np.float16).astype(np.float32)
        if len(shape) == 1:
            meant[name] = values
            writer.add_tensor(name, values)
        elif quantised:
            blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q4_1)
            meant[name] = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        else:
            meant[name] = values
            writer.add_tensor(name, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant
