"""Indistinguishability: can a fresh classifier tell the targets' activations from those of unknown entities?

At every audited block: cross-validated AUROC at the last name token, targets against unknown entities of the same
types, in held-out contexts. Folds keep entities whole; with fewer than `MIN_ENTITIES` targets they keep templates whole
instead. Control range: the same test between random groups of unknown entities, as many and of the same types, and the
other unknown ones. Beside it, the share of target contexts that a probe fitted on the *original* model calls unknown.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from features.probe import (
    Interval,
    auroc_interval,
    cross_validated_auroc,
    cross_validated_interval,
    fit_probe,
)
from unlearn.context import MIN_ENTITIES, AuditContext, NameRows, mean_interval, units


def evaluate_indistinguishability(context: AuditContext) -> dict[str, Any]:
    """Return AUROC after/before with the control range per block, and what the original model's probe says."""
    per_block = {name: _block(context, name) for name in context.blocks}
    return {"indistinguishability": per_block, "probe": _original_probe(context)}


def _block(context: AuditContext, name: str) -> dict[str, float]:
    """Compare targets with unknown entities at one block."""
    found: dict[str, float] = {}
    for when in ("before", "after"):
        interval = _auroc(context, name, context.names_of("forget", when), context.names_of("unknown", when))
        suffix = "" if when == "after" else "_before"
        found[f"auroc{suffix}"] = interval.value
        if when == "after":
            found |= {"auroc_low": interval.low, "auroc_high": interval.high}
    controls = _controls(context, name)
    return found | {
        "control_low": float(np.percentile(controls, 2.5)) if controls else float("nan"),
        "control_high": float(np.percentile(controls, 97.5)) if controls else float("nan"),
        "control_mean": float(np.mean(controls)) if controls else float("nan"),
    }


def _groups(context: AuditContext, rows: NameRows) -> np.ndarray:
    """Return what a fold must keep whole: the entity, or the template where there are too few targets."""
    if len(context.forget) >= MIN_ENTITIES:
        return rows.entity
    return np.array([p.template for p in rows.prompts])


def _auroc(context: AuditContext, name: str, targets: NameRows, others: NameRows) -> Interval:
    """Return the cross-validated AUROC between two sets of rows."""
    acts = torch.cat([targets.acts[name], others.acts[name]])
    is_target = np.r_[np.ones(len(targets.entity)), np.zeros(len(others.entity))].astype(bool)
    groups = np.r_[_groups(context, targets), _groups(context, others)]
    return cross_validated_interval(acts, is_target, groups, seed=context.config.seed)


def _controls(context: AuditContext, name: str) -> list[float]:
    """Return the AUROC of random unknown groups against the other unknown entities, in the model after."""
    rows = context.names_of("unknown", "after")
    wanted = Counter(e.type for e in context.forget)
    by_type: dict[str, list[str]] = {}
    for entity in context.unknown:
        by_type.setdefault(entity.type, []).append(entity.key)
    if any(len(by_type.get(kind, [])) < 2 * count for kind, count in wanted.items()):
        return []
    groups = _groups(context, rows)
    values = []
    for index in range(context.config.control_draws):
        generator = np.random.default_rng([0xC7, context.config.seed, index])
        drawn = [k for kind, n in wanted.items() for k in generator.choice(by_type[kind], n, replace=False)]
        is_drawn = np.isin(rows.entity, drawn)
        values.append(cross_validated_auroc(rows.acts[name], is_drawn, groups, seed=context.config.seed))
    return values


def _original_probe(context: AuditContext) -> dict[str, Any]:
    """Fit known against unknown on the original model and ask it about the targets and about real unknown entities."""
    name = context.hook_point
    known, unknown = context.names_of("probe_known", "before"), context.names_of("probe_unknown", "before")
    is_known = np.r_[np.ones(len(known.entity)), np.zeros(len(unknown.entity))].astype(bool)
    probe = fit_probe(torch.cat([known.acts[name], unknown.acts[name]]), is_known)

    def called_unknown(group: str, when: str) -> Interval:
        rows = context.names_of(group, when)
        votes = probe.scores(rows.acts[name]) < 0
        per_entity = [votes[rows.entity == key].astype(float).tolist() for key in np.unique(rows.entity)]
        return mean_interval(units(per_entity), context.config.seed)

    after, before = called_unknown("forget", "after"), called_unknown("forget", "before")
    kept = auroc_interval(
        probe.scores(torch.cat([known.acts[name], context.names_of("unknown", "before").acts[name]])),
        np.r_[np.ones(len(known.entity)), np.zeros(len(context.names_of("unknown", "before").entity))].astype(bool),
        np.r_[known.entity, context.names_of("unknown", "before").entity],
        seed=context.config.seed,
    )
    return {
        "hook_point": name,
        "unknown_before": before.value,
        "unknown_after": after.value,
        "unknown_after_low": after.low,
        "unknown_after_high": after.high,
        "unknown_control": called_unknown("unknown", "after").value,
        "auroc_known_against_unknown": kept.value,
    }
