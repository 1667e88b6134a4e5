"""Scores of several continuations of one prompt; the prompt is run once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_train.lm.answering import read_on
from sae_train.lm.generate import batches_by_length, encode_prompts, pad_right
from sae_train.lm.models import LanguageModel
from sae_train.text.tokens import encode_plain

ROWS = 256  # continuations in one forward pass


class OptionScores(NamedTuple):
    """What a model thinks of the options behind one prompt.

    Attributes:
        log_probs: log p(option | prompt) in nats, summed over its tokens.
        n_tokens: Tokens of each option.
        first_greedy: For every token of the first option, whether it is the likeliest one behind those before it.
    """

    log_probs: list[float]
    n_tokens: list[int]
    first_greedy: list[bool]

    @property
    def per_token(self) -> list[float]:
        """Mean log-probability of the tokens of every option, nats."""
        return [s / n for s, n in zip(self.log_probs, self.n_tokens, strict=True)]


@torch.no_grad()
def option_scores(
    lm: LanguageModel, prompts: Sequence[str], options: Sequence[Sequence[str]], *, batch_size: int = 32
) -> list[OptionScores]:
    """Return the scores of every prompt's options; a space is put in front of each option.

    One pass over the prompts, and one over the options behind the prompts' keys and values, where an option has
    more than one token.

    Raises:
        ShapeError: The model has no positions for a prompt with its longest option.
    """
    front = encode_prompts(lm, prompts)
    texts = list(dict.fromkeys(f" {o}" for own in options for o in own))
    ids_of = dict(zip(texts, encode_plain(lm.tokenizer, texts)[0] if texts else [], strict=True))
    back = [[ids_of[f" {o}"] for o in own] for own in options]
    lm.check_tokens([f + max(own, key=len, default=[]) for f, own in zip(front, back, strict=True)])
    found: list[OptionScores | None] = [None] * len(front)
    for batch in batches_by_length([len(f) for f in front], batch_size):
        ids = torch.tensor([front[i] for i in batch], device=lm.device)
        read, cache = read_on(lm, ids, None)
        first = read[:, -1].float().log_softmax(dim=-1)
        rows = [(row, tokens) for row, i in enumerate(batch) for tokens in back[i]]
        scored = _continue(lm, cache, first, rows)
        start = 0
        for i in batch:
            own = scored[start : start + len(back[i])]
            start += len(back[i])
            found[i] = OptionScores([s for s, _ in own], [len(t) for t in back[i]], own[0][1] if own else [])
    return [f for f in found if f is not None]


def _continue(
    lm: LanguageModel, cache: Any, first: Tensor, rows: Sequence[tuple[int, list[int]]]
) -> list[tuple[float, list[bool]]]:
    """Return (log-probability, which tokens are the likeliest) of token lists behind rows of a cache."""
    places = torch.tensor([row for row, _ in rows], device=first.device)
    heads = torch.tensor([tokens[0] for _, tokens in rows], device=first.device)
    best = first.argmax(dim=-1)
    totals = first[places, heads].tolist()
    greedy = [[hit] for hit in (best[places] == heads).tolist()]
    longer = [i for i, (_, tokens) in enumerate(rows) if len(tokens) > 1]
    for start in range(0, len(longer), ROWS):
        chunk = longer[start : start + ROWS]
        own = copy.deepcopy(cache)
        own.batch_select_indices(places[chunk])
        ids, mask = pad_right([rows[i][1][:-1] for i in chunk], device=first.device)
        aims, _ = pad_right([rows[i][1][1:] for i in chunk], device=first.device)
        logits = read_on(lm, ids, own)[0].float()
        scores = logits.log_softmax(dim=-1).gather(2, aims[:, :, None])[:, :, 0] * mask
        hits = (logits.argmax(dim=-1) == aims).tolist()
        for row, (i, score) in enumerate(zip(chunk, scores.sum(dim=1).tolist(), strict=True)):
            totals[i] += score
            greedy[i] += hits[row][: len(rows[i][1]) - 1]
    return list(zip(totals, greedy, strict=True))
