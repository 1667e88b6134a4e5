"""Which tokens of a prompt are the name, in plain text and in a chat template, for everything that reads names."""

from __future__ import annotations

import pytest
import torch

from features.causal.patched_questions import NameQuestions, read_rows, verdicts
from features.entities.collect import token_rows
from features.entities.entities import Entity
from features.entities.name_tokens import MATCHING, Encoded, encode, matching_offsets, name_spans, span_of
from features.entities.prompts import COMPLETE, Prompt, in_chat, render
from sae_train.errors import ConfigError, InputError
from sae_train.fields import described
from sae_train.lm.answering import Decoding, write_answers
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel
from sae_train.lm.patching import Patch, patched_answers
from sae_train.text.tokens import bos_prefix, encode_plain
from unlearn.auditing.evaluations.places import END, LAST, MEAN, _read
from unlearn.problem.paired_prompts import pair_batch
from unlearn.settings.redirection import RedirectSettings

CHATML = "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}{{ '<bos>assistant\n' }}"
NAMES = ("Halle (Saale)", "São Tomé", "東京", "Łódź 🙂", "Qopzareltimunderhagen", "Ost", "O", "St. Anna-on-Lim")
FRAMES = ("{name}", "The city of {name}", "About {name}, we read", "({name})", "{name}s lie in", "“{name}”")
ASKED = "Where is {name}? It is in"


@pytest.fixture(scope="module")
def toy_lm(tiny_llama_dir):
    from sae_train.lm.models import load_lm

    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.fixture
def chat_lm(toy_lm, monkeypatch):
    """The same model with a chat template."""
    monkeypatch.setattr(toy_lm.tokenizer, "chat_template", CHATML)
    return toy_lm


