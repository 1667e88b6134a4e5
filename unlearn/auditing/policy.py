"""The audit policy: limits of the verdict, from a versioned file whose hash is in every report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from sae_train.errors import ConfigError, FileFormatError
from sae_train.fields import Field, check_field, config_class, described, from_mapping, require
from sae_train.run.runs import require_file
from sae_train.text_files import read_toml
from unlearn.auditing import POLICIES, shipped_policy
from unlearn.auditing.audit_report import PolicyRecord

DEFAULT_POLICY = POLICIES / "default-v4.toml"
VERSIONS = {3: ("reported_places", "max_auroc", "min_p"), 4: ("min_matched_p", "max_detectable")}
"""Keys that only a version has; the others all have. A version stands for what figures are compared with."""


@config_class
class AuditPolicy:
    """Limits of the verdict, fixed before any audit; the values are in the policy file alone.

    A default here stands for a limit that a version does not have: it limits nothing.
    """

    version: Annotated[int, Field(description="Version of the set of keys; a file with another one is refused.")]
    name: Annotated[str, Field(description="What the report calls the policy.")]
    required: Annotated[tuple[str, ...], Field(description="Evaluations and attacks without which there is no pass.")]
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
    attack_margin: Annotated[
        float,
        Field(
            ge=0, le=1, description="How far recall under an attack may lie above the interval of never-known entities."
        ),
    ]
    min_matched_p: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Smallest familywise p of the targets beside matched groups of never-known entities, all "
            "places and both directions together (from version 4).",
        ),
    ] = 0.0
    max_detectable: Annotated[
        float,
        Field(
            ge=0,
            description="Largest share of the way from unknown to known entities that it may take to be found with "
            "80 % (from version 4).",
        ),
    ] = 1e9
    reported_places: Annotated[
        tuple[str, ...],
        Field(
            description="Beginnings of the kinds of place (`evaluations/places.py`) whose classifiers decide nothing "
            "(version 3)."
        ),
    ] = ()
    max_auroc: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Largest AUROC of a fresh classifier, targets against unknown entities, at any audited place, "
            "unless never-known entities or spelling alone reach it (version 3).",
        ),
    ] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1, description="Smallest p of the two-sample test (version 3).")] = 0.0

    def __post_init__(self) -> None:
        require(self.version in VERSIONS, "version", self.version, " or ".join(map(str, VERSIONS)))

    @property
    def own(self) -> dict[str, Any]:
        """Return the keys that its version has, with their values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key in keys_of(self.version)}

    @property
    def sha256(self) -> str:
        """Hash of the keys and values; comments and order do not count."""
        return hashlib.sha256(json.dumps(self.own, sort_keys=True).encode()).hexdigest()

    def record(self) -> PolicyRecord:
        """Return what a report keeps of it."""
        own = self.own
        named = {key: own.pop(key, ()) for key in ("version", "name", "required", "reported_places")}
        return PolicyRecord(**named, limits=own, sha256=self.sha256)


def keys_of(version: int) -> list[str]:
    """Return the keys of a version."""
    foreign = {key for other, keys in VERSIONS.items() if other != version for key in keys}
    return [f.name for f in dataclasses.fields(AuditPolicy) if f.name not in foreign]


def policy_of(record: PolicyRecord) -> AuditPolicy:
    """Return the policy that a report went by, so that its verdict can be found again from its figures.

    Raises:
        ConfigError: A version that this program does not know.
    """
    named = {key: getattr(record, key) for key in ("version", "name", "required", "reported_places")}
    return from_mapping(AuditPolicy, {**named, **record.limits})


def load_policy(path: Path) -> AuditPolicy:
    """Read a policy: a file, or one that is shipped by its name, such as `default-v3`.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: It is not TOML, or keys are missing.
        ConfigError: An unknown key, a version that this program does not know, or a limit out of range.
    """
    path = shipped_policy(path)
    require_file(path, "policy", field="policy")
    raw = read_toml(path, what="the policy")
    version, known = raw.get("version"), " or ".join(map(str, VERSIONS))
    is_known = isinstance(version, int) and version in VERSIONS
    require(is_known, "version", version, f"{known} (in '{path}')")
    keys = keys_of(int(raw["version"]))
    missing = [key for key in keys if key not in raw]
    foreign = [key for key in raw if key in described(AuditPolicy) and key not in keys]
    if foreign:
        raise FileFormatError(
            f"the policy '{path}' has keys of another version",
            got=", ".join(foreign),
            expected=f"those of version {version}",
        )
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
