"""The commands end to end on a corner of the shipped world: what they print, what they leave, what they keep."""

from __future__ import annotations

import json
import re

import pytest

from features.analysis.store import load_analysis
from sae_train.lm.models import load_lm
from sae_train.saes.interop import load_sae
from unlearn.auditing.attacks import ATTACKS
from unlearn.auditing.evaluations import EVALUATIONS

ROW_KEYS = {"hook_point", "latent", "separation", "heldout_separation", "auroc", "q_value", "general_rate"}
KEYS = {
    "cache-activations": {"n_rows", "n_tokens", "hook_points", "tokens_per_s", "bytes"},
    "train-sae": {"fvu", "l0", "frac_dead", "n_tokens", "tokens_per_s"},
    "eval-sae": {"fvu", "l0", "frac_dead", "n_tokens", "tokens_per_s"},
    "label-entities": {"known", "unknown", "between"},
    "find-entity-latents": {"known", "unknown", "probe_auroc", "score_auroc"},
    "unlearn": {"model", "method", "steps", "seconds", "changed_parameters"},
    "audit": {"verdict", "forget", "neighbours", "retain", "utility", "indistinguishability", "attacks", "behaviour"},
}


@pytest.mark.parametrize("command", KEYS)
def test_json_has_the_documented_keys(wb_files, command):
    assert KEYS[command] <= set(wb_files.json[command])


def test_cached_rows(wb_files):
    found = wb_files.json["cache-activations"]
    assert found["hook_points"] == ["layers.1", "layers.2"], "SAELens' name means the same"
    assert 0 < found["n_rows"] <= 4000
    assert found["n_tokens"] > found["n_rows"]
    assert found["bytes"] == wb_files.acts.stat().st_size


def test_inspect_tells_structure_statistics_and_integrity(wb_files, wb):
    found = wb_files.json["inspect"]
    assert found["schema"] == "activations"
    assert found["damaged"] == []
    assert found["verified"] == len(found["datasets"]) > 4
    assert set(found["statistics"]) == {"layers.1", "layers.2"}
    shapes = {d["name"]: d["shape"] for d in found["datasets"]}
    assert shapes["acts/layers.2"] == [wb_files.json["cache-activations"]["n_rows"], 96]
    text = wb("inspect", wb_files.acts)
    assert text.code == 0
    assert "layers.2" in text.out and "model_hash" in text.out
    latents = json.loads(wb("inspect", wb_files.latents, "--json").out)
    assert (latents["schema"], latents["statistics"], latents["verified"]) == ("latents", {}, None)


def test_a_damaged_store_ends_in_exit_code_2(wb_files, wb, tmp_path):
    data = bytearray(wb_files.acts.read_bytes())
    at = len(data) * 3 // 4
    data[at : at + 64] = bytes(b ^ 0xFF for b in data[at : at + 64])
    (tmp_path / "bad.h5").write_bytes(data)
    outcome = wb("inspect", tmp_path / "bad.h5", "--verify", "--json")
    assert outcome.code == 2
    assert json.loads(outcome.out)["damaged"]
    assert "damaged" in outcome.err


def test_the_sae_is_a_folder_that_reads(wb_files):
    found = wb_files.json["train-sae"]
    assert 0 < found["fvu"] < 0.9
    assert found["l0"] <= 8
    loaded = load_sae(wb_files.sae)
    assert (loaded.hook_point, loaded.d_sae) == ("layers.2", 192)
    assert json.loads((wb_files.sae / "run.json").read_text())["ended"]
    assert wb_files.json["eval-sae"]["fvu"] == pytest.approx(found["fvu"], rel=1e-4), "the same held-out documents"


