"""What commands read: documents, with the embedded world's corpus among them. Imported inside commands only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cli.options import FACT_WORLD
from features.entities import load_entities
from features.prompts import entity_documents, load_templates
from sae_train.config import CacheConfig
from sae_train.errors import ConfigError
from sae_train.lm.adapters import is_adapter, read_base
from sae_train.lm.models import LanguageModel, load_lm, weights_hash
from sae_train.lm.tokens import Corpus, Document, corpus_of, load_documents


def documents_of(text: str) -> Iterator[Document]:
    """Return the documents of `--text`; `fact-world` makes the corpus of world 0 again.

    The first one is read at once, so that a text that cannot be read is refused before anything is done.
    """
    if text == FACT_WORLD:
        from features.factworld.corpus import world_corpus

        return (Document(d.text) for d in world_corpus(0))
    documents = load_documents(text)
    return itertools.chain(list(itertools.islice(documents, 1)), documents)


def named_text(text: str) -> Corpus:
    """Return the text of `--text` under its name; the one place that knows the embedded world's corpus by name."""
    return corpus_of(text) if text != FACT_WORLD else Corpus(FACT_WORLD, list(documents_of(text)))


def mixed_in(entities: Path | None, templates: Path | None, config: CacheConfig) -> list[Document]:
    """Return the entity contexts of `--entities` and `--templates`, in the order drawn by the seed.

    Raises:
        ConfigError: One of the two, or the share of rows, is missing.
    """
    if (config.entity_share > 0) != (entities is not None and templates is not None):
        raise ConfigError(
            "entity contexts need all three of --entities, --templates, --entity-share",
            got=f"--entities {entities}, --templates {templates}, --entity-share {config.entity_share}",
            expected="all of them, or none",
        )
    if entities is None or templates is None:
        return []
    return entity_documents(load_entities(entities), load_templates(templates), seed=config.seed)


def load_model(spec: str, *, device: str, dtype: str = "float32") -> LanguageModel:
    """Load `--model`; the embedded world goes by its name, not by where it is installed."""
    from features.factworld import shipped_world

    path = Path(spec)
    on_world = is_adapter(path) and read_base(path).spec == FACT_WORLD
    lm = load_lm(spec, device=device, dtype=dtype, base=str(shipped_world()) if on_world else None)
    return replace(lm, name=FACT_WORLD) if spec == str(shipped_world()) else lm


def load_original(model: str, given: str | None, *, device: str) -> tuple[LanguageModel | None, str | None]:
    """Load the model before the first removal, as which everything but the targets is to be kept.

    Args:
        model: `--model`, of which something may have been removed before.
        given: `--original`; None takes what `unlearning.json` names, where it lies here unchanged: no hub is asked.
        device: Where the tensors live.

    Returns:
        The model, or None where there is none or `model` is it; and what to tell the user about that, if anything.

    Raises:
        ConfigError: `--original` is not the model that `unlearning.json` names.
    """
    from features.factworld import shipped_world
    from unlearn.record import original_of, removed_from

    recorded = original_of(model)
    spec = given or (recorded.spec if recorded else "")
    spec = str(shipped_world()) if spec == FACT_WORLD else spec
    found = load_model(spec, device=device) if given or (spec and Path(spec).exists()) else None
    if found is not None and recorded is not None and weights_hash(found.model) != recorded.weights_hash:
        if given:
            raise ConfigError(
                "not the model that the first removal started from",
                got=f"{given} (--original)",
                expected=f"{recorded.spec} with weights {recorded.weights_hash[:12]}…, as '{model}' says",
            )
        found = None
    if found is not None or not removed_from(model):
        return found, None
    return None, (
        "the model before the first removal is not at hand: everything else is kept as it is in --model, "
        "and the costs of the removals add up (--original MODEL)"
    )
