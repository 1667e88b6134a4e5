"""`latents.h5` and `latents.json`: write one analysis atomically, and read it back with checks.

Where each thing is (version 2), in the file and by the same name in `LatentAnalysis` and `HookPointAnalysis`:

    /                     attributes: model, hashes, seed, rule, n_shuffles, types, templates, store
    /entities             entity_keys, entity_labels, entity_types, held_out; covariates/<name> (NaN: not known)
    /tables/finding       one row a direction: is there a latent, the best MaxMin, the null's 95 %, p (`mining.Finding`)
    /tables/<name>        other tables over all hook points
    /hook_points/<n>      one SAE: per latent frequencies, scores, p, q, rates, values, decoder rows; AUROCs
      null                largest MaxMin of each label shuffle, (known unknown, shuffle)
      maxmin_p            share of shuffles whose largest MaxMin at any hook point reaches the latent's, (2, latent)
      entity_score        score of the selected set for every entity; entity_probe: of the probe; above 0: known
      tables/score        the selected set's score: one row a latent (`selection.ScoreTerm`)
      tables/controls     AUROC of other readings of the same names (`controls.Control`)
      tables/covariates   does it survive name length, piece frequency, fame? (`covariates.CovariateEffect`)
      tables/stability    what comes back without a template, a type, with another SAE (`stability.StabilityRow`)
      tables/<name>       what later steps add: any list of flat rows
    /gate, /steering, /evidence     causal checks, contexts and logit-lens words (`store_causal`); missing if not run

A table is a list of flat rows, one JSON text each; NaN is null there. The row types named above say what fields mean.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.analysis.causal_results import Gate, SteeringCurve
from features.analysis.evidence import LatentEvidence
from features.analysis.sources import Sources
from features.analysis.store_causal import (
    load_evidence,
    load_gate,
    load_steering,
    save_evidence,
    save_gate,
    save_steering,
)
from features.analysis.store_layout import ARRAYS, OPTIONAL_ARRAYS, SCORES, check_name
from features.analysis.tables import Row, Tables, read_tables, write_tables
from features.stats.selection import DIRECTIONS
from features.stats.separation import Separation
from sae_train.errors import HookPointError, SchemaError, nearest_first
from sae_train.intervals import Interval, flat, read_interval
from sae_train.run.runs import write_json
from sae_train.storage import h5

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "latents"
VERSION = 2
NO_SCORE: Row = dict.fromkeys(("score_auroc", "score_low", "score_high"))  # where nothing is selected


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
        general_interval: 95 % interval of `general_rate`, low and high, (2, d_sae); None without a store.
        maxmin_p: Family-wise p of the MaxMin separation, known and unknown, from label shuffles, (2, d_sae).
        null: Largest MaxMin over this SAE's allowed latents in each shuffle, known and unknown, (2, n_shuffles).
        entity_score: Score of the selected set for every entity; NaN if none was selected, (n_entities,).
        entity_probe: Score of the probe for every entity, (n_entities,).
        mining_auroc: Cross-validated AUROC on the mining half, `probe` and `score`: what a hook point is chosen by.
        tables: Small tables by name; see the module.
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
    general_interval: np.ndarray | None = None
    maxmin_p: np.ndarray | None = None
    null: np.ndarray | None = None
    entity_score: np.ndarray | None = None
    entity_probe: np.ndarray | None = None
    mining_auroc: dict[str, float] = field(default_factory=dict)
    tables: Tables = field(default_factory=dict)

    def rows(self, direction: str) -> list[Row]:
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
                **flat({"heldout": self._heldout_separation(j, sign)}, figure="separation"),
                "maxmin": float(maxmin[j]),
                "heldout_maxmin": float(held_maxmin[j]),
                "auroc": float(self.heldout.auroc[j]) if sign > 0 else 1 - float(self.heldout.auroc[j]),
                "p_value": float(self.mining.p_value[j]),
                "q_value": float(self.q_value[j]),
                "maxmin_p": _at(self.maxmin_p, side, j),
                "general_rate": None if self.general_rate is None else float(self.general_rate[j]),
                "general_low": _at(self.general_interval, 0, j),
                "general_high": _at(self.general_interval, 1, j),
                "mean_active": float(self.mean_active[side, j]),
            }
            for j in self.selected[direction]
        ]

    def _heldout_separation(self, latent: int, sign: float) -> Interval:
        """Return the separation on the held-out half, above zero where the direction of `sign` is right."""
        ends = sign * float(self.heldout.low[latent]), sign * float(self.heldout.high[latent])
        return Interval(sign * float(self.heldout.score[latent]), min(ends), max(ends))


def _at(array: np.ndarray | None, side: int, latent: int) -> float | None:
    """Return one number of an array that need not be there."""
    return None if array is None else float(array[side, latent])


@dataclass(frozen=True)
class LatentAnalysis:
    """What `find_entity_latents` found.

    Attributes:
        hook_points: One analysis per SAE.
        entity_keys, entity_labels, entity_types: The entities, (n_entities,).
        held_out: Which of them were held out.
        types: Names of the types, in the order of the frequency tables.
        attrs: Provenance.
        covariates: What else may tell entities apart, by name (`name_tokens`, `piece_frequency`, `popularity`), NaN
            where it is not known, (n_entities,).
        tables: Small tables over all hook points, by name.
        gate: What causal patching at the names found; None where it was not run.
        steering: What pushing the selected latents did, one curve each; empty where it was not asked for.
        evidence: Contexts and words of the selected latents.
        sources: What it was made from; neither written to the file nor compared, None where it was read from one.
    """

    hook_points: list[HookPointAnalysis]
    entity_keys: list[str]
    entity_labels: list[str]
    entity_types: list[str]
    held_out: np.ndarray
    types: list[str]
    attrs: dict[str, Any]
    covariates: dict[str, np.ndarray] = field(default_factory=dict)
    tables: Tables = field(default_factory=dict)
    gate: Gate | None = None
    steering: list[SteeringCurve] = field(default_factory=list)
    evidence: list[LatentEvidence] = field(default_factory=list)
    sources: Sources | None = field(default=None, compare=False, repr=False)

    def table(self) -> pd.DataFrame:
        """Return the selected latents with their statistics, best first, known ones before unknown ones."""
        from features.pages.latents_view import latent_table  # draws: only those who look pay for it

        return latent_table(self)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write `latents.h5`, a .json and a .html beside it, and return the path; see `latents_view.save_latents`."""
        from features.pages.latents_view import save_latents

        return save_latents(self, Path(path), overwrite=overwrite)

    def _repr_html_(self) -> str:
        """Return the selected latents and where they fire, for notebooks."""
        from features.pages.latents_view import latents_html

        return latents_html(self)

    def at(self, hook_point: str) -> HookPointAnalysis:
        """Return the analysis at one hook point.

        Raises:
            HookPointError: There is none.
        """
        for found in self.hook_points:
            if found.hook_point == hook_point:
                return found
        expected = nearest_first(hook_point, [f.hook_point for f in self.hook_points])
        raise HookPointError(f"the latents hold no hook point '{hook_point}'", got=hook_point, expected=expected)

    def null(self, direction: str) -> np.ndarray | None:
        """Return the largest MaxMin over all hook points in each label shuffle, (n_shuffles,)."""
        side = DIRECTIONS.index(direction)
        found = [f.null[side] for f in self.hook_points if f.null is not None]
        return np.max(found, axis=0) if found else None

    def selected_rows(self, direction: str) -> list[Row]:
        """Return the selected latents of all hook points, best mining MaxMin first."""
        rows = [row for found in self.hook_points for row in found.rows(direction)]
        return sorted(rows, key=lambda row: -row["maxmin"])

    def _key(self, found: HookPointAnalysis) -> str:
        """Return the hook point; with the SAE's name where several SAEs read there."""
        alone = sum(f.hook_point == found.hook_point for f in self.hook_points) == 1
        return found.hook_point if alone else f"{found.hook_point} ({found.sae})"

    def summary(self) -> dict[str, Any]:
        """Return what `latents.json` holds and the command prints; the best hook point gives the two single AUROCs.

        The best one is chosen on the mining half, where its own AUROC is cross-validated.
        """
        best = max(self.hook_points, key=lambda f: f.mining_auroc.get("probe", f.probe.value))
        with_score = [f for f in self.hook_points if np.isfinite(f.score.value)]
        scored = max(with_score, key=lambda f: f.mining_auroc.get("score", f.score.value)) if with_score else None
        return {
            "known": self.selected_rows("known"),
            "unknown": self.selected_rows("unknown"),
            "probe_auroc": best.probe.value,
            "probe_hook_point": best.hook_point,
            **(flat({"score": scored.score}, figure="auroc") if scored else NO_SCORE),
            "score_hook_point": scored.hook_point if scored else None,
            "hook_points": {
                self._key(f): {
                    "sae": f.sae,
                    **flat({"probe": f.probe, "score": f.score}, figure="auroc"),
                    "mining_auroc": f.mining_auroc,
                    **{name: f.tables[name] for name in ("controls", "covariates", "stability") if name in f.tables},
                    "fvu_at_names": f.fvu_at_names,
                    "n_latents_passing": int((f.q_value <= 0.05).sum()),
                }
                for f in self.hook_points
            },
            "finding": self.tables.get("finding", []),
            "gate": None if self.gate is None else self.gate.summary(),
            "steering": [curve.summary() for curve in self.steering],
            "evidence": [asdict(found) for found in self.evidence],
            "n_known": self.entity_labels.count("known"),
            "n_unknown": self.entity_labels.count("unknown"),
            "n_heldout": int(self.held_out.sum()),
            **{k: v for k, v in self.attrs.items() if k in ("model", "seed", "rule", "n_shuffles")},
        }


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
        covariates = entities.create_group("covariates")
        for name, values in analysis.covariates.items():
            h5.write_array(covariates, name, values, unit="1", axes=("entity",))
        write_tables(file, analysis.tables)
        save_gate(file, analysis.gate)
        save_steering(file, analysis.steering)
        save_evidence(file, analysis.evidence)
        for index, found in enumerate(analysis.hook_points):
            _save_hook_point(file.create_group(f"hook_points/{index}"), found)
        write_json(path.with_suffix(".json"), analysis.summary())  # before the analysis counts as written


