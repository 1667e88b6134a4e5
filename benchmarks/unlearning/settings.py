"""Settings of a removal as the command line of a benchmark gives them: NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from unlearn.config import UnlearnConfig, configure

MEASURED_ANYWAY: dict[str, Any] = {"max_loss_increase": 1e9}
"""A model that collapsed is a result here: it is measured, not refused."""


def read_setting(word: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is JSON, or a text where it is none.

    Example:
        >>> read_setting("steps=20"), read_setting("train=full")
        (('steps', 20), ('train', 'full'))
    """
    name, _, text = word.partition("=")
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text


def read_config(words: Sequence[str], **given: Any) -> UnlearnConfig:
    """Build the config of a removal that is measured whatever it does to the model; `words` go before `given`."""
    return configure(**{**MEASURED_ANYWAY, **given, **dict(map(read_setting, words))})
