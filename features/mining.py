"""Find the latents that tell known from unknown entities: activations at names -> statistics -> selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from features.collect import name_activations
from features.entities import Entity
from features.hypothesis_tests import q_values
from features.probe import Interval, auroc_interval, fit_probe
from features.prompts import Templates, check_types, contexts
from features.selection import SelectionRule, select, selected_score, split_entities
from features.separation import EntityLatents, Separation, entity_latents, separation
from features.store import HookPointAnalysis, LatentAnalysis
from sae_train.activations.store import ActivationStore
from sae_train.evaluate import firing_rate
from sae_train.lm.hooks import check_hook_point
from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.metrics import fvu
from sae_train.runs import file_hash
from sae_train.saes.interop import WEIGHTS, LoadedSae

GENERAL_ROWS = 200_000  # running-text rows on which general rates are measured


@dataclass(frozen=True)
class NameData:
    """Activations at the names of labelled entities.

    Attributes:
        entities: Known and unknown ones, in order.
        entity: Index of the entity of each context, (n_contexts,).
        acts: By hook point, (n_contexts, d_in).
    """

    entities: list[Entity]
    entity: np.ndarray
    acts: dict[str, Tensor]


def collect_names(
    lm: LanguageModel,
    labels: Sequence[Entity],
    templates: Templates,
    hook_points: Sequence[str],
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> NameData:
    """Read the activations at the names of all known and unknown entities, in every context of the templates."""
    entities = [e for e in labels if e.label in ("known", "unknown")]
    check_types(entities, templates)
    prompts = [p for e in entities for p in contexts(e, templates)]
    index = {e.key: i for i, e in enumerate(entities)}
    acts = name_activations(lm, prompts, hook_points, advance=advance)
    return NameData(entities, np.array([index[p.entity] for p in prompts]), acts)


def find_entity_latents(
    lm: LanguageModel,
    saes: Sequence[LoadedSae],
    labels: Sequence[Entity],
    templates: Templates,
    rule: SelectionRule,
    *,
    store: ActivationStore | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> LatentAnalysis:
    """Mine every SAE on one half of the entities and report on the other.

    Raises:
        EntityError: Too few known or unknown entities, or a type without templates.
        HookPointError: An SAE reads where the model has no such hook point.
    """
    hook_points = [check_hook_point(lm.model, s.hook_point, model_name=lm.name) for s in saes]
    check_types([e for e in labels if e.label in ("known", "unknown")], templates)
    held_out = split_entities([e for e in labels if e.label in ("known", "unknown")], seed)
    data = collect_names(lm, labels, templates, list(dict.fromkeys(hook_points)), advance=advance)
    found = [_Mined(sae, data, held_out) for sae in saes]
    q = np.split(q_values(np.concatenate([m.mining.p_value for m in found])), np.cumsum([m.width for m in found])[:-1])
    return LatentAnalysis(
        hook_points=[
            m.analysis(q_part, _general_rate(m.loaded, store), rule, seed) for m, q_part in zip(found, q, strict=True)
        ],
        entity_keys=[e.key for e in data.entities],
        entity_labels=[str(e.label) for e in data.entities],
        entity_types=[e.type for e in data.entities],
        held_out=held_out,
        types=list(dict.fromkeys(e.type for e in data.entities)),
        attrs={"model": lm.name, "model_hash": weights_hash(lm.model), "seed": seed, "rule": asdict(rule)},
    )


def _general_rate(loaded: LoadedSae, store: ActivationStore | None) -> np.ndarray | None:
    """Return the share of running-text rows on which each latent fires; entity rows that were mixed in do not count."""
    if store is None or loaded.hook_point not in store.hook_points:
        return None
    text_rows = store.row_field("from_entity") == 0
    if not text_rows.any():
        return None
    return firing_rate(loaded.sae, store, loaded.hook_point, text_rows, max_rows=GENERAL_ROWS).numpy()


class _Mined:
    """The scores of one SAE, before the correction over all of them."""

    def __init__(self, loaded: LoadedSae, data: NameData, held_out: np.ndarray) -> None:
        self.loaded, self.data, self.held_out = loaded, data, held_out
        self.acts = data.acts[loaded.hook_point]
        self.is_known = np.array([e.label == "known" for e in data.entities])
        types = list(dict.fromkeys(e.type for e in data.entities))
        self.kind = np.array([types.index(e.type) for e in data.entities])
        self.n_types, self.width = len(types), loaded.sae.d_sae
        self.latents = entity_latents(loaded.sae, self.acts, data.entity, len(data.entities))
        self.mining, self.heldout = self._scores(~held_out), self._scores(held_out)

    def _take(self, rows: np.ndarray) -> EntityLatents:
        latents = self.latents
        return EntityLatents(latents.fire_share[rows], latents.value[rows], latents.pre_act[rows])

    def _scores(self, rows: np.ndarray) -> Separation:
        return separation(self._take(rows), self.is_known[rows], self.kind[rows], self.n_types)

    def analysis(
        self, q: np.ndarray, general_rate: np.ndarray | None, rule: SelectionRule, seed: int
    ) -> HookPointAnalysis:
        """Select on the mining half and measure on the held-out one."""
        chosen = select(self.mining, q, general_rate, rule)
        mean_active = self._mean_active()
        sides = [self.is_known & ~self.held_out, ~self.is_known & ~self.held_out]
        sae = self.loaded.sae
        rows = sae.W_dec.detach().cpu()
        length = rows.norm(dim=1).clamp_min(1e-8)  # one for SAEs trained here, anything for imported ones
        with torch.no_grad():
            names_fvu = float(fvu(self.acts, sae(self.acts.to(sae.W_dec.device)).cpu()))
        return HookPointAnalysis(
            hook_point=self.loaded.hook_point,
            sae=self.loaded.name,
            sae_hash=file_hash(self.loaded.folder / WEIGHTS),
            mining=self.mining,
            heldout=self.heldout,
            q_value=q,
            general_rate=general_rate,
            mean_active=mean_active * length.numpy(),
            pre_act_mean=np.stack([self.latents.pre_act[s].mean(0) for s in sides]),
            pre_act_std=np.stack([self.latents.pre_act[s].std(0) for s in sides]),
            W_dec=(rows / length[:, None]).numpy(),
            selected=chosen,
            probe=self._probe(seed),
            score=self._selected_auroc(chosen, mean_active, seed),
            fvu_at_names=names_fvu,
        )

    def _mean_active(self) -> np.ndarray:
        """Return the mean latent where it is active, for known and for unknown mining entities."""
        means = []
        for side in (self.is_known, ~self.is_known):
            rows = side & ~self.held_out
            share, value = self.latents.fire_share[rows].sum(0), self.latents.value[rows].sum(0)
            means.append(np.where(share > 0, value / np.maximum(share, 1e-9), 0.0))
        return np.stack(means)

    def _probe(self, seed: int) -> Interval:
        """Fit on mining contexts, score held-out entities by the mean over their contexts."""
        train = ~self.held_out[self.data.entity]
        probe = fit_probe(self.acts[train], self.is_known[self.data.entity[train]])
        scores = probe.scores(self.acts)
        totals = np.bincount(self.data.entity, scores) / np.bincount(self.data.entity)
        rows = np.flatnonzero(self.held_out)
        return auroc_interval(totals[rows], self.is_known[rows], rows, seed=seed)

    def _selected_auroc(self, chosen: dict[str, list[int]], mean_active: np.ndarray, seed: int) -> Interval:
        """Return the held-out AUROC of the selected latents together."""
        if not chosen["known"] and not chosen["unknown"]:
            return Interval(float("nan"), float("nan"), float("nan"))
        scores = selected_score(self.latents, chosen, mean_active.max(0))
        rows = np.flatnonzero(self.held_out)
        return auroc_interval(scores[rows], self.is_known[rows], rows, seed=seed)
