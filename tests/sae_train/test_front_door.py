"""The ground floor's front door: text -> store -> SAE -> figures, in memory or on disk; the command line's defaults."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import sae_train
from sae_train import (
    ActivationStore,
    Sae,
    cache_activations,
    compare_saes,
    eval_sae,
    import_sae,
    load_lm,
    train_sae,
    train_saes,
)
from sae_train.config import CacheConfig, SaeTrainConfig
from sae_train.errors import (
    ConfigError,
    FileFormatError,
    HookPointError,
    InputError,
    MissingFileError,
    OutputExistsError,
)
from sae_train.run.notes import LOGGER
from sae_train.run.progress import no_advance, silent
from sae_train.saes import build_sae
from sae_train.saes.interop import RECORDS, WEIGHTS, sae_hash
from sae_train.text.tokens import Corpus, Document

PLACES = ("Velmora", "Ostrava", "Karvin", "the harbour", "the old bridge", "a quiet street")
TEXT = [
    f"Mira Tolvan {verb} in {place} for {n} days." for place in PLACES for verb in ("sang", "slept") for n in range(9)
]
SMALL = {"k": 3, "expansion": 2, "batch_size": 64, "tokens": 640, "frac_holdout": 0.1, "lr": 3e-3}


@pytest.fixture(scope="module")
def lm(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Return a function that lists everything in the working folder and in the folder for temporary files."""
    import sae_lens  # noqa: F401  wandb, which it imports, makes a temporary folder of its own

    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return lambda: [p for name in ("here", "temporary") for p in (tmp_path / name).iterdir()]


