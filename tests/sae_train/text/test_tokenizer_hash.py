"""Identity of a tokenizer: every part of it counts, and older hashes stay comparable."""

from __future__ import annotations

import copy
import json

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sae_train.text.tokenizer_hash import V2, tokenizer_hash


def changed(tokenizer, change):
    other = copy.deepcopy(tokenizer)
    change(other)
    return other


def _swap_merges(tokenizer) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["merges"].reverse()
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


CHANGES = {
    "normalizer": lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase()),
    "pre-tokenizer": lambda t: setattr(t.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Whitespace()),
    "post-processor": lambda t: setattr(t.backend_tokenizer, "post_processor", processors.ByteLevel(trim_offsets=True)),
    "added token": lambda t: t.backend_tokenizer.add_tokens([AddedToken("<new>")]),
    "merges": _swap_merges,
}


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """Two merges whose order decides what `abc` becomes."""
    from tokenizers import models

    vocabulary = {t: i for i, t in enumerate(["<s>", "a", "b", "c", "ab", "bc"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("b", "c")]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


@pytest.mark.parametrize("part", CHANGES)
def test_every_part_counts(merging, part):
    other = changed(merging, CHANGES[part])
    assert tokenizer_hash(other) != tokenizer_hash(merging)


def test_merges_are_seen_that_the_older_hash_did_not_see(merging):
    other = changed(merging, _swap_merges)
    assert merging.tokenize("abc") != other.tokenize("abc")
    assert tokenizer_hash(other, like="0" * 64) == tokenizer_hash(merging, like="0" * 64)
    assert tokenizer_hash(other, like=f"{V2}0") != tokenizer_hash(merging, like=f"{V2}0")


def test_it_survives_saving_and_use(toy_tokenizer, tmp_path):
    before = tokenizer_hash(toy_tokenizer)
    assert before.startswith(V2)
    toy_tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_hash(read) == before
    read("a longer text", truncation=True, max_length=2)
    read(["a", "a longer text"], padding=True) if read.pad_token else None
    assert tokenizer_hash(read) == before