def _save_hook_point(group: h5.H5Group, found: HookPointAnalysis) -> None:
    """Write one hook point's group."""
    attrs: dict[str, Any] = {"hook_point": found.hook_point, "sae": found.sae, "sae_hash": found.sae_hash}
    for name in ("probe", "score"):
        attrs |= flat({name: getattr(found, name)}, figure="auroc")
    attrs |= {"selected": found.selected, "fvu_at_names": found.fvu_at_names, "mining_auroc": found.mining_auroc}
    h5.set_attrs(group, attrs)
    for name, unit, axes in ARRAYS:
        h5.write_array(group, name, getattr(found, name), unit=unit, axes=axes)
    for name, unit, axes in OPTIONAL_ARRAYS:
        if getattr(found, name) is not None:
            h5.write_array(group, name, getattr(found, name), unit=unit, axes=axes)
    write_tables(group, found.tables)
    for half in ("mining", "heldout"):
        scores: Separation = getattr(found, half)
        h5.write_array(group, f"{half}_freq", scores.freq, unit="share of entities", axes=("label", "type", "latent"))
        for name in SCORES:
            h5.write_array(group, f"{half}_{name}", getattr(scores, name), unit="1", axes=("latent",))


def load_analysis(path: Path) -> LatentAnalysis:
    """Read `latents.h5`.

    Raises:
        MissingFileError, FileFormatError, SchemaError: It is not one, or of an older version than this one reads.
    """
    with h5.open_checked(path, SCHEMA, VERSION) as file, h5.understood(path):
        attrs = h5.get_attrs(file)
        if int(attrs["schema_version"]) < VERSION:
            raise SchemaError(
                f"'{path}' was written by an older version",
                got=f"{SCHEMA} version {int(attrs['schema_version'])}",
                expected=f"version {VERSION}",
                try_="wb find-entity-latents … --overwrite, which mines again",
            )
        entities = h5.group_of(file, "entities", path)
        groups = h5.group_of(file, "hook_points", path)
        hook_points = [_load_hook_point(h5.group_of(groups, i, path), path) for i in sorted(map(str, groups), key=int)]
        texts = {
            n: h5.read_text(h5.dataset_of(entities, n, path)) for n in ("entity_keys", "entity_labels", "entity_types")
        }
        held_out = h5.read(h5.dataset_of(entities, "held_out", path)).astype(bool)
        group = h5.group_of(entities, "covariates", path)
        covariates = {name: h5.read(h5.dataset_of(group, name, path)) for name in map(str, group)}
        tables = read_tables(file, path)
        causal: Any = {
            "gate": load_gate(file, path),
            "steering": load_steering(file, path),
            "evidence": load_evidence(file, path),
        }
    return LatentAnalysis(
        hook_points=hook_points,
        **texts,
        held_out=held_out,
        types=attrs["types"],
        attrs=attrs,
        covariates=covariates,
        tables=tables,
        **causal,
    )


