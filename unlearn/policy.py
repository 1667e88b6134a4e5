"""The policy: which limits a verdict goes by, from a versioned file. Its hash stands in every report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sae_train.config import from_mapping, require
from sae_train.errors import FileFormatError
from sae_train.runs import require_file
from unlearn.audit_report import PolicyRecord

DEFAULT_POLICY = Path(__file__).parent / "policies" / "default-v3.toml"
VERSION = 3  # of the set of keys and of what they are compared with


@dataclass(frozen=True)
class AuditPolicy:
    """Limits of the verdict, fixed before any audit; the values are in the policy file alone.

    Attributes:
        version: Of the set of keys; a file with another one is refused.
        name: What the report calls it.
        required: Evaluations and attacks without which there is no `pass`.
        reported_places: Beginnings of the kinds of place (`evaluations/places.py`) whose classifiers decide nothing.
        max_recall: Target recall on held-out wordings, after.
        max_rank_first: Share of target questions whose true answer is ranked first among candidates, after.
        max_gibberish: Largest share of gibberish among the answers about targets.
        max_drop: Largest loss of recall of neighbours and of other known entities.
        max_loss_increase: Largest relative rise of the loss on general text.
        max_unknown_gain: Largest gain of recall of unknown entities.
        max_entropy_loss: Largest relative fall of the n-gram entropy of what is written freely.
        max_auroc: Largest AUROC of a fresh classifier, targets against unknown entities, at any audited place,
            unless it lies inside the range that never-known entities reach among themselves, or spelling alone does.
        min_probe_reads: Share of really unknown entities' contexts that the original model's probe must call unknown in
            the model after. Below it the probe does not read that model: it is shown, and a probe of the model after
            alone decides.
        min_called_unknown: Share of target contexts that a known-unknown probe must call unknown ...
        probe_margin: ... or this much less than what it calls unknown of really unknown entities.
        min_p: Smallest p of the two-sample test.
        attack_margin: How far recall under an attack may lie above the interval of never-known entities.
    """

    version: int
    name: str
    required: tuple[str, ...]
    reported_places: tuple[str, ...]
    max_recall: float
    max_rank_first: float
    max_gibberish: float
    max_drop: float
    max_loss_increase: float
    max_unknown_gain: float
    max_entropy_loss: float
    max_auroc: float
    min_probe_reads: float
    min_called_unknown: float
    probe_margin: float
    min_p: float
    attack_margin: float

    def __post_init__(self) -> None:
        require(self.version == VERSION, "policy version", self.version, str(VERSION))

    @property
    def sha256(self) -> str:
        """Hash of the keys and values; comments and order do not count."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def record(self) -> PolicyRecord:
        """Return what a report keeps of it."""
        own = dataclasses.asdict(self)
        named = {key: own.pop(key) for key in ("version", "name", "required", "reported_places")}
        return PolicyRecord(**named, limits=own, sha256=self.sha256)


def load_policy(path: Path) -> AuditPolicy:
    """Read a policy file.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: It is not TOML, or keys are missing.
        ConfigError: An unknown key, a version that this program does not know, or a limit out of range.
    """
    require_file(path, "policy", option="--policy")
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read the policy '{path}'", got=str(error), expected="TOML") from error
    require(raw.get("version") == VERSION, "policy version", raw.get("version"), f"{VERSION} (in '{path}')")
    missing = [f.name for f in dataclasses.fields(AuditPolicy) if f.name not in raw]
    if missing:
        raise FileFormatError(
            f"the policy '{path}' is not whole", got=f"no {', '.join(missing)}", expected="every key of the default"
        )
    lists = {key: _names(raw[key], key, path) for key in ("required", "reported_places")}
    if not isinstance(raw["name"], str):
        raise FileFormatError(f"'{path}', name", got=repr(raw["name"])[:80], expected="a text")
    limits = {k: _limit(v, k, path) for k, v in raw.items() if k not in ("version", "name", *lists)}
    return from_mapping(AuditPolicy, {**limits, **lists, "version": VERSION, "name": raw["name"]})


def _names(value: object, key: str, path: Path) -> tuple[str, ...]:
    """Return a list of names."""
    if not isinstance(value, list) or not all(isinstance(n, str) for n in value):
        raise FileFormatError(f"'{path}', {key}", got=repr(value)[:80], expected="a list of names")
    return tuple(value)


def _limit(value: object, key: str, path: Path) -> float:
    """Return a limit as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise FileFormatError(f"'{path}', {key}", got=repr(value)[:80], expected="a number from 0 to 1")
    return float(value)


@cache
def default_policy() -> AuditPolicy:
    """Return the policy that is shipped."""
    return load_policy(DEFAULT_POLICY)
