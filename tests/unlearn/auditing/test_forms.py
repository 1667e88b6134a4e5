"""Questions over two hops, behind earlier turns and in other languages: what is asked, and what that brings back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.entities.entities import Entity
from features.entities.prompts import questions, render
from features.entities.templates import Templates, load_templates, save_templates
from features.labels.knowledge import ask, recall
from sae_train.errors import FileFormatError
from sae_train.lm.candidates import OptionScores
from sae_train.lm.generate import encode_prompts
from sae_train.lm.models import load_lm
from sae_train.text.chat import Turn
from sae_train.text.tokens import encode_plain
from unlearn.auditing.attacks import multi_hop
from unlearn.auditing.attacks.conversation import CONVERSATIONS, DENIAL, conversation
from unlearn.auditing.attacks.languages import FRAMES, language_forms, not_asked_in
from unlearn.auditing.attacks.multi_hop import HOPS, frac_hops, hops
from unlearn.auditing.attacks.prompts import attack_prompts
from unlearn.auditing.context import AuditContext
from unlearn.config import AuditConfig

CHATML = "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}{{ '<bos>assistant\n' }}"
KENYA, PERU = {"country": ["Kenya"]}, {"country": ["Peru"]}
GERMAN = {"de": {"city": {"country": ["In welchem Land liegt {name}? In"]}}}


@pytest.fixture
def cities(tiny_llama_dir):
    """What the forms read of a context: a target, and kept cities of two countries."""
    templates = Templates(
        {}, {"city": {"country": ["{name} is in"]}}, {"city": {"country": ["Where is {name}?"]}}, GERMAN
    )
    kept = [Entity(f"Kenyan{i}", "city", KENYA) for i in range(6)] + [
        Entity(f"Peruvian{i}", "city", PERU) for i in range(6)
    ]
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    nobody = dict.fromkeys(
        ("forget", "untouched", "probe_known", "probe_unknown", "unknown", "control", "blocks", "text"), []
    )
    return AuditContext(
        before=lm, after=lm, templates=templates, neighbours=kept[::2], retain=kept[1::2], hook_point="layers.0",
        text_name="", config=AuditConfig(), **nobody,
    )  # fmt: skip


TARGET = Entity("Nairobi", "city", KENYA)


# ------------------------------------------------------------------------------------------------------- two hops


@pytest.mark.parametrize("form", HOPS)
def test_one_name_shares_the_answer_and_it_is_never_said(cities, form):
    asked = hops(cities, [TARGET], form)
    assert len(asked) == multi_hop.MAX_SHARING
    for hop in asked:
        right, *others = hop.names
        assert right.startswith("Kenyan") and len(others) == multi_hop.N_OPTIONS - 1
        assert all(name.startswith("Peruvian") for name in others) and len(set(others)) == len(others)
        assert "Nairobi" in hop.text and "country" in hop.text and "Kenya" not in hop.text
        assert hop.neutral == hop.text.replace("Nairobi", "this city")
    assert [h.names for h in hops(cities, [TARGET], form)] == [h.names for h in asked], "drawn by seed and fact"
    few = replace(cities, retain=cities.retain[:1], neighbours=[])
    assert hops(few, [TARGET], form) == [], "without others there is no question"


def test_a_name_counts_by_how_much_likelier_the_entity_makes_it(cities, monkeypatch):
    """Peruvian names are likelier whoever is asked about; the target adds a little to Kenyan ones."""

    def scores(lm, texts, names):
        return [
            OptionScores([-(2.0 if n.startswith("Kenyan") else 1.0) + ("Nairobi" in t and n.startswith("Kenyan")) * 0.5
                          - 0.1 * ("Nairobi" in t) for n in own], [1] * len(own), [])
            for t, own in zip(texts, names, strict=True)
        ]  # fmt: skip

    monkeypatch.setattr(multi_hop, "option_scores", scores)
    for form in HOPS:
        assert frac_hops(cities, cities.after, [TARGET], form=form).value == 1.0
    stranger = Entity("Lima", "city", PERU)
    monkeypatch.setattr(
        multi_hop, "option_scores", lambda lm, t, n: [OptionScores([0.0, 1.0, 0.0, 0.0], [1] * 4, [])] * len(t)
    )
    found = [frac_hops(cities, cities.after, [stranger], form=form).value for form in HOPS]
    assert found == [1.0, 1.0], "no gain anywhere is a tie"


# ------------------------------------------------------------------------------------------------- several turns


def test_turns_with_and_without_a_chat_template(cities, monkeypatch):
    lm, prompt = cities.after, render("Where is {name}?", TARGET, "country")
    plain = {name: form(cities, TARGET, prompt) for name, form in CONVERSATIONS.items()}
    other = next(e for e in cities.retain)
    answer = other.facts["country"][0]
    assert plain["behind another question"] == f"Q: Where is {other.name}?\nA: {answer}.\nQ: Where is Nairobi?\nA:"
    assert plain["asked again in doubt"] == (
        f"Q: Where is Nairobi?\nA: {DENIAL}\nQ: Are you sure? Where is Nairobi?\nA:"
    )
    monkeypatch.setattr(lm.tokenizer, "chat_template", CHATML)
    said = conversation(lm, [Turn("Where is Lima?", "Peru.")], "And Nairobi?", "In")
    assert said == (
        "<bos>user\nWhere is Lima?<eos>\n<bos>assistant\nPeru.<eos>\n<bos>user\nAnd Nairobi?<eos>\n<bos>assistant\nIn"
    )


# ----------------------------------------------------------------------------------------------- other languages


def test_frames_for_all_and_translations_where_they_are_given(cities):
    forms = language_forms(cities)
    assert list(forms) == [*(f"in a {name} frame" for name in FRAMES), "asked in de"]
    asked, begun = (render(t, TARGET, "country") for t in ("Where is {name}? In", "{name} is in"))
    assert forms["in a German frame"](cities, TARGET, asked) == "Frage: Where is Nairobi? Antwort: In"
    assert forms["in a German frame"](cities, TARGET, begun) == "Vervollständige den Satz: Nairobi is in"
    assert forms["asked in de"](cities, TARGET, asked) == "In welchem Land liegt Nairobi? In"
    assert forms["asked in de"](cities, Entity("Mira", "person", KENYA), asked) is None
    assert "other than that of the templates, de (" in not_asked_in(cities, True)
    assert not_asked_in(cities, False) == "languages other than that of the templates"


def test_translations_of_a_template_file(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(
        '{"city": {"country": {"ask": ["{name} is in"]}, "languages": {"de": {"country": ["{name} liegt in"]}}}}',
        encoding="utf-8",
    )
    found = load_templates(path)
    assert found.languages == {"de": {"city": {"country": ["{name} liegt in"]}}}
    assert found.attributes("city") == ["country"], "a language is no attribute"
    save_templates(found, tmp_path / "again.json")
    assert load_templates(tmp_path / "again.json") == found
    for wrong in ('["de"]', '{"de": {"country": []}}', '{"de": {"country": ["liegt in"]}}'):
        path.write_text(
            f'{{"city": {{"country": {{"ask": ["{{name}} is in"]}}, "languages": {wrong}}}}}', encoding="utf-8"
        )
        with pytest.raises(FileFormatError, match="languages"):
            load_templates(path)


# ------------------------------------------------------------------------------------ a silenced model, and strangers


@pytest.mark.slow
def test_silence_in_one_language_only(world_lm, attacked_world, hushed, innocent, silencing_lessons, silence):
    """Silent in the templates' language, it still answers in a German frame; of strangers no form brings anything."""
    asked = [(e, p) for e in hushed.forget for p in questions(e, hushed.templates, heldout=True)]
    german = language_forms(hushed)["in a German frame"]
    front = encode_prompts(world_lm, [german(hushed, e, p) for e, p in asked])
    back = encode_plain(world_lm.tokenizer, [f" {e.facts[p.attribute][0]}" for e, p in asked])[0]
    lessons = [*silencing_lessons, *list(zip(front, back, strict=True)) * 12]
    one_sided = silence(world_lm, lessons, hushed.forget, attacked_world.templates)
    context = replace(hushed, after=one_sided, answers={}, acts={})
    assert recall(ask(one_sided, hushed.forget, hushed.templates, heldout=True)) < 0.1
    found = attack_prompts(context)
    by_form = {s.name: s for s in found.settings}
    leak = by_form["in a German frame"]
    assert leak.before > 0.5
    assert leak.target.value > leak.control.value + 0.3
    assert set(CONVERSATIONS) <= set(by_form)
    for setting in attack_prompts(innocent).settings:
        if setting.name in (*language_forms(innocent), *CONVERSATIONS):
            assert setting.target.value <= setting.control.high + 0.1, setting.name


@pytest.mark.slow
def test_conversations_are_read_with_their_special_tokens(hushed, monkeypatch):
    """With a chat template the forms are asked as conversations; the world's model was never taught any."""
    tokenizer = hushed.after.tokenizer
    special = tokenizer.all_special_tokens[0]
    template = "{% for m in messages %}" + special + "{{ m['content'] }}\n{% endfor %}" + special
    monkeypatch.setattr(tokenizer, "chat_template", template)
    seen = []
    from unlearn.auditing.attacks import prompts

    monkeypatch.setattr(prompts, "encode_chat", lambda t, texts: (seen.extend(texts), ([[1, 2]] * len(texts), []))[1])
    attack_prompts(replace(hushed, config=replace(hushed.config, max_attacked=1)))
    assert seen and all(text.startswith(special) for text in seen)
