"""The input of every unlearning method: the model, a frozen copy, entity sets, the SAE and its latents."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from features.analysis.store import HookPointAnalysis
from features.entities.templates import Templates
from sae_train.lm.models import LanguageModel
from sae_train.saes.base import Sae
from unlearn.config import UnlearnConfig
from unlearn.problem.data import UnlearnSets


@dataclass(frozen=True)
class Problem:
    """One unlearning task.

    Attributes:
        lm: The model that changes.
        reference: A frozen copy of it as this run found it: what was removed before stays as it is there.
        original: The model before the first removal: everything else stays as it was there, so that the costs of many
            removals do not add up. `reference` itself where this is the first, or where the original is not at hand.
        sets: Targets, partners and what is kept.
        templates: Training wordings are used, held-out ones never.
        sae: The SAE at `latents.hook_point`.
        latents: Selected latents and their statistics.
        text: Windows of general text, targets left out; may be empty.
        config: The frozen config.
        heldout: Windows of general text that no loss reads, for the damage; may be empty.
    """

    lm: LanguageModel
    reference: nn.Module
    original: nn.Module
    sets: UnlearnSets
    templates: Templates
    sae: Sae
    latents: HookPointAnalysis
    text: list[list[int]]
    config: UnlearnConfig
    heldout: list[list[int]] = field(default_factory=list)

    def beside(self) -> Problem:
        """Return the same problem on modules of its own that share every tensor: neither sees hooks of the other."""
        models = (self.lm.model, self.reference, self.original)
        shared: dict[int, Any] = {id(t): t for m in models for t in (*m.parameters(), *m.buffers())}
        model, reference, original = (copy.deepcopy(m, shared) for m in models)
        return replace(self, lm=replace(self.lm, model=model), reference=reference, original=original)
