"""Packed windows: every token once, separators left out, documents kept apart in the row fields."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_train.lm.models import load_lm
from sae_train.text import windows
from sae_train.text.tokens import Document, bos_prefix, encode_plain
from sae_train.text.windows import plan_windows

TEXTS = [f"The city of Velmora lies on the river Ost. {'Its harbour is old. ' * (n % 7)}Number {n}." for n in range(40)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lm(request, tiny_llama_dir, tiny_gpt2_dir):
    """One tokenizer that puts a token in front of a text, and one that does not."""
    return load_lm(str({"llama": tiny_llama_dir, "gpt2": tiny_gpt2_dir}[request.param]), device="cpu")


def _plan(lm, **settings):
    return plan_windows(map(Document, TEXTS), lm.tokenizer, **{"ctx_len": 16, "packing": "packed", **settings})


@pytest.mark.parametrize("run", [1, 3, 64])
def test_packed_windows_are_full_and_hold_every_token_in_order(lm, monkeypatch, run):
    monkeypatch.setattr(windows, "PACKED_RUN", run)
    plan = _plan(lm)
    prefix, eos = bos_prefix(lm.tokenizer), lm.tokenizer.eos_token_id
    lengths = np.diff(plan.starts)
    assert (lengths[:-1] >= 16 - 1).all() and lengths.max() == 16  # a separator at a window's end is never read
    fields = plan.row_fields()
    for doc, ids in enumerate(encode_plain(lm.tokenizer, TEXTS)[0]):
        mine = fields["doc_id"] == doc
        got = dict(zip(fields["position"][mine].tolist(), fields["token_id"][mine].tolist(), strict=True))
        missing = set(range(len(ids))) - set(got)
        assert all(got[i] == ids[i] for i in got)
        assert not missing if prefix else len(missing) <= 1 + len(ids) // 15  # what took the prefix's part
    assert eos not in fields["token_id"]
    assert plan.n_special == len(plan.tokens) - plan.n_rows


def test_packing_needs_fewer_windows_and_keeps_documents_apart_in_the_fields(lm):
    packed, apart = _plan(lm), _plan(lm, packing="documents")
    assert packed.n_windows < apart.n_windows
    assert len(set(packed.row_fields()["doc_id"].tolist())) == len(TEXTS)
    several = [len(set(packed.doc_id[packed.window(i)].tolist())) for i in range(packed.n_windows)]
    assert max(several) > 1
    assert all(len(set(apart.doc_id[apart.window(i)].tolist())) == 1 for i in range(apart.n_windows))


def test_packed_rows_stop_at_the_number_asked_for(lm):
    assert _plan(lm, max_rows=101).n_rows == 101
    entities = [Document(f"Yesterday {n} sang", 10 + len(n)) for n in ("Mira Tolvan", "Old Harrow")] * 20
    plan = _plan(lm, max_rows=100, entity_documents=entities, frac_entity_rows=0.2)
    assert plan.n_rows == 100 and plan.row_fields()["from_entity"].sum() == 20
    for index in np.flatnonzero(plan.from_entity):
        assert len(set(plan.doc_id[plan.window(int(index))].tolist())) == 1  # an entity's context is never packed
    assert torch.from_numpy(plan.tokens).max() < len(lm.tokenizer)
