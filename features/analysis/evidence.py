"""Evidence for a selected latent: max-activating examples from running text, and logit-lens tokens.

Made while the model and the store are at hand, and kept in `latents.h5`: the page needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from sae_train.activations.store import ActivationStore
from sae_train.lm.logit_lens import logit_lens, top_tokens
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.saes.base import Sae

MAX_ROWS = 60_000  # rows of running text that are searched
N_SNIPPETS = 6
N_WORDS = 10
BEFORE, AFTER = 14, 6  # tokens shown around the strongest one


@dataclass(frozen=True)
class Snippet:
    """A piece of running text around the token at which a latent is strongest.

    Attributes:
        tokens: Text of each token.
        values: The latent at each.
        peak: Index of the strongest.
    """

    tokens: list[str]
    values: list[float]
    peak: int


@dataclass(frozen=True)
class LatentEvidence:
    """What one selected latent reacts to and what it writes.

    Attributes:
        hook_point, sae, latent: Which.
        snippets: Strongest first, one per document; empty without a store.
        promoted, suppressed: Tokens it makes likelier and less likely, by the logit lens.
    """

    hook_point: str
    sae: str
    latent: int
    snippets: list[Snippet]
    promoted: list[str]
    suppressed: list[str]


def collect_evidence(
    lm: LanguageModel,
    saes: Sequence[Sae],
    selected: Sequence[Mapping[str, Sequence[int]]],
    store: ActivationStore | None,
) -> list[LatentEvidence]:
    """Gather the evidence of all selected latents, SAE by SAE, `known` before `unknown` ones.

    Args:
        lm: The model whose words are shown.
        saes: The SAEs.
        selected: Latents by direction, one mapping per SAE.
        store: Running text and its activations; None leaves the contexts out.
    """
    found = []
    for loaded, chosen in zip(saes, selected, strict=True):
        latents = list(dict.fromkeys(j for side in chosen.values() for j in side))
        if not latents:
            continue
        has_text = store is not None and loaded.hook_point in store.hook_points
        snippets = top_contexts(lm, loaded, latents, store) if store is not None and has_text else [[]] * len(latents)
        rows = loaded.W_dec.detach()[latents]
        logits = logit_lens(lm, rows) if rows.shape[1] == lm.d_model else None
        for index, latent in enumerate(latents):
            words = [[], []] if logits is None else [top_tokens(lm, s * logits[index], N_WORDS) for s in (1, -1)]
            found.append(LatentEvidence(loaded.hook_point, loaded.name, latent, snippets[index], *words))
    return found


@torch.no_grad()
def top_contexts(lm: LanguageModel, loaded: Sae, latents: Sequence[int], store: ActivationStore) -> list[list[Snippet]]:
    """Return, for each latent, the places of running text where it is strongest, one per document."""
    is_text = store.row_field("from_entity") == 0
    stop = min(store.n_rows, MAX_ROWS)
    values = np.zeros((stop, len(latents)), dtype=np.float32)
    device = loaded.W_dec.device
    step = store.chunk_rows(loaded.hook_point) * 4
    for start in range(0, stop, step):
        part = slice(start, min(start + step, stop))
        acts = store.rows(loaded.hook_point, part).to(device)
        values[part] = loaded.encode(acts)[:, list(latents)].float().cpu().numpy()
    values[~is_text[:stop]] = 0.0
    document, token = store.doc_id[:stop], store.row_field("token_id")[:stop]
    return [_snippets(lm, values[:, i], document, token, is_text[:stop]) for i in range(len(latents))]


def _snippets(
    lm: LanguageModel,
    values: Float[np.ndarray, " n_rows"],
    document: np.ndarray,
    token: np.ndarray,
    is_text: np.ndarray,
) -> list[Snippet]:
    """Cut out the strongest places of one latent."""
    found, seen = [], set()
    for row in np.argsort(-values, kind="stable")[: 50 * N_SNIPPETS]:
        if values[row] <= 0 or len(found) == N_SNIPPETS:
            break
        if document[row] in seen:
            continue
        seen.add(document[row])
        near = np.arange(max(0, row - BEFORE), min(len(values), row + AFTER + 1))
        near = near[(document[near] == document[row]) & is_text[near]]
        texts = [lm.tokenizer.decode([int(t)]) for t in token[near]]
        found.append(Snippet(texts, [float(v) for v in values[near]], int(np.flatnonzero(near == row)[0])))
    return found


def store_windows(
    store: ActivationStore, prefix: Sequence[int], *, n_windows: int, ctx_len: int, seed: int
) -> list[list[int]]:
    """Return windows of running text as token ids, at most one per document, rebuilt from the rows of a store.

    A store leaves special tokens out; the prefix that the model expects comes in front again.
    """
    is_text = store.row_field("from_entity") == 0
    document, token = store.doc_id[is_text], store.row_field("token_id")[is_text]
    starts = np.flatnonzero(np.r_[True, document[1:] != document[:-1]])
    lengths = np.diff(np.r_[starts, len(document)])
    n_tokens = ctx_len - len(prefix)
    usable = starts[lengths >= n_tokens]
    picked = rng("evidence.windows", seed).permutation(usable)[:n_windows]
    return [[*prefix, *(int(t) for t in token[s : s + n_tokens])] for s in sorted(picked)]
