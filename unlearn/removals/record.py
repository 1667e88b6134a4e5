"""`unlearning.json`: the record that is saved with an unlearned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_train.errors import FileFormatError
from sae_train.lm.adapters import Base
from sae_train.renamed import with_current_names
from sae_train.text.worlds import find_world
from sae_train.text_files import read_json

RECORD = "unlearning.json"


@dataclass(frozen=True)
class RemovalRecord:
    """What is recorded of the removal that made a model, and of those before it.

    Attributes:
        values: The content of `unlearning.json`: `config`, `inputs`, `result`, `chain`, `model_hash`, `run_id`; empty
            for a model of somebody else's.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, model: str | Path) -> RemovalRecord:
        """Read the record of a model folder; empty where there is none.

        Raises:
            FileFormatError: The file is not JSON, or not laid out as a record.
        """
        path = Path(model) / RECORD
        if not path.is_file() or find_world(str(model)) is not None:  # nothing was removed from a world
            return cls()
        try:
            found = cls({**with_current_names(read_json(path))})
            found._check()
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise FileFormatError(
                f"cannot read '{path}'", got=f"{type(error).__name__}: {error}"[:160], expected="what wb unlearn wrote"
            ) from error
        return found

    def _check(self) -> None:
        """Read everything once: a part of another kind shows here, and not after an audit's work."""
        _ = self.hook_point, self.method, self.retained, self.unknown, self.removed, self.chain, self.original

    @property
    def hook_point(self) -> str | None:
        """Return the hook point of the removal; None where that is not recorded."""
        found = self.values.get("result", {}).get("hook_point")
        return None if found is None else str(found)

    @property
    def method(self) -> str:
        """Return the method, or `not recorded`."""
        return str(self.values.get("config", {}).get("method", "not recorded"))

    @property
    def retained(self) -> list[str]:
        """Return the keys of the known entities that any removal of the chain was trained to retain."""
        return list(dict.fromkeys(str(key) for link in self.chain for key in link.get("retain", [])))

    @property
    def unknown(self) -> list[str]:
        """Return the keys of the unknown entities that any removal of the chain read, partners among them."""
        return list(dict.fromkeys(str(key) for link in self.chain for key in link.get("unknown", [])))

    @property
    def removed(self) -> dict[str, str]:
        """Return what was removed, first removal first: keys of targets, and of their partners.

        A partner that is not recorded is an empty text.
        """
        found = self.values.get("inputs", {})
        earlier, forget = found.get("earlier", []), found.get("forget", [])
        partners = [*found.get("earlier_partners", [""] * len(earlier)), *found.get("partners", [""] * len(forget))]
        return dict(zip(map(str, (*earlier, *forget)), map(str, partners), strict=True))

    @property
    def chain(self) -> list[dict[str, Any]]:
        """Return one entry per removal that led to the model, first removal first.

        Each has run, method, targets, what was retained and as which model (`original`), hash of the model that it
        left.
        """
        if not self.values:
            return []
        inputs = self.values.get("inputs", {})
        own = {
            "run_id": self.values.get("run_id"),
            "method": self.values.get("config", {}).get("method"),
            "forget": inputs.get("forget", []),
            "retain": inputs.get("retain", []),
            "unknown": [*inputs.get("partners", []), *inputs.get("unknown", [])],
            **{key: inputs[key] for key in ("original", "original_hash") if key in inputs},
            "model_hash": self.values.get("model_hash"),
        }
        return [*self.values.get("chain", []), own]

    @property
    def original(self) -> Base | None:
        """Return the model before the first removal; None where that is not recorded."""
        first = next(iter(self.chain), {})
        return Base(str(first["original"]), str(first["original_hash"])) if "original" in first else None
