"""A language model as one file, as llama.cpp writes it. Registered by conftest.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WIDTH, MLP, HEADS = 32, 64, 4


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory, toy_tokenizer) -> Path:
    """A random Llama of one block with a byte-level tokenizer, as llama.cpp writes it."""
    import gguf
    import torch

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    inner = json.loads(toy_tokenizer.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(inner["vocab"]))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(inner["vocab"]))
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in inner["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "token_embd": (len(inner["vocab"]), WIDTH),
        "output": (len(inner["vocab"]), WIDTH),
        "output_norm": (WIDTH,),
    }
    shapes |= {f"blk.0.{n}": (WIDTH, WIDTH) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {"blk.0.ffn_gate": (MLP, WIDTH), "blk.0.ffn_up": (MLP, WIDTH), "blk.0.ffn_down": (WIDTH, MLP)}
    shapes |= {"blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,)}
    for name, shape in shapes.items():
        weight = 0.1 * torch.randn(shape, generator=generator) + float(name.endswith("norm"))
        writer.add_tensor(f"{name}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
