"""General text of a removal: windows that retention reads, and windows held out on which the damage is measured.

The held-out windows come from documents behind those that are retained. Of a text too short for that, every eighth
document is held out, or every eighth window where there are few documents.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import numpy as np

from sae_train.lm.models import LanguageModel
from sae_train.text.token_plan import TokenPlan
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows
from unlearn.problem.data import first_documents, text_windows

TEXT_CTX = 64  # tokens in a window of general text
TEXT_TOKENS = 60_000  # retained: about 940 windows, of which every step draws some
HELDOUT_TOKENS = 4096  # of one measurement: a second for the embedded world, half a minute for 135 M parameters on CPU
ONE_IN = 8  # of a short text is held out
FEW_DOCUMENTS = 2 * ONE_IN
CHARS = 8  # of a token, at most: how much is read to be sure that there is enough


class GeneralText(NamedTuple):
    """Windows of general text, as token ids.

    Attributes:
        retained: What retention draws from.
        heldout: What no loss reads: a fixed sample on which KL(original || unlearned) is measured.
    """

    retained: list[list[int]]
    heldout: list[list[int]]


def read_general_text(lm: LanguageModel, documents: Iterable[Document]) -> GeneralText:
    """Cut general text into windows and hold some of it out; no documents, no windows."""
    stream = iter(documents)
    read = list(first_documents(stream, TEXT_TOKENS * CHARS))
    if not read:
        return GeneralText([], [])
    ctx_len = min(TEXT_CTX, lm.max_positions)
    plan = plan_windows(read, lm.tokenizer, ctx_len=ctx_len, max_rows=TEXT_TOKENS)
    # What the plan did not get to is drawn upon before more is read.
    behind = chain(read[1 + int(np.asarray(plan.doc_id).max()) :], stream)
    heldout = text_windows(lm.tokenizer, behind, ctx_len=ctx_len, max_tokens=HELDOUT_TOKENS)
    if sum(map(len, heldout)) >= HELDOUT_TOKENS // 2:
        return GeneralText([ids for _, ids in _windows(plan)], heldout)
    return _shared(plan)


def _windows(plan: TokenPlan) -> list[tuple[int, list[int]]]:
    """Return the windows in which something is predicted, each with the number of its document."""
    spans = [plan.window(i) for i in range(plan.n_windows)]
    return [(int(plan.doc_id[s.start]), plan.tokens[s].tolist()) for s in spans if s.stop - s.start > 1]


def _shared(plan: TokenPlan) -> GeneralText:
    """Part the windows of a short text: every eighth document, or window, is held out, up to `HELDOUT_TOKENS`."""
    retained, heldout, n_held = list[list[int]](), list[list[int]](), 0
    windows = _windows(plan)
    has_few = len({doc for doc, _ in windows}) < FEW_DOCUMENTS
    for number, (doc, ids) in enumerate(windows):
        is_held = (number if has_few else doc) % ONE_IN == ONE_IN - 1 and n_held < HELDOUT_TOKENS
        (heldout if is_held else retained).append(ids)
        n_held += len(ids) * is_held
    return GeneralText(retained, heldout)
