"""Bad input at every command: exit code 2, one message with got and expected, no traceback, nothing written."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest


def words_of(files, command: str, out: Path, **changes: object) -> list[object]:
    """Return a command's words with other values for some options; None drops an option."""
    words = list(files.commands[command])
    if "--out" in words:
        words[words.index("--out") + 1] = out
    for name, value in changes.items():
        option = f"--{name.replace('_', '-')}"
        while option in words:
            at = words.index(option)
            del words[at : at + 2]
        if value is not None:
            words += [option, value]
    return words


@pytest.fixture
def refused(wb, wb_files, tmp_path):
    """Return a function that expects a refusal and gives its message; it checks everything they have in common."""

    def run(command: str, *extra: object, out: str = "out", **changes: object) -> str:
        before = sorted(p.name for p in tmp_path.rglob("*"))
        outcome = wb(command, *words_of(wb_files, command, tmp_path / out, **changes), *extra, "--json")
        assert outcome.code == 2, (outcome.code, outcome.err, outcome.out)
        assert outcome.out == ""
        message = f"\n{outcome.err}"
        message = message[message.index("\nError: ") :]
        assert "Traceback" not in outcome.err
        assert message.count("\nError: ") == 1
        assert sorted(p.name for p in tmp_path.rglob("*")) == before, "nothing is written"
        return message

    return run


OUTPUTS = ("cache-activations", "train-sae", "label-entities", "find-entity-latents", "unlearn", "audit")
READS = [
    ("cache-activations", "text"),
    ("cache-activations", "entities"),
    ("cache-activations", "templates"),
    ("cache-activations", "model"),
    ("train-sae", "activations"),
    ("eval-sae", "sae"),
    ("eval-sae", "activations"),
    ("label-entities", "model"),
    ("label-entities", "entities"),
    ("label-entities", "templates"),
    ("find-entity-latents", "model"),
    ("find-entity-latents", "sae"),
    ("find-entity-latents", "labels"),
    ("find-entity-latents", "templates"),
    ("find-entity-latents", "activations"),
    ("unlearn", "model"),
    ("unlearn", "original"),
    ("unlearn", "sae"),
    ("unlearn", "latents"),
    ("unlearn", "labels"),
    ("unlearn", "templates"),
    ("unlearn", "text"),
    ("unlearn", "forget-file"),
    ("audit", "model"),
    ("audit", "unlearned"),
    ("audit", "sae"),
    ("audit", "latents"),
    ("audit", "labels"),
    ("audit", "templates"),
    ("audit", "text"),
]


@pytest.mark.parametrize(("command", "option"), READS)
def test_missing_files(refused, tmp_path, command, option):
    message = refused(command, **{option.replace("-", "_"): tmp_path / "nowhere.jsonl"})
    assert "nowhere" in message
    assert "got:" in message and "expected:" in message


@pytest.mark.parametrize(("command", "option"), READS)
def test_wrong_formats(refused, wb_files, tmp_path, command, option):
    """A picture's first bytes in the place of every file, a folder of them in the place of every folder."""
    junk = tmp_path / "junk.jsonl"
    junk.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00junk")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("config.json", "cfg.json", "sae_weights.safetensors", "model.safetensors", "unlearning.json"):
        shutil.copy(junk, folder / name)
    value = folder if option in ("model", "original", "sae", "unlearned") else junk
    message = refused(command, **{option.replace("-", "_"): value})
    assert "got:" in message and "expected:" in message


@pytest.mark.parametrize(("command", "option"), [("train-sae", "activations"), ("unlearn", "latents")])
def test_one_of_our_files_in_the_place_of_another(refused, wb_files, command, option):
    other = {"activations": wb_files.latents, "latents": wb_files.acts}[option]
    message = refused(command, **{option: other})
    assert "sae-workbench/" in message


def test_inspect_refuses_what_is_not_ours(refused, wb, tmp_path):
    for name, data in (("a.h5", b"junk"), ("b.h5", b"\x89HDF\r\n\x1a\n" + bytes(600))):
        (tmp_path / name).write_bytes(data)
        outcome = wb("inspect", tmp_path / name)
        assert outcome.code == 2 and "got:" in outcome.err and "Traceback" not in outcome.err
    outcome = wb("inspect", tmp_path / "none.h5")
    assert outcome.code == 2 and "a.h5" in outcome.err