@pytest.fixture(scope="module")
def acts(lm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("front-door") / "acts.h5"
    hook_points = ["layers.0", "blocks.1.hook_resid_post"]
    cache_activations(lm, TEXT, hook_points, out=path, ctx_len=32, dtype="float32", progress=silent).close()
    return path


@pytest.fixture(scope="module")
def sae_folder(acts) -> Path:
    folder = acts.parent / "sae"
    train_sae(acts, "layers.1", out=folder, device="cpu", progress=silent, **SMALL)
    return folder


# ------------------------------------------------------------------------------ the door itself
def test_every_name_can_be_imported_and_is_what_it_says():
    for name in sae_train.__all__:
        found = getattr(sae_train, name)
        assert found.__name__ == name and found.__doc__, name
        assert f"    {name}" in str(sae_train.__doc__) or f", {name}" in str(sae_train.__doc__), name
    assert dir(sae_train) == sorted(sae_train.__all__)
    with pytest.raises(AttributeError, match="train_seas"):
        _ = sae_train.train_seas


def test_opening_the_door_imports_no_torch_and_modules_stay_importable():
    code = "import sae_train, sys; assert not {'torch', 'h5py', 'numpy'} & set(sys.modules), 'heavy'; dir(sae_train)\n"
    code += "from sae_train.storage import h5; assert h5.__name__ == 'sae_train.storage.h5'"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------ in memory
def test_from_text_to_figures_with_nothing_left_on_disk(lm, nowhere):
    store = cache_activations(lm, TEXT, ["layers.0", "layers.1"], ctx_len=32, progress=silent)
    assert store.result is not None and store.result.n_rows == store.n_rows == len(store["layers.0"])
    assert {"n_rows", "n_tokens", "hook_points", "tokens_per_s", "bytes"} <= set(store.result.summary())
    assert store["layers.1"][3:9].shape == (6, 32) and len(store.dataset("layers.1")) == store.n_rows
    sae = train_sae(store, "layers.1", device="cpu", progress=silent, **SMALL)
    assert (sae.name, sae.hook_point, sae.arch, sae.d_sae) == ("layers.1", "layers.1", "topk", 64)
    assert {"fvu", "l0", "frac_dead", "n_tokens", "tokens_per_s"} <= set(sae.metrics)
    rows = torch.from_numpy(store["layers.1"][:50])
    assert sae.decode(sae.encode(rows)).shape == rows.shape and not sae.training
    found = eval_sae(sae, store, lm=lm, text=TEXT, frac_holdout=0.1, max_tokens=300)
    assert found.quality.fvu.value == pytest.approx(sae.metrics["fvu"]) and found.text_held_out is True
    assert found.spliced is not None and found.spliced.ce_sae.value > 0
    twin = copy.deepcopy(sae)
    assert compare_saes(sae, twin, store=store).summary()["frac_twins_a"] == 1
    imported = import_sae(str(sae.folder))
    assert torch.equal(imported.encode(rows), sae.encode(rows)) and imported.metrics["format"] == "saelens"
    assert len(nowhere()) == 3, "a folder each for store, SAE and import"
    del sae, imported
    gc.collect()
    assert len(nowhere()) == 2 and twin.folder is not None and twin.folder.exists(), "a copy keeps the files"
    del twin, store
    gc.collect()
    assert nowhere() == []


def test_several_share_a_temporary_folder_until_the_last_one_goes(acts, nowhere):
    settings = {**SMALL, "k": [3, 5], "expansion": [2]}
    first, second = train_saes(acts, ["layers.1"], device="cpu", progress=silent, **settings)
    assert (first.name, second.name) == ("k3", "k5") and len(nowhere()) == 1
    del first
    gc.collect()
    assert (second.folder / WEIGHTS).is_file()
    del second
    gc.collect()
    assert nowhere() == []


def test_a_failure_leaves_nothing_either(acts, nowhere):
    with pytest.raises(ConfigError):
        train_sae(acts, "layers.1", k=999, expansion=2, progress=silent)
    gc.collect()
    assert nowhere() == []


# ------------------------------------------------------------------------------ on disk
def test_an_sae_survives_saving_loading_and_saelens(acts, sae_folder, tmp_path):
    sae = Sae.load(sae_folder, device="cpu")
    assert sae.folder == sae_folder and sae.cfg["metadata"]["hook_point"] == sae.hook_point == "layers.1"
    with ActivationStore(acts) as store:
        rows = torch.from_numpy(store["layers.1"][:100])
    folder = sae.save(tmp_path / "copy")
    assert folder == sae.folder == tmp_path / "copy" and sae.name == "copy"
    for name in (WEIGHTS, "cfg.json", *RECORDS):
        assert (folder / name).read_bytes() == (sae_folder / name).read_bytes(), name
    again = Sae.load(str(folder), device="cpu")
    assert torch.equal(again.encode(rows), sae.encode(rows)) and again.metrics == sae.metrics
    theirs = sae.to_saelens()
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    torch.testing.assert_close(theirs.encode(rows), sae.encode(rows), rtol=0, atol=0)
    with pytest.raises(OutputExistsError):
        again.save(sae_folder)
    with torch.no_grad():
        again.b_dec += 1
    again.save(folder, overwrite=True)
    assert not torch.equal(Sae.load(folder, device="cpu").b_dec, sae.b_dec) and (folder / "run.json").is_file()
    html = sae._repr_html_()
    assert "layers.1" in html and "topk" in html and "fvu" in html and str(folder) in html


@pytest.mark.parametrize("arch", ["topk", "batch-topk", "relu", "jumprelu", "matryoshka"])
def test_every_architecture_comes_back_as_it_was_trained(acts, arch, tmp_path):
    sae = train_sae(acts, "layers.0", arch=arch, device="cpu", progress=silent, **SMALL)
    folder, digest = sae.save(tmp_path / "sae"), sae_hash(sae)
    assert Sae.load(folder, device="cpu").save(tmp_path / "again") and sae_hash(Sae.load(tmp_path / "again")) == digest
    assert f"<td>{arch}</td>" in Sae.load(tmp_path / "again")._repr_html_()


def test_an_sae_made_by_hand_is_saved_once_it_says_where_it_reads(tmp_path):
    sae = build_sae("topk", 8, 16, k=2)
    sae.init_weights(torch.zeros(8), 0)
    for use in (lambda: sae.save(tmp_path / "sae"), sae.to_saelens):
        with pytest.raises(ConfigError, match="where does this SAE read"):
            use()
    sae.hook_point = "layers.3"
    in_memory = sae_hash(sae)
    assert sae.folder is None and sae.name == "layers.3"
    sae.save(tmp_path / "sae")
    assert sae_hash(sae) == in_memory, "the hash is that of the file it will be"
    assert Sae.load(tmp_path / "sae").hook_point == "layers.3"


def test_a_release_is_asked_for_and_only_by_name(monkeypatch, sae_folder):
    with pytest.raises(MissingFileError, match=r"gemma-scope[\s\S]*connection to the Hugging Face hub"):
        Sae.load("gemma-scope-2b-pt-res-canonical:layer_20/width_16k/canonical")
    with pytest.raises(MissingFileError, match="nothing"):
        Sae.load("nothing")
    (sae_folder.parent / "broken").mkdir(exist_ok=True)
    (sae_folder.parent / "broken" / "cfg.json").write_text("{}")
    with pytest.raises(FileFormatError, match="incomplete"):
        Sae.load(sae_folder.parent / "broken")
    theirs = Sae.load(sae_folder, device="cpu").to_saelens()
    monkeypatch.setattr("sae_train.saes.importers.saelens._load_release", lambda release, sae_id: theirs)
    sae = Sae.load("some-release:some/sae", device="cpu")
    assert (sae.hook_point, sae.folder, sae.name) == ("layers.1", None, "layers.1")
    assert torch.equal(sae.W_dec, theirs.W_dec)


def test_out_is_claimed_and_resumed_as_on_the_command_line(lm, acts, sae_folder, tmp_path):
    with pytest.raises(OutputExistsError):
        train_sae(acts, "layers.1", out=sae_folder, progress=silent, **SMALL)
    with pytest.raises(OutputExistsError):
        cache_activations(lm, TEXT, "layers.0", out=acts, ctx_len=32, progress=silent)
    with pytest.raises(OutputExistsError, match="finished"):
        train_sae(acts, "layers.1", out=sae_folder, resume=True, progress=silent, **SMALL)
    with pytest.raises(ConfigError, match="without out"):
        train_sae(acts, "layers.1", resume=True, progress=silent, **SMALL)
    calls, steps = [], []

    def stops(description, total=None, *, unit=""):
        def advance(n=1, *, earlier=0, **info):
            calls.append((n, earlier))
            if len(calls) == 6:
                raise KeyboardInterrupt

        return nullcontext(advance)

    def counts(description, total=None, *, unit=""):
        assert (description, total, unit) == ("training", 640, "tokens")
        return nullcontext(lambda n=1, *, earlier=0, **info: steps.append(n + earlier))

    run = {"out": tmp_path / "sae", "device": "cpu", "save_every": 4, **SMALL}
    with pytest.raises(KeyboardInterrupt):
        train_sae(acts, "layers.1", progress=stops, **run)
    train_sae(acts, "layers.1", progress=counts, resume=True, **run)
    assert steps == [4 * 64] + [64] * 6
    assert (tmp_path / "sae" / WEIGHTS).read_bytes() == (sae_folder / WEIGHTS).read_bytes()


def test_entity_contexts_go_together_with_their_share(lm):
    contexts = [Document(f"{name} was born in Velmora.", len(name)) for name in ("Mira Tolvan", "Edo Karvin")] * 20
    for documents, share in ((contexts, 0.0), ((), 0.2)):
        with pytest.raises(ConfigError, match="frac_entity_rows"):
            cache_activations(lm, TEXT, "layers.0", entity_documents=documents, frac_entity_rows=share, progress=silent)
    mixed = {"entity_documents": iter(contexts), "frac_entity_rows": 0.2, "max_tokens": 100, "ctx_len": 32}
    with cache_activations(lm, Corpus("mine", iter(TEXT)), "layers.0", progress=silent, **mixed) as store:
        assert store.row_field("from_entity").sum() == 20 == store.result.n_entity_rows
        assert store.attrs["text"] == "mine" and store.attrs["lm_dtype"] == "float32"
        table = store.table(tokenizer=lm.tokenizer)
    assert set(table[table["from_entity"] == 1]["token"]) <= {"an", "in", " Tolvan", " Karvin", "n"} | set(
        table["token"]
    )


def test_the_estimate_is_news_for_whoever_asks(lm, caplog):
    """One logger for all notes; what needs no attention is below the level that Python shows by itself."""
    with caplog.at_level("INFO", logger=LOGGER):
        cache_activations(lm, TEXT, "layers.0", ctx_len=32, progress=silent).close()
    (record,) = [r for r in caplog.records if "caching" in r.getMessage()]
    assert (record.name, record.levelname) == (LOGGER, "INFO") and "rows" in record.getMessage()


def test_a_text_is_a_path_documents_or_strings(lm, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(TEXT))
    stores = [
        cache_activations(lm, text, "layers.0", ctx_len=32, dtype="float32", progress=silent)
        for text in (path, str(path), TEXT, [Document(t) for t in TEXT], iter(TEXT), Corpus("a text", TEXT))
    ]
    for store in stores[1:]:
        np.testing.assert_array_equal(store["layers.0"][:], stores[0]["layers.0"][:])
    assert [s.attrs["text"] for s in stores] == [str(path), str(path), "documents", "documents", "documents", "a text"]
    with pytest.raises(MissingFileError):
        cache_activations(lm, tmp_path / "nothing.txt", "layers.0", progress=silent)


# ------------------------------------------------------------------------------ settings
def test_settings_are_fields_and_unknown_ones_are_refused_with_the_nearest(lm, acts, sae_folder):
    wrong = {
        "expansion": lambda: train_sae(acts, "layers.1", expansoin=2, progress=silent),
        "lr_warmup_steps": lambda: train_saes(acts, ["layers.1"], lr_warmup=2, progress=silent),
        "ctx_len": lambda: cache_activations(lm, TEXT, "layers.0", ctx_length=32, progress=silent),
        "frac_holdout": lambda: eval_sae(sae_folder, acts, holdout=0.2),
        "threshold": lambda: compare_saes(sae_folder, sae_folder, treshold=0.5),
        "unit_norm": lambda: import_sae(sae_folder, unit_nrm=True),
    }
    for name, call in wrong.items():
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value.expected).startswith(name), caught.value
    for call in (
        lambda: train_sae(acts, progress=silent, **SMALL),
        lambda: cache_activations(lm, TEXT, progress=silent),
        lambda: import_sae(),
        lambda: eval_sae(sae_folder, acts, lm=lm, frac_holdout=0.1),
        lambda: eval_sae(sae_folder, acts, text=TEXT, frac_holdout=0.1),
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(HookPointError, match="layers.1"):
        train_sae(acts, "layers.7", progress=silent, **SMALL)


def test_a_config_goes_whole_or_with_changes_and_the_only_hook_point_need_not_be_said(acts, lm, nowhere):
    config = SaeTrainConfig("layers.1", **SMALL)
    whole = train_sae(acts, config=config, device="cpu", progress=silent)
    changed = train_sae(acts, config=config, k=5, device="cpu", progress=silent)
    assert (whole.k, changed.k) == (3, 5)
    with cache_activations(lm, TEXT, config=CacheConfig(("layers.0",), ctx_len=32), progress=silent) as store:
        assert train_sae(store, device="cpu", progress=silent, **SMALL).hook_point == "layers.0"


class _Seen(BaseException):
    """The work would begin here."""


def _config_of_call(monkeypatch, target: str, take) -> dict:
    """Return a dict into which the call of `target` puts what `take` returns of its arguments; then it stops."""
    seen: dict = {}

    def stop(*args, **kwargs):
        seen["value"] = take(*args, **kwargs)
        raise _Seen

    monkeypatch.setattr(target, stop)
    return seen


@pytest.mark.parametrize("station", ["cache", "train", "eval", "compare"])
def test_the_defaults_are_those_of_the_command_line(
    station, lm, tiny_llama_dir, acts, sae_folder, tmp_path, monkeypatch
):
    from cli.group import wb

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXT))
    a_config = lambda lm, plan, config, *_args, **_more: asdict(config)  # noqa: E731
    calls = {
        "cache": (
            ("sae_train.activations.caching.write_store", a_config),
            lambda: cache_activations(lm, text, "layers.0", ctx_len=32, progress=silent),
            [
                "cache-activations",
                "--model",
                tiny_llama_dir,
                "--text",
                text,
                "--hook-point",
                "layers.0",
                "--ctx-len",
                32,
            ]
            + ["--device", "cpu", "--out", tmp_path / "a.h5"],
        ),
        "train": (
            (
                "sae_train.training.stations.train_jobs",
                lambda _store, jobs, *_args, **_more: asdict(jobs[0].config),
            ),
            lambda: train_sae(acts, "layers.1", progress=silent),
            ["train-sae", "--activations", acts, "--hook-point", "layers.1", "--out", tmp_path / "sae"],
        ),
        "eval": (
            ("sae_train.activations.store.ActivationStore.holdout_rows", lambda _store, frac, seed: (frac, seed)),
            lambda: eval_sae(sae_folder, acts),
            ["eval-sae", "--sae", sae_folder, "--activations", acts],
        ),
        "compare": (
            ("sae_train.quality.evaluation.match_latents", lambda _a, _b, **settings: settings),
            lambda: compare_saes(sae_folder, sae_folder),
            ["compare-saes", sae_folder, sae_folder],
        ),
    }
    target, call, words = calls[station]
    monkeypatch.setattr("sae_train.training.stations.shown", silent)
    seen = _config_of_call(monkeypatch, *target)
    with pytest.raises(_Seen):
        call()
    of_library = seen.pop("value")
    with pytest.raises(_Seen):
        wb.main([str(w) for w in words], standalone_mode=False)
    assert of_library == seen["value"]


def test_the_shown_terms_are_those_logged_last(acts, monkeypatch):
    seen = []
    advance = lambda n=1, *, earlier=0, **info: seen.append(info)  # noqa: E731
    settings = {**SMALL, "tokens": 64 * 30}
    train_sae(acts, "layers.1", device="cpu", progress=lambda *_, **__: nullcontext(advance), **settings)
    assert seen[:24] == [{}] * 24 and set(seen[24]) == {"step", "fvu", "l0", "frac_dead"} and seen[24]["step"] == 25
    assert seen[-1]["step"] == 30 and no_advance(1, **seen[-1]) is None
