"""An audit request: targets, templates, names, and optional inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from features.analysis.store import LatentAnalysis
from features.entities.entities import Entity
from features.entities.templates import Templates
from sae_train.saes.base import Sae
from sae_train.text.tokens import Document


@dataclass(frozen=True)
class Request:
    """What an audit is about.

    Attributes:
        labels: Labelled entities.
        templates: Held-out wordings ask; training wordings teach in the relearning attack.
        names: Entities that were to be forgotten.
        hook_point: Where a probe for known against unknown reads; None takes the first SAE's, the first of the latents
            file, or else the middle block.
        analysis: Mined latents: mining and held-out halves of the entities, directions to steer along. Without it the
            halves are drawn.
        saes: SAEs in which the targets are looked for too.
        crosscoders: Dictionaries of both models, in whose latents what the removal changed is shown.
        trained_on: Keys of the entities that the removal read beside the targets. Known ones that it did not read
            are reported on their own; with unknown ones that it read the targets are not compared.
        removed: Keys of what was removed in all; whatever the labels say, none of it counts as known.
        documents: General text; without any, the questions and answers of other known entities serve.
        text_name: What to call it in the report.
        facts: Further facts for the report (method, paths).
    """

    labels: Sequence[Entity]
    templates: Templates
    names: Sequence[str]
    hook_point: str | None = None
    analysis: LatentAnalysis | None = None
    saes: Sequence[Sae] = ()
    crosscoders: Sequence[Sae] = ()
    trained_on: Collection[str] = ()
    removed: Collection[str] = ()
    documents: Iterable[Document] = ()
    text_name: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
