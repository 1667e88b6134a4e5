"""The gate: activation patching at the name, to see where knowledge passes and how much the SAE's latents hold.

Held-out known entities are asked about while the activation x at the name, at one hook point, is another one.
With z the latents of x, L the mean latents of unknown entities of the mining half (by type), x* the activation of a
paired unknown entity in the same sentence:

    reconstruction    z W_dec + b_dec                          the SAE's reconstruction alone
    selected          x + (L - z)[selected] W_dec              the selected latents at the unknown level
    random            the same with as many other latents that fire at names, drawn anew for every entity
    latents           x + (L - z) W_dec                        all latents at the unknown level, SAE error kept
    error             x - e(x) + e(x*)                         the other way round: latents kept, SAE error swapped
    mean difference   x + mean(unknown) - mean(known)          no SAE: a direction
    residual          x*                                       everything swapped
    last residual     x* at the last name token alone          where all of the name's tokens are patched otherwise

Recall lost under `residual` is what passes at this token; the others are shares of it. Causal patching as in Meng et
al. 2022 (arXiv:2202.05262), there with noise in the place of another entity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from features.analysis.causal_results import Gate, HookPointGate
from features.analysis.store import HookPointAnalysis, LatentAnalysis
from features.causal.patched_questions import (
    NameQuestions,
    name_questions,
    partner_rows,
    read_rows,
    recall_per_entity,
    sample,
    verdicts,
)
from features.config import GateConfig
from features.entities.entities import Entity
from features.entities.templates import Templates
from features.stats.selection import split_entities
from sae_train.lm.hook_names import spread_blocks
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.run.progress import Advance, no_advance
from sae_train.saes.base import Sae

CONDITIONS = (
    "reconstruction",
    "selected",
    "random",
    "latents",
    "error",
    "mean difference",
    "residual",
    "last residual",
)
# Latents that hardly ever fire at names would make an easy control: to change them changes nothing.
MIN_FIRING = 0.05  # of the names of the mining half at which a latent of the random control fires
LEVEL_ENTITIES = 100  # unknown and known ones of the mining half whose mean is the level


@dataclass(frozen=True)
class _Names:
    """What is asked, and the activations at the names in it.

    Attributes:
        asked: Questions about held-out known entities.
        partners: The unknown entity that is paired with each of them.
        sweep: Blocks at which the residual patch alone is measured.
        own, other: Activations at the names, and those of the partners, by hook point, one (n_places, d_in) a prompt.
        sides: Questions about known and unknown entities of the mining half, by label.
        side_rows: Activations at their names, by label and hook point of an SAE.
    """

    asked: NameQuestions
    partners: list[Entity]
    sweep: list[str]
    own: dict[str, list[Tensor]]
    other: dict[str, list[Tensor]]
    sides: dict[str, NameQuestions]
    side_rows: dict[str, dict[str, list[Tensor]]]


def run_gate(
    lm: LanguageModel,
    saes: Sequence[Sae],
    labels: Sequence[Entity],
    templates: Templates,
    analysis: LatentAnalysis,
    config: GateConfig,
    *,
    advance: Advance = no_advance,
) -> Gate:
    """Measure the gate at the hook point of every SAE of an analysis; `advance` counts questions.

    Raises:
        EntityError: A half has no known or no unknown entity.
    """
    held = dict(zip(analysis.entity_keys, map(bool, analysis.held_out), strict=True))
    places = list(dict.fromkeys(f.hook_point for f in analysis.hook_points))
    names = _read_names(lm, labels, templates, held, places, config)
    asked = names.asked
    # Recall without any patch, from which the losses under all conditions are counted.
    clean = recall_per_entity(asked, verdicts(lm, asked))
    advance(len(asked.prompts))
    # Once per hook point: the whole residual does not depend on the SAE.
    residual = _residual_recall(lm, names, config, advance)
    found = []
    for loaded, mined in zip(saes, analysis.hook_points, strict=True):
        recall = _sae_recall(lm, loaded, mined, names, config, advance)
        found.append(
            HookPointGate(mined.hook_point, mined.sae, clean, {**recall, **residual[mined.hook_point]}, config)
        )
    return Gate(
        hook_points=found,
        blocks=[HookPointGate(name, None, clean, residual[name], config) for name in names.sweep],
        entities=[e.key for e in asked.entities],
        partners=[e.key for e in names.partners],
        n_prompts=len(asked.prompts),
        config=config,
    )


def sweep_blocks(
    lm: LanguageModel,
    labels: Sequence[Entity],
    templates: Templates,
    config: GateConfig,
    *,
    advance: Advance = no_advance,
) -> list[HookPointGate]:
    """Measure the residual patch alone at `config.n_blocks` blocks, before there is any SAE or latent.

    The halves of the entities are those that mining with the same seed draws.

    Raises:
        EntityError: Too few known or unknown entities.
    """
    labelled = [e for e in labels if e.label in ("known", "unknown")]
    held_out = split_entities(labelled, config.seed)
    held = {e.key: bool(out) for e, out in zip(labelled, held_out, strict=True)}
    names = _read_names(lm, labels, templates, held, [], config)
    clean = recall_per_entity(names.asked, verdicts(lm, names.asked))
    advance(len(names.asked.prompts))
    residual = _residual_recall(lm, names, config, advance)
    return [HookPointGate(name, None, clean, residual[name], config) for name in names.sweep]


def propose_hook_points(blocks: Sequence[HookPointGate], n: int) -> list[str]:
    """Return up to `n` hook points for SAEs: evenly spread over the blocks where the knowledge passes at the name.

    Of m such blocks, in the model's order, these are numbers i m / (n + 1), i = 1 ... n, rounded. Where it passes
    nowhere, all blocks that were looked at take their place.
    """
    passing = [b.hook_point for b in blocks if not b.reasons] or [b.hook_point for b in blocks]
    places = {min(len(passing) - 1, round(i * len(passing) / (n + 1))) for i in range(1, n + 1)}
    return [passing[i] for i in sorted(places)]


def _read_names(
    lm: LanguageModel,
    labels: Sequence[Entity],
    templates: Templates,
    held: Mapping[str, bool],
    sae_points: Sequence[str],
    config: GateConfig,
) -> _Names:
    """Draw entities and questions, and read the activations at the names in them.

    Args:
        lm, labels, templates, config: As for `run_gate`.
        held: Whether an entity is held out from mining, by key.
        sae_points: Hook points of SAEs.
    """

    def drawn(label: str, *, is_held: bool, most: int) -> list[Entity]:
        rows = [e for e in labels if e.label == label and held.get(e.key) is is_held]
        return sample(rows, most, config.seed)

    def asked_about(entities: Sequence[Entity]) -> NameQuestions:
        return name_questions(lm, entities, templates, most=config.n_questions, tokens=config.tokens, seed=config.seed)

    # Held-out entities are asked about; the levels that their latents are set to come from the mining half.
    asked = asked_about(drawn("known", is_held=True, most=config.n_entities))
    sweep = spread_blocks(0, lm.n_blocks - 1, config.n_blocks)
    places = list(dict.fromkeys([*sae_points, *sweep]))
    own = read_rows(lm, asked, places)
    unknown = drawn("unknown", is_held=True, most=len(labels))
    partners, other = partner_rows(lm, asked, unknown, places, config.tokens)
    labels_read = ("known", "unknown") if sae_points else ()
    sides = {label: asked_about(drawn(label, is_held=False, most=LEVEL_ENTITIES)) for label in labels_read}
    side_rows = {label: read_rows(lm, side, sae_points) for label, side in sides.items()}
    return _Names(asked, partners, sweep, own, other, sides, side_rows)


def _residual_recall(
    lm: LanguageModel, names: _Names, config: GateConfig, advance: Advance
) -> dict[str, dict[str, np.ndarray]]:
    """Return, by hook point, the recall of each entity while the partner's activation is at its name."""
    residual: dict[str, dict[str, np.ndarray]] = {}
    for place, own in names.own.items():
        other = names.other[place]
        swaps = {"residual": other}
        if config.tokens == "all":
            # The last name token alone shows how much the tokens before it carry.
            swaps["last residual"] = [torch.cat([x[:-1], y[-1:]]) for x, y in zip(own, other, strict=True)]
        residual[place] = _recall_under(lm, names.asked, place, swaps, advance)
    return residual


