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
    "max_position_embeddings": 256,
}
HEADED = {**LLAMA, "head_dim": 8}
ALIBI = {**SIZES, "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}
GPT = {**SIZES, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
OPT = {
    **SIZES,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "word_embed_proj_dim": 32,
}
EXPERTS = {**LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GATED_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
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
    "mpt": ("MptConfig", "MptForCausalLM", {**SIZES, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
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
    "gpt": ("OpenAIGPTConfig", "OpenAIGPTLMHeadModel", GPT),
    "gpt-neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            **SIZES,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 256,
        },
    ),
    "gpt-oss": ("GptOssConfig", "GptOssForCausalLM", {**HEADED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek-v3": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {
            **EXPERTS,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
    "qwen3-next": (
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        {
            **EXPERTS,
            "head_dim": 8,
            "num_experts": 4,
            "shared_expert_intermediate_size": 16,
            **GATED_DELTA,
        },
    ),
    "qwen3.5": (
        "Qwen3_5TextConfig",
        "Qwen3_5ForCausalLM",
        {**HEADED, **GATED_DELTA},
    ),
    "jamba": (
        "JambaConfig",
        "JambaForCausalLM",
        {
            **{**EXPERTS, "num_experts": 4},
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
    ),
    "ctrl": ("CTRLConfig", "CTRLLMHeadModel", {**GPT, "dff": 64}),
    "gemma3n": (
        "Gemma3nTextConfig",
        "Gemma3nForCausalLM",
        {
            **HEADED,
            "vocab_size_per_layer_input": 320,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "layer_types": ["full_attention"] * 2,
            "activation_sparsity_pattern": [0.0, 0.0],
            "laurel_rank": 4,
        },
    ),
    "rwkv": (
        "RwkvConfig",
        "RwkvForCausalLM",
        {**SIZES, "hidden_size": 32, "num_hidden_layers": 3, "context_length": 256},
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


def facts(table: Any) -> dict[str, Any]:
    """Return what docs/reference/architectures.json says about an architecture, from its table."""
    mlps = [b.mlp for b in table.blocks if b.mlp is not None]
    n_blocks = len(table.blocks)
    n_attention = sum(b.attention is not None for b in table.blocks)
    return {
        "class": table.name,
        "attention": "every block" if n_attention == n_blocks else "some blocks" if n_attention else "none",
        "mlp": "every block" if len(mlps) == n_blocks else "some blocks" if mlps else "none",
        "readout": [path.rpartition(".")[2] for path in table.readout],
        "writing": sorted({n.removesuffix(".weight").rpartition(".")[2] for m in mlps for n in m.writing}),
        "writes": sorted({m.writes for m in mlps}),
        "is_parallel": any(b.is_parallel for b in table.blocks),
        "down_proj": bool(mlps) and all(m.writing for m in mlps),
        "closed_form": "every block"
        if (n := sum(b.is_solvable for b in table.blocks)) == n_blocks
        else "some blocks"
        if n
        else "none",
        "answers": "cache" if table.has_reusable_cache else "read again",
    }


@pytest.fixture(scope="session")
def architecture_facts() -> Callable[[Any], dict[str, Any]]:
    """Return `facts`."""
    return facts


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
