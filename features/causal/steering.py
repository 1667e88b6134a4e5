"""Steering: push the selected latents at the name, and see whether the model's answers change.

At the name's activation x, with the selected latents of one direction and their mean active values m:

    x + strength * sum_j m_j W_dec[j]

`unknown` latents are pushed at known names (right answers should fall, refusals rise), `known` ones at unknown names.
Control: as many other latents that fire at names, drawn for every entity, the sum scaled to the same length. Sanity:
the loss of running text behind one token that is pushed alike. After Ferrando et al. (ICLR 2025), sec. 5; multiples of
the mean active value compare between models, raw lengths do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from features.analysis.causal_results import SteeringCurve
from features.analysis.store import HookPointAnalysis, LatentAnalysis
from features.causal.gate import random_masks
from features.causal.patched_questions import NameQuestions, name_questions, read_rows, sample, verdicts
from features.config import SteeringConfig
from features.entities.entities import Entity
from features.entities.templates import Templates
from features.labels.matching import VERDICTS
from sae_train.lm.models import LanguageModel
from sae_train.lm.patching import Patch, losses_behind
from sae_train.lm.token_acts import acts_at
from sae_train.run.progress import Advance, no_advance

OPPOSITE = {"unknown": "known", "known": "unknown"}
TEXT_CTX, PUSHED_AT = 32, 8  # tokens of a window of running text, and which one of them is pushed


def run_steering(
    lm: LanguageModel,
    labels: Sequence[Entity],
    templates: Templates,
    analysis: LatentAnalysis,
    config: SteeringConfig,
    *,
    windows: Sequence[Sequence[int]] = (),
    advance: Advance = no_advance,
) -> list[SteeringCurve]:
    """Push the selected latents of every hook point and direction that has some; `advance` counts questions.

    Args:
        lm: The model.
        labels: Labelled entities; those of the held-out half are asked about.
        templates: Questions.
        analysis: Selected latents with directions and mean active values.
        config: Sizes.
        windows: Token ids of running text, `TEXT_CTX` each, for the loss.
        advance: Called with the number of questions asked.
    """
    held = {k for k, out in zip(analysis.entity_keys, analysis.held_out, strict=True) if out}
    curves = []
    for direction in ("unknown", "known"):
        mined = [f for f in analysis.hook_points if f.selected[direction]]
        if not mined:
            continue
        pool = [e for e in labels if e.key in held and e.label == OPPOSITE[direction]]
        asked = name_questions(
            lm,
            sample(pool, config.n_entities, config.seed),
            templates,
            most=config.n_questions,
            tokens=config.tokens,
            seed=config.seed,
        )
        rows = read_rows(lm, asked, list(dict.fromkeys(f.hook_point for f in mined)))
        clean = _frac_verdicts(asked, verdicts(lm, asked))
        advance(len(asked.prompts))
        for found in mined:
            for kind in ("selected", "random"):
                pushes = pushes_of(found, direction, kind, len(asked.entities), config.seed)
                curves.append(
                    _curve(lm, asked, rows[found.hook_point], found, direction, kind, pushes, clean, windows, config)
                )
                advance(len(asked.prompts) * len(config.strengths))
    return curves


def n_steering_questions(analysis: LatentAnalysis, config: SteeringConfig) -> int:
    """Return how many questions `run_steering` asks at most, for a progress bar."""
    n_curves = sum(bool(f.selected[d]) for f in analysis.hook_points for d in OPPOSITE)
    return config.n_entities * config.n_questions * 2 * (n_curves * len(config.strengths) + 1)


def pushes_of(
    found: HookPointAnalysis, direction: str, kind: str, n_entities: int, seed: int
) -> Float[Tensor, "n_entities d_in"]:
    """Return what strength 1 adds for each entity: the same for all, or a random set's sum of the same length."""
    side = 0 if direction == "known" else 1
    W_dec, mean_active = torch.from_numpy(found.W_dec).float(), torch.from_numpy(found.mean_active[side]).float()
    chosen = found.selected[direction]
    own = mean_active[chosen] @ W_dec[chosen]
    if kind == "selected":
        return own.expand(n_entities, -1)
    taken = sorted({j for latents in found.selected.values() for j in latents})
    firing = np.nanmax(np.nan_to_num(found.mining.freq), axis=(0, 1))
    masks = random_masks(firing, taken, n_entities, seed, n_drawn=len(chosen))
    value = torch.from_numpy(found.mean_active.max(0)).float()  # some fire at names of the other class alone
    other = (masks * value) @ W_dec
    return other / other.norm(dim=1, keepdim=True).clamp_min(1e-9) * own.norm()


def _curve(
    lm: LanguageModel,
    asked: NameQuestions,
    rows: Sequence[Tensor],
    found: HookPointAnalysis,
    direction: str,
    kind: str,
    pushes: Tensor,
    clean: np.ndarray,
    windows: Sequence[Sequence[int]],
    config: SteeringConfig,
) -> SteeringCurve:
    """Ask at every strength."""
    fractions = [clean]
    for strength in config.strengths:
        moved = [row + strength * pushes[i] for row, i in zip(rows, asked.entity, strict=True)]
        fractions.append(_frac_verdicts(asked, verdicts(lm, asked, (found.hook_point, moved))))
    strengths = (0.0, *config.strengths)
    losses = [pushed_text_loss(lm, windows, found.hook_point, strength * pushes) for strength in strengths]
    return SteeringCurve(
        hook_point=found.hook_point,
        sae=found.sae,
        direction=direction,
        kind=kind,
        latents=found.selected[direction] if kind == "selected" else [],
        strengths=np.array(strengths),
        frac_verdicts=np.stack(fractions),
        text_loss=np.array(losses),
        seed=config.seed,
    )


def _frac_verdicts(asked: NameQuestions, found: Sequence[str]) -> Float[np.ndarray, "n_verdicts n_entities"]:
    """Return the share of each verdict among each entity's questions."""
    return np.stack([asked.per_entity([float(v == verdict) for v in found]) for verdict in VERDICTS])


def pushed_text_loss(
    lm: LanguageModel, windows: Sequence[Sequence[int]], hook_point: str, pushes: Float[Tensor, "n_pushes d_in"]
) -> float:
    """Return nats per token behind the one token of each window that is pushed; NaN without windows."""
    if not windows:
        return float("nan")
    places = [[PUSHED_AT]] * len(windows)
    rows = acts_at(lm, windows, places, [hook_point])[hook_point]
    moved = [row + pushes[i % len(pushes)] for i, row in enumerate(rows)]
    return losses_behind(lm, windows, Patch(hook_point, places, moved))