def _sae_recall(
    lm: LanguageModel, sae: Sae, mined: HookPointAnalysis, names: _Names, config: GateConfig, advance: Advance
) -> dict[str, np.ndarray]:
    """Return the recall of each entity under every condition that an SAE makes at its hook point."""
    place = mined.hook_point
    levels = {label: _levels(sae, names.sides[label], names.side_rows[label][place]) for label in names.sides}
    edits = patched_rows(sae, names.asked, names.own[place], names.other[place], levels, mined, config.seed)
    return _recall_under(lm, names.asked, place, edits, advance)


def _recall_under(
    lm: LanguageModel, asked: NameQuestions, place: str, edits: Mapping[str, list[Tensor]], advance: Advance
) -> dict[str, np.ndarray]:
    """Ask everything once under each condition."""
    recall = {}
    for condition, rows in edits.items():
        recall[condition] = recall_per_entity(asked, verdicts(lm, asked, (place, rows)))
        advance(len(asked.prompts))
    return recall


def n_gate_questions(analysis: LatentAnalysis, config: GateConfig) -> int:
    """Return how many questions `run_gate` asks at most, for a progress bar."""
    n_patches = len(analysis.hook_points) * len(CONDITIONS) + 2 * config.n_blocks + 1
    return config.n_entities * config.n_questions * n_patches


