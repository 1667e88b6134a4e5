"""What a crosscoder of both models tells in an audit: against latents by hand, on equal and on different models."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from features.entities.prompts import contexts, render
from sae_train import Sae
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, ShapeError
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel
from sae_train.saes import sae_from_config
from sae_train.text.tokens import bos_prefix, encode_plain
from unlearn.auditing.audit_json import report_from_json, report_to_json
from unlearn.auditing.evaluations import EVALUATIONS
from unlearn.auditing.evaluations.crosscoder import evaluate_crosscoder
from unlearn.auditing.joint_figures import CrosscoderFigures, CrosscoderLatent
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig
from unlearn.pages.audit_page import write_audit_page
from unlearn.removals.sources import sources_of

HOOK = "layers.2"
SMALL = AuditConfig(n_neighbours=3, max_retain=8, max_blocks=2)
NORMS = (
    (1.0, 0.05),
    (0.05, 1.0),
    (1.0, 1.0),
    (1.0, 0.5),
    (1.0, 1.0),
    (1.0, 1.0),
)  # of the decoder rows, before and after
KINDS = ("only_before", "only_after", "shared", "between", "turned", "never fires")


@pytest.fixture(scope="module")
def shifted(world_lm) -> LanguageModel:
    """The world's model with other weights in one block."""
    model, generator = copy.deepcopy(world_lm.model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.model.layers[1].parameters():
            parameter.add_(0.5 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return replace(world_lm, model=model)


@pytest.fixture(scope="module")
def given(world_labels, world_templates, world_targets) -> Request:
    return Request(world_labels, world_templates, world_targets[:4], hook_point=HOOK)


def own_acts(lm: LanguageModel, entities, templates) -> np.ndarray:
    """Return the activations at the last token of names, one context at a time."""
    found = []
    for prompt in (p for e in entities for p in contexts(e, templates, heldout=True)):
        ids = bos_prefix(lm.tokenizer) + encode_plain(lm.tokenizer, [prompt.text[: prompt.name_end]])[0][0]
        acts = capture(lm, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), [HOOK])[HOOK]
        found.append(acts[0, -1].numpy())
    return np.array(found)


@pytest.fixture(scope="module")
def crosscoder(world_lm) -> Sae:
    """ReLU latents: one of each kind on either side of a plane through the known names, and one that never fires."""
    d = world_lm.d_model
    sae = sae_from_config(SaeTrainConfig(HOOK, arch="relu", d_sae=len(NORMS)), d, d)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(sae.W_enc.shape, generator=generator))
        sae.b_enc.zero_()
        sae.b_enc[-1] = -1e6
        rows = torch.nn.functional.normalize(torch.randn(len(NORMS), 2, d, generator=generator), dim=2)
        rows[2, 1] = rows[2, 0]  # of the others, the two directions have nothing to do with each other
        sae.W_dec.copy_((rows * torch.tensor(NORMS)[:, :, None]).flatten(1))
        sae.b_dec.zero_()
    sae.hook_point = HOOK
    return sae


def test_rates_and_kinds_are_those_counted_by_hand(world_lm, shifted, given, crosscoder, world_templates):
    context = make_context(world_lm, shifted, replace(given, crosscoders=[crosscoder]), SMALL)
    [found] = evaluate_crosscoder(context).crosscoders
    groups = {"targets": context.forget, "kept": context.kept, "unknown": context.group("some_unknown")}
    on = {}
    for where, entities in groups.items():
        rows = np.hstack([own_acts(lm, entities, world_templates) for lm in (world_lm, shifted)])
        on[where] = rows @ crosscoder.W_enc.detach().numpy() > 0
        on[where][:, -1] = False
        for n, kind in enumerate(KINDS[:-1]):
            share = found.firings_by_kind[where][kind]
            assert share == pytest.approx(on[where][:, n].sum() / on[where].sum(), abs=1e-9)
    assert 0 < on["targets"].sum() < on["targets"].size
    assert found.latents_by_kind == dict.fromkeys(KINDS[:-1], 1)
    rates = {where: each.mean(axis=0) for where, each in on.items()}
    more = rates["targets"] - rates["kept"]
    assert [latent.latent for latent in found.latents] == [n for n in np.argsort(-more) if more[n] > 0] != []
    for latent in found.latents:
        assert latent.kind == KINDS[latent.latent]
        assert latent.rate_targets == pytest.approx(rates["targets"][latent.latent])
        assert latent.rate_kept == pytest.approx(rates["kept"][latent.latent])
        assert latent.rate_unknown == pytest.approx(rates["unknown"][latent.latent])
    assert set(found.firings_by_kind) == {"targets", "kept", "unknown", "text"}
    assert np.isfinite(found.fvu) and found.hook_point == HOOK


