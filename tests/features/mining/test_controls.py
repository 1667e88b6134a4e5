"""Mining without a model: a constructed SAE, artefacts of name length, what comes back, stored names."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from features.analysis.store import load_analysis, save_analysis
from features.config import SelectionRule
from features.entities.entities import Entity
from features.entities.name_acts import NameData, load_names, read_names, save_names
from features.mining.covariates import covariate_effects, name_covariates, piece_frequency, strata
from features.mining.mining import mine_names
from sae_train.errors import HookPointError, SchemaError, ShapeError
from sae_train.saes.base import Sae
from sae_train.saes.interop import WEIGHTS
from sae_train.saes.relu import ReluSae
from sae_train.storage import h5

D_IN, PLANTED, TYPES, PER_CELL, TEMPLATES = 12, 4, ("person", "city"), 24, 3
RULE = SelectionRule(n_shuffles=200)


def planted_names(*, strength: float = 3.0, seed: int = 0) -> NameData:
    """Noise in every dimension; at unknown names dimension PLANTED is `strength` higher."""
    entities = [
        Entity(f"{label} {t} {i}", t, label=label)
        for t in TYPES
        for label in ("known", "unknown")
        for i in range(PER_CELL)
    ]
    entity = np.repeat(np.arange(len(entities)), TEMPLATES)
    acts = 0.5 * torch.randn(len(entity), D_IN, generator=torch.Generator().manual_seed(seed))
    acts[torch.tensor([entities[i].label == "unknown" for i in entity]), PLANTED] += strength
    return NameData(
        entities=entities,
        entity=entity,
        template=np.tile(np.arange(TEMPLATES), len(entities)),
        templates={t: [f"{t} {i}: {{name}}" for i in range(TEMPLATES)] for t in TYPES},
        name_ids=[np.arange(1 + i % 3) for i in range(len(entities))],
        popularity=np.full(len(entities), np.nan),
        acts={"layers.0": acts},
        attrs={"model": "none", "model_hash": "0", "position": "last"},
    )


@pytest.fixture
def constructed(tmp_path):
    """Return a function that makes an SAE whose latent j is activation j above 0.5, the latents in a given order."""

    def build(name: str = "sae", order: np.ndarray | None = None) -> Sae:
        sae = ReluSae(D_IN, D_IN)
        rows = torch.eye(D_IN)[np.arange(D_IN) if order is None else order]
        with torch.no_grad():
            sae.W_enc.copy_(rows.T)
            sae.W_dec.copy_(rows)
            sae.b_enc.fill_(-0.5)
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_bytes(name.encode())
        sae.hook_point, sae.folder = "layers.0", tmp_path / name
        return sae

    return build


def test_a_planted_latent_is_found_first_and_not_after_it_is_removed(constructed):
    sae = constructed()
    found = mine_names(planted_names(), [sae], RULE)
    (row,) = found.selected_rows("unknown")
    assert row["latent"] == PLANTED
    assert row["maxmin_p"] == pytest.approx(1 / 201), "no shuffle comes near"
    assert found.hook_points[0].score.low > 0.9
    finding = {f["direction"]: f for f in found.tables["finding"]}
    assert finding["unknown"]["found"] and finding["unknown"]["latent"] == PLANTED
    assert not finding["known"]["found"] and finding["known"]["sentence"].startswith("no latent for known")
    assert "above 0.05 (`max_null_p`)" in finding["known"]["sentence"]
    assert finding["known"]["best_maxmin"] < finding["unknown"]["null_95"] < finding["unknown"]["best_maxmin"]
    controls = {c["name"]: c for c in found.hook_points[0].tables["controls"]}
    assert controls["best latent"]["auroc"] > 0.9 and controls["difference of means"]["auroc"] > 0.9
    assert controls["random latents"]["auroc"] < 0.8
    gone = mine_names(planted_names(strength=0.0), [sae], RULE)
    assert gone.summary()["known"] == gone.summary()["unknown"] == []


@pytest.mark.parametrize(
    ("rule", "said"), [({"min_separation": 1.0}, "`min_separation`"), ({"max_q": 0.0}, "`max_q`")], ids=str
)
def test_an_empty_list_names_the_rule_that_emptied_it(constructed, rule, said):
    found = mine_names(planted_names(strength=0.8), [constructed()], replace(RULE, **rule))
    sentence = {f["direction"]: f for f in found.tables["finding"]}["unknown"]["sentence"]
    assert sentence.startswith("no latent for unknown: best MaxMin separation") and said in sentence


@pytest.mark.slow
def test_what_comes_back(constructed):
    """Without a template, without a type, and with an SAE that has the same latents in another order."""
    order = np.roll(np.arange(D_IN), 1)
    found = mine_names(planted_names(), [constructed("a"), constructed("b", order)], RULE)
    assert set(found.summary()["hook_points"]) == {"layers.0 (a)", "layers.0 (b)"}
    rows = [r for r in found.hook_points[0].tables["stability"] if r["direction"] == "unknown"]
    assert [r["kind"] for r in rows] == ["template"] * TEMPLATES + ["type"] * len(TYPES) + ["sae"]
    assert all((r["n_selected"], r["n_back"]) == (1, 1) for r in rows)
    assert all(r["auroc"] > 0.9 for r in rows if r["kind"] == "type"), "on a type that chose nothing"
    assert rows[-1]["left_out"] == "b" and rows[-1]["cosine"] == pytest.approx(1)
    other = constructed("c")
    with torch.no_grad():
        other.W_dec[PLANTED] = torch.ones(D_IN) / D_IN**0.5
    rows = mine_names(planted_names(), [constructed("d"), other], RULE).hook_points[0].tables["stability"]
    (alone,) = [r for r in rows if r["kind"] == "sae" and r["direction"] == "unknown"]
    assert alone["n_back"] == 0, "its direction is not there"


def test_an_artefact_of_name_length_does_not_survive():
    """One subject reads the length, which goes with the label, the other the label: inside strata one is left."""
    rng = np.random.default_rng(0)
    known = np.arange(400) % 2 == 0
    held, kind = np.arange(400) % 4 < 2, np.arange(400) // 4 % 2
    length = np.where(known, rng.choice(3, 400, p=[0.6, 0.3, 0.1]), rng.choice(3, 400, p=[0.1, 0.3, 0.6])) + 1.0
    subjects = {"artefact": -length + 0.3 * rng.normal(size=400), "latent": known + 0.5 * rng.normal(size=400)}
    fame = np.where(rng.random(400) < 0.3, np.nan, rng.normal(size=400))
    rows = covariate_effects({"name_tokens": length, "popularity": fame}, subjects, known, kind, held)
    found = {(r.covariate, r.subject): r for r in rows}
    assert found["name_tokens", "alone"].auroc < 0.3, "known names are shorter"
    artefact, latent = found["name_tokens", "artefact"], found["name_tokens", "latent"]
    assert artefact.auroc > 0.7 and artefact.p_value < 1e-6
    assert artefact.survives is False and abs(artefact.stratified - 0.5) < 0.12
    assert latent.survives is True and latent.stratified > 0.8
    joint = found["all", "artefact"]  # fifths of a propensity take most of it away, not all
    assert abs(joint.stratified - 0.5) < 0.5 * (joint.auroc - 0.5) and found["all", "latent"].survives is True
    assert found["popularity", "artefact"].survives is True, "what does not go with it takes nothing away"
    assert found["popularity", "latent"].n_entities == int((held & np.isfinite(fame)).sum())
    assert covariate_effects({"name_tokens": np.ones(400)}, subjects, known, kind, held) == []


def test_strata_part_types_and_keep_equal_values_together():
    values, kind = np.array([1.0, 1, 1, 2, 3, 4] * 2), np.repeat([0, 1], 6)
    found = strata(values, kind)
    assert len(set(found[:3])) == 1 and not set(found[:6]) & set(found[6:])


def test_piece_frequency_by_hand():
    text = np.array([7] * 99 + [8])
    rare, common = piece_frequency([np.array([7, 8]), np.array([7])], text)
    assert common == pytest.approx(np.log10(99.5 / 100))
    assert rare == pytest.approx((np.log10(99.5 / 100) + np.log10(1.5 / 100)) / 2)
    assert np.isnan(piece_frequency([np.array([1])], text[:0])).all()


def test_names_are_stored_and_mined_without_the_model(
    world_lm, world_labels, world_templates, world_sae, world_analysis, tmp_path
):
    data = read_names(world_lm, world_labels, world_templates, ["layers.2"])
    save_names(data, tmp_path / "names.h5")
    again = load_names(tmp_path / "names.h5")
    assert [e.key for e in again.entities] == [e.key for e in data.entities]
    assert (again.entity == data.entity).all() and (again.template == data.template).all()
    assert torch.equal(again.acts["layers.2"], data.acts["layers.2"])
    assert all((a == b).all() for a, b in zip(again.name_ids, data.name_ids, strict=True))
    texts = [world_lm.tokenizer.decode(ids).strip() for ids in data.name_ids]
    assert texts == [e.name for e in data.entities]
    pairs = list(zip(data.entity.tolist(), data.template.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs), "each entity once per template"
    found = mine_names(again, [world_sae], SelectionRule(max_general_rate=1.0))
    assert found.hook_points[0].selected == world_analysis.hook_points[0].selected
    np.testing.assert_array_equal(found.hook_points[0].q_value, world_analysis.hook_points[0].q_value)
    assert set(name_covariates(again, None)) == {"name_tokens"}
    elsewhere = copy.deepcopy(world_sae)
    elsewhere.hook_point = "layers.1"
    with pytest.raises(HookPointError):
        mine_names(again, [elsewhere], SelectionRule())
    wide = replace(again, acts={"layers.2": torch.zeros(len(again.entity), 3)})
    with pytest.raises(ShapeError):
        mine_names(wide, [world_sae], SelectionRule())


def test_every_name_token_can_be_read(world_lm, world_labels, world_templates):
    some = [e for e in world_labels if e.label in ("known", "unknown")][:4]
    every = read_names(world_lm, some, world_templates, ["layers.2"], position="all")
    last = read_names(world_lm, some, world_templates, ["layers.2"])
    lengths = np.array([len(ids) for ids in last.name_ids])
    assert np.bincount(every.entity).tolist() == (np.bincount(last.entity) * lengths).tolist()


def test_an_older_analysis_is_refused_by_name(constructed, tmp_path, monkeypatch):
    found = mine_names(planted_names(), [constructed()], RULE)
    save_analysis(found, tmp_path / "new.h5")
    assert load_analysis(tmp_path / "new.h5").tables == found.tables
    with h5.create(tmp_path / "old.h5", "latents", 1, {}):
        pass
    with pytest.raises(SchemaError) as caught:
        load_analysis(tmp_path / "old.h5")
    assert "version 1" in str(caught.value.got) and "find-entity-latents" in str(caught.value)
