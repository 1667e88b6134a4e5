"""Detection: can an outsider name the erased entities among all?

Scores per entity. With both models at hand: how far the activations at the last name token have moved (`drift`), how
far the change of the weights moves what the name brings to the MLPs (`weight change`), and by how much the answer that
the original model gives has become less likely (`answer drop`). With the model after alone: how far the activations lie
from those of the known and from those of the unknown entities of the type, whichever are nearer (`outlier`), and how
undecided the answers are (`answer entropy`). AUROC of targets against known entities that were kept, and against
never-known ones; beside it the kept ones against the never-known, which is what any name that is known would score.

Erasing leaves traces wherever both models are at hand, so a high AUROC there is no failure of forgetting but of
discretion. Nothing here is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from features.entities.collect import entity_means
from features.entities.entities import Entity
from features.entities.name_tokens import encode
from features.entities.prompts import Prompt, contexts, render
from features.stats.probe import auroc_interval
from sae_train.intervals import NO_INTERVAL, Interval
from sae_train.lm.answering import batches_by_length, cached_forward
from sae_train.lm.generate import encode_prompts
from unlearn.auditing.audit_figures import Telling
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext
from unlearn.auditing.evaluations.weight_change import moved_keys, weight_change

MAX_CONTEXTS = 2  # of an entity, in which its keys are read
BATCH_SIZE = 64
Scores = dict[str, float]
"""By key of the entity."""


def evaluate_detection(context: AuditContext) -> Findings | None:
    """Return the AUROC of every score and the spectrum of the weights' change; None with nobody to compare with."""
    groups = {name: context.group(name) for name in ("forget", "kept", "some_unknown")}
    if not all(groups.values()):
        return None
    keys = {name: [e.key for e in members] for name, members in groups.items()}
    members = [e for group in groups.values() for e in group]
    drop, entropy = _answers(context, members)
    scores = {
        "drift": (True, _drift(context)),
        "weight change": (True, _weight_change(context, members)),
        "answer drop": (True, drop),
        "outlier": (False, _outlier(context)),
        "answer entropy": (False, entropy),
    }
    found = {
        name: Telling(
            needs_before=needs_before,
            against_known=told_apart(own, keys["forget"], keys["kept"], context.config.seed),
            against_unknown=told_apart(own, keys["forget"], keys["some_unknown"], context.config.seed),
            known_against_unknown=told_apart(own, keys["kept"], keys["some_unknown"], context.config.seed).value,
        )
        for name, (needs_before, own) in scores.items()
        if own
    }
    return Findings(detection=found, weight_change=weight_change(context.before, context.after))


def told_apart(scores: Mapping[str, float], first: Sequence[str], second: Sequence[str], seed: int) -> Interval:
    """Return the AUROC of a score between two groups of entities, with its 95 % interval over entities.

    The mean over types of the AUROC inside each, since types differ in everything. NaN where no type has both groups,
    or a score is not finite.
    """
    own = [[key for key in group if key in scores] for group in (first, second)]
    keys = np.array([*own[0], *own[1]])
    values = np.array([scores[key] for key in keys])
    if not all(own) or not np.isfinite(values).all():
        return NO_INTERVAL
    types = np.array([_type_of(key) for key in keys])
    return auroc_interval(values, np.arange(len(keys)) < len(own[0]), keys, fold_of=types, seed=seed)


def _type_of(key: str) -> str:
    return key.split(":", 1)[0]


def _per_entity(values: np.ndarray, entity: Iterable[str]) -> Scores:
    """Return the mean per entity of one value per prompt."""
    means, keys = entity_means(values.astype(np.float64)[:, None], np.array(list(entity)))
    return dict(zip(keys.tolist(), means[:, 0].tolist(), strict=True))


def _drift(context: AuditContext) -> Scores:
    """Return ||h_after - h_before|| / ||h_before|| at the last name token, mean over blocks and contexts."""
    found: Scores = {}
    for group in ("forget", "kept", "unknown"):
        old, new = (context.names_of(group, when) for when in ("before", "after"))
        moved = [
            (new.acts[b] - old.acts[b]).norm(dim=1) / old.acts[b].norm(dim=1).clamp_min(1e-30) for b in context.blocks
        ]
        found |= _per_entity(torch.stack(moved).mean(0).numpy(), old.entity.tolist())
    return found


