"""Frozen configs of selection and causal checks; the command line reads the defaults from here, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from sae_train.config import require

TOKEN_CHOICES = ("last", "all")


@dataclass(frozen=True)
class SelectionRule:
    """What a latent must do on the mining half to be selected.

    Attributes:
        top: At most this many per direction and hook point.
        max_q: Largest Benjamini-Hochberg q.
        min_separation: Smallest MaxMin separation. Below it a list stays empty: no latent tells the classes apart.
        max_general_rate: Largest share of running-text tokens on which it may fire; 1 switches the rule off. A latent
            is left out where the lower end of its rate's 95 % interval is above: one that straddles the rule stays.
        max_null_p: Largest family-wise p of the best MaxMin separation of a direction, from label shuffles. Above it
            the whole list stays empty: the best of so many latents would do as well if labels meant nothing.
        n_shuffles: Label shuffles.
    """

    top: int = 5
    max_q: float = 0.05
    min_separation: float = 0.1
    max_general_rate: float = 0.02
    max_null_p: float = 0.05
    n_shuffles: int = 1000


@dataclass(frozen=True)
class GateConfig:
    """How the gate is measured, and when it is passed.

    Attributes:
        n_entities: Held-out known entities asked about, at most.
        n_questions: Questions per entity, at most; held-out wordings where there are any.
        tokens: Which name tokens are patched: `all`, or the `last` one alone, which leaves the others to be read.
        n_blocks: Blocks at which the residual patch alone is measured too, evenly spread; 0 measures none.
        min_recall: Recall without a patch; below it there is nothing to measure.
        min_passing: Share of that recall which the residual patch has to take.
        min_latents: Share of the recall taken that all latents at the unknown level take as well.
        min_reconstruction: Share of the recall taken that the reconstruction has to keep.
        seed: Draws entities, questions and random latents.
    """

    n_entities: int = 60
    n_questions: int = 4
    tokens: str = "all"
    n_blocks: int = 0
    min_recall: float = 0.3
    min_passing: float = 0.5
    min_latents: float = 0.5
    min_reconstruction: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.n_entities >= 2, "--gate-entities", self.n_entities, ">= 2")
        require(self.n_questions >= 1, "--gate-questions", self.n_questions, ">= 1")
        require(self.tokens in TOKEN_CHOICES, "--gate-tokens", self.tokens, ", ".join(TOKEN_CHOICES))
        require(self.n_blocks >= 0, "--gate-blocks", self.n_blocks, ">= 0")
        for name in ("min_recall", "min_passing", "min_latents", "min_reconstruction"):
            require(0 <= getattr(self, name) <= 1, f"--gate-{name}", getattr(self, name), "0 to 1")


@dataclass(frozen=True)
class SteeringConfig:
    """How latents are pushed.

    Attributes:
        strengths: In multiples of the latents' mean active values; 0 is measured in any case.
        n_entities: Held-out entities asked about, at most.
        n_questions: Questions per entity, at most.
        tokens: Which name tokens are pushed: `last` or `all`.
        n_windows: Windows of running text on which the loss is measured.
        seed: Draws entities, questions, random latents and windows.
    """

    strengths: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
    n_entities: int = 40
    n_questions: int = 2
    tokens: str = "all"
    n_windows: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        growing = tuple(sorted(set(self.strengths))) == tuple(self.strengths) and all(s > 0 for s in self.strengths)
        require(growing and len(self.strengths) > 0, "--steering-strength", self.strengths, "growing, above 0")
        require(self.n_entities >= 2, "--steering-entities", self.n_entities, ">= 2")
        require(self.tokens in TOKEN_CHOICES, "--gate-tokens", self.tokens, ", ".join(TOKEN_CHOICES))
