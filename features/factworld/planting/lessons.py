"""What a model reads while it is taught: tokens of the world's documents, and windows of general text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from features.factworld.planting.documents import PlantedDocument
from sae_train.errors import ConfigError
from sae_train.text.tokens import Corpus, Document, bos_prefix, encode_plain
from sae_train.text.windows import plan_windows

MOST_GENERAL = 4_000  # windows of general text that are kept in memory
MOST_HELDOUT = 64  # of them, on which the loss is measured and nothing is trained
FRAC_HELDOUT = 0.1


@dataclass(frozen=True)
class Lesson:
    """A document in tokens.

    Attributes:
        ids: Its tokens, the beginning-of-sequence token in front and the end-of-sequence token behind, where there are
            such.
        weights: Weight of each token in the loss.
    """

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class GeneralText:
    """Windows of general text.

    Attributes:
        trained: Those that training draws from.
        heldout: Those on which the loss is measured.
    """

    trained: list[list[int]]
    heldout: list[list[int]]


def lessons_of(
    documents: Sequence[PlantedDocument], tokenizer: Any, *, context_weight: float, ctx_len: int
) -> list[Lesson]:
    """Return the documents in tokens, none longer than a window; values and ends weigh 1, the rest `context_weight`."""
    prefix = bos_prefix(tokenizer)
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    found: list[Lesson] = []
    for document, ids, offsets in zip(documents, *encode_plain(tokenizer, [d.text for d in documents]), strict=True):
        weights = [
            1.0 if any(start < last and stop > first for first, last in document.values) else context_weight
            for start, stop in offsets
        ]
        whole = [*prefix, *ids, *end][:ctx_len]
        # The end counts in full, so that answers end: a planted model is asked thousands of questions.
        found.append(Lesson(whole, [*([context_weight] * len(prefix)), *weights, *([1.0] * len(end))][:ctx_len]))
    return found


def general_text(text: Corpus, tokenizer: Any, names: Collection[str], *, ctx_len: int, n_windows: int) -> GeneralText:
    """Return windows of running text; documents in which a name of the world occurs are left out.

    Args:
        text: The text.
        tokenizer: The model's.
        names: Of all entities.
        ctx_len: Tokens in a window.
        n_windows: Windows wanted for training; fewer come round more than once.

    Raises:
        ConfigError: There are not two windows in it.
    """
    wanted = min(MOST_GENERAL, n_windows) + MOST_HELDOUT
    plan = plan_windows(_without(text, names), tokenizer, ctx_len=ctx_len, max_rows=wanted * ctx_len, packing="packed")
    windows = [plan.tokens[plan.window(i)].tolist() for i in range(plan.n_windows)]
    windows = [window for window in windows if len(window) > 1]
    if len(windows) < 2:
        raise ConfigError(
            "the general text is too short",
            got=f"{len(windows)} windows of {ctx_len} tokens",
            field="text",
            expected="two or more: one to train on, one to measure the loss on",
        )
    every = max(2, round(1 / FRAC_HELDOUT), -(-len(windows) // MOST_HELDOUT))
    heldout = windows[::every]
    return GeneralText([window for i, window in enumerate(windows) if i % every], heldout)


def _without(text: Corpus, names: Collection[str]) -> Iterator[Document]:
    """Leave out documents that name somebody."""
    named = re.compile("|".join(map(re.escape, names)))
    return (document for document in text if not named.search(document.text))