@dataclass(frozen=True)
class _Level:
    """Means over one class of the mining half.

    Attributes:
        latents: Mean latents by (type, places before the last name token), (d_sae,) each.
        acts: Mean activations by the same keys, (d_in,) each.
        firing: Share of the last name tokens at which each latent fires, (d_sae,).
    """

    latents: dict[tuple[str, int], Tensor]
    acts: dict[tuple[str, int], Tensor]
    firing: Tensor


@torch.no_grad()
def _levels(sae: Sae, side: NameQuestions, rows: Sequence[Tensor]) -> _Level:
    """Average latents and activations over questions, each place of the name for itself."""
    groups: dict[tuple[str, int], list[Tensor]] = {}
    for kind, own in zip(side.types, rows, strict=True):
        # Counted from the last name token, so that names of different lengths line up where they end.
        for back in range(len(own)):
            groups.setdefault((kind, back), []).append(own[len(own) - 1 - back])
    acts = {key: torch.stack(found) for key, found in groups.items()}
    latents = {key: _encode(sae, found) for key, found in acts.items()}
    fires = torch.cat([(z > 0).float() for (_, back), z in latents.items() if back == 0])
    return _Level(
        {key: z.mean(0) for key, z in latents.items()}, {key: x.mean(0) for key, x in acts.items()}, fires.mean(0)
    )


def _encode(sae: Sae, rows: Tensor) -> Tensor:
    """Return latents on the CPU, whatever the SAE's device."""
    return sae.encode(rows.to(sae.W_dec.device)).float().cpu()


def _at_places(means: Mapping[tuple[str, int], Tensor], kind: str, n_places: int) -> Tensor:
    """Return a type's means for a name of `n_places` tokens; longer names than any averaged repeat the first one."""
    farthest = max(back for k, back in means if k == kind)
    return torch.stack([means[kind, min(farthest, n_places - 1 - i)] for i in range(n_places)])


@torch.no_grad()
def patched_rows(
    sae: Sae,
    asked: NameQuestions,
    own: Sequence[Tensor],
    other: Sequence[Tensor],
    levels: Mapping[str, _Level],
    mined: HookPointAnalysis,
    seed: int,
) -> dict[str, list[Tensor]]:
    """Return the activations to patch in at each prompt's name under every condition but `residual`.

    `selected` and `random` are missing where no latent was selected, `mean difference` never.
    """
    counts = [len(rows) for rows in own]
    x, paired = torch.cat(list(own)), torch.cat(list(other))
    z, z_paired = _encode(sae, x), _encode(sae, paired)
    level = torch.cat([_at_places(levels["unknown"].latents, k, n) for k, n in zip(asked.types, counts, strict=True)])
    shift = torch.cat(
        [
            _at_places(levels["unknown"].acts, k, n) - _at_places(levels["known"].acts, k, n)
            for k, n in zip(asked.types, counts, strict=True)
        ]
    )
    entity = np.repeat(asked.entity, counts)
    chosen = sorted({j for latents in mined.selected.values() for j in latents})
    W_dec, b_dec = sae.W_dec.detach().float().cpu(), sae.b_dec.detach().float().cpu()
    recon, recon_paired = z @ W_dec + b_dec, z_paired @ W_dec + b_dec
    move = level - z
    rows: dict[str, Tensor] = {"reconstruction": recon}
    if chosen:
        firing = torch.maximum(levels["known"].firing, levels["unknown"].firing)
        others = random_masks(firing.numpy(), chosen, len(asked.entities), seed)[torch.from_numpy(entity)]
        # Added to x, not decoded: the SAE error stays, so that the difference is that of these latents alone.
        rows["selected"] = x + move[:, chosen] @ W_dec[chosen]
        rows["random"] = x + (move * others) @ W_dec
    rows["latents"] = x + move @ W_dec
    # With e = x - recon: x - e(x) + e(x*).
    rows["error"] = recon + paired - recon_paired
    rows["mean difference"] = x + shift
    return {name: list(found.split(counts)) for name, found in rows.items()}


def random_masks(
    firing: Float[np.ndarray, " d_sae"], chosen: Sequence[int], n_entities: int, seed: int, *, n_drawn: int = 0
) -> Float[Tensor, "n_entities d_sae"]:
    """Return 1 for as many latents as were chosen (or `n_drawn`), others than these, drawn anew for every entity.

    Drawn among those that fire at `MIN_FIRING` of the names at least; among the most often firing where these are few.
    """
    n_drawn = n_drawn or len(chosen)
    order = [int(j) for j in np.argsort(-firing, kind="stable") if int(j) not in set(chosen)]
    often = [j for j in order if firing[j] >= MIN_FIRING]
    pool = np.array(often if len(often) >= n_drawn else order[:n_drawn], dtype=np.int64)
    generator = rng("gate.random_latents", seed)
    # Anew for every entity: one unlucky set would stand for all random latents.
    masks = np.zeros((n_entities, len(firing)), dtype=np.float32)
    for row in masks:
        row[generator.permutation(pool)[:n_drawn]] = 1.0
    return torch.from_numpy(masks)
