"""Tiny random models of many architectures: two to four blocks, width 32. Registered by conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SIZES = {"vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {
    **SIZES,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
HEADED = {**LLAMA, "head_dim": 8}
ALIBI = {**SIZES, "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}
GPT = {**SIZES, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {
    **SIZES,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
}
EXPERTS = {**LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
RECURRENT = {**SIZES, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,  # as many as the text model has: the search must not take these blocks
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
# Name -> (config class, model class, config's keys).
TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**HEADED, "sliding_window": 16}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", HEADED),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**HEADED, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**HEADED, "sliding_window": 16}),
    "gemma3-multimodal": (
        "Gemma3Config",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {**HEADED, "sliding_window": 16},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 319,
            "boi_token_index": 318,
            "eoi_token_index": 317,
        },
    ),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**LLAMA, "use_parallel_residual": True}),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", {**GPT, "rotary_dim": 4}),
    "gpt-bigcode": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", GPT),
    "phi": ("PhiConfig", "PhiForCausalLM", LLAMA),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", LLAMA),
    "opt": ("OPTConfig", "OPTForCausalLM", OPT),
    "opt-350m": (
        "OPTConfig",
        "OPTForCausalLM",
        {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "bloom": ("BloomConfig", "BloomForCausalLM", ALIBI),
    "falcon": (
        "FalconConfig",
        "FalconForCausalLM",
        {**SIZES, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True},
    ),
    "mpt": ("MptConfig", "MptForCausalLM", {**SIZES, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", LLAMA),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", LLAMA),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", LLAMA),
    "cohere": ("CohereConfig", "CohereForCausalLM", {**LLAMA, "logit_scale": 0.0625}),
    "granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        {**LLAMA, "residual_multiplier": 0.22, "logits_scaling": 8.0, "embedding_multiplier": 12.0},
    ),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**EXPERTS, "num_local_experts": 4}),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    ),
    "qwen3-moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**EXPERTS, "head_dim": 8, "num_experts": 4}),
    "lfm2": (
        "Lfm2Config",
        "Lfm2ForCausalLM",
        {**LLAMA, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    ),
    "falcon-h1": (
        "FalconH1Config",
        "FalconH1ForCausalLM",
        {**HEADED, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1},
    ),
    "mamba": ("MambaConfig", "MambaForCausalLM", RECURRENT),
    "mamba2": (
        "Mamba2Config",
        "Mamba2ForCausalLM",
        {**RECURRENT, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
    ),
    "rwkv": (
        "RwkvConfig",
        "RwkvForCausalLM",
        {**SIZES, "hidden_size": 32, "num_hidden_layers": 3, "context_length": 64},
    ),
}


def build(name: str) -> Any:
    """Return a tiny random model in evaluation mode; weights large enough for a clear answer."""
    import torch
    import transformers

    config_class, model_class, keys = TINY[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**keys)
    model = getattr(transformers, model_class)(config).eval()
    model.requires_grad_(False)
    return model


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Any]:
    """Return `build`: a new tiny model of a named architecture each time."""
    return build


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, toy_tokenizer) -> Callable[[str], Path]:
    """Return a function that gives the folder of a named architecture's tiny model, its tokenizer beside it."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("architectures") / name
            build(name).save_pretrained(made[name])
            toy_tokenizer.save_pretrained(made[name])
        return made[name]

    return folder
