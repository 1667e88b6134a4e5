"""Find the model before the first removal of a chain, and check its hash; no hub access unless named."""

from __future__ import annotations

from pathlib import Path

from sae_train.errors import ConfigError
from sae_train.lm.models import LanguageModel, load_lm, weights_hash
from sae_train.run.notes import note
from unlearn.removals.record import RemovalRecord


def find_original(
    record: RemovalRecord, given: LanguageModel | str | Path | None, *, device: str
) -> LanguageModel | None:
    """Return the model before the first removal, as which everything but the targets is to be kept.

    Args:
        record: Of the model from which something is to be removed now.
        given: That model, where the user names it; None takes what the record names, where it lies here unchanged.
        device: Where the tensors live.

    Returns:
        The model, or None where nothing was removed before or it is not at hand; the latter is noted.

    Raises:
        ConfigError: `given` is not the model that the record names.
    """
    recorded = record.original
    if isinstance(given, LanguageModel):
        found: LanguageModel | None = given
    else:
        spec = str(given) if given is not None else (recorded.spec if recorded else "")
        found = load_lm(spec, device=device) if given is not None or _is_at_hand(spec) else None
    if found is not None and recorded is not None and weights_hash(found.model) != recorded.weights_hash:
        if given is not None:
            raise ConfigError(
                "not the model that the first removal started from",
                got=found.name,
                field="original",
                expected=f"{recorded.spec} with weights {recorded.weights_hash[:12]}…, as the record says",
            )
        found = None
    if found is None and record.removed:
        note(
            "the model before the first removal is not at hand: everything else is kept as it is in the model given, "
            "and the costs of the removals add up (`original`)"
        )
    return found


def _is_at_hand(spec: str) -> bool:
    """Tell whether a recorded model can be loaded without asking a hub."""
    from sae_train.text.worlds import world_names

    return spec in world_names() or (bool(spec) and Path(spec).exists())
