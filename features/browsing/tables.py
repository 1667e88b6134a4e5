"""All latents of a browser as a table, the examples of one as another, and both in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from features.browsing.records import group_of
from sae_train.run.notebook import html_rows

if TYPE_CHECKING:
    import pandas as pd

    from features.browsing.browser import LatentBrowser

SHOWN = ("rate", "max", "mean", "token")  # in a notebook
MOST_SHOWN = 10


def latent_table(browser: LatentBrowser) -> pd.DataFrame:
    """Return a row per latent, the columns that were measured.

    `n_fired`, `rate`, `max` and `mean` of its activations, `token` at which it is strongest, `similar` and `together`
    with their values, `twin`, `promoted` and `suppressed` tokens, `explanation` with its scores.
    """
    import pandas as pd

    words, tokens, row = browser.words(), browser.passages.token_id, browser.top.row[:, 0]
    found: dict[str, object] = {
        "n_fired": browser.strength.n_fired,
        "rate": browser.rate(),
        "max": browser.max(),
        "mean": browser.mean(),
        "token": [words[int(tokens[r])] if r >= 0 else None for r in row],
    }
    if browser.similar.latent.shape[1]:
        found |= {"similar": browser.similar.latent[:, 0], "similar_cosine": browser.similar.cosine[:, 0]}
    found |= {"together": browser.together.latent[:, 0], "together_jaccard": browser.together.jaccard[:, 0]}
    twins, lens = browser.twins, browser.lens
    if twins is not None:
        found |= {"twin": twins.latent, "twin_cosine": twins.cosine, "has_twin": twins.has_twin()}
    if lens is not None:
        for name, ids in (("promoted", lens.promoted), ("suppressed", lens.suppressed)):
            found[name] = [words[i] for i in ids[:, 0].tolist()]
    if browser.explained:
        found |= _explanations(browser)
    return pd.DataFrame(found, index=pd.RangeIndex(browser.n_latents, name="latent"))


def _explanations(browser: LatentBrowser) -> dict[str, list[object]]:
    """Return the columns of explanations and their scores."""
    every = [browser.explained.get(j) for j in range(browser.n_latents)]
    columns: dict[str, list[object]] = {"explanation": [e and e.explanation for e in every]}
    for name in ("detection", "fuzzing"):
        scores = [e and getattr(e, name) for e in every]
        columns[name] = [s.balanced_accuracy if s else float("nan") for s in scores]
    return columns


def example_table(browser: LatentBrowser, latent: int) -> pd.DataFrame:
    """Return the examples of one latent: `top`, then `sampled` with the group of strength, 0 the strongest.

    Raises:
        ConfigError: There is no such latent.
    """
    import pandas as pd

    record, words = browser.record(latent), browser.words()
    kinds = [("top", None, e) for e in record.top]
    kinds += [("sampled", group_of(i, len(record.sampled)), e) for i, e in enumerate(record.sampled)]
    heads = ["kind", "group", "activation", "doc_id", "position", "token", "text"]
    rows = [
        (kind, group, e.value, e.doc_id, e.position, words[e.token_ids[e.peak]], browser.text(e))
        for kind, group, e in kinds
    ]
    return pd.DataFrame(rows, columns=heads).astype({"group": "Int64"})


def browser_html(browser: LatentBrowser) -> str:
    """Return the figures and the latents that fire most, for a notebook."""
    most = np.argsort(-browser.strength.n_fired, kind="stable")[:MOST_SHOWN]
    table = latent_table(browser).loc[most, list(SHOWN)]
    rows = [(int(j), *values) for j, values in zip(most, table.to_numpy().tolist(), strict=True)]
    figures = html_rows(f"Latents of {browser.sae}", ("what", "value"), list(browser.summary().items()))
    return f"<div>{figures}{html_rows('Those that fire most', ('latent', *SHOWN), rows)}</div>"
