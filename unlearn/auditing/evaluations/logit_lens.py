"""Logit lens and value probe: can the true answer be read from activations, though the model does not say it?

Logit lens: the activation behind a block at the last token of a question, through the final norm and the unembedding;
is the first token of the true answer the likeliest among those of the candidates? Value probe: a ridge regression from
the activation behind a block, at the last token of the name and at that of the question, to the unembedding of the
answer's first token, fitted on other known entities of the same model; is the truth the nearest candidate? Both beside
never-known entities and beside the original model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.entities.entities import Entity
from features.entities.name_tokens import encode
from features.entities.prompts import Prompt
from sae_train.intervals import Interval
from sae_train.lm.logit_lens import lens_logits, unembedding
from sae_train.lm.models import LanguageModel
from sae_train.lm.token_acts import acts_at
from sae_train.rng import rng
from sae_train.text.tokens import encode_plain
from unlearn.auditing.audit_figures import ReadOff
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext, mean_interval, units
from unlearn.auditing.evaluations.ranking import ranked_cases

BATCH_SIZE = 64
RIDGE = 1.0  # times the mean squared activation
MAX_FITTED = 300  # known entities a value probe is fitted on; with few it reads nothing off any model


def evaluate_logit_lens(context: AuditContext) -> Findings | None:
    """Return the share of true first tokens ranked first: at every block (`logit_lens`), and by the `value_probe`."""
    groups = {
        "after": (context.after, context.forget),
        "control": (context.after, context.control),
        "before": (context.before, context.forget),
    }
    lens: dict[str, ReadOff] = {}
    seen = {who: _questions(context, lm, entities) for who, (lm, entities) in groups.items()}
    for block in context.blocks:
        lens[block] = _row({who: _lens(groups[who][0], found, block, context) for who, found in seen.items()})
    known = _some([*context.neighbours, *context.retain], context.config.seed)
    fitted = {w: _questions(context, context.model(w), known) for w in ("before", "after")}
    probe: dict[str, ReadOff] = {}
    tables = {w: unembedding(context.model(w)).detach().float().cpu() for w in fitted}
    for block in context.blocks:
        for at, place in (("name", block), ("end", f"{block}, end of question")):
            found = {
                who: _value_probe(tables[w], fitted[w], questions, block, at, context)
                for who, questions in seen.items()
                for w in ["before" if who == "before" else "after"]
            }
            probe[place] = _row(found)
    return Findings(logit_lens=lens, value_probe=probe)


def _some(entities: list[Entity], seed: int) -> list[Entity]:
    """Draw those a value probe is fitted on."""
    order = rng("logit_lens.fitted", seed).permutation(len(entities))
    return [entities[i] for i in order[:MAX_FITTED]]


@dataclass(frozen=True)
class _Questions:
    """Questions with first tokens of their options, the truth's first, and activations.

    Attributes:
        prompts: The questions.
        options: Distinct first tokens.
        end: By block, rows at the last token.
        name: By block, rows at the last name token.
    """

    prompts: list[Prompt]
    options: list[list[int]]
    end: dict[str, Tensor]
    name: dict[str, Tensor]


def _row(found: dict[str, Interval]) -> ReadOff:
    """Return one place."""
    return ReadOff(after=found["after"], control=found["control"], before=found["before"].value)


def _questions(context: AuditContext, lm: LanguageModel, entities: Sequence[Entity]) -> _Questions:
    """Run one question per attribute through the model and keep the activations."""
    cases = ranked_cases(context, entities)
    options = []
    for _, texts in cases:
        heads = [ids[0] for ids in encode_plain(lm.tokenizer, [f" {t}" for t in texts])[0]]
        options.append([heads[0], *dict.fromkeys(h for h in heads[1:] if h != heads[0])])
    encoded = encode(lm, [p for p, _ in cases])
    places = [[e.name_at, e.end] for e in encoded]
    rows = acts_at(lm, [e.ids for e in encoded], places, context.blocks, batch_size=BATCH_SIZE)
    name, end = (
        {
            h: torch.stack([r[place] for r in found]) if found else torch.zeros(0, lm.d_model)
            for h, found in rows.items()
        }
        for place in (0, 1)
    )
    return _Questions([p for p, _ in cases], options, end=end, name=name)


@torch.no_grad()
def _lens(lm: LanguageModel, found: _Questions, block: str, context: AuditContext) -> Interval:
    """Read the answer off one block."""
    return _frac_first(lens_logits(lm, found.end[block]), found, context)


def _value_probe(
    table: Tensor, fitted: _Questions, found: _Questions, block: str, at: str, context: AuditContext
) -> Interval:
    """Fit activation -> unembedding row of the answer per attribute, and look for the nearest option."""
    scores = torch.zeros(len(found.prompts), len(table))
    for attribute in {p.attribute for p in found.prompts}:
        train = [i for i, p in enumerate(fitted.prompts) if p.attribute == attribute]
        test = [i for i, p in enumerate(found.prompts) if p.attribute == attribute]
        if train:
            x, new = (getattr(questions, at)[block] for questions in (fitted, found))
            aim = table[[fitted.options[i][0] for i in train]]
            scores[test] = _ridge(x[train], aim, new[test]) @ (table - aim.mean(0)).T
    return _frac_first(scores, found, context)


def _ridge(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Return centred predictions of a ridge regression, in its dual form (few rows, many columns)."""
    center = x.mean(0)
    kernel = (x - center) @ (x - center).T
    penalty = (RIDGE * kernel.diagonal().mean()).clamp(min=1e-6) * torch.eye(len(x))  # one row alone: no variance
    return (new - center) @ (x - center).T @ torch.linalg.solve(kernel + penalty, y - y.mean(0))


def _frac_first(scores: Tensor, found: _Questions, context: AuditContext) -> Interval:
    """Return how often the truth has the highest score among the options, by `units`."""
    per_entity: dict[str, list[float]] = {}
    for row, prompt, options in zip(scores, found.prompts, found.options, strict=True):
        own = row[options].tolist()
        if len(own) > 1:
            per_entity.setdefault(prompt.entity, []).append(float(own[0] > np.max(own[1:])))
    return mean_interval(units(list(per_entity.values())), context.config.seed)
