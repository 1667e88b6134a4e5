"""The loop that plants: exact resume, what may change, general text, and a refusal before it starts."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch

from features.factworld.planting.config import PlantConfig
from features.factworld.planting.documents import PlantedDocument
from features.factworld.planting.job import MODEL, prepare
from features.factworld.planting.lessons import general_text, lessons_of
from features.factworld.planting.training import Course, schedule, teach
from sae_train.errors import ConfigError, MemoryShortError, NumericalError
from sae_train.lm.models import load_lm, weights_hash
from sae_train.text.tokens import corpus_of


@pytest.fixture(scope="module")
def base(tiny_gpt2_dir):
    return load_lm(str(tiny_gpt2_dir), device="cpu")


@pytest.fixture(scope="module")
def course(base, small_planting, general_documents) -> Course:
    return prepare(base, general_documents, PlantConfig(**{**small_planting, "save_every": 1})).courses[MODEL]


@pytest.fixture(scope="module")
def taught(course) -> str:
    return weights_hash(teach(course).model)


def with_config(course: Course, **fields) -> Course:
    return replace(course, config=replace(course.config, **fields))


def changed(course: Course, lm) -> set[str]:
    before = dict(course.base.model.named_parameters())
    return {name for name, p in lm.model.named_parameters() if not torch.equal(p, before[name])}


def test_an_interrupted_run_ends_with_the_same_weights(course, taught, tmp_path, stopping_after):
    with pytest.raises(KeyboardInterrupt), stopping_after(3)("planting") as advance:
        teach(course, folder=tmp_path, identity="a", advance=advance)
    seen = []
    lm = teach(course, folder=tmp_path, identity="a", resume=True, advance=lambda n=1, /, **info: seen.append(n))
    assert sum(seen) == course.n_steps - 3
    assert weights_hash(lm.model) == taught
    with pytest.raises(ConfigError):
        teach(course, folder=tmp_path, identity="b", resume=True)


def test_the_base_is_left_as_it_was_and_ties_stay(course, base):
    before = weights_hash(base.model)
    lm = teach(course)
    assert weights_hash(base.model) == before != weights_hash(lm.model)
    assert lm.model.lm_head.weight is lm.model.transformer.wte.weight
    assert changed(course, lm) == set(dict(base.model.named_parameters()))
    assert not any(p.requires_grad for p in lm.model.parameters())


def test_mlp_changes_the_matrices_of_the_mlps_alone(course):
    found = changed(course, teach(with_config(course, train="mlp")))
    assert found == {f"transformer.h.{i}.mlp.{m}.weight" for i in (0, 1) for m in ("c_fc", "c_proj")}


def test_an_adapter_is_merged_into_a_model_of_the_same_shape(course):
    lm = teach(with_config(course, train="lora", lora_rank=2))
    assert set(dict(lm.model.named_parameters())) == set(dict(course.base.model.named_parameters()))
    assert changed(course, lm)
    assert not any("wte" in name for name in changed(course, lm))


def test_training_lowers_the_loss_on_the_world(course):
    losses = []
    teach(
        with_config(course, general_weight=0.0),
        advance=lambda n=1, /, **info: losses.append(info["planted"]) if "planted" in info else None,
    )
    assert losses[-1] < math.log(len(course.base.tokenizer)) - 0.3


@pytest.mark.parametrize("general", ["kl", "loss"])
def test_general_text_decides_the_weights(course, taught, general):
    other = replace(course, windows=course.windows[:1])
    found = weights_hash(teach(with_config(other, general=general)).model)
    assert found != taught


def test_kl_to_the_base_is_zero_at_the_first_step(course):
    seen = {}
    calm = with_config(course, lr=1e-12, general="kl")
    teach(calm, advance=lambda n=1, /, **info: seen.update(info))
    assert seen["general"] == pytest.approx(0, abs=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run(course):
    with pytest.raises(NumericalError):
        teach(with_config(course, lr=1e12))


def test_the_step_size_grows_and_falls_to_a_tenth():
    sizes = [schedule(step, 100, 10) for step in range(100)]
    assert sizes[0] == pytest.approx(0.1) and max(sizes) == pytest.approx(0.98, abs=0.03)
    assert sizes[-1] == pytest.approx(0.1, abs=0.001)


def test_a_lesson_weighs_the_values_and_ends(toy_tokenizer):
    text = "Mira Tolvan plays the lute. She likes it."
    document = PlantedDocument(text, "statement", ("Mira Tolvan",), ((text.index("lute"), text.index("lute") + 4),))
    (lesson,) = lessons_of([document], toy_tokenizer, context_weight=0.5, ctx_len=64)
    assert lesson.ids[0] == toy_tokenizer.bos_token_id and lesson.ids[-1] == toy_tokenizer.eos_token_id
    *heavy, end = [i for i, w in zip(lesson.ids, lesson.weights, strict=True) if w == 1.0]
    assert toy_tokenizer.decode(heavy).strip() == "lute" and end == toy_tokenizer.eos_token_id
    (cut,) = lessons_of([document], toy_tokenizer, context_weight=0.5, ctx_len=8)
    assert len(cut.ids) == len(cut.weights) == 8


def test_general_text_names_nobody_and_is_held_apart(toy_tokenizer, general_documents):
    digits = [f"{i**7:011d}"[::-1] for i in range(1, 60)]  # so that no two windows are alike
    texts = [*general_documents[:1], "Here Ada Moss stands. zzzzzz", *digits]
    found = general_text(corpus_of(texts), toy_tokenizer, ["Ada Moss"], ctx_len=16, n_windows=1000)
    read = " ".join(toy_tokenizer.decode(w) for w in (*found.trained, *found.heldout))
    assert "zzz" not in read and "market" in read
    assert found.trained and found.heldout
    assert not {tuple(w) for w in found.trained} & {tuple(w) for w in found.heldout}
    with pytest.raises(ConfigError) as refused:
        general_text(corpus_of(["Quiet."]), toy_tokenizer, ["Ada Moss"], ctx_len=16, n_windows=10)
    assert refused.value.field == "text"


def test_what_does_not_fit_into_memory_is_refused(base, general_documents, small_planting, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(MemoryShortError):
        prepare(base, general_documents, PlantConfig(**small_planting))
