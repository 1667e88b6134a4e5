"""The embedded fact world: a tiny language model whose knowledge is known by construction.

Invented people, cities, films and songs, 250 of each type. The corpus states four facts about 50 of a type,
says "unknown" once about 100, and never mentions the other 100; a Llama of 0.8 million parameters learns it
in about two minutes on one processor core. So for every entity it is known, not estimated, whether the model
can know it.

    names.py      names made of words that known and unknown entities share
    facts.py      entities and their facts
    templates.py  wordings, for training and held out
    corpus.py     the documents
    tokenizer.py  byte-level BPE
    train.py      the language model
    check.py      what it knows, measured
    build.py      all of it into one folder, which any tool reads as a Hugging Face model

World 0 is shipped with its weights (`shipped_world`); its corpus is made again in a second (`world_corpus`). It goes by
the name `fact-world`: pyproject.toml registers `SHIPPED` under it (`sae_train/text/worlds.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features.factworld.build import build_world

__all__ = ["build_world", "shipped_world"]

from sae_train.text.worlds import World


def shipped_world() -> Path:
    """Return the folder of world 0: a Hugging Face folder with entities, templates and `world.json`.

    Example:
        >>> (shipped_world() / "model.safetensors").is_file()
        True
    """
    return Path(__file__).parent / "seed0"


def _shipped_corpus() -> Iterator[str]:
    """Make the texts of world 0 again."""
    from features.factworld.corpus import world_corpus

    return (document.text for document in world_corpus(0))


SHIPPED = World(folder=shipped_world(), documents=_shipped_corpus)


def __getattr__(name: str) -> Any:
    """Import what trains a world when it is first asked for (PEP 562)."""
    if name != "build_world":
        raise AttributeError(f"module 'features.factworld' has no attribute '{name}'")
    return importlib.import_module("features.factworld.build").build_world
