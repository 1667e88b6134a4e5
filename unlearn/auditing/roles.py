"""Roles of entities in an audit: targets, neighbours, retained, unknown for comparison, and controls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from features.analysis.store import LatentAnalysis
from features.entities.entities import Entity
from features.entities.name_tokens import name_lengths
from features.entities.prompts import by_type, questions
from features.entities.templates import Templates
from features.labels.partners import pair
from sae_train.errors import EntityError, ShapeError
from sae_train.lm.hooks import check_hook_point
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.saes.base import Sae
from unlearn.auditing.context import MIN_ENTITIES, AuditContext, audited_blocks, nearest_known
from unlearn.auditing.request import Request
from unlearn.config import AuditConfig
from unlearn.problem.data import mining_half, resolve_targets, retained_prompts, text_windows, without_targets
from unlearn.problem.general_text import TEXT_CTX

TEXT_TOKENS = 20_000
MAX_UNKNOWN = 120  # unknown entities that targets are compared with
FRAC_NEAR = 0.67  # of the unknown entities of a type, nearest in name length, are compared with


def make_context(before: LanguageModel, after: LanguageModel, request: Request, config: AuditConfig) -> AuditContext:
    """Sort the entities into roles and read the text."""
    check_pair(before, after)
    labels, templates, analysis = request.labels, request.templates, request.analysis
    hook_point = check_hook_point(before.model, _hook_point(before, request), model_name=before.name)
    for loaded in (*request.saes, *request.crosscoders):
        check_hook_point(before.model, loaded.hook_point, model_name=before.name)
    for crosscoder in request.crosscoders:
        check_sides(before, crosscoder)
    forget = resolve_targets(labels, request.names)
    _require_heldout(forget, templates)
    keys, types = {e.key for e in forget}, {e.type for e in forget}
    gone = keys | set(request.removed)
    known = [e for e in labels if e.label == "known" and e.key not in gone]
    neighbours = nearest_known(forget, known, config.n_neighbours)
    taken = {e.key for e in neighbours}
    generator = rng("roles.retain", config.seed)
    retain = _shuffled([e for e in known if e.key not in taken], generator)[: config.max_retain]
    known_mining, _ = halves(labels, analysis, "known", config.seed, request.trained_on)
    known_mining = [e for e in known_mining if e.key not in gone]
    unknown_mining, unknown_heldout = halves(labels, analysis, "unknown", config.seed, request.trained_on)
    unknown = [e for e in unknown_heldout if e.type in types]
    if not known_mining or not unknown_mining or len(unknown) < 2:
        raise EntityError(
            "nothing to compare the targets with",
            got=f"{len(known_mining)} other known and {len(unknown_mining)} unknown entities in the mining half, "
            f"{len(unknown)} held-out unknown ones of the targets' types (`labels`, `latents`)",
            expected=">= 1, >= 1 and >= 2",
        )
    matched = near_in_length(before, forget, _shuffled(unknown, generator))[:MAX_UNKNOWN]
    general = without_targets(request.documents, [e for e in labels if e.key in gone])
    text = text_windows(before.tokenizer, general, ctx_len=min(TEXT_CTX, before.max_positions), max_tokens=TEXT_TOKENS)
    text_name = request.text_name
    if not text:
        text = [e.ids for e in retained_prompts(before, known[:100], templates)]
        text_name = "questions and answers about other known entities"
    return AuditContext(
        before=before,
        after=after,
        templates=templates,
        forget=forget,
        neighbours=neighbours,
        retain=retain,
        untouched=[e for e in (*neighbours, *retain) if e.key not in request.trained_on] if request.trained_on else [],
        probe_known=known_mining,
        probe_unknown=unknown_mining,
        unknown=matched,
        control=with_facts(forget, _distinct_pairs(before, forget, matched), known, config.seed),
        hook_point=hook_point,
        blocks=audited_blocks(before.n_blocks, hook_point, config.max_blocks),
        text=text,
        text_name=text_name,
        saes=list(request.saes),
        crosscoders=list(request.crosscoders),
        analysis=analysis,
        config=config,
    )


def check_pair(before: LanguageModel, after: LanguageModel, *, field: str = "unlearned") -> None:
    """Refuse models of different shapes or tokenizers: their activations cannot be compared."""
    if (before.n_blocks, before.d_model) != (after.n_blocks, after.d_model):
        raise ShapeError(
            "the two models are not a pair",
            got=f"{after.n_blocks} blocks of width {after.d_model} in '{after.name}'",
            field=field,
            expected=f"{before.n_blocks} blocks of width {before.d_model} (`model`)",
        )
    if before.tokenizer_hash != after.tokenizer_hash:
        raise ShapeError(
            "the two models do not share a tokenizer",
            got=f"{after.tokenizer_hash[:12]}",
            field=field,
            expected=f"{before.tokenizer_hash[:12]} (`model`)",
        )


def check_sides(lm: LanguageModel, crosscoder: Sae) -> None:
    """Refuse a crosscoder of models of another width."""
    if tuple(crosscoder.sides) != (lm.d_model, lm.d_model):
        raise ShapeError(
            "a crosscoder reads activations of another width",
            got=f"{' and '.join(map(str, crosscoder.sides))} in '{crosscoder.name}'",
            field="sae",
            expected=f"{lm.d_model} and {lm.d_model} (`model`)",
        )


def _hook_point(lm: LanguageModel, request: Request) -> str:
    """Return where the known-unknown probe reads."""
    if request.hook_point is not None:
        return request.hook_point
    if request.saes:
        return request.saes[0].hook_point
    if request.analysis is not None:
        return request.analysis.hook_points[0].hook_point
    return f"layers.{lm.n_blocks // 2}"


def halves(
    labels: Sequence[Entity],
    analysis: LatentAnalysis | None,
    label: str,
    seed: int,
    trained_on: Collection[str] = (),
) -> tuple[list[Entity], list[Entity]]:
    """Return the entities with a label as (for probes, held out): the analysis' halves, or halves of each type.

    Without an analysis what the removal read is not held out, where at least as many as for a probe are left: targets
    lie among names that were trained together with them, whatever they are to the model.
    """
    if analysis is not None:
        return mining_half(labels, analysis, label)
    first: list[Entity] = []
    second: list[Entity] = []
    for kind, members in by_type([e for e in labels if e.label == label]).items():
        generator = rng("roles.halves", seed, *kind.encode())
        shuffled = _shuffled(members, generator)
        shuffled.sort(key=lambda e: e.key not in trained_on)  # stable: in each part the order stays as drawn
        n_read = sum(e.key in trained_on for e in shuffled)
        n_first = n_read if len(shuffled) // 2 < n_read <= len(shuffled) - MIN_ENTITIES else len(shuffled) // 2
        first += shuffled[:n_first]
        second += shuffled[n_first:]
    return first, second


def near_in_length(lm: LanguageModel, targets: Sequence[Entity], unknown: Sequence[Entity]) -> list[Entity]:
    """Keep, of the unknown entities of a type, those whose number of name tokens is nearest to that of a target."""
    length = {
        e.key: n
        for e, n in zip([*targets, *unknown], name_lengths(lm, [e.name for e in (*targets, *unknown)]), strict=True)
    }
    kept: set[str] = set()
    for kind, members in by_type(unknown).items():
        own = [length[t.key] for t in targets if t.type == kind]
        gaps = sorted(members, key=lambda e: min(abs(length[e.key] - n) for n in own))
        kept |= {e.key for e in gaps[: max(2 * len(own) + 2, round(FRAC_NEAR * len(members)))]}
    return [e for e in unknown if e.key in kept]


def _distinct_pairs(lm: LanguageModel, targets: Sequence[Entity], unknown: Sequence[Entity]) -> list[Entity]:
    """Return the unknown entities that the targets are paired with, each once."""
    return list({e.key: e for e in pair(lm, targets, unknown)}.values())


def with_facts(
    targets: Sequence[Entity], control: Sequence[Entity], known: Sequence[Entity], seed: int
) -> list[Entity]:
    """Give never-known entities a fact for every attribute of the targets of their type.

    Their own where they have one: that is the truth, which the model does not know. Else one drawn from other entities.
    """
    found = []
    for entity in control:
        wanted = {a for t in targets if t.type == entity.type for a in t.facts}
        facts = {a: entity.facts[a] for a in sorted(wanted) if a in entity.facts}
        for attribute in sorted(wanted - set(facts)):
            pool = [e.facts[attribute] for e in (*known, *targets) if e.type == entity.type and attribute in e.facts]
            generator = rng("roles.control_facts", seed, *f"{entity.key}|{attribute}".encode())
            facts[attribute] = pool[generator.integers(len(pool))]
        found.append(replace(entity, facts=facts))
    return found


def _shuffled(entities: list[Entity], generator: np.random.Generator) -> list[Entity]:
    """Return the entities in random order."""
    return [entities[i] for i in generator.permutation(len(entities))]


def _require_heldout(targets: Sequence[Entity], templates: Templates) -> None:
    """Refuse targets that no held-out wording asks about: training wordings would flatter the result."""
    for target in targets:
        if not any(True for _ in questions(target, templates, heldout=True)):
            raise EntityError(
                f"no held-out question can be asked about '{target.name}'",
                got=f"type {target.type}, facts {', '.join(target.facts) or 'none'}",
                expected='templates with "heldout" wordings (`templates`)',
            )
