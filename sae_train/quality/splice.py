"""Splice an SAE into the language model: effect of its reconstruction on loss and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.activations.store import ActivationStore
from sae_train.intervals import Interval
from sae_train.lm.generate import pad_right
from sae_train.lm.hooks import captured, replaced
from sae_train.lm.models import LanguageModel
from sae_train.quality.bootstrap import document_groups, draw_counts, percentile_interval
from sae_train.quality.metrics import ce_recovered, kl_divergence
from sae_train.saes.base import Sae
from sae_train.text.token_plan import TokenPlan
from sae_train.text.tokens import Document, encode_plain

MAX_LOGITS = 2**25  # of one forward pass, 128 MB in float32: a vocabulary is wide
COMPARED_DOCUMENTS = 64  # that must be the same, token by token, for two texts to be the same
_SUMS = ("ce_clean", "ce_sae", "ce_zero", "kl")  # of every predicted token


@dataclass(frozen=True)
class SplicedLoss:
    """What splicing costs, in nats per predicted token, with 95 % bootstrap intervals over documents.

    Special tokens (the first token, where there is none) keep their own activations throughout.

    Attributes:
        ce_clean: Next-token cross-entropy of the model as it is.
        ce_sae: … with the SAE's reconstruction in the place of the activations: for a transcoder those of its target.
        ce_zero: … with zeros in their place.
        ce_recovered: (ce_zero - ce_sae) / (ce_zero - ce_clean).
        kl: KL(clean || spliced) between the predictions.
        n_predicted: Predicted tokens.
        n_texts: Documents they belong to.
    """

    ce_clean: Interval
    ce_sae: Interval
    ce_zero: Interval
    ce_recovered: Interval
    kl: Interval
    n_predicted: int
    n_texts: int


def spliced_loss(
    lm: LanguageModel,
    sae: Sae,
    hook_point: str,
    plan: TokenPlan,
    *,
    target: str | None = None,
    batch_size: int = 32,
) -> SplicedLoss:
    """Return what the SAE's reconstruction costs the model on the windows of a plan.

    Args:
        lm: The model.
        sae: The SAE.
        hook_point: Where it reads.
        plan: The windows.
        target: Where what it returns is put in the place of the activations; by default where it reads.
        batch_size: Windows at a time, at most.
    """
    places = (hook_point, target or hook_point)
    groups = document_groups(np.asarray(plan.doc_id))
    sums, counts = np.zeros((groups.n, len(_SUMS))), np.zeros(groups.n)
    longest = int(np.diff(np.asarray(plan.starts)).max())
    step = max(1, min(batch_size, MAX_LOGITS // (longest * len(lm.tokenizer))))
    for first in range(0, plan.n_windows, step):
        parts = [plan.window(w) for w in range(first, min(first + step, plan.n_windows))]
        ids, mask = pad_right([plan.tokens[p].tolist() for p in parts], device=lm.device)
        values = _token_sums(lm, sae, places, ids, mask, plan.n_prefix)[mask[:, 1:].bool()].double().cpu().numpy()
        where = np.concatenate([groups.of_row[p][1:] for p in parts])
        np.add.at(sums, where, values)
        np.add.at(counts, where, 1)
    return _summary(sums, counts, groups.n_documents)


def _summary(sums: Float[np.ndarray, "n_groups 4"], counts: Float[np.ndarray, " n_groups"], n: int) -> SplicedLoss:
    """Turn sums per group into means, and resampled ones into intervals; all figures share the resamples."""
    draws = draw_counts(len(counts))
    means: dict[str, float] = dict(zip(_SUMS, sums.sum(0) / counts.sum(), strict=True))
    replicates: dict[str, np.ndarray] = dict(
        zip(_SUMS, (draws @ sums / np.maximum(draws @ counts, 1)[:, None]).T, strict=True)
    )
    losses = _SUMS[:3]
    means["ce_recovered"] = ce_recovered(**{name: means[name] for name in losses})
    rows = zip(*(replicates[name] for name in losses), strict=True)
    replicates["ce_recovered"] = np.array([ce_recovered(**dict(zip(losses, row, strict=True))) for row in rows])
    found = {name: percentile_interval(float(v), replicates[name], len(counts)) for name, v in means.items()}
    return SplicedLoss(**found, n_predicted=int(counts.sum()), n_texts=n)


@torch.no_grad()
def _token_sums(
    lm: LanguageModel,
    sae: Sae,
    places: tuple[str, str],
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    n_prefix: int,
) -> Float[Tensor, "batch next 4"]:
    """Return clean, spliced and zeroed loss and KL(clean || spliced) of every next token."""
    read, written = places

    def log_probs(edit: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        def behind_prefix(acts: Tensor) -> Tensor:
            if edit is None:
                return acts
            inputs = seen.get(read, acts)
            return torch.cat([acts[:, :n_prefix], edit(inputs[:, n_prefix:], acts[:, n_prefix:])], dim=1)

        elsewhere = [] if read == written else [read]
        with captured(lm.model, elsewhere) as seen, replaced(lm.model, written, behind_prefix):
            logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        return F.log_softmax(logits.float(), dim=-1)

    def reconstruction(inputs: Tensor, acts: Tensor) -> Tensor:
        return sae(inputs.flatten(0, 1).float()).view_as(acts).to(acts.dtype)

    def zeros(_inputs: Tensor, acts: Tensor) -> Tensor:
        return torch.zeros_like(acts)

    def loss(found: Tensor) -> Tensor:
        return -found.gather(-1, ids[:, 1:, None]).squeeze(-1)

    clean, spliced = log_probs(None), log_probs(reconstruction)
    values = [loss(clean), loss(spliced), loss(log_probs(zeros)), kl_divergence(clean, spliced)]
    return torch.stack(values, dim=-1)


def heldout_documents(
    store: ActivationStore, held_out: np.ndarray, documents: Iterable[Document], lm: LanguageModel, *, most: int
) -> list[Document] | None:
    """Return those documents whose rows are held out, if this is the text that the store was made from.

    A store numbers the documents of its text as they come. Whether it is the same text is seen from the tokens of the
    first held-out ones: every row of the store must be the token at its position.

    Args:
        store: The open store.
        held_out: Which of its rows are held out, (n_rows,) bool.
        documents: The text, from its beginning.
        lm: Whose tokenizer.
        most: Documents to return at most.

    Returns:
        The first held-out documents, in order; None if the text is another one.
    """
    is_text = held_out & (store.row_field("from_entity") == 0)
    wanted = np.unique(store.doc_id[is_text])[:most]
    if not len(wanted):
        return None
    chosen = set(wanted.tolist())
    found = [d for number, d in enumerate(islice(documents, int(wanted[-1]) + 1)) if number in chosen]
    if len(found) < len(wanted):
        return None
    compared = wanted[:COMPARED_DOCUMENTS]
    rows = np.flatnonzero(is_text & (store.doc_id <= compared[-1]))
    tokens, position, number = (store.row_field(name)[rows] for name in ("token_id", "position", "doc_id"))
    for doc, ids in zip(compared, encode_plain(lm.tokenizer, [d.text for d in found[: len(compared)]])[0], strict=True):
        at = position[number == doc]
        if at.max() >= len(ids) or (np.array(ids)[at] != tokens[number == doc]).any():
            return None
    return found
