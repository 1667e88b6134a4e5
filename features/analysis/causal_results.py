"""Results of the causal checks (gate and steering), as they are stored and reported. Needs no model."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from features.config import GateConfig
from features.labels.matching import VERDICTS
from features.stats.intervals import mean_interval, ratio_interval
from sae_train.intervals import NO_INTERVAL, Interval


@dataclass(frozen=True)
class HookPointGate:
    """What was measured at one hook point.

    Attributes:
        hook_point: Where.
        sae: Name of the SAE's folder; None where the residual patch alone was measured.
        clean: Recall of each entity without a patch, (n_entities,).
        recall: The same under each condition that was measured.
        config: Thresholds.
    """

    hook_point: str
    sae: str | None
    clean: Float[np.ndarray, " n_entities"]
    recall: dict[str, Float[np.ndarray, " n_entities"]]
    config: GateConfig

    def interval(self, condition: str) -> Interval:
        """Return mean recall under a condition (or `clean`) with its interval over entities."""
        values = self.clean if condition == "clean" else self.recall.get(condition)
        return NO_INTERVAL if values is None else mean_interval(values, self.config.seed)

    @property
    def passing(self) -> Interval:
        """Share of the recall that the residual patch takes: (clean - residual) / clean."""
        return ratio_interval(self.clean - self.recall["residual"], self.clean, self.config.seed)

    def frac_taken(self, condition: str) -> Interval:
        """Share of the recall taken by the residual patch that a condition takes: (clean - it) / (clean - residual).

        Below 0 where the condition raises recall, above 1 where it does more harm than the paired entity.
        """
        if condition not in self.recall:
            return NO_INTERVAL
        taken = self.clean - self.recall["residual"]
        return ratio_interval(self.clean - self.recall[condition], taken, self.config.seed)

    @property
    def reasons(self) -> list[str]:
        """Return why the gate is not passed, in words; empty where it is."""
        c, recall = self.config, float(self.clean.mean())
        if not recall >= c.min_recall:
            return [f"recall without a patch is {recall:.2f}, below {c.min_recall}: nothing to measure"]
        if not self.passing.value >= c.min_passing:
            return [
                f"another entity's activation takes {self.passing.value:.0%} of the recall, "
                f"less than {c.min_passing:.0%}: the knowledge does not pass here"
            ]
        if self.sae is None:
            return []
        latents, kept = self.frac_taken("latents").value, 1 - self.frac_taken("reconstruction").value
        found = []
        if not latents >= c.min_latents:
            found.append(
                f"all latents at the unknown level take {latents:.0%} of what passes, less than {c.min_latents:.0%}: "
                "the SAE error holds the rest"
            )
        if not kept >= c.min_reconstruction:
            found.append(
                f"the reconstruction keeps {kept:.0%} of what passes, less than {c.min_reconstruction:.0%}: "
                "the SAE loses the knowledge"
            )
        return found

    @property
    def taken(self) -> float:
        """Recall that all latents at the unknown level take, clean - latents, by which hook points are compared."""
        return float((self.clean - self.recall["latents"]).mean())

    @property
    def passes(self) -> bool:
        """Tell whether an SAE was measured here and meets every threshold."""
        return self.sae is not None and not self.reasons


@dataclass(frozen=True)
class Gate:
    """The gate at every SAE's hook point, and the residual patch at more blocks.

    Attributes:
        hook_points: One per SAE, in the analysis' order.
        blocks: The residual patch alone, in the model's order; empty if not asked for.
        entities: Keys of the known entities, (n_entities,).
        partners: Keys of the paired unknown ones.
        n_prompts: Questions asked under each condition.
        config: Sizes and thresholds.
    """

    hook_points: list[HookPointGate]
    blocks: list[HookPointGate]
    entities: list[str]
    partners: list[str]
    n_prompts: int
    config: GateConfig = field(default_factory=GateConfig)

    @property
    def recommended(self) -> str | None:
        """Return, of the hook points that pass, the one where all latents at the unknown level take most recall."""
        passing = [h for h in self.hook_points if h.passes]
        if not passing:
            return None
        return max(passing, key=lambda h: h.taken).hook_point

    @property
    def passes(self) -> bool:
        """Tell whether any hook point passes."""
        return self.recommended is not None

    def at(self, hook_point: str, sae: str | None = None) -> HookPointGate | None:
        """Return what was measured with an SAE at a hook point, if anything."""
        return next((h for h in self.hook_points if h.hook_point == hook_point and sae in (None, h.sae)), None)

    def summary(self) -> dict[str, Any]:
        """Return what `latents.json` holds."""
        return {
            "passes": self.passes,
            "recommended": self.recommended,
            "n_entities": len(self.entities),
            "n_questions": self.n_prompts,
            "tokens": self.config.tokens,
            "hook_points": [_row(h) for h in self.hook_points],
            "blocks": [_row(h) for h in self.blocks],
        }


def _row(found: HookPointGate) -> dict[str, Any]:
    """Return one hook point as `latents.json` lists it."""
    names = ["clean", *found.recall]
    row: dict[str, Any] = {
        "hook_point": found.hook_point,
        "sae": found.sae,
        "recall": {n: list(astuple(found.interval(n))) for n in names},
        "passing": list(astuple(found.passing)),
    }
    if found.sae is None:
        return row
    taken = {n: list(astuple(found.frac_taken(n))) for n in found.recall if "residual" not in n}
    return {**row, "frac_taken": taken, "passes": found.passes, "reasons": found.reasons}


@dataclass(frozen=True)
class SteeringCurve:
    """What is answered while latents are pushed up at the name.

    Attributes:
        hook_point: Where.
        sae: Name of the SAE's folder.
        direction: `unknown` latents are pushed at known names, `known` ones at unknown names.
        kind: `selected`, or `random`: as many others, pushed equally far.
        latents: The selected ones; empty for random ones, which are drawn for every entity.
        strengths: Multiples of the mean active values, 0 first, (n_strengths,).
        frac_verdicts: Share of each verdict (`VERDICTS`) by entity, (n_strengths, 4, n_entities).
        text_loss: Nats per token behind a token of running text that is pushed alike, (n_strengths,); NaN without text.
        seed: Of the intervals.
    """

    hook_point: str
    sae: str
    direction: str
    kind: str
    latents: list[int]
    strengths: Float[np.ndarray, " n_strengths"]
    frac_verdicts: Float[np.ndarray, "n_strengths n_verdicts n_entities"]
    text_loss: Float[np.ndarray, " n_strengths"]
    seed: int = 0

    def intervals(self, verdict: str) -> list[Interval]:
        """Return the share of a verdict at every strength, with its interval over entities."""
        return [mean_interval(values, self.seed) for values in self.frac_verdicts[:, VERDICTS.index(verdict)]]

    def summary(self) -> dict[str, Any]:
        """Return what `latents.json` holds."""
        return {
            "hook_point": self.hook_point,
            "sae": self.sae,
            "direction": self.direction,
            "kind": self.kind,
            "latents": self.latents,
            "strengths": self.strengths.tolist(),
            **{verdict: [list(astuple(i)) for i in self.intervals(verdict)] for verdict in VERDICTS},
            "text_loss": self.text_loss.tolist(),
            "n_entities": self.frac_verdicts.shape[2],
        }
