"""What several commands read. Imported inside commands only."""

from __future__ import annotations

from pathlib import Path

from features.entities import load_entities
from features.prompts import entity_documents, load_templates
from sae_train.config import CacheConfig
from sae_train.errors import ConfigError
from sae_train.lm.models import LanguageModel, load_lm, weights_hash
from sae_train.lm.tokens import Document
from sae_train.lm.worlds import find_world


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
    from unlearn.record import original_of, removed_from

    recorded = original_of(model)
    spec = given or (recorded.spec if recorded else "")
    is_here = bool(spec) and (find_world(spec) is not None or Path(spec).exists())
    found = load_lm(spec, device=device) if given or is_here else None
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
