"""Training of a fact world's language model: a Llama of 0.8 million parameters, one pass over the corpus.

Hidden matrices are trained with Muon, embedding and norms with AdamW; both rates rise over 30 steps and fall
linearly to 2 %. Muon orthogonalises in bfloat16 where the processor has instructions for it, else in float32. The
same seed, torch version, number of threads and kind of processor give the same weights, bit by bit. Weights are drawn,
and batches ordered, from generators of their own; nothing depends on global random state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from features.factworld.muon import Muon
from features.factworld.tokenizer import BOS_ID, EOS_ID, PAD_ID
from sae_train.machine.arithmetic import usable
from sae_train.rng import torch_rng
from sae_train.run.progress import Advance, no_advance

"""Called as `progress(step, n_steps, loss)`; loss in nats per token."""


@dataclass(frozen=True)
class TrainingConfig:
    """Size of the model and how it is trained."""

    d_model: int = 96
    n_blocks: int = 4
    n_heads: int = 4
    d_mlp: int = 384
    init_std: float = 0.05
    batch_documents: int = 32
    lr_matrices: float = 0.005
    weight_decay_matrices: float = 0.05
    lr_rest: float = 6e-3
    warmup_steps: int = 30
    final_lr_frac: float = 0.02
    clip_norm: float = 1.0
    sort_batches: int = 8
    """Documents are sorted by length within so many batches, which saves padding."""


class Batch(NamedTuple):
    """Documents padded to a common length; padding has label -100."""

    input_ids: Int[Tensor, "n_docs ctx_len"]
    labels: Int[Tensor, "n_docs ctx_len"]


def new_model(config: TrainingConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """Return an untrained model: matrices drawn from N(0, init_std), norms one."""
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        num_hidden_layers=config.n_blocks,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        intermediate_size=config.d_mlp,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights of its own from the global state
        model = LlamaForCausalLM(llama)
    generator = torch_rng("factworld.weights", seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, config.init_std, generator=generator)
            else:
                parameter.fill_(1.0)
    return model


def train_model(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    config: TrainingConfig | None = None,
    advance: Advance = no_advance,
) -> LlamaForCausalLM:
    """Return a model trained on every text once; `advance` counts batches."""
    config = config or TrainingConfig()
    model = new_model(config, tokenizer, seed=seed).train()
    batches = make_batches(texts, tokenizer, config, seed=seed)
    optimizers = _optimizers(model, config)
    schedules = [_schedule(optimizer, config, len(batches)) for optimizer in optimizers]
    for batch in batches:
        loss = model(**batch._asdict()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        advance(1, loss=loss.item())
    return model.eval()


def make_batches(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, config: TrainingConfig, *, seed: int
) -> list[Batch]:
    """Tokenize the texts, sort a few batches at a time by length, and shuffle the batches within these."""
    ids = [[*document, EOS_ID] for document in tokenizer(list(texts))["input_ids"]]
    generator = torch_rng("factworld.batches", seed)
    size, batches = config.batch_documents, []
    for start in range(0, len(ids), size * config.sort_batches):
        nearby = sorted(ids[start : start + size * config.sort_batches], key=len)
        groups = [nearby[i : i + size] for i in range(0, len(nearby), size)]
        order = torch.randperm(len(groups), generator=generator).tolist()
        batches += [_pad(groups[i]) for i in order]
    return batches


def _pad(documents: list[list[int]]) -> Batch:
    """Pad on the right, where causal attention needs no mask."""
    ctx_len = max(map(len, documents))
    input_ids = torch.full((len(documents), ctx_len), PAD_ID)
    for row, document in zip(input_ids, documents, strict=True):
        row[: len(document)] = torch.tensor(document)
    return Batch(input_ids, input_ids.masked_fill(input_ids == PAD_ID, -100))


def _optimizers(model: LlamaForCausalLM, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the (tied) embedding and the norms."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named if p.ndim != 2 or "embed" in name]
    dtype = usable(torch.bfloat16, model.device)
    muon = Muon(matrices, lr=config.lr_matrices, weight_decay=config.weight_decay_matrices, dtype=dtype)
    return [muon, torch.optim.AdamW(rest, lr=config.lr_rest, betas=(0.9, 0.95), weight_decay=0.0)]


def _schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, n_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm up linearly, then fall linearly to the final fraction."""

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / config.warmup_steps)
        return warmup * (1.0 - (1.0 - config.final_lr_frac) * step / max(1, n_steps))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
