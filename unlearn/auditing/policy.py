"""The audit policy: limits of the verdict, from a versioned file whose hash is in every report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated

from sae_train.errors import ConfigError, FileFormatError
from sae_train.fields import Field, check_field, config_class, described, from_mapping, require
from sae_train.run.runs import require_file
from sae_train.text_files import read_toml
from unlearn.auditing.audit_report import PolicyRecord

DEFAULT_POLICY = Path(__file__).parent / "policies" / "default-v3.toml"
VERSION = 3  # of the set of keys and of what they are compared with


@config_class
class AuditPolicy:
    """Limits of the verdict, fixed before any audit; the values are in the policy file alone."""

    version: Annotated[int, Field(description="Version of the set of keys; a file with another one is refused.")]
    name: Annotated[str, Field(description="What the report calls the policy.")]
    required: Annotated[tuple[str, ...], Field(description="Evaluations and attacks without which there is no pass.")]
    reported_places: Annotated[
        tuple[str, ...],
        Field(
            description="Beginnings of the kinds of place (`evaluations/places.py`) whose classifiers decide nothing."
        ),
    ]
    max_recall: Annotated[
        float, Field(ge=0, le=1, description="Largest recall of the targets on held-out wordings in the model after.")
    ]
    max_rank_first: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Largest share of target questions whose true answer is ranked first among candidates in the "
            "model after.",
        ),
    ]
    max_gibberish: Annotated[
        float, Field(ge=0, le=1, description="Largest share of gibberish among the answers about targets.")
    ]
    max_drop: Annotated[
        float, Field(ge=0, le=1, description="Largest loss of recall of neighbours and of other known entities.")
    ]
    max_loss_increase: Annotated[
        float, Field(ge=0, le=1, description="Largest relative rise of the loss on general text.")
    ]
    max_unknown_gain: Annotated[float, Field(ge=0, le=1, description="Largest gain of recall of unknown entities.")]
    max_entropy_loss: Annotated[
        float, Field(ge=0, le=1, description="Largest relative fall of the n-gram entropy of what is written freely.")
    ]
    max_auroc: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Largest AUROC of a fresh classifier, targets against unknown entities, at any audited place, "
            "unless never-known entities or spelling alone reach it.",
        ),
    ]
    min_probe_reads: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Smallest share of really unknown entities' contexts that the original model's probe must "
            "call unknown in the model after; below it only a probe of the model after decides.",
        ),
    ]
    min_called_unknown: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Smallest share of target contexts that a known-unknown probe must call unknown, unless the "
            "probe margin excuses less.",
        ),
    ]
    probe_margin: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="How much less a known-unknown probe may call targets unknown than really unknown entities.",
        ),
    ]
    min_p: Annotated[float, Field(ge=0, le=1, description="Smallest p of the two-sample test.")]
    attack_margin: Annotated[
        float,
        Field(
            ge=0, le=1, description="How far recall under an attack may lie above the interval of never-known entities."
        ),
    ]

    def __post_init__(self) -> None:
        require(self.version == VERSION, "version", self.version, str(VERSION))

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
    require_file(path, "policy", field="policy")
    raw = read_toml(path, what="the policy")
    require(raw.get("version") == VERSION, "version", raw.get("version"), f"{VERSION} (in '{path}')")
    missing = [f.name for f in dataclasses.fields(AuditPolicy) if f.name not in raw]
    if missing:
        raise FileFormatError(
            f"the policy '{path}' is not whole", got=f"no {', '.join(missing)}", expected="every key of the default"
        )
    for key in described(AuditPolicy).keys() & raw.keys():
        value = tuple(raw[key]) if isinstance(raw[key], list) else raw[key]
        try:
            check_field(AuditPolicy, key, value)
        except ConfigError as error:
            raise FileFormatError(f"'{path}', {key}", got=repr(raw[key])[:80], expected=error.expected) from None
    return from_mapping(AuditPolicy, raw)


@cache
def default_policy() -> AuditPolicy:
    """Return the policy that is shipped."""
    return load_policy(DEFAULT_POLICY)
