"""Every station on a tiny random model of each architecture: it does its work, or refuses by name; the page says which.

The rows stand in docs/reference/stations.json, of which the page's table is generated. A row that is not what is
measured here is printed by the test that fails.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors import safe_open

from features import Labels, LatentAnalysis, find_entity_latents, label_entities
from features.config import GateConfig
from features.entities.templates import Templates
from sae_train.activations.store import ActivationStore
from sae_train.activations.writing.writer import write_store
from sae_train.config import CacheConfig, Decoding, SaeTrainConfig
from sae_train.errors import InputError
from sae_train.lm.adapters import is_adapter
from sae_train.lm.answering import write_answers
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.run.progress import silent
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows
from sae_train.training.jobs import train_one
from unlearn import unlearn
from unlearn.auditing.attacks import ATTACKS
from unlearn.auditing.audit import run_audit
from unlearn.auditing.audit_report import AuditReport
from unlearn.auditing.evaluations import EVALUATIONS
from unlearn.auditing.request import Request
from unlearn.config import AuditConfig, configure
from unlearn.finetuning.finetune import trainable_parameters

torch.set_num_threads(1)
REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
ROWS = json.loads((REFERENCE / "stations.json").read_text(encoding="utf-8"))
LAYOUTS = json.loads((REFERENCE / "architectures.json").read_text(encoding="utf-8"))
QUICK = {"steps": 1, "batch_size": 4, "warmup_steps": 1, "lr": 1e-3}
KEPT = {"recall", "ranking", "utility", "logit-lens", "sae-fit", *ATTACKS}
SMALL = AuditConfig(
    n_neighbours=1,
    max_retain=2,
    control_draws=2,
    permutations=19,
    max_blocks=1,
    n_samples=0,
    leak_draws=1,
    max_attacked=2,
    attack_steps=(1,),
    attack_lrs=(1e-3,),
    attack_lessons=2,
    skip=tuple(sorted({*EVALUATIONS, *ATTACKS} - KEPT)),
)
ANSWERING = ("features.labels.knowledge", "features.causal.patched_questions", "sae_train.lm.generate")
ANSWERING += ("unlearn.auditing.attacks.sampling", "unlearn.auditing.attacks.prompts")
PROCESSOR = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Mined:
    """What the stations before unlearning leave, and what each of them came to."""

    folder: Path
    labels: Labels
    templates: Templates
    analysis: LatentAnalysis
    documents: list[Document]

    @property
    def names(self) -> list[str]:
        return [e.key for e in self.labels if e.label == "known"][:2]


@pytest.fixture
def half(tiny_model, toy_tokenizer, tmp_path) -> Callable[[str], Path]:
    """Return a function that writes a tiny model as they are published: bfloat16, settings and processor beside it."""

    def folder(name: str) -> Path:
        place = tmp_path / "source"
        tiny_model(name).to(torch.bfloat16).save_pretrained(place)
        toy_tokenizer.save_pretrained(place)
        settings = {"bos_token_id": 1, "eos_token_id": [2, 0], "temperature": 0.6, "top_p": 0.9}
        (place / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
        for file in PROCESSOR if "multimodal" in name else ():
            (place / file).write_text(json.dumps({"image_seq_length": 4}), encoding="utf-8")
        return place

    return folder


@pytest.fixture
def mined(world_entities, world_templates, world_documents, tmp_path, monkeypatch):
    """Return a function that runs every station up to the latents on a model; a random one knows nothing, so who is
    known is told."""
    monkeypatch.setattr("features.stats.probe.N_BOOTSTRAP", 10)  # what is tested here is no interval
    monkeypatch.setattr("features.stats.probe.PENALTIES", (0.05,))
    for module in ANSWERING:
        monkeypatch.setattr(f"{module}.write_answers", brief_answers)

    def run(folder: Path) -> Mined:
        lm = load_lm(str(folder), device="cpu")
        documents = world_documents[:60]
        plan = plan_windows(documents, lm.tokenizer, ctx_len=64, max_rows=800)
        config = CacheConfig(hook_points=("layers.0",), ctx_len=64, batch_size=32, dtype="float32")
        store = tmp_path / "acts.h5"
        write_store(lm, plan, config, store, provenance={"model": "tiny", "text": "corpus"})
        settings = SaeTrainConfig("layers.0", k=4, expansion=2, tokens=2000, batch_size=256, frac_holdout=0.1)
        with ActivationStore(store) as opened:
            train_one(opened, settings, tmp_path / "sae", device="cpu")
        templates = _few(world_templates)
        cities = [e for e in world_entities if e.type == "city"]
        few = [[e for e in cities if (e.seen == "facts") == is_known][:12] for is_known in (True, False)]
        asked = label_entities(lm, sum(few, []), templates=templates, progress=silent)
        assert all(e.answers for e in asked)
        told = tuple(replace(e, label="known" if e.seen == "facts" else "unknown") for e in asked)
        labels = replace(asked, entities=told)
        rule = {"max_q": 1.0, "min_separation": -1.0, "max_general_rate": 1.0, "n_shuffles": 10, "max_null_p": 1.0}
        gate = GateConfig(n_entities=4, n_questions=1)
        made = {"store": store, "gate": gate, "progress": silent}
        analysis = find_entity_latents(lm, tmp_path / "sae", labels, device="cpu", **made, **rule)
        assert analysis.gate is not None and analysis.gate.hook_points
        return Mined(folder, labels, templates, analysis, documents)

    return run


def brief_answers(lm: LanguageModel, prompts: Any, decoding: Decoding, **more: Any) -> Any:
    """Write answers of three tokens: what a random model says is nothing, and some layouts read all of it again."""
    return write_answers(lm, prompts, replace(decoding, max_new_tokens=3), **more)


def _few(whole: Templates) -> Templates:
    """Keep one mention, one attribute, one question and one held-out wording of cities."""
    first = next(iter(whole.ask["city"]))
    return Templates(
        mention={"city": whole.mention["city"][:1]},
        ask={"city": {first: whole.ask["city"][first][:2]}},
        heldout={"city": {first: whole.heldout["city"][first][:1]}},
    )


# ------------------------------------------------------------------------------------------------------------- stations
def outcome(architecture: str, folder: Path, station: Callable[[], Any]) -> str:
    """Return `works`, or why the station refused: by a typed error that names the model, and nothing was written."""
    beside = {p.name for p in folder.parent.iterdir()}
    try:
        station()
    except InputError as refused:
        assert refused.exit_code == 2 and architecture in refused.what, refused
        assert {p.name for p in folder.parent.iterdir()} == beside, "refused, and something is left"
        # PEFT names one of several modules, and lists them in no order.
        return re.sub(r"^\[PEFT:\S+ Module '\w+' is (.*?\)).*", r"PEFT: a module is \1", str(refused.got))
    return "works"


def removal(found: Mined, before: LanguageModel, out: Path, allowed: Collection[str] | None, **settings: Any) -> None:
    """Run one step on a fresh model; what was written is the model that was left, where others look for it."""
    method = settings.pop("method", "redirect")
    made = {"text": found.documents, "out": out, "config": configure(method, **{**QUICK, **settings})}
    left = unlearn(found.folder, found.analysis, forget=found.names, device="cpu", progress=silent, **made).lm
    again = load_lm(str(out), device="cpu")
    assert torch.equal(_logits(left.model), _logits(again.model)) or is_adapter(out)
    torch.testing.assert_close(_logits(left.model), _logits(again.model), rtol=0, atol=1e-6)
    check_adapter(found.folder, out, left) if is_adapter(out) else check_folder(found.folder, out, left)
    old = before.model.state_dict()
    changed = {n for n, v in again.model.state_dict().items() if not torch.equal(v, old[n])}
    assert changed and (allowed is None or changed <= {*allowed}), changed


def check_folder(source: Path, out: Path, left: LanguageModel) -> None:
    """The folder is laid out as the source is, for transformers and for servers that read the files themselves."""
    assert _tensors(out) == _tensors(source), "the same keys, shapes and number formats"
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (source, out))
    assert new["architectures"] == old["architectures"] and new["dtype"] == old["dtype"] == "bfloat16"
    for name in ("generation_config.json", *(n for n in PROCESSOR if (source / n).exists())):
        assert (out / name).read_bytes() == (source / name).read_bytes(), name
    assert (out / "tokenizer.json").exists()
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    is_tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (model, left.model)]
    assert is_tied[0] == is_tied[1] and torch.equal(_logits(model), _logits(left.model))


def check_adapter(source: Path, out: Path, left: LanguageModel) -> None:
    """PEFT puts the adapter on the source, and gets the model that was left."""
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, on its own doings
        model = peft.PeftModel.from_pretrained(base, str(out)).eval()
    torch.testing.assert_close(_logits(model), _logits(left.model), rtol=0, atol=1e-5)


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    return model(input_ids=torch.tensor([[1, 20, 30, 40]]), use_cache=False).logits


def _tensors(folder: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
        return {name: (part.get_shape(), part.get_dtype()) for name, part in parts.items()}


def audit_of(found: Mined, before: LanguageModel, after: LanguageModel) -> AuditReport:
    """Audit by every attack."""
    request = Request(
        found.labels,
        found.templates,
        found.names,
        analysis=found.analysis,
        saes=found.analysis.sources.saes,
        documents=found.documents,
    )
    report = run_audit(before, after, request, config=SMALL)
    assert report.verdict in ("pass", "fail", "inconclusive") and report.logit_lens and report.value_probe
    return report


def stations(name: str, found: Mined, place: Path) -> dict[str, Any]:
    """Run every station on an architecture; return its row of docs/reference/stations.json."""
    before = load_lm(str(found.folder), device="cpu")
    table = before.architecture
    written = table.written_parameters if any(b.mlp and b.mlp.writing for b in table.blocks) else tuple
    straight = [i for i, b in enumerate(table.blocks) if b.is_solvable]
    solved = {"last_block": straight[-1], "n_blocks": 1} if straight else {}
    matrices = [f"{m.path}.weight" for m in table.straight_matrices(straight[-1:])] if straight else None
    runs = {
        "full": ({"train": "full"}, [*trainable_parameters(before.model, "full")]),
        "down_proj": ({"train": "down_proj"}, written()),
        "lora": ({"train": "lora", "lr": 1e-2}, None),
        "closed_form": ({"method": "redirect-closed-form", "ridge": 1.0, **solved}, matrices),
    }
    row: dict[str, Any] = {"tiny": name, "class": table.name}
    for station, (settings, allowed) in runs.items():
        out = place / station
        row[station] = outcome(table.name, out, lambda s=settings, a=allowed, o=out: removal(found, before, o, a, **s))
    report = audit_of(found, before, load_lm(str(place / "full"), device="cpu"))
    left_out = [line for line in report.not_tested if line.split(":")[0] in ATTACKS]
    row["audit"] = "works" if set(report.attacks) == {*ATTACKS} else "; ".join(left_out)
    assert row["audit"], "an attack that is not run is said"
    return row


# ---------------------------------------------------------------------------------------------------------------- tests
@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row["tiny"] for row in ROWS])
def test_every_station_works_or_refuses_by_name(row, half, mined, tmp_path):
    found = stations(row["tiny"], mined(half(row["tiny"])), tmp_path)
    assert found == row, f"measured: {json.dumps(found)}"


def test_every_layout_has_a_row():
    understood = [(r["tiny"], r["class"]) for r in LAYOUTS if "refused" not in r]
    assert [(r["tiny"], r["class"]) for r in ROWS] == understood and len(understood) >= 25