def _weight_change(context: AuditContext, members: Sequence[Entity]) -> Scores:
    """Return `moved_keys` by entity; nothing where no MLP's output matrix changed."""
    prompts = [p for e in members for p in contexts(e, context.templates, heldout=True)[:MAX_CONTEXTS]]
    moved = moved_keys(context.before, context.after, encode(context.before, prompts))
    return {} if moved is None else _per_entity(moved.numpy(), [p.entity for p in prompts])


@torch.no_grad()
def _answers(context: AuditContext, members: Sequence[Entity]) -> tuple[Scores, Scores]:
    """Return by how much p of the original model's likeliest next token fell, and the entropy of the next token (nats).

    Of the model after; at the end of one held-out question for each attribute of the targets that the type is asked.
    """
    prompts = _asked_of_all(context, members)
    ids = encode_prompts(context.before, [p.text for p in prompts])
    drop, entropy = np.zeros(len(ids)), np.zeros(len(ids))
    for batch in batches_by_length([len(i) for i in ids], BATCH_SIZE):
        old, new = (
            cached_forward(lm)(torch.tensor([ids[i] for i in batch], device=lm.device), None)[0].float().softmax(-1)
            for lm in (context.before, context.after)
        )
        said = old.argmax(dim=-1, keepdim=True)
        drop[batch] = (old.gather(1, said) - new.to(old.device).gather(1, said))[:, 0].cpu().numpy()
        entropy[batch] = torch.special.entr(new).sum(dim=-1).cpu().numpy()
    entity = [p.entity for p in prompts]
    return (_per_entity(drop, entity), _per_entity(entropy, entity)) if prompts else ({}, {})


def _asked_of_all(context: AuditContext, members: Sequence[Entity]) -> list[Prompt]:
    """Return the questions that an outsider can ask about anybody, whether or not there is an answer."""
    wanted: dict[str, set[str]] = {}
    for target in context.forget:
        wanted.setdefault(target.type, set()).update(target.facts)
    return [
        render(texts[0], entity, attribute)
        for entity in members
        for attribute, texts in context.templates.questions(entity.type, heldout=True).items()
        if texts and attribute in wanted[entity.type]
    ]


def _outlier(context: AuditContext) -> Scores:
    """Return min over known and unknown of the Mahalanobis distance to their mean, in sqrt(d), mean over blocks.

    In the model after, over entities of the type that are not scored themselves (the mining half). Their covariance
    around these means is shrunk as Ledoit & Wolf 2004 say, since there are fewer of them than dimensions.
    """
    sides = [context.names_of(group, "after") for group in ("probe_known", "probe_unknown")]
    rows = [context.names_of(group, "after") for group in ("forget", "kept", "unknown")]
    total: dict[str, list[float]] = {}
    for block in context.blocks:
        clouds = [entity_means(s.acts[block].numpy().astype(np.float64), s.entity) for s in sides]
        means, residuals = _centred(clouds)
        if len(residuals) < 2 or not np.isfinite(residuals).all():
            return {}
        from sklearn.covariance import LedoitWolf  # a second to import, which readers of files need not pay

        precision = LedoitWolf(assume_centered=True).fit(residuals).precision_
        for group in rows:
            points, keys = entity_means(group.acts[block].numpy().astype(np.float64), group.entity)
            for point, key in zip(points, keys.tolist(), strict=True):
                gaps = [point - mean for kind, mean in means if kind == _type_of(key)]
                if gaps:
                    nearest = min(float(gap @ precision @ gap) for gap in gaps)
                    total.setdefault(key, []).append((nearest / len(point)) ** 0.5)
    return {key: float(np.mean(found)) for key, found in total.items()}


def _centred(
    clouds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
    """Return (type, mean) of every type in every cloud, and all points less their own mean."""
    means, residuals = [], []
    for points, keys in clouds:
        types = np.array([_type_of(k) for k in keys.tolist()])
        for kind in np.unique(types):
            own = points[types == kind]
            means.append((str(kind), own.mean(0)))
            residuals.append(own - own.mean(0))
    return means, np.concatenate(residuals)
