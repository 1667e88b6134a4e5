"""Texts longer than a model's positions, and tokenizers with more tokens than the embedding: refused, never read."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from features import collect_names, label_entities
from features.entities.entities import Entity
from features.entities.templates import Templates
from sae_train.config import Decoding
from sae_train.errors import ShapeError
from sae_train.lm.answering import write_answers
from sae_train.lm.candidates import option_scores
from sae_train.lm.generate import continuation_log_probs, encode_prompts, greedy_answers
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.run.progress import silent

torch.set_num_threads(1)
LONG = "Ost" * 300
TEMPLATES = Templates({"city": ["{name}"]}, {"city": {"country": ["The city of {name} lies in"]}}, {"city": {}})


@pytest.fixture(scope="module", params=["gpt2", "opt", "llama", "mpt"])
def lm(request: pytest.FixtureRequest, tiny_model, toy_tokenizer) -> LanguageModel:
    """Return models with 256 positions: learned ones, rotary ones, and none but a bound in the config."""
    return LanguageModel(tiny_model(request.param), toy_tokenizer, f"tiny-{request.param}", torch.device("cpu"))


def test_an_answer_may_end_at_the_last_position_and_not_behind_it(lm):
    fitting, longer = [1] + [20] * 252, [1] + [20] * 253
    assert lm.max_positions == 256
    assert write_answers(lm, [fitting], Decoding(4), is_over=lambda text: False)  # 253 read, and three of the four
    with pytest.raises(ShapeError, match="row 1 is too long for tiny-") as refused:
        write_answers(lm, [fitting, longer], Decoding(4))
    assert str(refused.value.got).startswith("254 tokens and 3 behind them") and "256" in str(refused.value.expected)


def test_a_name_longer_than_the_positions_is_named_with_its_length(lm):
    entities = [Entity("Ost", "city", {"country": ["Ruvia"]}), Entity(LONG, "city", {"country": ["Ruvia"]})]
    n_tokens = len(encode_prompts(lm, [f"The city of {LONG} lies in"])[0])
    with pytest.raises(ShapeError, match="a prompt about 'city:OstOst") as refused:
        label_entities(lm, entities, templates=TEMPLATES, progress=silent)
    assert str(refused.value.got).startswith(f"{n_tokens} tokens") and refused.value.exit_code == 2
    labelled = [Entity(e.name, "city", e.facts, label="known") for e in entities]
    with pytest.raises(ShapeError, match="a prompt about 'city:OstOst"):
        collect_names(lm, labelled, "layers.0", templates=TEMPLATES, progress=silent)


def test_texts_without_a_name_are_refused_as_well(lm):
    for run in (
        lambda: greedy_answers(lm, ["Ost", LONG]),
        lambda: option_scores(lm, ["Ost", "Ost"], [["a"], ["a", LONG]]),
        lambda: continuation_log_probs(lm, ["Ost", "Ost"], ["a", LONG]),
    ):
        with pytest.raises(ShapeError, match="row 1 is too long"):
            run()


def _folder(source: Path, tokenizer: Any, out: Path) -> Path:
    """Copy a model's folder with another tokenizer in it."""
    shutil.copytree(source, out)
    tokenizer.save_pretrained(out)
    return out


def _with_tokens(tokenizer: Any, *, special: bool, n: int = 2) -> Any:
    """Return a copy of a tokenizer with more tokens."""
    more = copy.deepcopy(tokenizer)
    names = [f"<more-{i}>" for i in range(n)]
    more.add_special_tokens({"additional_special_tokens": names}) if special else more.add_tokens(names)
    return more


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused_at_load(tiny_gpt2_dir, toy_tokenizer, tmp_path):
    folder = _folder(tiny_gpt2_dir, _with_tokens(toy_tokenizer, special=False), tmp_path / "more")
    with pytest.raises(ShapeError, match="more tokens than the model has embeddings") as refused:
        load_lm(str(folder), device="cpu")
    n_rows = len(toy_tokenizer)
    assert str(refused.value.got) == f"2 tokens beyond, the first '<more-0>' with id {n_rows}"
    assert str(refused.value.expected).startswith(f"ids < {n_rows}")


def test_special_tokens_that_no_text_becomes_may_lie_beyond_it(tiny_gpt2_dir, toy_tokenizer, tmp_path):
    """As in Gemma 3, whose text models share a tokenizer with those that read images."""
    lm = load_lm(
        str(_folder(tiny_gpt2_dir, _with_tokens(toy_tokenizer, special=True), tmp_path / "more")), device="cpu"
    )
    assert greedy_answers(lm, ["a <more-0>"])  # taken apart like any other text
    beyond = lm.tokenizer.convert_tokens_to_ids("<more-1>")
    with pytest.raises(ShapeError, match="has no embedding for") as refused:
        write_answers(lm, [[1, 20], [1, beyond]], Decoding(2))
    assert "<more-1>" in str(refused.value.got) and "row 1" in refused.value.what


def test_a_special_token_that_texts_begin_or_end_with_may_not(tiny_gpt2_dir, toy_tokenizer, tmp_path):
    more = _with_tokens(toy_tokenizer, special=True)
    more.eos_token = "<more-1>"
    with pytest.raises(ShapeError, match="more tokens than") as refused:
        load_lm(str(_folder(tiny_gpt2_dir, more, tmp_path / "more")), device="cpu")
    assert "1 tokens beyond, the first '<more-1>'" in str(refused.value.got)
