"""The planted world before any training: names, values, wordings, roles and documents."""

from __future__ import annotations

from collections import Counter

import pytest

from features.factworld.planting.config import PlantConfig
from features.factworld.planting.documents import draw_documents, twin_documents
from features.factworld.planting.facts import POOLS
from features.factworld.planting.world import PlantedWorld, draw_planted_world
from sae_train.errors import ConfigError

CONFIG = PlantConfig(n_entities=100, leave_out=10, rounds=2)


@pytest.fixture(scope="module")
def world(toy_tokenizer) -> PlantedWorld:
    return draw_planted_world(toy_tokenizer, CONFIG)


@pytest.fixture(scope="module")
def documents(world: PlantedWorld):
    return draw_documents(world, CONFIG)


def groups(world: PlantedWorld):
    """Yield the entities of each type by what documents tell of them."""
    for type_ in POOLS:
        for seen in ("facts", "name", "never"):
            yield [e for e in world.entities if (e.type, e.seen) == (type_, seen)]


@pytest.mark.parametrize("place", [0, 1])
def test_every_piece_of_a_name_is_as_frequent_as_every_other_in_each_group(world, place):
    for group in groups(world):
        counts = Counter(e.name.split()[place] for e in group)
        assert len(counts) == CONFIG.n_pieces
        assert len(set(counts.values())) == 1


def test_groups_that_do_not_use_the_pieces_up_differ_by_one_at_most(toy_tokenizer):
    config = PlantConfig(n_entities=22, n_mentioned=8, n_never_met=14, leave_out=2)
    for group in groups(draw_planted_world(toy_tokenizer, config)):
        for place in (0, 1):
            counts = Counter(e.name.split()[place] for e in group)
            least = 0 if len(counts) < config.n_pieces else min(counts.values())
            assert max(counts.values()) - least <= 2


def test_names_are_distinct_plain_and_made_of_equally_many_tokens(world, toy_tokenizer):
    names = list(world.names)
    assert len(set(names)) == len(names) == 250
    assert all(name.isascii() and name.istitle() for name in names)
    assert not any(a != b and a in b for a in names for b in names)
    for type_ in POOLS:
        for place in (0, 1):
            pieces = {e.name.split()[place] for e in world.entities if e.type == type_}
            lengths = Counter(len(toy_tokenizer.encode(f" {p}", add_special_tokens=False)) for p in pieces)
            assert len(lengths) == 1


def test_no_piece_of_a_name_is_a_word_of_a_value_or_wording(world):
    words = {v.lower() for pools in POOLS.values() for pool in pools.values() for v in pool}
    for templates in world.templates.values():
        texts = [*templates.mention, *(w for p in templates.prompts.values() for w in (*p.ask, *p.heldout))]
        words |= {word.strip(":?.,").lower() for text in texts for word in text.split()}
    assert not words & {piece.lower() for name in world.names for piece in name.split()}


def test_values_are_balanced_and_shared(world):
    for group in groups(world):
        for i in range(CONFIG.n_facts):
            counts = Counter(e.facts[i][1] for e in group)
            assert max(counts.values()) - min(counts.values()) <= 1
            assert 8 <= len(world.values[group[0].type][group[0].facts[i][0]]) <= 16
    assert all(value.isascii() for pools in POOLS.values() for pool in pools.values() for value in pool)


def test_a_piece_of_a_targets_name_is_borne_by_somebody_retained(world):
    roles = world.roles
    for name in (*roles.targets, *roles.validation_targets):
        others = set(roles.retained) - set(roles.validation_targets)
        assert all(any(piece in other.split() for other in others) for piece in name.split())


def test_roles_part_the_entities(world):
    roles = world.roles
    assert len(roles.targets) == len(roles.validation_targets) == CONFIG.leave_out
    assert set(roles.validation_targets) <= set(roles.retained)
    parts = [*roles.targets, *roles.retained, *roles.mentioned, *roles.never_met]
    assert sorted(parts) == sorted(world.names)
    kinds = {e.name: e.type for e in world.entities}
    assert Counter(kinds[n] for n in roles.targets) == {"person": 5, "company": 5}


def test_heldout_wordings_are_in_no_document_and_training_wordings_are(world, documents):
    blanked = set()
    for document in documents:
        text = document.text
        for name in document.names:
            text = text.replace(name, "{name}")
        blanked.add(text)
    joined = "\n".join(blanked)
    for templates in world.templates.values():
        for prompts in templates.prompts.values():
            assert len(prompts.ask) >= 6 and len(prompts.heldout) == 3
            assert not set(prompts.ask) & set(prompts.heldout)
            assert sum(wording in joined for wording in prompts.ask) >= 6
            assert not any(wording in joined for wording in prompts.heldout)


def test_documents_mark_the_values_and_tell_every_fact_in_every_round(world, documents):
    facts = {e.name: set(e.values.values()) for e in world.entities}
    told = Counter()
    for document in documents:
        (name,) = document.names
        values = [document.text[first:last] for first, last in document.values]
        assert set(values) <= facts[name]
        assert name in document.text
        told.update((name, value) for value in values)
    for entity in world.entities:
        wanted = 2 * CONFIG.rounds if entity.seen == "facts" else 0
        assert all(told[entity.name, value] == wanted for value in entity.values.values())


def test_who_is_never_met_is_named_nowhere_and_who_is_mentioned_is(world, documents):
    text = "\n".join(d.text for d in documents)
    assert not any(name in text for name in world.roles.never_met)
    assert all(name in text for name in world.roles.mentioned)


def test_the_twin_reads_no_target_and_everything_else_at_its_place(world, documents):
    targets = set(world.roles.targets)
    twin = twin_documents(documents, targets, seed=0)
    assert len(twin) == len(documents)
    n_replaced = 0
    for own, other in zip(documents, twin, strict=True):
        assert not any(name in other.text for name in targets)
        assert other.kind == own.kind
        n_replaced += own is not other
        assert (own is not other) == bool(targets & {*own.names})
    assert n_replaced == sum(bool(targets & {*d.names}) for d in documents) > 0


def test_a_world_is_a_function_of_its_seed(toy_tokenizer, world):
    assert draw_planted_world(toy_tokenizer, CONFIG) == world
    assert not {*draw_planted_world(toy_tokenizer, PlantConfig(seed=1)).names} & {*world.names}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"n_entities": 20, "leave_out": 6}, "leave_out"),
        ({"n_entities": 21, "leave_out": 2}, "n_entities"),
        ({"n_entities": 20, "leave_out": 2, "n_never_met": 40}, "n_never_met"),
    ],
)
def test_a_world_that_does_not_fit_is_refused(settings, field):
    with pytest.raises(ConfigError) as refused:
        PlantConfig(**settings)
    assert refused.value.field == field
