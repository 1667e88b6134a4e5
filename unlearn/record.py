"""`unlearning.json`: what an unlearned model folder says about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae_train.errors import FileFormatError
from sae_train.lm.adapters import Base
from sae_train.lm.worlds import find_world

RECORD = "unlearning.json"


def hook_point_of(model: str) -> str | None:
    """Return the hook point a model folder was unlearned at; None where that is not recorded."""
    found = read_record(model).get("result", {}).get("hook_point")
    return None if found is None else str(found)


def method_of(model: str) -> str:
    """Return the method that made a model folder, or `not recorded` for a model of somebody else's."""
    return str(read_record(model).get("config", {}).get("method", "not recorded"))


def retained_of(model: str) -> list[str]:
    """Return the keys of the known entities that a model folder was trained to retain, in any removal of its chain.

    Empty where that is not recorded.
    """
    return list(dict.fromkeys(str(key) for link in chain_of(model) for key in link.get("retain", [])))


def removed_from(model: str) -> dict[str, str]:
    """Return what was removed from a model folder, first removal first: keys of targets, and of their partners.

    A partner that is not recorded is an empty text.
    """
    found = read_record(model).get("inputs", {})
    earlier, forget = found.get("earlier", []), found.get("forget", [])
    partners = [*found.get("earlier_partners", [""] * len(earlier)), *found.get("partners", [""] * len(forget))]
    return dict(zip(map(str, (*earlier, *forget)), map(str, partners), strict=True))


def chain_of(model: str) -> list[dict[str, Any]]:
    """Return one entry per removal that led to a model folder, first removal first.

    Each has run, method, targets, what was retained and as which model (`original`), hash of the model that it left.
    """
    found = read_record(model)
    if not found:
        return []
    inputs = found.get("inputs", {})
    own = {
        "run_id": found.get("run_id"),
        "method": found.get("config", {}).get("method"),
        "forget": inputs.get("forget", []),
        "retain": inputs.get("retain", []),
        **{key: inputs[key] for key in ("original", "original_hash") if key in inputs},
        "model_hash": found.get("model_hash"),
    }
    return [*found.get("chain", []), own]


def original_of(model: str) -> Base | None:
    """Return the model before the first removal that led to a model folder; None where that is not recorded."""
    first = next(iter(chain_of(model)), {})
    return Base(str(first["original"]), str(first["original_hash"])) if "original" in first else None


def read_record(model: str) -> dict[str, Any]:
    """Read the record of a model folder; empty where there is none, and for a world, which nothing was removed from.

    Raises:
        FileFormatError: The file is not JSON.
    """
    path = Path(model) / RECORD
    if not path.is_file() or find_world(model) is not None:
        return {}
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="JSON") from error
    return found if isinstance(found, dict) else {}
