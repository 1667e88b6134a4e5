"""General text: what is held out is in nothing that is retained; a long text is retained as before."""

from __future__ import annotations

import pytest

from sae_train.text.tokens import Document
from unlearn.problem import general_text
from unlearn.problem.data import text_windows
from unlearn.problem.general_text import read_general_text


@pytest.fixture
def small(monkeypatch):
    """A budget of tokens that the documents of the tests can fill."""
    monkeypatch.setattr(general_text, "TEXT_TOKENS", 2000)
    monkeypatch.setattr(general_text, "HELDOUT_TOKENS", 400)


def test_of_a_long_text_the_documents_behind_are_held_out(small, world_lm, world_documents):
    found = read_general_text(world_lm, iter(world_documents))
    assert found.retained == text_windows(world_lm.tokenizer, world_documents, ctx_len=64, max_tokens=2000)
    assert all(len(world_lm.tokenizer(d.text).input_ids) < 60 for d in world_documents), "a document is a window"
    behind = world_documents[len(found.retained) :]
    assert found.heldout == text_windows(world_lm.tokenizer, behind, ctx_len=64, max_tokens=400)
    assert sum(map(len, found.heldout)) > 300


@pytest.mark.parametrize("n_documents", [40, 1])
def test_of_a_short_text_a_share_is_held_out(world_lm, world_documents, n_documents):
    words = " ".join(d.text for d in world_documents[:200])
    documents = world_documents[:40] if n_documents == 40 else [Document(words)]
    found = read_general_text(world_lm, documents)
    whole = text_windows(world_lm.tokenizer, documents, ctx_len=64, max_tokens=60_000)
    assert sorted([*found.retained, *found.heldout]) == sorted(whole), "each window once"
    assert 0.05 < len(found.heldout) / len(whole) < 0.2


def test_of_no_text_nothing_is_held_out(world_lm):
    assert read_general_text(world_lm, []) == ([], [])
    assert read_general_text(world_lm, [Document("A city.")]).heldout == []
