"""What the language model of a fact world knows: recall, refusal, and the accuracy of a linear probe.

Nothing measured here was trained on: prompts are held-out wordings, the unknown names are those never seen,
and a probe is scored on entities it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.entities.collect import name_activations
from features.entities.entities import Entity, load_entities
from features.entities.prompts import render
from features.entities.templates import Templates, load_templates
from features.labels.knowledge import Answer, ask
from features.stats.probe import cross_validated_auroc
from sae_train.lm.models import LanguageModel, load_lm

EMBEDDING = "embed"
"""Hook point in front of the first block."""


@dataclass(frozen=True)
class WorldFacts:
    """What holds in a fact world; all values are shares or AUROCs, 0 to 1.

    Attributes:
        recall: Share of (known fact, held-out prompt) pairs answered right, greedily.
        refusal: Share of (attribute of a never-seen name, held-out prompt) pairs answered "unknown".
        probe_auroc: hook point after a block -> cross-validated AUROC of a linear probe, known against
            never-seen names, at the last token of the name.
        embedding_auroc: The same before the first block. There a name's last word is all there is to see,
            so it should be near 0.5.
    """

    recall: float
    refusal: float
    probe_auroc: dict[str, float]
    embedding_auroc: float

    @property
    def best_probe_auroc(self) -> float:
        """The highest AUROC after any block."""
        return max(self.probe_auroc.values())


def check_world(folder: Path, *, lm: LanguageModel | None = None) -> WorldFacts:
    """Measure a world folder, or another model `lm` (say an untrained one) on the folder's entities.

    Raises:
        MissingFileError: `entities.jsonl` or `templates.json` is missing.
    """
    lm = lm or load_lm(str(folder), device="cpu", dtype="float32")
    templates = load_templates(folder / "templates.json")
    entities = load_entities(folder / "entities.jsonl")
    known = [e for e in entities if e.seen == "facts"]
    never = [e for e in entities if e.seen == "never"]
    aurocs = _probe_aurocs(lm, known, never, templates)
    return WorldFacts(
        recall=_share("right", ask(lm, known, templates, heldout=True)),
        refusal=_share("refusal", ask(lm, never, templates, heldout=True)),
        embedding_auroc=aurocs.pop(EMBEDDING),
        probe_auroc=aurocs,
    )


def _share(verdict: str, answers: dict[str, list[Answer]]) -> float:
    """Return the share of answers with a verdict; every entity is asked equally often."""
    return float(np.mean([answer.verdict == verdict for found in answers.values() for answer in found]))


def _probe_aurocs(
    lm: LanguageModel, known: Sequence[Entity], never: Sequence[Entity], templates: Templates
) -> dict[str, float]:
    """Return hook point -> AUROC over all mentions; an entity's mentions stay in one fold."""
    points = [EMBEDDING, *(f"layers.{i}" for i in range(lm.n_blocks))]
    mentions = [(i, render(m, e)) for i, e in enumerate([*known, *never]) for m in templates.mention[e.type]]
    groups = np.array([i for i, _ in mentions])
    acts = name_activations(lm, [prompt for _, prompt in mentions], points)
    return {p: cross_validated_auroc(acts[p], groups < len(known), groups, seed=0) for p in points}