def _load_hook_point(group: h5.H5Group, path: Path) -> HookPointAnalysis:
    """Read one hook point's group."""

    def array(name: str) -> np.ndarray:
        return h5.read(h5.dataset_of(group, name, path))

    def half(name: str) -> Separation:
        return Separation(freq=array(f"{name}_freq"), **{s: array(f"{name}_{s}") for s in SCORES})

    attrs = h5.get_attrs(group)
    optional: dict[str, Any] = {name: array(name) if name in group else None for name, _, _ in OPTIONAL_ARRAYS}

    return HookPointAnalysis(
        hook_point=attrs["hook_point"],
        sae=attrs["sae"],
        sae_hash=attrs["sae_hash"],
        mining=half("mining"),
        heldout=half("heldout"),
        selected=attrs["selected"],
        fvu_at_names=attrs["fvu_at_names"],
        probe=read_interval(attrs, "probe", figure="auroc"),
        score=read_interval(attrs, "score", figure="auroc"),
        mining_auroc={k: _number(v) for k, v in attrs["mining_auroc"].items()},
        tables=read_tables(group, path),
        **{name: array(name) for name, _, _ in ARRAYS},
        **optional,
    )


def _number(value: object) -> float:
    """Return a stored number; NaN is stored as null."""
    return float("nan") if value is None else float(str(value))
