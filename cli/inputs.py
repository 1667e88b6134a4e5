"""What commands read: documents, with the embedded world's corpus among them. Imported inside commands only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cli.options import FACT_WORLD
from sae_train.lm.adapters import is_adapter, read_base
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.lm.tokens import Document, load_documents


def documents_of(text: str) -> Iterator[Document]:
    """Return the documents of `--text`; `fact-world` makes the corpus of world 0 again.

    The first one is read at once, so that a text that cannot be read is refused before anything is done.
    """
    if text == FACT_WORLD:
        from features.factworld.corpus import world_corpus

        return (Document(d.text) for d in world_corpus(0))
    documents = load_documents(text)
    return itertools.chain(list(itertools.islice(documents, 1)), documents)


def load_model(spec: str, *, device: str, dtype: str = "float32") -> LanguageModel:
    """Load `--model`; the embedded world goes by its name, not by where it is installed."""
    from features.factworld import shipped_world

    path = Path(spec)
    on_world = is_adapter(path) and read_base(path).spec == FACT_WORLD
    lm = load_lm(spec, device=device, dtype=dtype, base=str(shipped_world()) if on_world else None)
    return replace(lm, name=FACT_WORLD) if spec == str(shipped_world()) else lm
