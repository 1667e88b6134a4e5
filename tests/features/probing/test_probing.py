"""K-sparse probing: the figures of *sae-probes* where it is installed; everything around it with a stand-in."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from features import probe_sae
from features.config import ProbingConfig
from features.probing import sae_probes
from features.probing.probing import last_token_acts, probe_dataset
from sae_train.errors import ConfigError, HookPointError
from sae_train.lm.models import load_lm
from sae_train.run.progress import no_advance, silent
from sae_train.saes import build_sae

SIZES = {"1_ends": 240, "2_by_chance": 240}


@pytest.fixture(scope="module")
def lm(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.fixture
def sae():
    made = build_sae("relu", 32, 64)
    made.init_weights(torch.zeros(32), 0)
    made.hook_point = "layers.1"
    return made


@pytest.fixture
def stand_in(monkeypatch):
    """Put a small `sae_probes` in the place of the package: 240 texts that end in one of two letters, two labels."""
    draw = np.random.default_rng(0)
    ends = draw.permutation(np.repeat([0, 1], 120))
    labels = {"1_ends": ends, "2_by_chance": draw.permutation(ends)}
    words = ["The river", "A market", "Mira", "An old bridge", "Velmora"]
    texts = [f"{words[draw.integers(5)]} {draw.integers(100)}{'qz'[end]}" for end in ends]

    def split(y, num_train, num_test, pos_ratio, seed):
        order = np.random.default_rng(seed).permutation(len(y))
        return order[:num_train], order[num_train : num_train + num_test]

    def best(X_train, y_train, X_test, y_test, penalty, seed):  # noqa: N803  the package's names
        model = LogisticRegression(C=1e4, max_iter=1000).fit(X_train, y_train)
        auc, acc = roc_auc_score(y_test, model.predict_proba(X_test)[:, 1]), model.score(X_test, y_test)
        return types.SimpleNamespace(classifier=model, metrics=types.SimpleNamespace(test_auc=auc, test_acc=acc))

    parts = {
        "": {},
        ".utils_data": {
            "get_dataset_sizes": lambda: SIZES,
            "read_numbered_dataset_df": lambda name: pd.DataFrame({"prompt": texts, "target": labels[name]}),
            "get_yvals": lambda name: labels[name],
            "get_train_test_indices": split,
        },
        ".utils_training": {"find_best_reg": best},
        ".run_sae_evals": {
            "mean_act_normalization": lambda x: x,
            "get_sorted_indices": lambda x, y, f: (
                (x[y == 1].mean(0) - x[y == 0].mean(0)).abs().argsort(descending=True)
            ),
        },
    }
    for name, members in parts.items():
        module = types.ModuleType(f"sae_probes{name}")
        module.__spec__ = ModuleSpec(module.__name__, None)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    sae_probes._part.cache_clear()
    yield labels
    sae_probes._part.cache_clear()


def test_latents_tell_texts_by_their_last_token_and_not_by_chance(lm, sae, stand_in):
    found = probe_sae(sae, lm, probes=("all",), probe_ks=(1, 8), progress=silent)
    ends, chance = (found.datasets[name] for name in SIZES)
    assert (ends.n_train, ends.n_test) == (140, 99)
    assert ends.dense.auroc.value == ends.sparse[8].auroc.value == 1.0 and ends.sparse[8].accuracy.value > 0.95
    # The control: labels that mean nothing. On 99 texts chance has a standard deviation of 0.06; solvers differ.
    for own in (chance.dense, *chance.sparse.values()):
        assert own.auroc.value < 0.75 and own.accuracy.value < 0.75, "no better than chance"
    assert ends.dense.accuracy.low < 1.0, "Wilson's interval is never a point"
    assert len(ends.sparse[8].latents) == 8 and ends.sparse[1].latents == ends.sparse[8].latents[:1]
    said = json.loads(json.dumps(found.summary()))
    values = [own.sparse[8].auroc.value for own in (ends, chance)]
    assert said["probe_auroc_k8"] == pytest.approx(np.mean(values))
    assert min(values) <= said["probe_auroc_k8_low"] <= said["probe_auroc_k8_high"] <= max(values)
    assert said["probes"]["1_ends"]["probes"]["dense"]["auroc"] == 1.0
    assert len(found.table()) == 6 and "AUROC, 8 latents" in found._repr_html_()
    one = probe_sae(sae, lm, probes=("2_by_chance",), probe_ks=(1, 8), probe_test_texts=50, progress=silent)
    few = one.datasets["2_by_chance"]
    assert few.n_test == 50 and few.sparse[8].latents == chance.sparse[8].latents, "the same texts are trained on"
    assert one.mean("auroc", 8) == few.sparse[8].auroc


def test_what_is_read_is_the_last_token_of_a_text_cut_at_its_beginning(lm):
    texts = ["Velmora lies on the river Ost.", "A bridge over the river. " * 40]
    found = last_token_acts(lm, texts, "layers.0", no_advance)
    for row, text in zip(found, texts, strict=True):
        ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"][-127:]  # 128 positions, one for <bos>
        whole = lm.model(torch.tensor([[lm.tokenizer.convert_tokens_to_ids("<bos>"), *ids]]), output_hidden_states=True)
        torch.testing.assert_close(row, whole.hidden_states[1][0, -1].float(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_probed_is_refused(lm, sae, stand_in, monkeypatch):
    with pytest.raises(ConfigError, match="1_ends"):
        probe_sae(sae, lm, probes=("1_end",))
    with pytest.raises(ConfigError, match="none"):
        probe_sae(sae, lm)
    with pytest.raises(ConfigError, match="<= 64"):
        probe_sae(sae, lm, probes=("1_ends",), probe_ks=(65,))
    with pytest.raises(ConfigError, match="growing"):
        ProbingConfig(probe_ks=(5, 1))
    sae.hook_point = "layers.7"
    with pytest.raises(HookPointError):
        probe_sae(sae, lm, probes=("1_ends",))
    monkeypatch.setattr(sae_probes, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sae-workbench\[probes\]"):
        probe_sae(sae, lm, probes=("1_ends",))


@pytest.mark.slow  # the package reads all its texts when it is imported
@pytest.mark.skipif(find_spec("sae_probes") is None, reason="needs the package sae-probes (the extra `probes`)")
def test_the_figures_are_those_of_the_package(make_sae, monkeypatch, tmp_path):
    """The package's own evaluation and baseline of one of its datasets, given the same activations and SAE."""
    name = "95_toxic_is"
    parts = ("utils_data", "run_sae_evals", "run_baselines")
    utils_data, run_sae_evals, run_baselines = (sae_probes._part(part) for part in parts)
    assert len(sae_probes.chosen_datasets(("all",))) == 113
    sae, labels = make_sae("topk").float(), utils_data.get_yvals(name)
    acts = torch.randn(len(labels), 12, generator=torch.Generator().manual_seed(0))
    acts[:, 3] += 0.7 * torch.from_numpy(labels).float()
    first: dict[str, int] = {}  # some texts are there twice: rows go by texts, as with a model
    acts = acts[[first.setdefault(t, i) for i, t in enumerate(utils_data.read_numbered_dataset_df(name)["prompt"])]]
    monkeypatch.setattr(utils_data, "get_xvals", lambda *args, **kwargs: acts)
    where = {"model_name": "made-up", "hook_name": "blocks.1.hook_resid_post", "results_path": tmp_path}
    with sae_probes._quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        how = {"reg_type": "l1", "setting": "normal", "device": "cpu", "ks": [1, 3], "model_cache_path": tmp_path}
        run_sae_evals.run_sae_eval(sae=sae, dataset=name, **where, **how)
        run_baselines.run_baseline_dataset_layer(
            numbered_dataset=name, method_name="logreg", model_cache_path=tmp_path, **where
        )
    (sparse,), (dense,) = (
        [json.loads(p.read_text()) for p in tmp_path.glob(f"{kind}*/**/*.json")] for kind in ("sae", "baseline")
    )
    drawn = sae_probes.drawn_texts(name, max_test=None, seed=42)
    rows = [acts[[first[text] for text in side]] for side in (drawn.train, drawn.test)]
    config = ProbingConfig(probes=(name,), probe_ks=(1, 3))
    found = probe_dataset(sae, *rows, drawn.train_labels, drawn.test_labels, config)
    for k, theirs_k in zip((1, 3), sparse, strict=True):
        ours = found.sparse[k]
        assert (ours.auroc.value, ours.accuracy.value) == (theirs_k["test_auc"], theirs_k["test_acc"])
        assert list(ours.latents) == theirs_k["indices"]
        assert ours.auroc.low <= ours.auroc.value <= ours.auroc.high
    assert found.dense.auroc.value == dense[0]["test_auc"] > 0.6
