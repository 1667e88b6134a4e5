"""Answers to texts, in batches of equal length without left padding, and log-probabilities of tokens and answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.config import Decoding
from sae_train.lm.answer_end import first_line_is_whole
from sae_train.lm.answering import ROWS, batches_by_length, logits_of_last, write_answers
from sae_train.lm.architecture_check import architecture_of
from sae_train.lm.draws import PerBatch
from sae_train.lm.models import LanguageModel
from sae_train.lm.module_hooks import edited_input
from sae_train.text.packing import Batch, Places, lay_out
from sae_train.text.tokens import bos_prefix, encode_plain


def encode_prompts(lm: LanguageModel, prompts: Sequence[str]) -> list[list[int]]:
    """Tokenize prompts behind the beginning-of-sequence token, where there is one."""
    if not prompts:
        return []
    prefix = bos_prefix(lm.tokenizer)
    return [prefix + ids for ids in encode_plain(lm.tokenizer, list(prompts))[0]]


def greedy_answers(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 12,
    batch_size: int = ROWS,
    is_over: Callable[[str], bool] = first_line_is_whole,
) -> list[str]:
    """Return what the model writes behind each prompt, greedily and without special tokens; as `write_answers`."""
    ids = encode_prompts(lm, prompts)
    return [w.greedy for w in write_answers(lm, ids, Decoding(max_new_tokens), rows=batch_size, is_over=is_over)]


def sampled_answers(
    lm: LanguageModel, prompts: Sequence[str], *, n_samples: int, max_new_tokens: int, seed: int, batch_size: int = 32
) -> list[list[str]]:
    """Return `n_samples` answers to every prompt, drawn at temperature one from the whole distribution.

    The random numbers are one stream over all prompts (`draws.PerBatch`): audits that were published drew so.
    """
    decoding = Decoding(max_new_tokens, samples=n_samples, seed=seed)
    rows = batch_size * (1 + n_samples)
    written = write_answers(lm, encode_prompts(lm, prompts), decoding, rows=rows, draws=PerBatch)
    return [list(w.samples) for w in written]


def pad_right(
    sequences: Sequence[Sequence[int]], *, device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return token ids padded on the right, and the mask of real tokens."""
    batch = lay_out(sequences, torch.device(device), packed=False)
    assert batch.mask is not None
    return batch.ids, batch.mask


def token_losses(
    model: nn.Module, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], *, start: int = 0
) -> tuple[Float[Tensor, "batch next"], Float[Tensor, "batch next"]]:
    """Return the cross-entropy (nats) of every next token, and the mask of those that count.

    Args:
        model: The model.
        ids: Token ids, padded on the right.
        mask: 1 at real tokens.
        start: Losses are wanted behind this column: next = pos - 1 - start.
    """
    aims = ids[:, start + 1 :]
    wanted = logits_of_last(model, aims.shape[1])
    # the last token is not read: nothing is asked behind it
    out = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=False, **wanted)
    logits = out.logits[:, -aims.shape[1] :].float()
    losses = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), aims.reshape(-1), reduction="none")
    return losses.view_as(aims), mask[:, start + 1 :].float()


def logits_at(model: nn.Module, batch: Batch, places: Places) -> Float[Tensor, "n vocab"]:
    """Return the logits (float32) behind some tokens of a batch, in the order of the places.

    What the unembedding is given is cut down to these tokens before it; in a model with 49,152 tokens and a width of
    576 the logits of a token cost as much as eight of its thirty blocks. transformers' own `logits_to_keep` takes the
    same columns of every row, which in packed rows spares next to nothing.

    Args:
        model: A causal language model.
        batch: What it reads.
        places: The tokens.
    """
    unembedding = model.get_submodule(architecture_of(model).unembedding)
    cut: list[bool] = []

    def chosen(hidden: Tensor) -> Tensor:
        cut.append(True)
        return places.of(hidden)[None]

    with edited_input(unembedding, chosen):
        logits = model(**batch.inputs, use_cache=False).logits
    # A model that multiplies by the unembedding's matrix without calling it as a module gives all logits.
    return (logits[0] if cut else places.of(logits)).float()


