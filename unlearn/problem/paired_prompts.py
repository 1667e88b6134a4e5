"""Paired prompts: the same prompt about a target and its unknown partner, with matching tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from features.entities.entities import Entity
from features.entities.name_tokens import Encoded, encode, matching_offsets
from features.entities.prompts import Prompt, render
from features.entities.templates import Templates
from features.labels.partners import stand_ins
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.text.packing import Batch, Places, lay_out
from unlearn.problem.data import UnlearnSets, training_prompts

Pair = tuple[Encoded, Encoded]
AVERAGED = 8  # unknown entities whose activations make a mean


@dataclass(frozen=True)
class PairBatch:
    """Some pairs, laid out in rows.

    Attributes:
        own: The targets' prompts.
        other: The same prompts about the paired unknown entities.
        at, other_at: Tokens that match: those asked for by `positions`.
        is_name: The targets' name tokens.
    """

    own: Batch
    other: Batch
    at: Places
    other_at: Places
    is_name: Bool[Tensor, "row column"]


def aimed_prompts(
    lm: LanguageModel,
    sets: UnlearnSets,
    templates: Templates,
    *,
    aim: str,
    positions: str,
    with_answers: bool = False,
    seed: int = 0,
) -> list[list[Pair]]:
    """Return every training prompt of each target beside those that it is to become like, in one list for each of them.

    Args:
        lm, sets, templates, with_answers, seed: As in `paired_prompts`.
        aim: `matched`: the same prompt about the target's partner. `sampled`: about an unknown entity drawn for every
            prompt, of the same type and number of name tokens. `mean`: about `AVERAGED` of these, a list each, which
            are averaged. Where there is none, the partner.
        positions: Tokens that have to match; where they would not, the partner stands in, too.
    """
    words = {"with_answers": with_answers, "seed": seed}
    matched = paired_prompts(lm, sets, templates, **words)
    if aim == "matched":
        return [matched]
    found = stand_ins(lm, sets.forget, sets.unknown)
    pools = [pool or [partner] for pool, partner in zip(found, sets.partner, strict=True)]
    if aim == "mean":
        generator = rng("pairs.pool_order", seed)
        orders = [[pool[i] for i in generator.permutation(len(pool))] for pool in pools]
        drawn = [[[order[j % len(order)]] for order in orders] for j in range(AVERAGED)]
    else:
        drawn = [pools]
    lists = [paired_prompts(lm, sets, templates, others=others, **words) for others in drawn]
    return [
        [
            p if matching_offsets(*p, positions) == matching_offsets(*m, positions) else m
            for p, m in zip(pairs, matched, strict=True)
        ]
        for pairs in lists
    ]


def paired_prompts(
    lm: LanguageModel,
    sets: UnlearnSets,
    templates: Templates,
    *,
    with_answers: bool = False,
    seed: int = 0,
    others: Sequence[Sequence[Entity]] | None = None,
) -> list[Pair]:
    """Return every training prompt of each target beside the same prompt about its partner.

    Args:
        lm: For its tokenizer.
        sets: Targets and partners.
        templates: Training wordings are used, held-out ones never.
        with_answers: Also every question with its true answer behind it, and with another entity's: what follows the
            first token of an answer has to be as for the unknown entity, too.
        seed: Draws the other answers.
        others: For each target, unknown entities of which one is drawn for every prompt, in the place of its partner.
    """
    values = _answers_of((*sets.forget, *sets.retain))
    generator, drawing = rng("pairs.target_answers", seed), rng("pairs.partners", seed)
    found: list[Pair] = []
    for target, pool in zip(sets.forget, others or [[p] for p in sets.partner], strict=True):
        own = training_prompts(target, templates)
        answers: list[str] = [""] * len(own)
        if with_answers:
            asked = [p for p in own if p.attribute]
            own = [*own, *asked, *asked]
            answers += [target.facts[p.attribute or ""][0] for p in asked]
            answers += [_another(values, target, p, generator) for p in asked]
        drawn = drawing.integers(len(pool), size=len(own))
        other = [render(p.template, pool[i], p.attribute) for p, i in zip(own, drawn, strict=True)]
        found += list(zip(encode(lm, own, answers), encode(lm, other, answers), strict=True))
    return found


def _answers_of(entities: Sequence[Entity]) -> dict[tuple[str, str], list[str]]:
    """Return the distinct first answers by type and attribute, sorted."""
    found: dict[tuple[str, str], set[str]] = {}
    for entity in entities:
        for attribute, answers in entity.facts.items():
            found.setdefault((entity.type, attribute), set()).add(answers[0])
    return {key: sorted(values) for key, values in found.items()}


def _another(
    values: dict[tuple[str, str], list[str]], target: Entity, prompt: Prompt, generator: np.random.Generator
) -> str:
    """Draw an answer that is not the target's; its own where there is no other."""
    attribute = prompt.attribute or ""
    others = [v for v in values[target.type, attribute] if v not in target.facts[attribute]]
    return others[int(generator.integers(len(others)))] if others else target.facts[attribute][0]


def pair_batch(pairs: Sequence[Pair], positions: str, device: torch.device, *, packed: bool = False) -> PairBatch:
    """Lay some pairs out and find the tokens that match.

    Names of different length match at their last tokens only; texts behind a name that differ do not match at all.
    """
    own = lay_out([one.ids for one, _ in pairs], device, packed=packed)
    other = lay_out([two.ids for _, two in pairs], device, packed=packed)
    matching = [(n, one, two, o) for n, (one, two) in enumerate(pairs) for o in matching_offsets(one, two, positions)]
    names = own.places([(n, at) for n, (one, _) in enumerate(pairs) for at in one.name])
    is_name = torch.zeros_like(own.ids, dtype=torch.bool)
    is_name[names.rows, names.columns] = True
    return PairBatch(
        own,
        other,
        own.places([(n, one.name_at + offset) for n, one, _, offset in matching]),
        other.places([(n, two.name_at + offset) for n, _, two, offset in matching]),
        is_name,
    )
