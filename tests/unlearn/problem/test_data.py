"""Who is forgotten, who is kept: pairs, roles, what is trained on and what never is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from features.entities.entities import Entity
from features.entities.name_tokens import encode
from features.entities.prompts import questions
from sae_train.errors import EntityError
from sae_train.text.tokens import Document, encode_plain
from unlearn.problem.data import (
    mining_half,
    pair,
    resolve_targets,
    retained_prompts,
    split_sets,
    text_windows,
    training_prompts,
    without_targets,
)
from unlearn.problem.made_up_partners import made_up_partners
from unlearn.problem.paired_prompts import AVERAGED, aimed_prompts, pair_batch, paired_prompts


def n_tokens(lm, entity: Entity) -> int:
    return len(encode_plain(lm.tokenizer, [f" {entity.name}"])[0][0])


@pytest.fixture
def sets(world_lm, world_labels, world_templates, world_analysis, world_targets):
    return split_sets(world_lm, world_labels, world_templates, world_analysis, world_targets, frac_retain=0.75, seed=0)


# --------------------------------------------------------------------------------------------- targets


def test_targets_must_be_named_known_and_in_the_set(world_labels):
    with pytest.raises(EntityError):
        resolve_targets(world_labels, [])
    with pytest.raises(EntityError) as caught:
        resolve_targets(world_labels, [world_labels[0].name[:-1]])
    assert str(caught.value.expected).startswith(world_labels[0].name)
    unknown = next(e for e in world_labels if e.label == "unknown")
    with pytest.raises(EntityError) as caught:
        resolve_targets(world_labels, [unknown.name])
    assert "unknown" in str(caught.value.got)


def test_a_target_named_twice_counts_once(world_labels):
    known = next(e for e in world_labels if e.label == "known")
    assert resolve_targets(world_labels, [known.name, known.key]) == [known]


# --------------------------------------------------------------------------------------------- pairs


def test_pairs_are_of_one_type_one_to_one_and_of_equal_length_where_possible(world_lm, sets):
    assert len(sets.partner) == len(sets.forget) == len({e.key for e in sets.partner})
    for target, partner in zip(sets.forget, sets.partner, strict=True):
        assert (partner.type, partner.label) == (target.type, "unknown")
        lengths = {n_tokens(world_lm, u) for u in sets.unknown if u.type == target.type}
        if n_tokens(world_lm, target) in lengths:
            assert n_tokens(world_lm, partner) == n_tokens(world_lm, target)


def test_length_comes_before_everything_else(world_lm):
    target = Entity("Jiros Vafuk", "person", label="known")
    same_length = next(
        Entity(name, "person", label="unknown")
        for name in ("Levast Kibon", "Nadret Petik", "Voprum Fotrim", "Kibon Levast")
        if n_tokens(world_lm, Entity(name, "person")) == n_tokens(world_lm, target)
    )
    longer = Entity("Jiros Vafuk Jiros Vafuk", "person", label="unknown")
    assert pair(world_lm, [target], [longer, same_length]) == [same_length]
    assert pair(world_lm, [target], [longer]) == [longer]


def test_an_assignment_not_a_greedy_walk(world_lm):
    """Both targets like the first unknown entity best; one of them has to take the other."""
    a, b = Entity("Jiros Vafuk", "person"), Entity("Jiros Vafuk Kibon", "person")
    near, far = Entity("Jiros Vafuk Petik", "person"), Entity("Jiros Vafuk Petik Kibon", "person")
    found = pair(world_lm, [a, b], [near, far])
    assert {e.name for e in found} == {near.name, far.name}
    assert len({e.name for e in pair(world_lm, [a, b, replace(a, name="Vafuk")], [near, far])}) == 2, (
        "too few: used again"
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_readings_partners_are_together_like_those_they_are_drawn_from(world_lm, sets, seed):
    """Readings that say nothing about names: balanced partners lie nearer to the mean, and are as long as before."""
    generator = np.random.default_rng(seed)
    readings = {u.key: generator.normal(size=8) for u in sets.unknown}
    spread = np.std(list(readings.values()), axis=0)

    def imbalance(partners):
        means = {u.type: np.mean([readings[v.key] for v in sets.unknown if v.type == u.type], axis=0) for u in partners}
        return np.square(np.mean([(readings[p.key] - means[p.type]) / spread for p in partners], axis=0)).mean()

    plain = pair(world_lm, sets.forget, sets.unknown)
    balanced = pair(world_lm, sets.forget, sets.unknown, readings=readings, seed=seed)
    assert imbalance(balanced) < 0.6 * imbalance(plain)
    assert len({p.key for p in balanced}) == len(sets.forget)
    assert [(p.type, n_tokens(world_lm, p)) for p in balanced] == [(p.type, n_tokens(world_lm, p)) for p in plain]
    assert pair(world_lm, sets.forget, sets.unknown, readings=readings, seed=seed) == balanced, "the seed decides"


def test_without_an_unknown_entity_of_the_type_there_is_nothing_to_aim_at(world_lm):
    with pytest.raises(EntityError) as caught:
        pair(world_lm, [Entity("A", "person")], [Entity("B", "city")])
    assert "person" in str(caught.value)


# --------------------------------------------------------------------------------------------- roles


def test_roles_are_disjoint(sets, world_targets, world_analysis):
    roles = {n: {e.key for e in getattr(sets, n)} for n in ("forget", "retain", "holdout", "unknown")}
    assert roles["forget"] == set(world_targets)
    names = list(roles)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not roles[a] & roles[b], (a, b)
    held = {k for k, h in zip(world_analysis.entity_keys, world_analysis.held_out, strict=True) if h}
    assert not {e.key for e in (*sets.unknown, *sets.partner)} & held, (
        "the audit's unknown entities are never trained on"
    )
    n_known = len(sets.retain) + len(sets.holdout)
    assert len(sets.retain) == round(0.75 * n_known)


def test_the_seed_decides_the_roles(world_lm, world_labels, world_templates, world_analysis, world_targets, sets):
    def again(seed: int):
        return split_sets(
            world_lm, world_labels, world_templates, world_analysis, world_targets, frac_retain=0.75, seed=seed
        )

    assert again(0) == sets
    assert {e.key for e in again(1).holdout} != {e.key for e in sets.holdout}


def test_forgetting_everything_leaves_nothing_to_keep(world_lm, world_labels, world_templates, world_analysis):
    everyone = [e.key for e in world_labels if e.label == "known"]
    with pytest.raises(EntityError, match="nothing to keep"):
        split_sets(world_lm, world_labels, world_templates, world_analysis, everyone, frac_retain=0.75, seed=0)


def test_halves_of_the_analysis(world_labels, world_analysis):
    mining, held = mining_half(world_labels, world_analysis, "unknown")
    assert len(mining) + len(held) == sum(e.label == "unknown" for e in world_labels)
    assert len(held) == 20, "half of 2 x 20"
    assert not {e.key for e in mining} & {e.key for e in held}


def test_no_pair_with_an_unknown_entity_said_to_have_the_answer(world_lm):
    """Guesses are often right about somebody else; such an unknown entity is no aim, however alike its name."""
    target = Entity("Velmora", "city", {"country": ["Ardane"]})
    alike = Entity("Velmoran", "city", {"country": ["Senn"]}, answers={"country": ["Ardane.", "Ardane"]})
    other = Entity("Xu Yo Pa Li Kom", "city", {"country": ["Senn"]}, answers={"country": ["Borovia"]})
    assert pair(world_lm, [target], [alike, other]) == [other]
    assert pair(world_lm, [target], [replace(alike, answers={}), other])[0].name == alike.name


# --------------------------------------------------------------------------------------------- prompts


def test_held_out_wordings_are_never_trained_on(world_lm, sets, world_templates):
    heldout = {p.text for e in (*sets.forget, *sets.retain) for p in questions(e, world_templates, heldout=True)}
    trained = {p.text for e in (*sets.forget, *sets.retain) for p in training_prompts(e, world_templates)}
    assert heldout
    assert not heldout & trained
    texts = [
        world_lm.tokenizer.decode(encoded.ids, skip_special_tokens=True).strip()
        for pairs in paired_prompts(world_lm, sets, world_templates)
        for encoded in pairs
    ] + [
        world_lm.tokenizer.decode(encoded.ids, skip_special_tokens=True).strip()
        for encoded in retained_prompts(world_lm, sets.retain, world_templates)
    ]
    assert not any(text.startswith(tuple(heldout)) for text in texts)
    assert any(text.startswith(tuple(trained)) for text in texts), "the comparison can fail"


def test_paired_prompts_differ_in_the_name_only(world_lm, sets, world_templates):
    found = paired_prompts(world_lm, sets, world_templates)
    expected = sum(len(training_prompts(e, world_templates)) for e in sets.forget)
    assert len(found) == expected
    for own, other in found:
        assert own.ids[own.name_at + 1 :] == other.ids[other.name_at + 1 :]
        assert own.ids != other.ids
    decoded = world_lm.tokenizer.decode(found[0][0].ids[: found[0][0].name_at + 1])
    assert decoded.endswith(sets.forget[0].name)


def test_pairs_with_answers_hold_the_true_one_and_another(world_lm, sets, world_templates):
    plain = paired_prompts(world_lm, sets, world_templates)
    found = paired_prompts(world_lm, sets, world_templates, with_answers=True)
    n_asked = sum(1 for e in sets.forget for p in training_prompts(e, world_templates) if p.attribute)
    assert len(found) == len(plain) + 2 * n_asked
    target = sets.forget[0]
    texts = [world_lm.tokenizer.decode(own.ids, skip_special_tokens=True).strip() for own, _ in found]
    template = world_templates.ask[target.type][next(iter(target.facts))][0].replace("{name}", target.name)
    behind = [t.removeprefix(template).strip() for t in texts if t.startswith(template)]
    truth = target.facts[next(iter(target.facts))][0]
    assert behind[:2] == ["", truth]
    assert behind[2] not in ("", truth)
    for own, other in found:
        assert own.ids[own.name_at + 1 :] == other.ids[other.name_at + 1 :], "the same answer on both sides"


@pytest.mark.parametrize(("aim", "n_lists"), [("matched", 1), ("sampled", 1), ("mean", AVERAGED)])
def test_aims_are_unknown_entities_at_matching_tokens(world_lm, sets, world_templates, aim, n_lists):
    settings = {"positions": "name-and-behind", "with_answers": True}
    lists = aimed_prompts(world_lm, sets, world_templates, aim=aim, **settings)
    matched = paired_prompts(world_lm, sets, world_templates, with_answers=True)
    assert len(lists) == n_lists
    for pairs in lists:
        assert [own for own, _ in pairs] == [own for own, _ in matched], "the targets' own prompts are the same"
        at = pair_batch(pairs, settings["positions"], world_lm.device).at
        same = pair_batch(matched, settings["positions"], world_lm.device).at
        assert torch.equal(at.rows, same.rows) and torch.equal(at.columns, same.columns)
    others = {world_lm.tokenizer.decode(o.ids[o.name_from : o.name_at + 1]).strip() for p in lists for _, o in p}
    assert others <= {e.name for e in sets.unknown}
    partners = {e.name for e in sets.partner}
    assert (others == partners) == (aim == "matched")
    assert lists == aimed_prompts(world_lm, sets, world_templates, aim=aim, **settings), "drawn by seed"


def test_made_up_partners_are_in_no_list(world_lm, sets, world_templates):
    found = made_up_partners(world_lm, sets, world_templates, seed=3)
    assert [e.type for e in found] == [t.type for t in sets.forget]
    listed = {e.name for group in (sets.forget, sets.retain, sets.holdout, sets.unknown, sets.partner) for e in group}
    assert not {e.name for e in found} & listed
    pieces = {word for e in (*sets.unknown, *sets.partner) for word in e.name.split()}
    assert all(word in pieces for e in found for word in e.name.split() if len(e.name.split()) > 1)
    assert len({e.key for e in found}) == len(found)
    assert found == made_up_partners(world_lm, sets, world_templates, seed=3) != sets.partner
    one = replace(sets, unknown=sets.unknown[:1], partner=[sets.unknown[0] for _ in sets.forget])
    kept = made_up_partners(world_lm, one, world_templates, seed=3)
    assert kept == one.partner, "nothing can be dealt anew"


def test_matching_tokens(world_lm, sets, world_templates):
    """Every choice of positions, by hand; names of one length, so that all their tokens match."""
    pairs = [
        (a, b)
        for a, b in paired_prompts(world_lm, sets, world_templates)
        if a.name_at - a.name_from == b.name_at - b.name_from and len(a.ids) > a.name_at + 1
    ][:3]
    assert len(pairs) == 3
    spans = {
        "last-name-token": lambda e: range(e.name_at, e.name_at + 1),
        "name-tokens": lambda e: range(e.name_from, e.name_at + 1),
        "from-name-on": lambda e: range(e.name_at, len(e.ids)),
        "name-and-behind": lambda e: range(e.name_from, len(e.ids)),
    }
    for positions, span in spans.items():
        batch = pair_batch(pairs, positions, world_lm.device)
        for places, side in ((batch.at, 0), (batch.other_at, 1)):
            expected = [(row, at) for row, pair in enumerate(pairs) for at in span(pair[side])]
            assert list(zip(places.rows.tolist(), places.columns.tolist(), strict=True)) == expected, positions
    own, _ = pairs[0]
    name = world_lm.tokenizer.decode(batch.own.ids[0][batch.is_name[0]]).strip()
    assert name == sets.forget[0].name
    assert batch.own.mask[0].sum() == len(own.ids)
    packed = pair_batch(pairs, positions, world_lm.device, packed=True)
    for places, layout, same, there in (
        (packed.at, packed.own, batch.at, batch.own),
        (packed.other_at, packed.other, batch.other_at, batch.other),
    ):
        assert torch.equal(places.of(layout.ids), same.of(there.ids)), "the same tokens, packed"
    assert packed.own.ids[packed.is_name].sort().values.equal(batch.own.ids[batch.is_name].sort().values)


def test_answers_are_retained_behind_their_questions(world_lm, world_templates):
    entity = Entity(
        "Jiros Vafuk", "person", {"job": ["judge"]}, label="known", answers={"job": ["judge", "pilot", "cook"]}
    )
    found = retained_prompts(world_lm, [entity], world_templates)
    texts = [world_lm.tokenizer.decode(e.ids, skip_special_tokens=True).strip() for e in found]
    asked = world_templates.ask["person"]["job"]
    assert texts[-3:] == [
        t.replace("{name}", entity.name) + f" {a}" for t, a in zip(asked, ["judge", "pilot", "cook"], strict=True)
    ]
    assert len(texts) == len(world_templates.mention["person"]) + 3


def test_encode_without_prompts(world_lm):
    assert encode(world_lm, []) == []


# --------------------------------------------------------------------------------------------- general text


def test_documents_that_name_a_target_are_left_out():
    target = Entity("São Orla", "city", aliases=["Old Harbour"])
    texts = {
        "The city of São Orla is old.": False,
        "SAO ORLA!": False,
        "We saw (Sao-Orla) there.": False,
        "The old harbour, again.": False,
        "São Orlando is another city.": True,
        "A harbour, old as it is.": True,
        "": True,
    }
    kept = [d.text for d in without_targets([Document(t) for t in texts], [target])]
    assert kept == [t for t, stays in texts.items() if stays]


def test_no_document_that_names_a_target_is_retained_in_any_script(script):
    target = Entity("Osk", "city", aliases=[script.name])
    named, others = ([Document(t) for t in texts] for texts in (script.names_it, script.another))
    assert list(without_targets([*named, *others], [target])) == others


def test_no_window_of_the_corpus_names_a_target(world_lm, world_documents, sets):
    windows = text_windows(
        world_lm.tokenizer, without_targets(world_documents, sets.forget), ctx_len=64, max_tokens=10**6
    )
    texts = [world_lm.tokenizer.decode(w) for w in windows]
    everything = [d.text for d in world_documents]
    for target in sets.forget:
        assert not any(target.name in t for t in texts)
    assert any(t.name in d for t in sets.forget for d in everything), "the corpus does name them"


def test_no_documents_no_windows(world_lm):
    assert text_windows(world_lm.tokenizer, [], ctx_len=64, max_tokens=100) == []