def test_a_latent_of_what_changed_at_the_targets_leads_the_list(world_lm, given, crosscoder, world_templates):
    """The model after differs at one target's name alone, by a direction; its latent fires there and nowhere else."""
    sae = copy.deepcopy(crosscoder)
    target = make_context(world_lm, world_lm, given, SMALL).forget[0]
    token = encode_plain(world_lm.tokenizer, [render("{name}", target).text])[0][0][-1]
    after, d = copy.deepcopy(world_lm.model), world_lm.d_model
    direction = torch.nn.functional.normalize(torch.randn(d, generator=torch.Generator().manual_seed(5)), dim=0)

    def push(_module, given_to, output):
        states = output[0] if isinstance(output, tuple) else output
        if push.ids is not None:
            states = states + 1e3 * direction * (push.ids == token)[..., None]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    push.ids = None

    def note_ids(_module, args, kwargs):
        push.ids = kwargs.get("input_ids", args[0] if args else None)

    after.register_forward_pre_hook(note_ids, with_kwargs=True)
    after.model.register_forward_pre_hook(note_ids, with_kwargs=True)
    after.model.layers[2].register_forward_hook(push)
    with torch.no_grad():
        sae.W_enc[:, 1] = torch.cat([torch.zeros(d), direction])
        sae.b_enc[1] = -500.0
    changed = replace(world_lm, model=after)
    same, other = (
        evaluate_crosscoder(make_context(world_lm, lm, replace(given, crosscoders=[sae]), SMALL)).crosscoders[0]
        for lm in (world_lm, changed)
    )
    assert same.latents_by_kind["only_after"] == 0 and all(latent.latent != 1 for latent in same.latents)
    assert other.latents_by_kind["only_after"] == 1
    [own] = [latent for latent in other.latents if latent.latent == 1]
    assert own.kind == "only_after" and own.rate_targets >= 1 / 4 > own.rate_kept


def test_it_is_kept_read_and_shown(twenty_names, tmp_path):
    assert "crosscoder" in EVALUATIONS
    latent = CrosscoderLatent(7, "only_before", 0.04, 0.2, 0.75, 0.0, 0.25)
    shares = {"targets": {"shared": 0.6, "only_before": 0.4, "only_after": 0.0, "between": 0.0}}
    figures = CrosscoderFigures("cc", HOOK, 0.21, {"shared": 30, "only_before": 2, "only_after": 0}, shares, (latent,))
    report = replace(twenty_names(), crosscoders=(figures,))
    raw = json.loads(json.dumps(report_to_json(report)))
    assert raw["crosscoders"][0]["latents"][0]["rate_targets"] == 0.75
    assert report_from_json(raw).crosscoders == (figures,)
    source = write_audit_page(report, tmp_path / "audit.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "What changed, as latents" in source and "30 shared, 2 only before" in source and "75 %" in source
    without = write_audit_page(replace(report, crosscoders=()), tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "What changed, as latents" not in without


def test_what_is_no_crosscoder_of_these_models_is_refused(world_lm, given, world_labels, world_templates, crosscoder):
    narrow = sae_from_config(SaeTrainConfig(HOOK, arch="relu", d_sae=4), 8, 8)
    narrow.hook_point = HOOK
    with pytest.raises(ShapeError, match="another width"):
        make_context(world_lm, world_lm, replace(given, crosscoders=[narrow]), SMALL)
    sources = sources_of(None, sae=[crosscoder], labels=world_labels, templates=world_templates)
    assert sources.load_dictionaries(world_lm.device) == ([], [crosscoder])
    with pytest.raises(ConfigError, match="crosscoder"):
        sources.load_saes(world_lm.device)
