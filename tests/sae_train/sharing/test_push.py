"""An SAE goes to a stand-in of the hub and comes back: files, card, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
from huggingface_hub import ModelCard

from sae_train import push_sae
from sae_train.errors import ConfigError, MissingFileError, RunError
from sae_train.saes import build_sae
from sae_train.saes.interop import load_sae, save_sae
from sae_train.sharing.push import plan_push

# huggingface_hub hands large files over in a way that its own client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
REPO = "someone/saes"
FIGURES = {"fvu": 0.2323, "fvu_low": 0.2, "fvu_high": 0.25, "l0": 4.0, "trained_tokens": 301056, "ce_recovered": None}


def folder_of(folder, model_name="fact-world", hook_point="layers.2"):
    """Write an SAE folder as a run leaves it, the run's log included."""
    sae = build_sae("topk", 8, 16, k=4)
    sae.init_weights(torch.arange(8.0), 0)
    save_sae(sae, folder, hook_point=hook_point, metadata={"model_name": model_name})
    (folder / "metrics.json").write_text(json.dumps(FIGURES))
    (folder / "config.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps({"ended": "2026-01-01", "inputs": {"text": str(folder)}}))
    return folder


@pytest.fixture
def sae(tmp_path):
    return folder_of(tmp_path / "sae")


def test_what_is_sent_is_the_sae_and_no_path_of_this_machine(hub, sae, tmp_path):
    commit = push_sae(sae, REPO, token=hub.token, data="WikiText-2", licence="mit")
    assert commit.startswith(f"{hub.endpoint}/{REPO}/commit/") and hub.n_commits == 1
    files = hub.repos[REPO]
    assert sorted(files) == [
        "README.md",
        *(f"layers.2/{name}" for name in ("README.md", "cfg.json", "config.json", "metrics.json")),
        "layers.2/sae_weights.safetensors",
    ]
    assert files["layers.2/sae_weights.safetensors"] == (sae / "sae_weights.safetensors").read_bytes()
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]
    back = tmp_path / "back"
    back.mkdir()
    for name in ("cfg.json", "sae_weights.safetensors"):
        (back / name).write_bytes(files[f"layers.2/{name}"])
    for own, other in zip(load_sae(sae).state_dict().values(), load_sae(back).state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_the_page_of_the_repository_is_the_first_card(hub, sae, tmp_path):
    sent = {"token": hub.token}
    push_sae(sae, REPO, **sent)
    first = hub.repos[REPO]["README.md"]
    push_sae(folder_of(tmp_path / "other", hook_point="layers.3"), REPO, path_in_repo="b/c", **sent)
    assert hub.repos[REPO]["README.md"] == first and "b/c/cfg.json" in hub.repos[REPO] and hub.n_commits == 2
    assert REPO not in hub.private
    push_sae(sae, "someone/own", private=True, **sent)
    assert hub.private == {"someone/own"}


def test_the_card_is_one_that_the_hub_reads(sae):
    card = ModelCard(plan_push(sae, REPO, model_name="org/model", data="WikiText-2", licence="mit").card)
    assert (card.data.license, card.data.base_model, card.data.library_name) == ("mit", "org/model", "saelens")
    assert "| Fraction of variance unexplained | 0.2323 (0.2 to 0.25) |" in card.text
    assert "| Tokens trained on | 301,056 |" in card.text and "Loss recovered" not in card.text
    assert f'SAE.from_pretrained("{REPO}", "layers.2")' in card.text and "Trained on WikiText-2." in card.text
    plain = ModelCard(plan_push(sae, REPO).card)
    assert plain.data.license is None and plain.data.base_model is None and "Trained on" not in plain.text


def test_a_model_named_by_a_path_is_refused_or_renamed(tmp_path):
    sae = folder_of(tmp_path / "sae", model_name=str(tmp_path / "model"))
    with pytest.raises(ConfigError, match="by a path"):
        plan_push(sae, REPO)
    upload = plan_push(sae, REPO, model_name="org/model")
    assert json.loads(upload.files["layers.2/cfg.json"])["metadata"]["model_name"] == "org/model"
    assert json.loads((sae / "cfg.json").read_text())["metadata"]["model_name"] == str(tmp_path / "model")


@pytest.mark.parametrize("repo_id", ["saes", "a/b/c", "a/b c", "", "https://a/b"])
def test_names_that_are_no_repository(sae, repo_id):
    with pytest.raises(ConfigError, match="no repository"):
        plan_push(sae, repo_id)


@pytest.mark.parametrize("place", ["/a", "../a", ".", "a/../../b"])
def test_folders_outside_a_repository(sae, place):
    with pytest.raises(ConfigError, match="no folder of a repository"):
        plan_push(sae, REPO, path_in_repo=place)


def test_what_the_hub_refuses_is_said(hub, sae, tmp_path, monkeypatch):
    with pytest.raises(RunError, match="cannot send to") as caught:
        push_sae(sae, REPO, token="another")
    assert "HF_TOKEN" in str(caught.value.try_) and hub.n_commits == 0 and not hub.repos
    with pytest.raises(MissingFileError):
        push_sae(tmp_path / "nothing", REPO, token=hub.token)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="cannot send to"):
        push_sae(sae, REPO, token="a")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="cannot send to") as caught:
        push_sae(sae, REPO, token=hub.token)
    assert "offline" in str(caught.value.got)


@pytest.mark.slow
def test_there_and_back_by_the_command_line(hub, sae, tmp_path):
    """In processes of their own: the hub's address is read where its library is imported. SAELens fetches."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }

    def wb(*words: object) -> dict:
        line = [str(Path(sys.executable).with_name("wb")), *map(str, words), "--json"]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    planned = wb("push", sae, REPO, "--plan")
    assert planned["commit"] is None and not hub.repos
    sent = wb("push", sae, REPO)
    assert sent["commit"] and {k: v for k, v in sent.items() if k != "commit"} == {
        k: v for k, v in planned.items() if k != "commit"
    }
    wb("import-sae", f"{REPO}:layers.2", "--out", tmp_path / "back")
    own, other = load_sae(sae), load_sae(tmp_path / "back")
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own.encode(x), other.encode(x))
    assert other.hook_point == "layers.2"
