"""Mining on the shipped fact world, and the files it leaves: latents.h5, latents.json."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from features import find_entity_latents
from features.analysis.store import LatentAnalysis, load_analysis, save_analysis
from features.entities.name_acts import read_names
from features.entities.prompts import contexts
from features.stats.separation import entity_latents, separation
from sae_train.activations.store import ActivationStore
from sae_train.errors import EntityError, FileFormatError, HookPointError, MissingFileError, SchemaError
from sae_train.run.progress import silent

ROW_KEYS = {"hook_point", "latent", "separation", "heldout_separation", "auroc", "q_value", "general_rate"}


def same(a: Any, b: Any) -> bool:
    """Compare dataclasses field by field, arrays bit by bit, NaN equal to NaN."""
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.compare)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return set(a) <= set(b) and all(same(v, b[k]) for k, v in a.items())
    return a == b or (a != a and b != b)


def mined(lm, saes, labels, templates, **settings) -> LatentAnalysis:
    """Mine without causal checks."""
    return find_entity_latents(lm, saes, labels, templates=templates, gate=None, progress=silent, **settings)


def test_the_unknown_latent_is_found_and_holds_on_the_other_half(world_analysis):
    best = world_analysis.selected_rows("unknown")[0]
    assert best["maxmin"] >= 0.2
    assert best["heldout_separation"] > 0.4
    assert best["heldout_low"] > 0, "the interval leaves chance out"
    assert best["auroc"] > 0.75
    assert best["q_value"] <= 0.05
    found = world_analysis.hook_points[0]
    assert found.probe.low > 0.5
    assert found.score.low > 0.5
    assert 0 < found.fvu_at_names < 1


def test_shuffled_labels_select_nothing(world_lm, world_sae, world_labels, world_templates):
    rng = np.random.default_rng(0)
    order = rng.permutation(len(world_labels))
    shuffled = [replace(e, label=world_labels[i].label) for e, i in zip(world_labels, order, strict=True)]
    found = mined(world_lm, [world_sae], shuffled, world_templates, max_general_rate=1.0)
    assert found.summary()["known"] == found.summary()["unknown"] == []
    assert found.hook_points[0].probe.low < 0.6
    assert found.summary()["score_auroc"] is None


def test_nothing_of_the_held_out_half_reaches_the_selection(
    world_lm, world_sae, world_analysis, world_labels, world_templates
):
    """Selection and mining scores are those of the mining entities alone."""
    held = {k for k, h in zip(world_analysis.entity_keys, world_analysis.held_out, strict=True) if h}
    mining = [e for e in world_labels if e.key not in held]
    data = read_names(world_lm, mining, world_templates, ["layers.2"])
    contexts = csr_array(world_sae.encode(data.acts["layers.2"]).detach().numpy())
    latents = entity_latents(contexts, data.entity, len(data.entities))
    known = np.array([e.label == "known" for e in data.entities])
    kind = np.array([world_analysis.types.index(e.type) for e in data.entities])
    alone = separation(latents, known, kind, len(world_analysis.types))
    np.testing.assert_allclose(alone.score, world_analysis.hook_points[0].mining.score, atol=1e-6)
    np.testing.assert_allclose(alone.p_value, world_analysis.hook_points[0].mining.p_value, rtol=1e-4)


def test_one_row_per_context(world_lm, world_labels, world_templates):
    data = read_names(world_lm, world_labels, world_templates, ["layers.1", "layers.2"])
    counts = np.bincount(data.entity)
    assert counts.tolist() == [len(contexts(e, world_templates)) for e in data.entities]
    assert {len(a) for a in data.acts.values()} == {counts.sum()}
    assert all(e.label in ("known", "unknown") for e in data.entities)


def test_between_entities_are_left_out(world_lm, world_labels, world_templates):
    labels = [replace(world_labels[0], label="between"), *world_labels[1:]]
    data = read_names(world_lm, labels, world_templates, ["layers.2"])
    assert world_labels[0].key not in [e.key for e in data.entities]


def test_the_general_rate_counts_running_text_only(world_sae, world_store, world_analysis):
    with ActivationStore(world_store) as store:
        acts = store.rows("layers.2", slice(0, store.n_rows))
        text = torch.from_numpy(store.row_field("from_entity") == 0)
    plain = (world_sae.encode(acts) > 0).float()
    found = world_analysis.hook_points[0].general_rate
    np.testing.assert_allclose(found, plain[text].mean(0).numpy(), atol=1e-6)
    assert np.abs(found - plain.mean(0).numpy()).max() > 0.01, "the entity rows would have shown"


def test_a_latent_of_general_text_is_not_selected(world_lm, world_sae, world_store, world_labels, world_templates):
    with ActivationStore(world_store) as store:
        found = mined(world_lm, [world_sae], world_labels, world_templates, max_general_rate=1e-6, store=store)
    assert found.summary()["unknown"] == []


@pytest.fixture(scope="module")
def stretched(world_lm, world_sae, world_labels, world_templates) -> LatentAnalysis:
    """What is found without a store, with an SAE whose decoder rows are twice as long."""
    longer = copy.deepcopy(world_sae)
    with torch.no_grad():
        longer.W_dec *= 2
    return mined(world_lm, [longer], world_labels, world_templates)


def test_without_a_store_there_is_no_general_rate(stretched, tmp_path):
    found = stretched
    assert found.hook_points[0].general_rate is None
    assert found.selected_rows("unknown")[0]["general_rate"] is None
    save_analysis(found, tmp_path / "latents.h5")
    assert load_analysis(tmp_path / "latents.h5").hook_points[0].general_rate is None


@pytest.mark.slow
def test_two_saes_are_corrected_together(world_lm, world_sae, world_labels, world_templates, world_analysis):
    both = mined(world_lm, [world_sae, world_sae], world_labels, world_templates, max_general_rate=1.0)
    assert len(both.hook_points) == 2
    one = world_analysis.hook_points[0].q_value
    np.testing.assert_allclose(both.hook_points[0].q_value, both.hook_points[1].q_value)
    # Twice as many tests, every p twice: rank and count both double, so Benjamini-Hochberg gives the same q.
    np.testing.assert_allclose(both.hook_points[0].q_value, one, rtol=1e-9)


# --------------------------------------------------------------------------------------------- files


@pytest.fixture
def saved(tmp_path, world_analysis: LatentAnalysis):
    save_analysis(world_analysis, tmp_path / "latents.h5")
    return tmp_path / "latents.h5"


def test_latents_h5_round_trips(saved, world_analysis, tmp_path):
    again = load_analysis(saved)
    assert same(world_analysis, again)
    again.hook_points[0].q_value[3] += 1e-12
    assert not same(world_analysis, again), "the comparison can fail"
    save_analysis(load_analysis(saved), tmp_path / "copy.h5")
    assert same(world_analysis, load_analysis(tmp_path / "copy.h5"))


def test_nothing_selected_round_trips(tmp_path, world_analysis):
    nan = float("nan")
    first = world_analysis.hook_points[0]
    empty = replace(
        first, selected={"known": [], "unknown": []}, score=replace(first.score, value=nan, low=nan, high=nan)
    )
    analysis = replace(world_analysis, hook_points=[empty])
    save_analysis(analysis, tmp_path / "latents.h5")
    assert same(analysis, load_analysis(tmp_path / "latents.h5"))
    assert json.loads((tmp_path / "latents.json").read_text())["score_auroc"] is None


def test_latents_json_has_the_documented_keys(saved):
    found = json.loads(saved.with_suffix(".json").read_text())
    assert {"known", "unknown", "probe_auroc", "score_auroc"} <= set(found)
    rows = found["known"] + found["unknown"]
    assert rows
    assert all(set(row) >= ROW_KEYS for row in rows)
    for direction in ("known", "unknown"):
        maxmins = [row["maxmin"] for row in found[direction]]
        assert maxmins == sorted(maxmins, reverse=True), "best first"


def test_a_name_that_is_not_hdf5_is_refused(tmp_path, world_analysis):
    """latents.json and latents.html lie beside the analysis: it may not take their names."""
    for name in ("latents.json", "latents.html"):
        with pytest.raises(FileFormatError) as caught:
            save_analysis(world_analysis, tmp_path / name)
        assert name in str(caught.value.got)
        assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path, world_store):
    with pytest.raises(MissingFileError):
        load_analysis(tmp_path / "latents.h5")
    with pytest.raises(SchemaError):
        load_analysis(world_store)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(FileFormatError):
        load_analysis(tmp_path / "text.h5")


# --------------------------------------------------------------------------------------------- bad input


def test_an_sae_of_another_model_is_refused(world_lm, world_sae, world_labels, world_templates):
    wrong = copy.deepcopy(world_sae)
    wrong.hook_point = "layers.12"
    with pytest.raises(HookPointError) as caught:
        mined(world_lm, [wrong], world_labels, world_templates)
    assert "layers.12" in str(caught.value.got)


def test_too_few_entities_are_refused(world_lm, world_sae, world_labels, world_templates):
    few = [e for e in world_labels if e.label == "known"] + [e for e in world_labels if e.label == "unknown"][:1]
    with pytest.raises(EntityError):
        mined(world_lm, [world_sae], few, world_templates)


def test_types_without_templates_are_refused(world_lm, world_sae, world_labels, world_templates):
    strange = [replace(world_labels[0], type="ship"), *world_labels[1:]]
    with pytest.raises(EntityError) as caught:
        mined(world_lm, [world_sae], strange, world_templates)
    assert "ship" in str(caught.value)


def test_an_unknown_hook_point_of_an_analysis_lists_what_there_is(world_analysis):
    with pytest.raises(HookPointError) as caught:
        world_analysis.at("layers.3")
    assert caught.value.expected == "layers.2"


def test_decoder_rows_are_of_length_one_and_what_a_latent_adds_stays(stretched, world_analysis):
    """An imported SAE may have rows of any length: twice the row and half the latent are the same SAE."""
    found, plain = stretched.hook_points[0], world_analysis.hook_points[0]
    np.testing.assert_allclose(np.linalg.norm(found.W_dec, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.W_dec, plain.W_dec, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.mean_active, 2 * plain.mean_active, rtol=1e-4, atol=1e-6)
