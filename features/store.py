"""`latents.h5` and `latents.json`: the layout of one analysis, written whole, read back with its checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.probe import Interval
from features.separation import Separation
from sae_train import h5
from sae_train.errors import FileFormatError, HookPointError, nearest_first
from sae_train.runs import write_json

SCHEMA = "latents"
VERSION = 1


@dataclass(frozen=True)
class HookPointAnalysis:
    """Everything found out about one SAE at one hook point.

    Attributes:
        hook_point: Where the SAE reads.
        sae: Name of its folder.
        sae_hash: Hash of its weights file.
        mining, heldout: Scores on the two halves.
        q_value: Benjamini-Hochberg over all latents and hook points, mining half, (d_sae,).
        general_rate: Share of running-text tokens on which each latent fires, or None when no store was given.
        mean_active: Mean value where active, at names of known and unknown mining entities, (2, d_sae); in units of
            the unit decoder row, so that mean_active[j] * W_dec[j] is what the latent adds.
        pre_act_mean, pre_act_std: Pre-activations over mining entities by label, (2, d_sae).
        W_dec: Decoder rows of length one, (d_sae, d_in).
        selected: Latents by direction, best first.
        probe: AUROC of a linear probe on the raw activations, fitted on the mining half, held-out entities.
        score: AUROC of the selected latents together, held-out entities; NaN if none was selected.
        fvu_at_names: FVU of the SAE at the name tokens.
    """

    hook_point: str
    sae: str
    sae_hash: str
    mining: Separation
    heldout: Separation
    q_value: np.ndarray
    general_rate: np.ndarray | None
    mean_active: np.ndarray
    pre_act_mean: np.ndarray
    pre_act_std: np.ndarray
    W_dec: np.ndarray
    selected: dict[str, list[int]]
    probe: Interval
    score: Interval
    fvu_at_names: float

    def rows(self, direction: str) -> list[dict[str, Any]]:
        """Return the selected latents of one direction as `latents.json` lists them."""
        sign = 1.0 if direction == "known" else -1.0
        maxmin = {"known": self.mining.maxmin_known, "unknown": self.mining.maxmin_unknown}[direction]
        held_maxmin = {"known": self.heldout.maxmin_known, "unknown": self.heldout.maxmin_unknown}[direction]
        side = 0 if direction == "known" else 1
        return [
            {
                "hook_point": self.hook_point,
                "sae": self.sae,
                "latent": j,
                "separation": sign * float(self.mining.score[j]),
                "heldout_separation": sign * float(self.heldout.score[j]),
                "heldout_low": float(min(sign * self.heldout.low[j], sign * self.heldout.high[j])),
                "heldout_high": float(max(sign * self.heldout.low[j], sign * self.heldout.high[j])),
                "maxmin": float(maxmin[j]),
                "heldout_maxmin": float(held_maxmin[j]),
                "auroc": float(self.heldout.auroc[j]) if sign > 0 else 1 - float(self.heldout.auroc[j]),
                "p_value": float(self.mining.p_value[j]),
                "q_value": float(self.q_value[j]),
                "general_rate": None if self.general_rate is None else float(self.general_rate[j]),
                "mean_active": float(self.mean_active[side, j]),
            }
            for j in self.selected[direction]
        ]


@dataclass(frozen=True)
class LatentAnalysis:
    """One run of `wb find-entity-latents`.

    Attributes:
        hook_points: One analysis per SAE.
        entity_keys, entity_labels, entity_types: The entities, (n_entities,).
        held_out: Which of them were held out.
        types: Names of the types, in the order of the frequency tables.
        attrs: Provenance.
    """

    hook_points: list[HookPointAnalysis]
    entity_keys: list[str]
    entity_labels: list[str]
    entity_types: list[str]
    held_out: np.ndarray
    types: list[str]
    attrs: dict[str, Any]

    def at(self, hook_point: str) -> HookPointAnalysis:
        """Return the analysis at one hook point.

        Raises:
            HookPointError: There is none.
        """
        for found in self.hook_points:
            if found.hook_point == hook_point:
                return found
        names = [f.hook_point for f in self.hook_points]
        raise HookPointError(
            f"the latents hold no hook point '{hook_point}'",
            got=hook_point,
            expected=nearest_first(hook_point, names),
        )

    def selected_rows(self, direction: str) -> list[dict[str, Any]]:
        """Return the selected latents of all hook points, best mining MaxMin first."""
        rows = [row for found in self.hook_points for row in found.rows(direction)]
        return sorted(rows, key=lambda row: -row["maxmin"])

    def summary(self) -> dict[str, Any]:
        """Return what `latents.json` and `--json` hold; the best hook point gives the two single AUROCs."""
        best = max(self.hook_points, key=lambda f: f.probe.value)
        with_score = [f for f in self.hook_points if np.isfinite(f.score.value)]
        scored = max(with_score, key=lambda f: f.score.value) if with_score else None
        return {
            "known": self.selected_rows("known"),
            "unknown": self.selected_rows("unknown"),
            "probe_auroc": best.probe.value,
            "probe_hook_point": best.hook_point,
            "score_auroc": scored.score.value if scored else None,
            "score_low": scored.score.low if scored else None,
            "score_high": scored.score.high if scored else None,
            "score_hook_point": scored.hook_point if scored else None,
            "hook_points": {
                f.hook_point: {
                    "sae": f.sae,
                    "probe_auroc": f.probe.value,
                    "probe_low": f.probe.low,
                    "probe_high": f.probe.high,
                    "score_auroc": f.score.value,
                    "fvu_at_names": f.fvu_at_names,
                    "n_latents_passing": int((f.q_value <= 0.05).sum()),
                }
                for f in self.hook_points
            },
            "n_known": self.entity_labels.count("known"),
            "n_unknown": self.entity_labels.count("unknown"),
            "n_heldout": int(self.held_out.sum()),
            **{k: v for k, v in self.attrs.items() if k in ("model", "seed", "rule")},
        }


_ARRAYS = (
    ("q_value", "probability", ("latent",)),
    ("mean_active", "activation", ("label", "latent")),
    ("pre_act_mean", "activation", ("label", "latent")),
    ("pre_act_std", "activation", ("label", "latent")),
    ("W_dec", "unit vector", ("latent", "d_in")),
)
_SCORES = ("score", "low", "high", "maxmin_known", "maxmin_unknown", "auroc", "p_value")


def check_name(path: Path) -> Path:
    """Return the path unless the files that go beside the analysis would take its place.

    Raises:
        FileFormatError: It ends in .json or .html.
    """
    if path.suffix.lower() in (".json", ".html"):
        raise FileFormatError(
            f"the analysis is an HDF5 file: '{path}'",
            got=f"{path.name} (--out)",
            expected=f"{path.stem}.h5; {path.stem}.json and {path.stem}.html are written beside it",
        )
    return path


def save_analysis(analysis: LatentAnalysis, path: Path) -> None:
    """Write `latents.h5` and, beside it, `latents.json`.

    Raises:
        FileFormatError: The path ends in .json or .html.
    """
    check_name(path)
    with h5.create(path, SCHEMA, VERSION, {"types": analysis.types, **analysis.attrs}) as file:
        entities = file.create_group("entities")
        for name in ("entity_keys", "entity_labels", "entity_types"):
            h5.write_array(entities, name, np.array(getattr(analysis, name)), unit="text", axes=("entity",))
        h5.write_array(entities, "held_out", analysis.held_out.astype(np.uint8), unit="bool", axes=("entity",))
        for index, found in enumerate(analysis.hook_points):
            _save_hook_point(file.create_group(f"hook_points/{index}"), found)
    write_json(path.with_suffix(".json"), analysis.summary())


def _save_hook_point(group: h5.H5Group, found: HookPointAnalysis) -> None:
    """Write one hook point's group."""
    attrs: dict[str, Any] = {"hook_point": found.hook_point, "sae": found.sae, "sae_hash": found.sae_hash}
    for name in ("probe", "score"):
        interval: Interval = getattr(found, name)
        attrs |= {f"{name}_auroc": interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        attrs = {k: float("nan") if v is None else v for k, v in attrs.items()}
    h5.set_attrs(group, {**attrs, "selected": found.selected, "fvu_at_names": found.fvu_at_names})
    for name, unit, axes in _ARRAYS:
        h5.write_array(group, name, getattr(found, name), unit=unit, axes=axes)
    if found.general_rate is not None:
        h5.write_array(group, "general_rate", found.general_rate, unit="share of tokens", axes=("latent",))
    for half in ("mining", "heldout"):
        scores: Separation = getattr(found, half)
        h5.write_array(group, f"{half}_freq", scores.freq, unit="share of entities", axes=("label", "type", "latent"))
        for name in _SCORES:
            h5.write_array(group, f"{half}_{name}", getattr(scores, name), unit="1", axes=("latent",))


def load_analysis(path: Path) -> LatentAnalysis:
    """Read `latents.h5`.

    Raises:
        MissingFileError, FileFormatError, SchemaError: It is not one.
    """
    with h5.open_checked(path, SCHEMA, VERSION) as file:
        attrs = h5.get_attrs(file)
        entities = h5.group_of(file, "entities", path)
        groups = h5.group_of(file, "hook_points", path)
        hook_points = [_load_hook_point(h5.group_of(groups, i, path), path) for i in sorted(map(str, groups), key=int)]
        texts = {
            n: h5.read_text(h5.dataset_of(entities, n, path)) for n in ("entity_keys", "entity_labels", "entity_types")
        }
        held_out = h5.read(h5.dataset_of(entities, "held_out", path)).astype(bool)
    return LatentAnalysis(hook_points=hook_points, **texts, held_out=held_out, types=attrs["types"], attrs=attrs)


def _load_hook_point(group: h5.H5Group, path: Path) -> HookPointAnalysis:
    """Read one hook point's group."""

    def array(name: str) -> np.ndarray:
        return h5.read(h5.dataset_of(group, name, path))

    def half(name: str) -> Separation:
        return Separation(freq=array(f"{name}_freq"), **{s: array(f"{name}_{s}") for s in _SCORES})

    attrs = h5.get_attrs(group)

    def interval(name: str) -> Interval:
        return Interval(*(_number(attrs[f"{name}_{part}"]) for part in ("auroc", "low", "high")))

    return HookPointAnalysis(
        hook_point=attrs["hook_point"],
        sae=attrs["sae"],
        sae_hash=attrs["sae_hash"],
        mining=half("mining"),
        heldout=half("heldout"),
        general_rate=array("general_rate") if "general_rate" in group else None,
        selected=attrs["selected"],
        fvu_at_names=attrs["fvu_at_names"],
        probe=interval("probe"),
        score=interval("score"),
        **{name: array(name) for name, _, _ in _ARRAYS},
    )


def _number(value: object) -> float:
    """Return a stored number; NaN is stored as null."""
    return float("nan") if value is None else float(str(value))
