"""`unlearning.json`: what an unlearned model folder says about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae_train.errors import FileFormatError

RECORD = "unlearning.json"


def hook_point_of(model: str) -> str | None:
    """Return the hook point a model folder was unlearned at; None where that is not recorded."""
    found = read_record(model).get("result", {}).get("hook_point")
    return None if found is None else str(found)


def method_of(model: str) -> str:
    """Return the method that made a model folder, or `not recorded` for a model of somebody else's."""
    return str(read_record(model).get("config", {}).get("method", "not recorded"))


def retained_of(model: str) -> list[str]:
    """Return the keys of the known entities that a model folder was trained to retain; empty where not recorded."""
    return [str(key) for key in read_record(model).get("inputs", {}).get("retain", [])]


def read_record(model: str) -> dict[str, Any]:
    """Read the record of a model folder; empty where there is none.

    Raises:
        FileFormatError: The file is not JSON.
    """
    path = Path(model) / RECORD
    if not path.is_file():
        return {}
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="JSON") from error
    return found if isinstance(found, dict) else {}