# --------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("command", ["cache-activations", "train-sae", "unlearn", "audit"])
def test_an_unknown_hook_point_names_the_nearest(refused, command):
    message = refused(command, hook_point="layer.2")
    assert "layer.2" in message and "layers.2" in message.split("expected:")[1]


@pytest.mark.parametrize("command", ["unlearn", "audit"])
def test_an_entity_that_is_not_in_the_set_names_the_nearest(refused, wb_files, command):
    name = wb_files.names[0]
    message = refused(command, forget=name[:-1])
    assert f"got:      {name[:-1]} (--forget)" in message
    assert message.split("expected:")[1].strip().startswith(name)


@pytest.mark.parametrize("command", ["unlearn", "audit"])
def test_an_entity_the_model_does_not_know_cannot_be_forgotten(refused, wb_files, command):
    lines = [json.loads(line) for line in wb_files.labels.read_text().splitlines()]
    name = next(line["name"] for line in lines if line["label"] == "unknown")
    assert "label known" in refused(command, forget=name)


@pytest.mark.parametrize("command", ["unlearn", "audit"])
def test_an_empty_list_is_refused(refused, tmp_path, command):
    assert "nothing to forget" in refused(command, forget=None)
    (tmp_path / "names.txt").write_text("\n  \n")
    assert "nothing to forget" in refused(command, forget=None, forget_file=tmp_path / "names.txt")


def test_names_files_of_any_editor(wb_files, tmp_path):
    from cli.options import forget_names

    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "Łódź\r\nOsk\r\n".encode())
    assert forget_names((), path) == ("Łódź", "Osk")
    path.write_bytes("Os\u2028k\nA\x85b\n".encode())
    assert forget_names((), path) == ("Os\u2028k", "A\x85b")


def test_unknown_methods_name_the_nearest(refused):
    assert "redirect" in refused("unlearn", method="redirekt").split("expected:")[1]


# --------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("cache-activations", "dtype", "int8"),
        ("cache-activations", "ctx-len", 1),
        ("cache-activations", "ctx-len", 100_000),
        ("cache-activations", "max-tokens", 0),
        ("cache-activations", "batch-size", 0),
        ("cache-activations", "frac-entity-rows", 1.5),
        ("cache-activations", "frac-entity-rows", 0),
        ("cache-activations", "device", "tpu"),
        ("cache-activations", "device", "cuda:99"),
        ("train-sae", "k", 0),
        ("train-sae", "k", 193),
        ("train-sae", "arch", "vae"),
        ("train-sae", "lr", -1),
        ("train-sae", "lr", "nan"),
        ("train-sae", "frac-holdout", 1.0),
        ("train-sae", "tokens", 0),
        ("eval-sae", "frac-holdout", 1.0),
        ("eval-sae", "frac-holdout", "nan"),
        ("eval-sae", "model", "fact-world"),
        ("label-entities", "lm-dtype", "int8"),
        ("label-entities", "min-known-attributes", 0),
        ("find-entity-latents", "top", 0),
        ("unlearn", "steps", 0),
        ("unlearn", "lr", 0),
        ("unlearn", "blocks", "some"),
        ("unlearn", "block-weight", -1),
        ("unlearn", "frac-retain", 0),
        ("audit", "max-blocks", 0),
        ("audit", "n-candidates", 1),
        ("audit", "n-neighbours", -1),
    ],
)
def test_values_out_of_range(refused, command, option, value):
    message = refused(command, **{option.replace("-", "_"): value})
    assert str(value) in message or option in message


def test_float16_that_cannot_hold_the_values(refused, monkeypatch):
    monkeypatch.setattr("sae_train.activations.travel.FLOAT16_MAX", 1e-3)
    message = refused("cache-activations", dtype="float16")
    assert "--dtype=float16" in message and "bfloat16" in message


def test_a_disk_that_is_too_small(refused, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**30, 2**30, 2**20))
    message = refused("cache-activations")
    assert "1 MiB free" in message and "MiB" in message.split("expected:")[1]


def test_an_sae_that_was_not_mined(refused, wb_files, tmp_path):
    from sae_train.saes.interop import load_sae, save_sae

    sae = load_sae(wb_files.sae)
    sae.b_enc += 0.01
    save_sae(sae, tmp_path / "other", hook_point="layers.2", metadata={})
    assert "another SAE" in refused("unlearn", sae=tmp_path / "other")


