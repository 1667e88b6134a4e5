"""Where a name stands in tokens, by character offsets; the activations there; the same in a chat template."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from features.collect import name_activations, token_positions, token_rows
from features.entities import Entity
from features.prompts import COMPLETE, Templates, contexts, in_chat, render, tokenize
from sae_train.errors import ConfigError
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel

CHATML = "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}{{ '<bos>assistant\n' }}"
NAMES = ("Halle (Saale)", "São Tomé", "東京", "Łódź 🙂", "Qopzareltimunderhagen", "Ost", "O", "St. Anna-on-Lim")
FRAMES = ("{name}", "The city of {name}", "About {name}, we read", "({name})", "{name}s lie in", "“{name}”")


@pytest.fixture(scope="module")
def toy_lm(tiny_llama_dir):
    from sae_train.lm.models import load_lm

    return load_lm(str(tiny_llama_dir), device="cpu")


def pieces(lm: LanguageModel, prompt, position: str) -> list[str]:
    """The tokens a position names, as text."""
    (ids,) = tokenize(lm.tokenizer, [prompt]).ids
    return [lm.tokenizer.decode([ids[i]]) for i in token_positions(lm, [prompt], position)[0]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frame", FRAMES)
def test_the_name_is_all_of_its_tokens_and_no_more(toy_lm, name, frame):
    prompt = render(frame, Entity(name, "city"))
    (ids,) = tokenize(toy_lm.tokenizer, [prompt]).ids
    (span,) = token_positions(toy_lm, [prompt], "all")
    assert span == list(range(span[0], span[-1] + 1))
    before, inside, behind = (
        toy_lm.tokenizer.decode(part) for part in (ids[1 : span[0]], [ids[i] for i in span], ids[span[-1] + 1 :])
    )
    assert name in inside, "every byte of it"
    # what a token at the border holds besides is less than the token itself: a blank, a bracket, an "s"
    assert len(inside) - len(name) <= 2
    assert before + inside + behind == prompt.text
    assert token_positions(toy_lm, [prompt], "first") == [span[:1]]
    assert token_positions(toy_lm, [prompt], "last") == [span[-1:]]
    assert token_positions(toy_lm, [prompt], "end") == [[len(ids) - 1]]


def test_known_answers(toy_lm):
    """The toy vocabulary knows no Halle: its name falls into single letters, the last one a bracket."""
    halle = render("The city of {name} lies", Entity("Halle (Saale)", "city"))
    assert pieces(toy_lm, halle, "last") == [")"]
    assert pieces(toy_lm, halle, "first")[0].strip() in {"H", ""}
    assert "".join(pieces(toy_lm, halle, "all")).strip() == "Halle (Saale)"
    velmora = render("The city of {name}", Entity("Velmora", "city"))
    assert pieces(toy_lm, velmora, "last") == pieces(toy_lm, velmora, "all")[-1:]
    accent = render("x {name}", Entity("é", "city"))  # two bytes, one character: both tokens share it
    assert len(pieces(toy_lm, accent, "all")) >= 2
    with pytest.raises(ConfigError) as caught:
        token_positions(toy_lm, [accent], "lats")
    assert str(caught.value.expected).startswith("last")


@pytest.mark.parametrize("position", ["first", "last", "all", "end"])
def test_activations_are_those_at_the_chosen_tokens(toy_lm, position):
    prompts = [render(f, Entity(n, "city")) for n in NAMES[:3] for f in FRAMES[:3]]
    found = token_rows(toy_lm, prompts, ["layers.0", "layers.1"], position=position, batch_size=2)
    ids = tokenize(toy_lm.tokenizer, prompts).ids
    where = token_positions(toy_lm, prompts, position)
    assert found.prompt.tolist() == [i for i, w in enumerate(where) for _ in w]
    assert found.position.tolist() == [t for w in where for t in w]
    for index, tokens in enumerate(ids):
        whole = capture(toy_lm, torch.tensor([tokens]), None, ["layers.0", "layers.1"])
        mine = np.flatnonzero(found.prompt == index)
        for name, acts in whole.items():
            torch.testing.assert_close(found.acts[name][mine], acts[0, where[index]], rtol=1e-4, atol=1e-4)
    alone = name_activations(toy_lm, prompts, ["layers.1"], position=position)
    torch.testing.assert_close(alone["layers.1"], found.acts["layers.1"], rtol=1e-4, atol=1e-4)


def test_each_entity_stands_once_in_each_context():
    templates = Templates(
        mention={"city": ["{name}", "The city of {name}"]},
        ask={"city": {"country": ["{name} lies in", "The city of {name} lies in"]}},
        heldout={"city": {"country": ["In {name}"]}},
    )
    entity = Entity("Velmora", "city", {"country": ["Ardane"]})
    assert [p.text for p in contexts(entity, templates)] == ["Velmora", "The city of Velmora"]
    behind = [p.text for p in contexts(entity, templates, whole=True)]
    assert behind == ["Velmora", "The city of Velmora", "Velmora lies in", "The city of Velmora lies in"]
    assert [p.text for p in contexts(entity, templates, heldout=True, whole=True)] == ["In Velmora"]


@pytest.mark.parametrize("name", ["Velmora", "Halle (Saale)", "São Tomé", "Who?"])
@pytest.mark.parametrize("frame", ["{name} lies in", "Where is {name}? It is in", "Where is {name}?"])
def test_a_name_is_found_in_a_chat_template(toy_lm, monkeypatch, name, frame):
    monkeypatch.setattr(toy_lm.tokenizer, "chat_template", CHATML)
    plain = render(frame, Entity(name, "city"), "country")
    prompt = in_chat(plain, toy_lm.tokenizer)
    assert prompt.text[prompt.name_start : prompt.name_end] == name
    assert name in "".join(pieces(toy_lm, prompt, "all")) or "ã" in name
    assert (prompt.entity, prompt.attribute, prompt.template) == (plain.entity, plain.attribute, plain.template)
    start = prompt.text.split("<bos>assistant\n")[1]
    if "Where" in frame:
        assert start == ("It is in" if frame.endswith("in") else "")
        assert COMPLETE not in prompt.text
    else:
        assert start == plain.text
        assert COMPLETE in prompt.text
    mixed = tokenize(toy_lm.tokenizer, [plain, prompt])
    assert mixed.ids[0].count(1) == 1 and mixed.ids[1].count(1) == 2, "beginnings: ours, and the template's own"
