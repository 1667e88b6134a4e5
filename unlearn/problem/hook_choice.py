"""Choose the hook point of a removal: match SAEs with mined latents, and report the gate there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from features.analysis.store import HookPointAnalysis, LatentAnalysis
from sae_train.errors import HookPointError
from sae_train.lm.hook_names import canonical_hook_point
from sae_train.saes.base import Sae
from sae_train.saes.interop import sae_hash


def choose_hook_point(
    saes: Sequence[Sae], analysis: LatentAnalysis, wanted: str | None
) -> tuple[Sae, HookPointAnalysis]:
    """Return the SAE and the analysis to use: the hook point asked for, or the best one there is.

    Best is, in this order: where latents were selected; where the gate is passed, and of these where all latents at the
    unknown level take most recall; where the selected latents, then the probe, tell most.

    Raises:
        HookPointError: No SAE reads there, or the latents were mined with another SAE.
    """
    at = None if wanted is None else canonical_hook_point(wanted)
    usable = [
        (s, f)
        for f in analysis.hook_points
        for s in saes
        if s.hook_point == f.hook_point and at in (None, f.hook_point)
    ]
    if not usable:
        raise HookPointError(
            "SAE and latents do not fit",
            got=f"{wanted or ', '.join(s.hook_point for s in saes)} (`hook_point`, `sae`)",
            expected=", ".join(f.hook_point for f in analysis.hook_points) + " (`latents`)",
        )
    fitting = [(s, f) for s, f in usable if sae_hash(s) == f.sae_hash]
    if not fitting:
        loaded, found = usable[0]
        raise HookPointError(
            "the latents were mined with another SAE",
            got=f"{loaded.folder} at {found.hook_point}",
            field="sae",
            expected=f"the SAE called '{found.sae}' with weights {found.sae_hash[:12]}…",
        )
    return max(fitting, key=lambda pair: (any(pair[1].selected.values()), _taken(analysis, pair[1]), *_tells(pair[1])))


def _taken(analysis: LatentAnalysis, found: HookPointAnalysis) -> float:
    """Return the recall that all latents at the unknown level take, where the gate is passed; -1 where it is not."""
    measured = None if analysis.gate is None else analysis.gate.at(found.hook_point, found.sae)
    return measured.taken if measured is not None and measured.passes else -1.0


def _tells(found: HookPointAnalysis) -> tuple[float, float]:
    """Return how well the selected latents, then the probe, tell known from unknown; no latents tell nothing."""
    return (0.0 if math.isnan(found.score.value) else found.score.value, found.probe.value)


def gate_warning(analysis: LatentAnalysis, found: HookPointAnalysis) -> str | None:
    """Return what the gate has against unlearning at a hook point, in one line; None where it has nothing."""
    if analysis.gate is None:
        return "the gate was not run: whether the knowledge passes at this hook point is not known"
    measured = analysis.gate.at(found.hook_point, found.sae)
    if measured is None:
        return f"the gate was not run at {found.hook_point}"
    if measured.passes:
        return None
    advised = analysis.gate.recommended
    return f"the gate is not passed at {found.hook_point}: {'; '.join(measured.reasons)}" + (
        f" (it is at {advised})" if advised else ""
    )
