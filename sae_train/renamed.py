"""Names that fields had in earlier versions: recorded files are read with them, users are told the new ones.

Whoever reads a config or an attribute from a file that an earlier version may have written calls `with_current_names`.
What a user gives is never translated: an old name is refused as any unknown one is, with the new one to try.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

__all__ = ["ADDED", "RENAMED", "current_name", "former_dataset", "recorded_value", "with_current_names"]

RENAMED = {
    "entity_share": "frac_entity_rows",
    "holdout_share": "frac_holdout",
    "l1_warmup_share": "frac_l1_warmup",
    "lr_decay_share": "frac_lr_decay",
    "min_right_share": "min_frac_right",
    "min_sample_share": "min_frac_sample",
    "null_share": "frac_null",
    "retain_share": "frac_retain",
}
# Fields that configs got later, with the value that a recorded config without them meant.
ADDED = {
    "target_hook_point": None,
    "skip": False,
    "init": None,
    "hierarchical_shares": [0.125, 0.25, 0.5, 1.0],
    "frequency_coefficient": 0.0,
    "max_frequency": 0.1,
    "matryoshka_weights": [],
    "jumprelu_revival": "none",
    "pre_acts_coefficient": 0.01,
    "checkpoint_activations": False,
    "relu_p_end": 1.0,
}
DATASETS = {"shares": "frac_verdicts"}  # datasets of `latents.h5`


def with_current_names(recorded: Any) -> Any:
    """Return what a file holds with every old name replaced, at any depth; order and values stay.

    Example:
        >>> with_current_names({"method": "redirect", "settings": {"null_share": 0.1}, "retain_share": 0.75})
        {'method': 'redirect', 'settings': {'frac_null': 0.1}, 'frac_retain': 0.75}
    """
    if isinstance(recorded, dict):
        return {RENAMED.get(key, key): with_current_names(value) for key, value in recorded.items()}
    if isinstance(recorded, list):
        return [with_current_names(value) for value in recorded]
    return recorded


def recorded_value(text: str | None) -> Any:
    """Read a recorded text for a comparison: JSON as its values by current names, any other text as it is.

    Example:
        >>> recorded_value('{"holdout_share": 0.1}') == recorded_value('{"frac_holdout": 0.1}')
        True
    """
    try:
        return with_current_names(json.loads(text or ""))
    except json.JSONDecodeError:
        return text


def former_dataset(name: str) -> str:
    """Return what a dataset was called in files of earlier versions; its name where that never changed.

    Example:
        >>> former_dataset("frac_verdicts"), former_dataset("strengths")
        ('shares', 'strengths')
    """
    return next((old for old, new in DATASETS.items() if new == name), name)


def current_name(name: str, known: Iterable[str]) -> str | None:
    """Return what a field of this name is called now, spelled with dashes if it came so; None if it was never renamed.

    Args:
        name: As a user wrote it, with underscores or dashes, or as an option.
        known: The names there are; a new name that is none of them is no help.

    Example:
        >>> current_name("--holdout-share", ["--frac-holdout", "--seed"])
        '--frac-holdout'
    """
    bare = name.lstrip("-")
    new = RENAMED.get(bare.replace("-", "_"), "")
    found = name[: len(name) - len(bare)] + (new.replace("_", "-") if "-" in name else new)
    return found if new and found in set(known) else None
