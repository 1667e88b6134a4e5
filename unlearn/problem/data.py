"""Entity sets: the forget set, the retain set, and the unknown entity paired with each target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from features.analysis.store import LatentAnalysis
from features.entities.collect import entity_means, name_activations
from features.entities.entities import Entity, find_entity
from features.entities.name_tokens import Encoded, encode
from features.entities.prompts import Prompt, check_types, contexts, mentions, questions
from features.entities.templates import Templates
from features.labels.made_up import MADE_UP
from features.labels.partners import pair
from sae_train.errors import EntityError
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.text.naming import names_any
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows

MAX_CONTEXTS = 3  # of an unknown entity, by which partners are balanced


@dataclass(frozen=True)
class UnlearnSets:
    """Entities by role.

    Attributes:
        forget: Targets.
        partner: Paired unknown entity of each target, same length.
        retain: Known entities used for retention.
        holdout: Known entities never trained on.
        unknown: Unknown entities used for retention (the mining half; the other half is for the audit).
        earlier: What was removed from the model before: kept forgotten, in no other role.
        earlier_partner: Paired unknown entity of each of these, the one that its own removal aimed at.
    """

    forget: list[Entity]
    partner: list[Entity]
    retain: list[Entity]
    holdout: list[Entity]
    unknown: list[Entity]
    earlier: list[Entity] = field(default_factory=list)
    earlier_partner: list[Entity] = field(default_factory=list)

    def with_targets(self, forget: list[Entity], partner: list[Entity]) -> UnlearnSets:
        """Return the sets with other targets and nothing removed before."""
        return replace(self, forget=forget, partner=partner, earlier=[], earlier_partner=[])


def resolve_targets(labels: Sequence[Entity], names: Sequence[str]) -> list[Entity]:
    """Find the entities to forget.

    Raises:
        EntityError: No name, an unknown name, or an entity that the model does not know.
    """
    if not names:
        raise EntityError("nothing to forget", got="an empty list", expected="at least one name (`forget`)")
    targets = list({e.key: e for e in (find_entity(labels, name) for name in names)}.values())
    for target in targets:
        if target.label != "known":
            raise EntityError(
                f"'{target.name}' cannot be forgotten",
                got=f"label {target.label}",
                field="labels",
                expected="label known",
            )
    return targets


def mining_half(labels: Sequence[Entity], analysis: LatentAnalysis, label: str) -> tuple[list[Entity], list[Entity]]:
    """Return the entities with a label, as (mining half, held-out half) of the analysis."""
    held = {k for k, out in zip(analysis.entity_keys, analysis.held_out, strict=True) if out}
    rows = [e for e in labels if e.label == label]
    return [e for e in rows if e.key not in held], [e for e in rows if e.key in held]


def split_sets(
    lm: LanguageModel,
    labels: Sequence[Entity],
    templates: Templates,
    analysis: LatentAnalysis,
    names: Sequence[str],
    *,
    frac_retain: float,
    seed: int,
    earlier: Mapping[str, str] = MappingProxyType({}),
) -> UnlearnSets:
    """Sort the labelled entities into roles and pair every target with an unknown entity of its type.

    Args:
        lm: The model.
        labels: All entities.
        templates: Tell which types can be asked about.
        analysis: Its mining half is what is trained on.
        names: Targets.
        frac_retain: Share of the other known entities that is retained.
        seed: Draws them.
        earlier: What was removed from this model before, key by key of its partner; one that is gone is replaced.

    Raises:
        EntityError: A target cannot be used or was removed before, an earlier one is not among the labels, or nothing
            is left to retain or to pair with.
    """
    forget = resolve_targets(labels, names)
    check_types(forget, templates)
    gone = [find_entity(labels, key, field="unlearning.json") for key in earlier]
    again = sorted({e.key for e in gone} & {e.key for e in forget})
    if again:
        raise EntityError(
            "already removed from this model", got=", ".join(again), expected="targets that it still knows (`model`)"
        )
    chosen = {e.key for e in (*forget, *gone)}
    known = [e for e in labels if e.label == "known"]
    order = rng("data.retain", seed).permutation(len(known))  # the same one in every removal of a chain
    kept = [known[i] for i in order if known[i].key not in chosen]
    n_retain = round(len(kept) * frac_retain)
    unknown = [e for e in mining_half(labels, analysis, "unknown")[0] if e.key not in chosen]
    if n_retain < 1 or not unknown:
        raise EntityError(
            "nothing to keep",
            got=f"{n_retain} known and {len(unknown)} unknown entities",
            expected="at least one of each",
        )
    labelled = {e.key for e in labels}
    # A partner that no label names was made up, and is its name.
    made_up = {key: e for t in gone if (key := earlier[t.key]) not in labelled and (e := _of_type(key, t.type))}
    old = {u.key: u for u in unknown} | made_up
    lost = [e for e in gone if earlier[e.key] not in old]
    aims = {e.key: old[earlier[e.key]] for e in gone if earlier[e.key] in old}
    if lost:
        aims |= {e.key: p for e, p in zip(lost, balanced(lm, lost, unknown, templates, seed), strict=True)}
    return UnlearnSets(
        forget=forget,
        partner=balanced(lm, forget, _not_taken(unknown, list(aims.values())), templates, seed),
        retain=kept[:n_retain],
        holdout=kept[n_retain:],
        unknown=unknown,
        earlier=gone,
        earlier_partner=[aims[e.key] for e in gone],
    )


def _of_type(key: str, kind: str) -> Entity | None:
    """Return the entity of a key `type:name`, which is seen nowhere; None of another type or without a name."""
    found, _, name = key.partition(":")
    return Entity(name, kind, seen=MADE_UP) if found == kind and name else None


def _not_taken(unknown: Sequence[Entity], taken: Sequence[Entity]) -> list[Entity]:
    """Return the unknown entities that are not partners yet; all of a type if every one of it is a partner."""
    keys = {e.key for e in taken}
    types = {u.type for u in unknown if u.key not in keys}
    return [u for u in unknown if u.key not in keys or u.type not in types]


def balanced(
    lm: LanguageModel, targets: Sequence[Entity], unknown: Sequence[Entity], templates: Templates, seed: int
) -> list[Entity]:
    """Pair targets with unknown entities that are together like all of their types, by what they look like inside.

    Read at the last name token behind all blocks, end to end, the mean over a few contexts.
    """
    pool = [u for u in unknown if u.type in {t.type for t in targets}]
    prompts = [p for u in pool for p in contexts(u, templates)[:MAX_CONTEXTS]]
    blocks = [f"layers.{i}" for i in range(lm.n_blocks)]
    acts = torch.cat([*name_activations(lm, prompts, blocks).values()], dim=1).numpy()
    means, keys = entity_means(acts, np.array([p.entity for p in prompts]))
    return pair(lm, targets, pool, readings=dict(zip(keys, means, strict=True)), seed=seed)


def training_prompts(entity: Entity, templates: Templates) -> list[Prompt]:
    """Return the prompts that train about an entity: its mentions and its questions, none of the held-out wordings."""
    return [*mentions(entity, templates), *questions(entity, templates, heldout=False)]


def retained_prompts(lm: LanguageModel, entities: Sequence[Entity], templates: Templates) -> list[Encoded]:
    """Return mentions, and questions with what the model answered behind them, so that answers are retained too."""
    prompts, answers = [], []
    for entity in entities:
        said = {a: iter(texts) for a, texts in entity.answers.items()}
        for prompt in training_prompts(entity, templates):
            prompts.append(prompt)
            answers.append(next(said.get(prompt.attribute or "", iter(())), "") if prompt.attribute else "")
    return encode(lm, prompts, answers)


def without_targets(documents: Iterable[Document], targets: Sequence[Entity]) -> Iterator[Document]:
    """Leave out every document that names a target or one of its aliases: retaining it would retain the target."""
    names = [n for t in targets for n in (t.name, *t.aliases)]
    for document in documents:
        if not names_any(document.text, names):
            yield document


def text_windows(tokenizer: Any, documents: Iterable[Document], *, ctx_len: int, max_tokens: int) -> list[list[int]]:
    """Return windows of running text as lists of token ids; no documents, no windows."""
    held = list(first_documents(documents, max_tokens * 8))
    if not held:
        return []
    plan = plan_windows(held, tokenizer, ctx_len=ctx_len, max_rows=max_tokens)
    return [plan.tokens[plan.window(i)].tolist() for i in range(plan.n_windows) if len(plan.tokens[plan.window(i)]) > 1]


def first_documents(documents: Iterable[Document], max_chars: int) -> Iterator[Document]:
    """Stop reading a long text once there is surely enough of it."""
    n_chars = 0
    for document in documents:
        yield document
        n_chars += len(document.text)
        if n_chars > max_chars:
            return