def pieces(lm: LanguageModel, prompt, position: str) -> list[str]:
    """The tokens a position names, as text."""
    (read,) = encode(lm, [prompt])
    return [lm.tokenizer.decode([read.ids[i]]) for i in span_of(read, position)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frame", FRAMES)
def test_the_name_is_all_of_its_tokens_and_no_more(toy_lm, name, frame):
    prompt = render(frame, Entity(name, "city"))
    (read,) = encode(toy_lm, [prompt])
    ids, span = read.ids, read.name
    before, inside, behind = (
        toy_lm.tokenizer.decode(part) for part in (ids[1 : span[0]], [ids[i] for i in span], ids[span[-1] + 1 :])
    )
    assert name in inside, "every byte of it"
    # what a token at the border holds besides is less than the token itself: a blank, a bracket, an "s"
    assert len(inside) - len(name) <= 2
    assert before + inside + behind == prompt.text
    assert name_spans(toy_lm, [prompt], "first") == [span[:1]]
    assert name_spans(toy_lm, [prompt]) == name_spans(toy_lm, [prompt], "last") == [span[-1:]]
    assert list(name_spans(toy_lm, [prompt], "end")[0]) == [len(ids) - 1]


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
        name_spans(toy_lm, [accent], "lats")
    assert str(caught.value.expected).startswith("last")


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
    mixed = encode(toy_lm, [plain, prompt])
    assert mixed[0].ids.count(1) == 1 and mixed[1].ids.count(1) == 2, "beginnings: ours, and the template's own"


# ------------------------------------------------------------------------- conversations, wherever a name is looked for


def conversations(lm: LanguageModel, *names: str) -> list[Prompt]:
    """One question about each name, as an instruct model is asked."""
    return [in_chat(render(ASKED, Entity(n, "city"), "country"), lm.tokenizer) for n in names]


def by_hand(lm: LanguageModel, prompt: Prompt) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and those that hold a letter of the name, counted by the tokenizer itself."""
    out = lm.tokenizer(prompt.text, add_special_tokens=False, return_offsets_mapping=True)
    spans = out["offset_mapping"]
    return out["input_ids"], [i for i, (a, b) in enumerate(spans) if a < prompt.name_end and b > prompt.name_start]


def test_activations_at_names_in_a_conversation(chat_lm):
    prompts = conversations(chat_lm, "Velmora", "Halle (Saale)")
    found = token_rows(chat_lm, prompts, ["layers.1"], position="all")
    for index, prompt in enumerate(prompts):
        ids, where = by_hand(chat_lm, prompt)
        own = capture(chat_lm, torch.tensor([ids]), None, ["layers.1"])["layers.1"][0, where]
        mine = found.prompt == index
        assert found.position[mine].tolist() == where
        torch.testing.assert_close(found.acts["layers.1"][torch.from_numpy(mine)], own, rtol=1e-4, atol=1e-4)


def test_names_are_patched_in_a_conversation(chat_lm):
    """The conversation is what is asked, its name is what is patched: own rows change nothing, foreign ones do."""
    entities = [Entity(n, "city", {"country": ["Ardane"]}) for n in ("Velmora", "Tashu")]
    prompts = conversations(chat_lm, *(e.name for e in entities))
    asked = NameQuestions.of(chat_lm, entities, prompts, torch.arange(2).numpy(), "all")
    assert [list(p) for p in asked.places] == [by_hand(chat_lm, p)[1] for p in prompts]
    assert asked.ids == [by_hand(chat_lm, p)[0] for p in prompts]
    last = NameQuestions.of(chat_lm, entities, prompts, torch.arange(2).numpy(), "last")
    assert [list(p) for p in last.places] == [list(p)[-1:] for p in asked.places]
    rows = read_rows(chat_lm, asked, ["layers.0"])["layers.0"]
    assert [len(r) for r in rows] == [len(p) for p in asked.places]
    assert verdicts(chat_lm, asked, ("layers.0", rows)) == verdicts(chat_lm, asked)
    plain = write_answers(chat_lm, asked.ids, Decoding(8))
    far = [torch.randn(r.shape, generator=torch.Generator().manual_seed(0)) * 50 for r in rows]
    own, foreign = (
        patched_answers(chat_lm, asked.ids, Patch("layers.0", asked.places, r), Decoding(8)) for r in (rows, far)
    )
    assert own == plain != foreign


def test_an_answer_in_a_conversation_goes_on_where_the_turn_stands(chat_lm):
    begun, not_begun = (
        in_chat(render(t, Entity("Velmora", "city"), "country"), chat_lm.tokenizer) for t in (ASKED, "Where is {name}?")
    )
    decode = chat_lm.tokenizer.decode
    for prompt, end in ((begun, "It is in Ardane"), (not_begun, "assistant\nArdane")):
        (read,) = encode(chat_lm, [prompt], ["Ardane"])
        assert decode(read.ids).endswith(end)
        assert "Velmora" in decode([read.ids[i] for i in read.name]) and len(read.name) == len(
            by_hand(chat_lm, prompt)[1]
        )
    with pytest.raises(InputError, match="special token"):
        encode(chat_lm, [begun], ["Ardane<eos>"])
    plain = render(ASKED, Entity("Velmora", "city"), "country")
    assert decode(encode(chat_lm, [plain], ["<eos>"])[0].ids).endswith("It is in <eos>"), "in plain text it is text"
    assert chat_lm.tokenizer.eos_token_id not in encode(chat_lm, [plain], ["<eos>"])[0].ids


def test_the_places_of_an_audit_in_a_conversation(chat_lm):
    prompts = conversations(chat_lm, "Halle (Saale)", "Tashu")
    read = _read(chat_lm, prompts, ["layers.1"])
    for index, prompt in enumerate(prompts):
        ids, where = by_hand(chat_lm, prompt)
        acts = capture(chat_lm, torch.tensor([ids]), None, ["layers.1"])["layers.1"][0]
        rows = read.acts["layers.1"][:, index]
        assert read.n_tokens[index] == len(where)
        for row, expected in ((LAST, acts[where[-1]]), (MEAN, acts[where].mean(0)), (END, acts[-1])):
            torch.testing.assert_close(rows[row], expected, rtol=1e-4, atol=1e-4)
        for back, at in enumerate(where[-2::-1][:3], start=1):
            torch.testing.assert_close(rows[END + back], acts[at], rtol=1e-4, atol=1e-4)


def test_pairs_of_conversations_match_at_their_names(chat_lm):
    own, other = encode(chat_lm, conversations(chat_lm, "Velmora", "Tashu"))
    batch = pair_batch([(own, other)], "from-name-on", torch.device("cpu"))
    assert batch.own.ids[0][batch.is_name[0]].tolist() == own.ids[own.name_from : own.name_at + 1]
    assert (
        batch.at.of(batch.own.ids[..., None])[1:].tolist() == batch.other_at.of(batch.other.ids[..., None])[1:].tolist()
    )


# ---------------------------------------------------------------------------------------------------- exactly as before


def test_spans_are_those_of_a_plain_loop_over_offsets(toy_lm):
    """The rule in its simplest form, one token at a time."""
    prompts = [render(f, Entity(n, "city")) for n in NAMES for f in FRAMES]
    prefix = bos_prefix(toy_lm.tokenizer)
    for prompt, read in zip(prompts, encode(toy_lm, prompts), strict=True):
        (ids,), (spans,) = encode_plain(toy_lm.tokenizer, [prompt.text])
        held = [i for i, (a, b) in enumerate(spans) if a < prompt.name_end and b > max(a, prompt.name_start)]
        assert read.ids == prefix + ids
        assert list(read.name) == [len(prefix) + i for i in held]


def test_matching_tokens_of_names_of_one_length_and_of_two():
    long = Encoded([1, 5, 7, 8, 9, 9], name_at=3, name_from=2)
    short, other_end = Encoded([1, 5, 6, 9, 9], name_at=2, name_from=2), Encoded([1, 5, 7, 6, 9, 3], 3, 2)
    spans = {p: [list(matching_offsets(long, o, p)) for o in (long, short, other_end)] for p in MATCHING}
    assert spans == {
        "last-name-token": [[0], [0], [0]],
        "name-tokens": [[-1, 0], [0], [-1, 0]],
        "from-name-on": [[0, 1, 2], [0, 1, 2], [0]],
        "name-and-behind": [[-1, 0, 1, 2], [0, 1, 2], [-1, 0]],
    }
    assert tuple(MATCHING) == described(RedirectSettings)["positions"].choices, (
        "what the settings offer is what there is"
    )