def test_eval_sae_with_the_model(wb_files, wb):
    words = (*wb_files.commands["eval-sae"], "--model", "fact-world", "--text", wb_files.text, "--max-tokens", 1500)
    found = json.loads(wb("eval-sae", *words, "--json").out)
    for name in ("ce_clean", "ce_sae", "ce_zero", "ce_recovered", "kl", "fvu", "l0", "frac_dead", "l2_ratio"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"], name
    assert found["text_held_out"] and found["n_texts"] <= found["n_documents"], "the store's text: held-out documents"
    assert found["ce_clean"] < found["ce_sae"] < found["ce_zero"]
    assert found["ce_recovered"] == pytest.approx(
        (found["ce_zero"] - found["ce_sae"]) / (found["ce_zero"] - found["ce_clean"])
    )
    other = wb_files.here / "other.txt"
    other.write_text("A quiet street, a market, a bridge.\n\nNothing else is known.", encoding="utf-8")
    words = (*wb_files.commands["eval-sae"], "--model", "fact-world", "--text", other)
    outcome = wb("eval-sae", *words)
    assert outcome.code == 0 and "not the text of the store" in outcome.err
    assert "kl " in outcome.out and re.search(r"fvu +0\.\d+ \[0\.\d+, 0\.\d+\]", outcome.out)


def test_labels(wb_files, world_entities):
    counts = wb_files.json["label-entities"]
    lines = [json.loads(line) for line in wb_files.labels.read_text().splitlines()]
    assert [line["name"] for line in lines] == [e.name for e in world_entities]
    for label in ("known", "unknown", "between"):
        assert counts[label] == sum(line["label"] == label for line in lines)
    assert counts["known"] >= 44 and counts["unknown"] >= 36, "of 48 and 40"
    assert all(line["answers"] for line in lines)


def test_latents(wb_files):
    found = wb_files.json["find-entity-latents"]
    rows = found["known"] + found["unknown"]
    assert rows
    assert all(ROW_KEYS <= set(row) for row in rows)
    assert load_analysis(wb_files.latents).summary()["unknown"] == found["unknown"]
    beside = json.loads(wb_files.latents.with_suffix(".json").read_text())
    assert beside["unknown"] == found["unknown"]
    assert wb_files.latents.with_suffix(".html").read_text().lstrip().startswith("<!")


@pytest.mark.slow
def test_names_are_read_once_and_mined_without_the_model(wb_files, wb, tmp_path):
    names, out = tmp_path / "names.h5", tmp_path / "again.h5"
    sae = ("--sae", wb_files.sae, "--activations", wb_files.acts, "--max-general-rate", 1, "--json")
    asked = ("--model", "fact-world", "--labels", wb_files.labels, "--templates", wb_files.templates, "--no-gate")
    first = wb("find-entity-latents", *sae, *asked, "--acts-out", names, "--out", tmp_path / "first.h5")
    assert first.code == 0, first.err
    again = wb("find-entity-latents", *sae, "--acts", names, "--out", out)
    assert again.code == 0, again.err
    rows = [json.loads(done.out)["unknown"] for done in (first, again)]
    assert rows[0] and rows[0] == rows[1]
    assert "for unknown: best MaxMin" in again.err
    assert json.loads(wb("inspect", names, "--verify", "--json").out)["schema"] == "name-activations"
    nothing = wb("find-entity-latents", *sae, "--out", tmp_path / "no.h5")
    assert nothing.code == 2 and "--acts" in nothing.err
    both = wb("find-entity-latents", *sae, "--acts", names, "--position", "all", "--out", tmp_path / "no.h5")
    assert both.code == 2 and "--position" in both.err


def test_the_unlearned_model_is_a_folder_that_loads(wb_files, world_lm):
    found = wb_files.json["unlearn"]
    assert (found["method"], found["steps"]) == ("redirect", 3)
    assert found["changed_parameters"] > 0
    changed = load_lm(str(wb_files.unlearned), device="cpu").model
    gaps = [float((a - b).abs().max()) for a, b in zip(changed.parameters(), world_lm.model.parameters(), strict=True)]
    assert max(gaps) > 0
    record = json.loads((wb_files.unlearned / "unlearning.json").read_text())
    assert record["inputs"]["forget"] == [f"person:{name}" for name in wb_files.names]
    assert not wb_files.unlearned.with_name("unlearned.run").exists()


def test_the_audit(wb_files):
    found = wb_files.json["audit"]
    assert found["verdict"] in ("pass", "fail", "inconclusive")
    for group in ("forget", "neighbours", "retain"):
        assert {"recall_before", "recall_after", "ranking_before", "ranking_after"} <= set(found[group])
    assert {"loss_before", "loss_after"} <= set(found["utility"])
    assert all({"auroc", "auroc_low", "auroc_high"} <= set(b) for b in found["indistinguishability"].values())
    assert all({"recall_after", "compared_with"} <= set(a) for a in found["attacks"].values())
    assert {"leak", "confabulation", "unknown", "gibberish"} < set(found["behaviour"]["after"])
    assert {"layers.2, SAE latents", "layers.2, SAE error"} <= set(found["indistinguishability"])
    assert {line.split(":")[0] for line in found["not_tested"]} >= {
        "relearn",
        "same-form",
        "prompts",
        "prune",
        "finetune",
    }
    assert found["policy"]["name"] == "default" and len(found["policy"]["sha256"]) == 64
    assert found["request"]["method"] == "redirect"
    assert found["forget"]["recall_before"] > 0.8
    saved = json.loads((wb_files.audit / "audit.json").read_text())
    assert saved["verdict"] == found["verdict"]
    assert (wb_files.audit / "audit.html").is_file()


def test_a_ledger_is_audited_again(wb, wb_files, tmp_path):
    """On the newest model, and as the control on the untouched one, where every removal has come back."""
    ledger = tmp_path / "removals.jsonl"
    added = wb("ledger", "add", "--ledger", ledger, "--unlearned", wb_files.unlearned, "--audit", wb_files.audit)
    assert added.code == 0, added.err
    words = list(wb_files.commands["audit"][: wb_files.commands["audit"].index("--forget")])
    at = words.index("--unlearned")
    words[at : at + 2] = ["--ledger", ledger]
    parts = [
        w for name in (*EVALUATIONS, *ATTACKS) if name not in ("recall", "ranking", "utility") for w in ("--skip", name)
    ]
    words += ["--max-retain", 2, "--n-neighbours", 1, "--max-blocks", 1, *parts, "--json"]
    done = wb("audit", *words, "--out", tmp_path / "again")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["removals"]
    assert row["forget"] == wb_files.names and row["verdict_then"] == wb_files.json["audit"]["verdict"]
    assert row["recall_after"] == wb_files.json["audit"]["forget"]["recall_after"]
    assert json.loads((tmp_path / "again" / "entry-0" / "audit.json").read_text())["verdict"] == row["verdict"]
    control = wb("audit", *words, "--unlearned", "fact-world", "--out", tmp_path / "control")
    assert json.loads(control.out)["came_back"] == 1
    both = wb("audit", *words, "--forget", wb_files.names[0], "--out", tmp_path / "both")
    assert both.code == 2 and "--forget" in both.err


def test_without_json_there_is_a_table(wb_files, wb, tmp_path):
    words = [w if w != wb_files.labels else tmp_path / "labels.jsonl" for w in wb_files.commands["label-entities"]]
    outcome = wb("label-entities", *words)
    assert outcome.code == 0
    assert "known" in outcome.out and not outcome.out.startswith("{")
    assert (tmp_path / "labels.jsonl").read_bytes() == wb_files.labels.read_bytes(), "the same answers again"


@pytest.mark.slow
def test_the_same_seed_trains_the_same_sae(wb_files, wb, tmp_path):
    words = [w if w != wb_files.sae else tmp_path / "sae" for w in wb_files.commands["train-sae"]]
    assert wb("train-sae", *words).code == 0
    weights = "sae_weights.safetensors"
    assert (tmp_path / "sae" / weights).read_bytes() == (wb_files.sae / weights).read_bytes()
    assert wb("train-sae", *words, "--seed", 1, "--overwrite").code == 0
    assert (tmp_path / "sae" / weights).read_bytes() != (wb_files.sae / weights).read_bytes()


def test_a_config_file_stands_for_options(wb_files, wb, tmp_path):
    config = tmp_path / "label.toml"
    config.write_text(
        f'model = "fact-world"\nentities = "{wb_files.entities}"\ntemplates = "{wb_files.templates}"\n'
        "min-known-attributes = 1\n"
    )
    outcome = wb("label-entities", "--config", config, "--out", tmp_path / "labels.jsonl", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["known"] >= wb_files.json["label-entities"]["known"]


def test_the_audit_reads_where_the_model_was_unlearned(wb_files):
    """With several SAEs and no --hook-point the record of the unlearned model decides."""
    from unlearn.removals.record import RemovalRecord

    assert RemovalRecord.read(wb_files.unlearned).hook_point == "layers.2"
    assert RemovalRecord.read(wb_files.sae).hook_point is None
    assert RemovalRecord.read(wb_files.sae).method == "not recorded"
