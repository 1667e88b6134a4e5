"""The objects that an analysis was made from, kept with it in memory."""

from __future__ import annotations

from dataclasses import dataclass

from features.entities.templates import Templates
from features.labels.labels import Labels
from sae_train.saes.base import Sae


@dataclass(frozen=True)
class Sources:
    """What an analysis was made from, at hand for the stations that follow.

    Attributes:
        saes: The SAEs, in the analysis' order.
        labels: The labelled entities; None where only their activations were at hand.
        templates: What asked about them; None likewise.
    """

    saes: list[Sae]
    labels: Labels | None = None
    templates: Templates | None = None
