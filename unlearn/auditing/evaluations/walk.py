"""The walk: targets' activations before and after, projected on a plane fixed by the original model.

x = (h - midpoint) . d / spread, d the unit difference of the means of known and unknown entities: +1 is the known mean,
-1 the unknown one. y: the first principal direction orthogonal to d, in the same units.
"""

from __future__ import annotations

import numpy as np

from features.entities.collect import entity_means
from unlearn.auditing.audit_figures import Points, Walk
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext, NameRows

MAX_POINTS = 200


def evaluate_walk(context: AuditContext) -> Findings:
    """Return the points of the clouds and of the targets, one per entity, at every audited block."""
    return Findings(walk={name: _panel(context, name) for name in context.blocks})


def _entity_means(rows: NameRows, name: str) -> tuple[list[str], np.ndarray]:
    """Average each entity's contexts; entities in the order in which they were asked about."""
    means, in_order = entity_means(rows.acts[name].numpy().astype(np.float64), rows.entity)
    keys = list(dict.fromkeys(rows.entity.tolist()))
    return keys, means[np.searchsorted(in_order, keys)]


def _panel(context: AuditContext, name: str) -> Walk:
    """Project one block."""
    _, known = _entity_means(context.names_of("probe_known", "before"), name)
    _, unknown = _entity_means(context.names_of("unknown", "before"), name)
    keys, before = _entity_means(context.names_of("forget", "before"), name)
    _, after = _entity_means(context.names_of("forget", "after"), name)
    gap = known.mean(0) - unknown.mean(0)
    half = max(float(np.linalg.norm(gap)) / 2, 1e-9)
    x_axis = gap / (2 * half)
    middle = (known.mean(0) + unknown.mean(0)) / 2
    cloud = np.concatenate([known, unknown]) - middle
    flat = cloud - np.outer(cloud @ x_axis, x_axis)
    y_axis = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][0]

    def project(points: np.ndarray) -> Points:
        shifted = points[:MAX_POINTS] - middle
        pairs = zip(shifted @ x_axis / half, shifted @ y_axis / half, strict=True)
        return tuple((float(a), float(b)) for a, b in pairs)

    return Walk(
        known=project(known),
        unknown=project(unknown),
        before=project(before),
        after=project(after),
        names=tuple(k.split(":", 1)[1] for k in keys),
    )