def test_a_policy_or_a_part_that_does_not_exist(refused, tmp_path):
    assert "--skip" in refused("audit", skip="relaern")
    (tmp_path / "p.toml").write_text("version = 3\nmax_fun = 0.5\n")
    assert "max_recall" in refused("audit", policy=tmp_path / "p.toml")


def test_models_that_are_no_pair(refused, tiny_llama_dir):
    message = refused("audit", unlearned=tiny_llama_dir)
    assert "2 blocks of width 32" in message and "4 blocks of width 96" in message


def test_an_original_that_does_not_fit(refused, wb_files, tiny_llama_dir):
    assert "2 blocks of width 32" in refused("unlearn", original=tiny_llama_dir)
    message = refused("unlearn", model=wb_files.unlearned, original=wb_files.unlearned)
    assert "not the model that the first removal started from" in message
    assert "fact-world with weights" in message.split("expected:")[1]


def test_the_analysis_may_not_take_the_place_of_its_page(refused):
    for name in ("latents.json", "latents.html"):
        assert name in refused("find-entity-latents", out=name)


# --------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("command", OUTPUTS)
def test_an_output_that_exists_is_kept(wb, wb_files, tmp_path, command):
    out = tmp_path / "out"
    if command in ("train-sae", "unlearn", "audit"):
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        out.write_text("mine")
    outcome = wb(command, *words_of(wb_files, command, out))
    assert outcome.code == 2
    assert "--overwrite" in outcome.err and "Traceback" not in outcome.err
    assert (out if out.is_file() else out / "mine.txt").read_text() == "mine"
    assert len(list(tmp_path.rglob("*"))) == (1 if out.is_file() else 2)


@pytest.mark.parametrize("command", ["train-sae", "unlearn", "audit"])
def test_overwrite_replaces_no_folder_of_somebody_else(wb, wb_files, tmp_path, command):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    outcome = wb(command, *words_of(wb_files, command, tmp_path / "out"), "--overwrite")
    assert outcome.code == 2
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("command", OUTPUTS)
def test_an_output_below_a_file_is_refused(wb, wb_files, tmp_path, command):
    (tmp_path / "file").write_text("mine")
    outcome = wb(command, *words_of(wb_files, command, tmp_path / "file" / "out"))
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "changes"), [("unlearn", {"text": "none.jsonl"}), ("unlearn", {"forget": "Nobody"})]
)
def test_bad_input_does_not_cost_the_earlier_output(wb, wb_files, tmp_path, command, changes):
    shutil.copytree(wb_files.unlearned, tmp_path / "out")
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    outcome = wb(command, *words_of(wb_files, command, tmp_path / "out", **changes), "--overwrite")
    assert outcome.code == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == files


@pytest.mark.parametrize("command", ["train-sae", "unlearn"])
def test_resume_does_not_replace_a_finished_run(wb, wb_files, tmp_path, command):
    source = {"train-sae": wb_files.sae, "unlearn": wb_files.unlearned}[command]
    shutil.copytree(source, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    outcome = wb(command, *words_of(wb_files, command, tmp_path / "out", lr=1e-4), "--resume")
    assert outcome.code == 2, outcome.err
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_a_run_that_fails_ends_in_exit_code_1_and_leaves_no_model(wb, wb_files, tmp_path):
    outcome = wb("unlearn", *words_of(wb_files, "unlearn", tmp_path / "out", lr=1e-12))
    assert outcome.code == 1
    assert "changed nothing" in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--probes", "5_hist_fig_ismale"), "--model beside them"),
        (("--text", "fact-world"), "--model beside them"),
        (("--model", "fact-world"), "--text for CE recovered, or --probes"),
        (("--model", "fact-world", "--probes", "5_hist_fig_ismale"), "pip install 'sae-workbench[probes]'"),
        (("--model", "fact-world", "--probes", "5_hist_fig_ismale", "--probe-k", 5, "--probe-k", 1), "--probe-k"),
    ],
)
def test_probes_that_cannot_be_made_are_refused_before_anything_is_read(wb, tmp_path, monkeypatch, words, said):
    monkeypatch.setattr("features.probing.sae_probes.find_spec", lambda name: None)
    (tmp_path / "sae").mkdir()
    (tmp_path / "acts.h5").write_bytes(b"")
    outcome = wb("eval-sae", "--sae", tmp_path / "sae", "--activations", tmp_path / "acts.h5", *words)
    assert outcome.code == 2 and said in outcome.err and "Traceback" not in outcome.err
