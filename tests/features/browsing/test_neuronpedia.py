"""Latents in SAEDashboard's files: the form, and there and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from features import browse
from features.browsing.neuronpedia import NOT_MEASURED, write_batches
from features.browsing.neuronpedia_import import ImportedBatches
from features.browsing.records import Catalogue
from features.browsing.strength import EDGES
from sae_train.errors import FileFormatError, MissingFileError
from sae_train.run.progress import silent

# The fields of NeuronpediaDashboardFeature (jbloomAus/SAEDashboard), whose constructor takes these and no others.
FIELDS = {
    *NOT_MEASURED,
    *("feature_index", "neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_values"),
    *("freq_hist_data_bar_heights", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations"),
}


@pytest.fixture
def found(planted):
    path, _, _, sae = planted()
    return browse(sae, path, n_before=3, n_after=2, progress=silent)


def test_a_batch_has_the_fields_that_are_read_there(found, tmp_path):
    (path,) = write_batches(found, tmp_path, dataset="made up")
    batch = json.loads(path.read_text(encoding="utf-8"))
    assert batch.keys() == {"model_id", "layer", "sae_set", "features"} and len(batch["features"]) == 8
    for feature in batch["features"]:
        assert feature.keys() == FIELDS
        for one in feature["activations"]:
            assert one.keys() == {"bin_min", "bin_max", "bin_contains", "tokens", "values"}
            assert len(one["tokens"]) == len(one["values"])
    two = batch["features"][2]
    assert two["frac_nonzero"] == found.rate()[2]
    strongest = [a for a in two["activations"] if a["bin_min"] == -1]
    assert [max(a["values"]) for a in strongest] == [round(e.value, 3) for e in found.record(2).top]
    drawn = [a for a in two["activations"] if a["bin_min"] != -1]
    assert all(a["bin_min"] <= max(a["values"]) and a["bin_contains"] == 0.2 for a in drawn) and len(drawn) == 20


def test_what_was_written_comes_back(found, tmp_path):
    write_batches(found, tmp_path)
    back = ImportedBatches(tmp_path)
    assert isinstance(back, Catalogue) and isinstance(found, Catalogue)
    assert (back.n_latents, back.about().n_tokens) == (found.n_latents, found.n_tokens)
    texts = [c.words() for c in (found, back)]
    for ours, theirs in zip(found.records(), back.records(), strict=True):
        assert (theirs.latent, theirs.n_fired, theirs.counts) == (ours.latent, ours.n_fired, ours.counts)
        assert theirs.mean == pytest.approx(ours.mean, rel=0.05, abs=1e-3)
        for kind in ("top", "sampled"):
            examples = (getattr(record, kind) for record in (ours, theirs))
            # Rounded values may tie, so that two examples change places.
            one, other = (
                sorted(([words[i] for i in e.token_ids], np.round(e.values, 3).tolist()) for e in found)
                for words, found in zip(texts, examples, strict=True)
            )
            assert one == other
        if len(ours.edges) > 2:
            assert ours.edges[0] in EDGES and theirs.edges[1] == pytest.approx(ours.edges[1], rel=0.1)


def test_latents_that_are_not_in_the_files_never_fire(found, tmp_path):
    (path,) = write_batches(found, tmp_path)
    batch = json.loads(path.read_text(encoding="utf-8"))
    batch["features"] = [f for f in batch["features"] if f["feature_index"] != 2]
    path.write_text(json.dumps(batch), encoding="utf-8")
    records = list(ImportedBatches(tmp_path).records(1, 4))
    assert [r.latent for r in records] == [1, 2, 3] and records[1].n_fired == 0 and records[0].n_fired > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: batch.pop("layer"),
        lambda batch: batch["features"][0].pop("frac_nonzero"),
        lambda batch: batch["features"][1]["activations"][0]["values"].pop(),
        lambda batch: batch.update(features=3),
    ],
)
def test_files_that_are_something_else(found, tmp_path, change):
    (path,) = write_batches(found, tmp_path)
    batch = json.loads(path.read_text(encoding="utf-8"))
    change(batch)
    path.write_text(json.dumps(batch), encoding="utf-8")
    with pytest.raises(FileFormatError, match="batch-0"):
        ImportedBatches(tmp_path)


def test_a_folder_without_such_files(tmp_path):
    with pytest.raises(MissingFileError, match="batch-0"):
        ImportedBatches(tmp_path)
