"""Groups `gate`, `steering` and `evidence` of `latents.h5`: causal checks and max-activating examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from features.analysis.causal_results import Gate, HookPointGate, SteeringCurve
from features.analysis.evidence import LatentEvidence, Snippet
from features.config import GateConfig
from sae_train.fields import from_mapping
from sae_train.renamed import former_dataset
from sae_train.storage import h5


def save_gate(file: h5.H5File, gate: Gate | None) -> None:
    """Write the recall of every entity under every condition; intervals are computed from it again."""
    if gate is None:
        return
    group = file.create_group("gate")
    h5.set_attrs(group, {"config": asdict(gate.config), "n_prompts": gate.n_prompts})
    h5.write_array(group, "entities", np.array(gate.entities), unit="text", axes=("entity",))
    h5.write_array(group, "partners", np.array(gate.partners), unit="text", axes=("entity",))
    for kind, found in (("hook_points", gate.hook_points), ("blocks", gate.blocks)):
        for index, one in enumerate(found):
            part = group.create_group(f"{kind}/{index}")
            h5.set_attrs(part, {"hook_point": one.hook_point, "sae": one.sae, "conditions": ["clean", *one.recall]})
            recall = np.stack([one.clean, *one.recall.values()])
            h5.write_array(part, "recall", recall, unit="share of questions", axes=("condition", "entity"))


def load_gate(file: h5.H5File, path: Path) -> Gate | None:
    """Read the gate back; None where none was run."""
    if "gate" not in file:
        return None
    group = h5.group_of(file, "gate", path)
    attrs = h5.get_attrs(group)
    config = from_mapping(GateConfig, attrs["config"])

    def read(kind: str) -> list[HookPointGate]:
        found = []
        for part in _numbered(group, kind, path):
            about, recall = h5.get_attrs(part), h5.read(h5.dataset_of(part, "recall", path))
            by_name = dict(zip(about["conditions"][1:], recall[1:], strict=True))
            found.append(HookPointGate(about["hook_point"], about["sae"], recall[0], by_name, config))
        return found

    names = {n: h5.read_text(h5.dataset_of(group, n, path)) for n in ("entities", "partners")}
    return Gate(read("hook_points"), read("blocks"), **names, n_prompts=int(attrs["n_prompts"]), config=config)


def save_steering(file: h5.H5File, curves: Sequence[SteeringCurve]) -> None:
    """Write one group per curve."""
    for index, curve in enumerate(curves):
        part = file.create_group(f"steering/{index}")
        names = ("hook_point", "sae", "direction", "kind", "latents", "seed")
        h5.set_attrs(part, {n: getattr(curve, n) for n in names})
        h5.write_array(part, "strengths", curve.strengths, unit="mean active values", axes=("strength",))
        h5.write_array(part, "frac_verdicts", curve.frac_verdicts, unit="share", axes=("strength", "verdict", "entity"))
        h5.write_array(part, "text_loss", curve.text_loss, unit="nats per token", axes=("strength",))


def load_steering(file: h5.H5File, path: Path) -> list[SteeringCurve]:
    """Read the curves back."""
    arrays = ("strengths", "frac_verdicts", "text_loss")
    found = []
    for part in _numbered(file, "steering", path):
        stored = {n: former_dataset(n) if n not in part else n for n in arrays}
        read: dict[str, Any] = {n: h5.read(h5.dataset_of(part, s, path)) for n, s in stored.items()}
        found.append(SteeringCurve(**h5.get_attrs(part), **read))
    return found


def save_evidence(file: h5.H5File, found: Sequence[LatentEvidence]) -> None:
    """Write one group per latent; snippets of different length are filled up with NaN."""
    for index, one in enumerate(found):
        part = file.create_group(f"evidence/{index}")
        names = ("hook_point", "sae", "latent", "promoted", "suppressed")
        peaks = [s.peak for s in one.snippets]
        h5.set_attrs(part, {**{n: getattr(one, n) for n in names}, "peaks": peaks})
        width = max((len(s.tokens) for s in one.snippets), default=0)
        tokens = np.full((len(peaks), width), "", dtype=object)
        values = np.full((len(peaks), width), np.nan)
        for row, snippet in enumerate(one.snippets):
            tokens[row, : len(snippet.tokens)] = snippet.tokens
            values[row, : len(snippet.values)] = snippet.values
        h5.write_array(part, "tokens", tokens.astype(str).ravel(), unit="text", axes=("snippet x token",))
        h5.write_array(part, "values", values, unit="activation", axes=("snippet", "token"))


def load_evidence(file: h5.H5File, path: Path) -> list[LatentEvidence]:
    """Read the evidence back."""
    found = []
    for part in _numbered(file, "evidence", path):
        attrs: dict[str, Any] = h5.get_attrs(part)
        peaks = attrs.pop("peaks")
        values = h5.read(h5.dataset_of(part, "values", path))
        tokens = np.array(h5.read_text(h5.dataset_of(part, "tokens", path)), dtype=object).reshape(values.shape)
        found.append(LatentEvidence(**attrs, snippets=_snippets(tokens, values, peaks)))
    return found


def _snippets(tokens: np.ndarray, values: np.ndarray, peaks: Sequence[int]) -> list[Snippet]:
    """Cut the filling off again."""
    n_tokens = (~np.isnan(values)).sum(1)
    return [
        Snippet(list(t[:n]), [float(v) for v in vs[:n]], p)
        for t, vs, n, p in zip(tokens, values, n_tokens, peaks, strict=True)
    ]


def _numbered(parent: h5.H5Group, name: str, path: Path) -> list[h5.H5Group]:
    """Return the numbered groups below a name, in order; none where the name is missing."""
    if name not in parent:
        return []
    group = h5.group_of(parent, name, path)
    return [h5.group_of(group, i, path) for i in sorted(map(str, group), key=int)]