def answer_losses(
    model: nn.Module,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    device: torch.device,
    *,
    packed: bool = False,
) -> tuple[Float[Tensor, "batch next"], Float[Tensor, "batch next"]]:
    """Return the cross-entropy (nats) of the tokens behind the shortest question, and 1 where one is of the answer.

    Args:
        model: The model.
        pairs: Token ids of question and answer.
        device: The model's.
        packed: Read several in a row (`packing.can_pack` tells where that may be); only answers are predicted then, and
            `next` counts from their first token.
    """
    if packed:
        return _packed_answer_losses(model, pairs, device)
    ids, mask = pad_right([[*question, *answer] for question, answer in pairs], device=device)
    lengths = torch.tensor([len(question) for question, _ in pairs], device=device)
    start = min(len(question) for question, _ in pairs) - 1  # not of `lengths`, which lie on the device
    losses, counted = token_losses(model, ids, mask, start=start)
    columns = torch.arange(start + 1, ids.shape[1], device=device)
    return losses, counted * (columns[None] >= lengths[:, None])


def _packed_answer_losses(
    model: nn.Module, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device
) -> tuple[Float[Tensor, "batch next"], Float[Tensor, "batch next"]]:
    """Return the losses of the answers' tokens, from their first one on, and 1 where there is one."""
    # the last token is not read: nothing is asked behind it
    batch = lay_out([[*question, *answer][:-1] for question, answer in pairs], device, packed=True)
    before = [(n, len(question) - 1 + at) for n, (question, answer) in enumerate(pairs) for at in range(len(answer))]
    aims = torch.tensor([token for _, answer in pairs for token in answer], device=device)
    losses = F.cross_entropy(logits_at(model, batch, batch.places(before)), aims, reduction="none")
    lengths = torch.tensor([len(answer) for _, answer in pairs], device=device)
    is_answer = torch.arange(max(len(answer) for _, answer in pairs), device=device)[None] < lengths[:, None]
    return torch.zeros(is_answer.shape, device=device).masked_scatter(is_answer, losses), is_answer.float()


def answer_loss(
    model: nn.Module,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    device: torch.device,
    *,
    packed: bool = False,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy (nats) of the answers' tokens; arguments as in `answer_losses`."""
    losses, is_answer = answer_losses(model, pairs, device, packed=packed)
    return (losses * is_answer).sum() / is_answer.sum()


@torch.no_grad()
def continuation_log_probs(
    lm: LanguageModel, prompts: Sequence[str], continuations: Sequence[str], *, batch_size: int = 64
) -> list[float]:
    """Return log p(continuation | prompt) summed over the continuation's tokens (nats), one per pair.

    Raises:
        ShapeError: The model has no positions for a pair.
    """
    back = encode_plain(lm.tokenizer, list(continuations))[0] if continuations else []
    pairs = list(zip(encode_prompts(lm, prompts), back, strict=True))
    lm.check_tokens([[*front, *behind] for front, behind in pairs])
    scores = [0.0] * len(pairs)
    for batch in batches_by_length([len(f) + len(b) for f, b in pairs], batch_size):
        losses, is_answer = answer_losses(lm.model, [pairs[i] for i in batch], lm.device)
        for index, loss in zip(batch, (losses * is_answer).sum(dim=1).tolist(), strict=True):
            scores[index] = -loss
    return scores


def answer_probabilities(lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Return the probability of answers behind prompts, one per pair (0 to 1): the geometric mean over the tokens.

    p = exp((1/n) sum over the n answer tokens of log p(token | prompt, tokens before)); long answers are not punished.

    Raises:
        ShapeError: The model has no positions for a pair.
    """
    lengths = map(len, encode_plain(lm.tokenizer, list(answers))[0] if answers else [])
    scores = continuation_log_probs(lm, prompts, answers)
    return [math.exp(score / n) for score, n in zip(scores, lengths, strict=True)]


@torch.no_grad()
def text_loss(lm: LanguageModel, windows: Sequence[Sequence[int]], *, batch_size: int = 32) -> float:
    """Return the mean cross-entropy (nats per predicted token) over windows of token ids."""
    total = count = 0.0
    order = sorted(range(len(windows)), key=lambda i: len(windows[i]))
    for start in range(0, len(order), batch_size):
        ids, mask = pad_right([windows[i] for i in order[start : start + batch_size]], device=lm.device)
        losses, counts = token_losses(lm.model, ids, mask)
        total += float((losses * counts).sum())
        count += float(counts.sum())
    return total / count
