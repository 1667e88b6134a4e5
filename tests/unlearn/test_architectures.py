"""Every station on a tiny random model of each architecture: it does its work, or refuses by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from features import Labels, LatentAnalysis, find_entity_latents, label_entities
from features.config import GateConfig
from features.entities.templates import Templates
from sae_train.activations.store import ActivationStore
from sae_train.activations.writer import write_store
from sae_train.config import CacheConfig, SaeTrainConfig
from sae_train.errors import ConfigError, InputError
from sae_train.lm.adapters import is_adapter
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.run.progress import silent
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows
from sae_train.training.jobs import train_one
from unlearn import unlearn
from unlearn.auditing.attacks import ATTACKS
from unlearn.auditing.audit import run_audit
from unlearn.auditing.evaluations import EVALUATIONS
from unlearn.auditing.request import Request
from unlearn.config import AuditConfig, configure
from unlearn.finetuning.finetune import trainable_parameters

pytestmark = pytest.mark.slow
torch.set_num_threads(1)
DONE = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma3-multimodal",
    "gpt2",
    "gpt-neox",
    "phi",
    "phi3",
)
DONE += ("opt", "opt-350m", "bloom", "falcon", "mpt", "olmo2", "stablelm", "mixtral", "qwen2-moe", "lfm2", "mamba")
DONE += ("falcon-h1", "jamba", "qwen3-next", "qwen3.5")
NO_MATRICES = {"mamba"}
NOT_SOLVABLE = {"gemma2", "gemma3", "gemma3-multimodal", "opt-350m", "olmo2", "mixtral", "qwen2-moe", "mamba"}
NOT_SOLVABLE |= {"jamba", "qwen3-next"}
ADAPTED = {"llama", "gpt2", "opt", "mixtral", "qwen2-moe"}
QUICK = {"steps": 1, "batch_size": 4, "warmup_steps": 1, "lr": 1e-3}
KEPT = {"recall", "ranking", "utility", "logit-lens", "quantize", "prune"}
SMALL = AuditConfig(
    n_neighbours=2,
    max_retain=4,
    control_draws=2,
    permutations=19,
    max_blocks=1,
    n_samples=1,
    max_attacked=2,
    skip=tuple(sorted({*EVALUATIONS, *ATTACKS} - KEPT)),
)


@dataclass(frozen=True)
class Mined:
    """What the stations before unlearning leave."""

    folder: Path
    labels: Labels
    templates: Templates
    analysis: LatentAnalysis
    documents: list[Document]

    @property
    def names(self) -> list[str]:
        return [e.key for e in self.labels if e.label == "known"][:2]


@pytest.fixture
def mined(world_entities, world_templates, world_documents, tmp_path):
    """Return a function that runs every station up to the latents on a model; a random one knows nothing, so who is
    known is told."""

    def run(folder: Path) -> Mined:
        lm = load_lm(str(folder), device="cpu")
        documents = world_documents[:60]
        plan = plan_windows(documents, lm.tokenizer, ctx_len=64, max_rows=1500)
        config = CacheConfig(hook_points=("layers.0",), ctx_len=64, batch_size=32, dtype="float32")
        store = tmp_path / "acts.h5"
        write_store(lm, plan, config, store, provenance={"model": "tiny", "text": "corpus"})
        settings = SaeTrainConfig("layers.0", k=4, expansion=2, tokens=4000, batch_size=256, frac_holdout=0.1)
        with ActivationStore(store) as opened:
            train_one(opened, settings, tmp_path / "sae", device="cpu")
        templates = _few(world_templates)
        cities = [e for e in world_entities if e.type == "city"]
        asked = label_entities(lm, cities, templates=templates, progress=silent)
        assert all(e.answers for e in asked)
        told = tuple(replace(e, label="known" if e.seen == "facts" else "unknown") for e in asked)
        labels = replace(asked, entities=told)
        rule = {"max_q": 1.0, "min_separation": -1.0, "max_general_rate": 1.0}
        gate = GateConfig(n_entities=4, n_questions=1)
        made = {"store": store, "gate": gate, "progress": silent}
        analysis = find_entity_latents(lm, tmp_path / "sae", labels, device="cpu", **made, **rule)
        assert analysis.gate is not None and analysis.gate.hook_points
        return Mined(folder, labels, templates, analysis, documents)

    return run


def _few(whole: Templates) -> Templates:
    """Keep one mention, one attribute, one question and one held-out wording of cities."""
    first = next(iter(whole.ask["city"]))
    return Templates(
        mention={"city": whole.mention["city"][:1]},
        ask={"city": {first: whole.ask["city"][first][:2]}},
        heldout={"city": {first: whole.heldout["city"][first][:1]}},
    )


def _unlearned(found: Mined, out: Path, method: str = "redirect", **settings: Any) -> LanguageModel:
    """Run one step on a fresh model, load what was written, and check that it is the model that was left."""
    config = configure(method, **{**QUICK, **settings})
    made = {"text": found.documents, "out": out, "config": config, "device": "cpu", "progress": silent}
    left = unlearn(found.folder, found.analysis, forget=found.names, **made).lm
    again, ids = load_lm(str(out), device="cpu"), torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad():
        one, two = (m.model(input_ids=ids, use_cache=False).logits for m in (left, again))
    assert torch.allclose(one, two, atol=1e-6)
    assert is_adapter(out) == (config.train == "lora")
    return again


def _changed(before: LanguageModel, after: LanguageModel) -> set[str]:
    old = before.model.state_dict()
    return {n for n, v in after.model.state_dict().items() if not torch.equal(v, old[n])}


@pytest.mark.parametrize("name", DONE)
def test_every_station_works_or_refuses_by_name(name, tiny_folder, mined, tmp_path):
    found = mined(tiny_folder(name))
    before = load_lm(str(found.folder), device="cpu")
    architecture = before.architecture.name
    after = _unlearned(found, tmp_path / "full", train="full")
    assert _changed(before, after) <= set(trainable_parameters(before.model, "full"))

    if name in NO_MATRICES:
        with pytest.raises(ConfigError, match=architecture) as refused:
            _unlearned(found, tmp_path / "down", train="down_proj")
        assert isinstance(refused.value, InputError) and not list(tmp_path.glob("down*"))
    else:
        only = _unlearned(found, tmp_path / "down", train="down_proj")
        changed = _changed(before, only)
        assert changed and changed <= set(before.architecture.written_parameters())

    if name in NOT_SOLVABLE:
        with pytest.raises(ConfigError, match=architecture):
            _unlearned(found, tmp_path / "solved", "redirect-closed-form")
        assert not list(tmp_path.glob("solved*"))
    else:
        solved = _unlearned(found, tmp_path / "solved", "redirect-closed-form", last_block=1, n_blocks=2, ridge=1.0)
        matrices = {f"{m.path}.weight" for m in before.architecture.straight_matrices()}
        assert _changed(before, solved) == matrices

    if name in ADAPTED:
        _unlearned(found, tmp_path / "adapted", train="lora", lr=1e-2)
    elif name == "mamba":
        with pytest.raises(ConfigError, match=architecture):
            _unlearned(found, tmp_path / "adapted", train="lora")

    request = Request(found.labels, found.templates, found.names, hook_point="layers.0", analysis=found.analysis)
    audited = run_audit(before, after, request, config=SMALL)
    assert set(audited.attacks) == {"quantize", "prune"} and audited.verdict in ("pass", "fail", "inconclusive")
    assert audited.logit_lens and audited.value_probe
