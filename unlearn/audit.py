"""One report for one removal request: every evaluation on both models, then the verdict. Any pair of models will do."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from features.entities import Entity
from features.prompts import Templates
from features.store import LatentAnalysis
from sae_train.errors import EntityError, ShapeError
from sae_train.lm.hooks import check_hook_point
from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.lm.tokens import Document
from sae_train.runs import now
from unlearn.config import AuditConfig, AuditPolicy
from unlearn.context import AuditContext, nearest_known, spread_blocks
from unlearn.data import mining_half, resolve_targets, retained_prompts, text_windows, without_targets
from unlearn.evaluations import EVALUATIONS
from unlearn.verdict import decide

SCHEMA = "sae-workbench/audit"
VERSION = 1
TEXT_CTX = 64
TEXT_TOKENS = 20_000
MAX_UNKNOWN = 120  # unknown entities that targets are compared with
NOT_TESTED = (
    "relearning from other facts of the target",
    "quantisation and pruning",
    "questions in other forms (multiple choice, reverse, prefix injection, role play, aliases)",
    "a second SAE of another seed, and the SAE error term",
    "languages other than that of the templates",
)


def audit(
    before: LanguageModel,
    after: LanguageModel,
    hook_point: str,
    analysis: LatentAnalysis,
    labels: Sequence[Entity],
    templates: Templates,
    names: Sequence[str],
    *,
    config: AuditConfig | None = None,
    policy: AuditPolicy | None = None,
    trained_on: Collection[str] = (),
    documents: Iterable[Document] = (),
    text_name: str = "",
    request: dict[str, Any] | None = None,
    advance: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Measure what `after` still knows of the named entities, what it lost, and decide.

    Args:
        before: The original model.
        after: The unlearned one.
        hook_point: Where the SAE reads; this block and later ones are audited.
        analysis: Latents, for the mining and held-out halves of the entities.
        labels: Labelled entities.
        templates: Held-out wordings are used, training ones never.
        names: Entities that were to be forgotten.
        config: How to sample.
        policy: Thresholds of the verdict.
        trained_on: Keys of the known entities that the fine-tune retained; the others are reported on their own.
        documents: General text; without any, the questions and answers of other known entities serve.
        text_name: What to call it in the report.
        request: Further facts for the report (method, paths).
        advance: Called with the name of each evaluation before it starts.

    Returns:
        The content of `audit.json`.

    Raises:
        EntityError: A target cannot be used, a template has no held-out wording, or nothing is left to compare with.
        ShapeError: The models are not a pair.
    """
    started = time.monotonic()
    config, policy = config or AuditConfig(), policy or AuditPolicy()
    context = make_context(
        before, after, hook_point, analysis, labels, templates, names, config, trained_on, documents, text_name
    )
    found: dict[str, Any] = {}
    for name, evaluate in EVALUATIONS.items():
        advance(name)
        for key, value in evaluate(context).items():
            found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    verdict, checks = decide(found, policy)
    return {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "created": now(),
        "request": {
            "forget": [e.name for e in context.forget],
            "hook_point": hook_point,
            "model_hash": weights_hash(before.model),
            "unlearned_hash": weights_hash(after.model),
            **(request or {}),
        },
        "verdict": verdict,
        "checks": [asdict(c) for c in checks],
        **found,
        "not_tested": list(NOT_TESTED),
        "policy": asdict(policy),
        "config": asdict(config),
        "seconds": time.monotonic() - started,
    }


def make_context(
    before: LanguageModel,
    after: LanguageModel,
    hook_point: str,
    analysis: LatentAnalysis,
    labels: Sequence[Entity],
    templates: Templates,
    names: Sequence[str],
    config: AuditConfig,
    trained_on: Collection[str],
    documents: Iterable[Document],
    text_name: str,
) -> AuditContext:
    """Sort the entities into roles and read the text."""
    if (before.n_blocks, before.d_model) != (after.n_blocks, after.d_model):
        raise ShapeError(
            "the two models are not a pair",
            got=f"{after.n_blocks} blocks of width {after.d_model} (--unlearned)",
            expected=f"{before.n_blocks} blocks of width {before.d_model} (--model)",
        )
    check_hook_point(before.model, hook_point, model_name=before.name)
    forget = resolve_targets(labels, names)
    _require_heldout(forget, templates)
    keys, types = {e.key for e in forget}, {e.type for e in forget}
    known = [e for e in labels if e.label == "known" and e.key not in keys]
    neighbours = nearest_known(forget, known, config.n_neighbours)
    taken = {e.key for e in neighbours}
    generator = np.random.default_rng([0xA0, config.seed])
    retain = _shuffled([e for e in known if e.key not in taken], generator)[: config.max_retain]
    unknown_mining, unknown_heldout = mining_half(labels, analysis, "unknown")
    known_mining, _ = mining_half(known, analysis, "known")
    unknown = [e for e in unknown_heldout if e.type in types]
    if not known or not unknown_mining or len(unknown) < 2:
        raise EntityError(
            "nothing to compare the targets with",
            got=f"{len(known)} other known entities, {len(unknown_mining)} unknown ones in the mining half, "
            f"{len(unknown)} held-out unknown ones of the targets' types (--labels, --latents)",
            expected=">= 1, >= 1 and >= 2",
        )
    text = text_windows(before.tokenizer, without_targets(documents, forget), ctx_len=TEXT_CTX, max_tokens=TEXT_TOKENS)
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
        untouched=[e for e in (*neighbours, *retain) if e.key not in trained_on] if trained_on else [],
        probe_known=known_mining,
        probe_unknown=unknown_mining,
        unknown=_shuffled(unknown, generator)[:MAX_UNKNOWN],
        hook_point=hook_point,
        blocks=spread_blocks(before.n_blocks, hook_point, config.max_blocks),
        text=text,
        text_name=text_name,
        config=config,
    )


def _shuffled(entities: list[Entity], generator: np.random.Generator) -> list[Entity]:
    """Return the entities in random order."""
    return [entities[i] for i in generator.permutation(len(entities))]


def _require_heldout(targets: Sequence[Entity], templates: Templates) -> None:
    """Refuse targets that no held-out wording asks about: training wordings would flatter the result."""
    for target in targets:
        if not any(templates.heldout.get(target.type, {}).get(a) for a in target.facts):
            raise EntityError(
                f"no held-out question can be asked about '{target.name}'",
                got=f"type {target.type}, facts {', '.join(target.facts) or 'none'}",
                expected='templates with "heldout" wordings (--templates)',
            )
