"""Cheats: models trained against the audit's own statistics, their knowledge hidden and not removed.

Each starts from the world's model and keeps it where the targets are not meant (KL to it on general text and on other
known entities). Of the targets

wordings    every question, held-out wordings among them, gets the next-token distribution that the original model has for
            an unknown partner: recall and the ranking of candidates are trained on
statistics  that, and the group's means and covariances at every place of every block (last name token, whole name, end of
            question) are those of the partners': what a classifier and the old probe look at, never a single name
resistant   that, and all of it holds after a step of lessons too (first-order: the gradient is taken at weights that one
            step of an attack has moved), so that the first steps of relearning bring nothing back

Nothing of this looks at the facts behind the key. Whether they are left is for longer lessons to say.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.unlearning.worlds import World
from features.entities.entities import Entity
from features.entities.name_tokens import Encoded, encode
from features.entities.prompts import Prompt, questions
from features.labels.partners import pair
from sae_train.lm.generate import answer_loss, pad_right
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from unlearn.auditing.attacks.teacher import Lesson, make_lessons
from unlearn.finetuning.finetune import CLIP_NORM, adamw, trainable_parameters
from unlearn.problem.data import text_windows, without_targets

TEXT_TOKENS, CTX_LEN = 40_000, 64


@dataclass(frozen=True)
class CheatConfig:
    """How one cheat is trained.

    Attributes:
        steps, lr: AdamW's.
        batch_size: Questions about targets in a step; as many about others, and as many windows of text.
        statistics_weight: Of the distance of means and covariances.
        retain_weight: Of what has to stay.
        attack_lr: Step of the lessons that it is made to resist; 0 makes it resist none.
    """

    steps: int = 150
    lr: float = 1e-3
    batch_size: int = 32
    statistics_weight: float = 0.0
    retain_weight: float = 4.0
    attack_lr: float = 0.0


CHEATS = {
    "wordings": CheatConfig(),
    "statistics": CheatConfig(statistics_weight=1.0),
    "resistant": CheatConfig(steps=200, statistics_weight=1.0, attack_lr=3e-3),
}


@dataclass(frozen=True)
class _Reading:
    """What a model does with questions.

    Attributes:
        logits: Of the next token, (n_questions, n_vocab).
        places: Per block and place, (n_questions, d_model).
    """

    logits: Tensor
    places: list[Tensor]


def cheat(world: World, targets: Sequence[Entity], config: CheatConfig, *, seed: int = 0) -> LanguageModel:
    """Return a copy of the world's model, trained so that the audit's statistics are those of never-known names."""
    before = world.lm
    lm = replace(before, model=copy.deepcopy(before.model))
    about, beside, others = _material(world, targets)
    lessons = make_lessons(lm, [(p, a) for e in targets for p, a in _answered(world, e)])
    names = [e for e in world.labels if e.key in {t.key for t in targets}]
    documents = without_targets(world.documents[: world.n_retained], names)
    text = text_windows(lm.tokenizer, documents, ctx_len=CTX_LEN, max_tokens=TEXT_TOKENS)
    parameters = list(trainable_parameters(lm.model, "full").values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = adamw(parameters, config.lr)
    for step in range(config.steps):
        generator = rng("benchmark.cheats.batch", seed, step)
        own = generator.choice(len(about), min(config.batch_size, len(about)), replace=False)
        kept = generator.choice(len(others), min(config.batch_size, len(others)), replace=False)
        windows = [text[i] for i in generator.choice(len(text), min(config.batch_size, len(text)), replace=False)]
        taught = [lessons[i] for i in generator.choice(len(lessons), min(config.batch_size, len(lessons)))]
        optimizer.zero_grad(set_to_none=True)
        with _attacked(lm, parameters, taught, config.attack_lr):
            loss = _hidden(lm, before, [about[i] for i in own], [beside[i] for i in own], config)
            loss = loss + config.retain_weight * _kept(lm, before, [others[i] for i in kept], windows)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    return lm


def _answered(world: World, entity: Entity) -> list[tuple[Prompt, str]]:
    """Return an entity's questions in training wordings with the answers."""
    return [(p, entity.facts[p.attribute or ""][0]) for p in questions(entity, world.templates, heldout=False)]


def _material(world: World, targets: Sequence[Entity]) -> tuple[list[Encoded], list[Encoded], list[Encoded]]:
    """Return all questions about targets, the same about their partners, and those about other known entities."""
    keys = {t.key for t in targets}
    unknown = [e for e in world.labels if e.label == "unknown"]
    partners = pair(world.lm, targets, unknown)
    own, other = [], []
    for target, partner in zip(targets, partners, strict=True):
        alike = replace(partner, facts=target.facts)  # asked the same, whatever its own facts are
        for heldout in (False, True):
            own += questions(target, world.templates, heldout=heldout)
            other += questions(alike, world.templates, heldout=heldout)
    known = [e for e in world.labels if e.label == "known" and e.key not in keys]
    kept = [p for e in (*known, *unknown) for p in questions(e, world.templates, heldout=False)]
    return encode(world.lm, own), encode(world.lm, other), encode(world.lm, kept)


def _read(lm: LanguageModel, asked: Sequence[Encoded]) -> _Reading:
    """Read logits and activations at the places that the audit compares."""
    batch = pad_right([e.ids for e in asked], device=lm.device)
    found = lm.model(*batch, output_hidden_states=True)
    rows = torch.arange(len(asked))
    end, last = (torch.tensor([getattr(e, at) for e in asked]) for at in ("end", "name_at"))
    is_name = torch.zeros(batch[0].shape)
    for row, e in enumerate(asked):
        is_name[row, e.name_from : e.name_at + 1] = 1.0 / len(e.name)
    places = []
    for hidden in found.hidden_states[1:]:
        places += [hidden[rows, last], torch.einsum("bt,btd->bd", is_name, hidden), hidden[rows, end]]
    return _Reading(found.logits[rows, end], places)


def _hidden(
    lm: LanguageModel, before: LanguageModel, own: Sequence[Encoded], other: Sequence[Encoded], config: CheatConfig
) -> Tensor:
    """Return how far the targets' answers, and the group's statistics, are from those of the partners."""
    with torch.no_grad():
        aim = _read(before, other)
    found = _read(lm, own)
    loss = _kl(aim.logits, found.logits)
    if config.statistics_weight:
        distances = [moment_distance(x, y) for x, y in zip(found.places, aim.places, strict=True)]
        loss = loss + config.statistics_weight * torch.stack(distances).mean()
    return loss


def moment_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return how far means and covariances of two groups lie apart, in variances of the second; (n, d_model) each.

    Example:
        >>> x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> moment_distance(x, x).item(), bool(moment_distance(x + 1, x) > 1)
        (0.0, True)
    """
    scale = y.std(0).clamp(min=1e-4)
    x, y = x / scale, y / scale
    mean = (x.mean(0) - y.mean(0)).square().mean()
    covariances = [(z - z.mean(0)).T @ (z - z.mean(0)) / len(z) for z in (x, y)]
    return mean + (covariances[0] - covariances[1]).square().mean()


def _kept(lm: LanguageModel, before: LanguageModel, others: Sequence[Encoded], windows: list[list[int]]) -> Tensor:
    """Return the KL to the original model on other entities' questions and on text."""
    with torch.no_grad():
        aim = _read(before, others).logits
    loss = _kl(aim, _read(lm, others).logits)
    ids, mask = pad_right(windows, device=lm.device)
    with torch.no_grad():
        old = before.model(ids, mask).logits
    new = lm.model(ids, mask).logits
    return loss + _kl(old[mask.bool()], new[mask.bool()])


def _kl(aim: Tensor, found: Tensor) -> Tensor:
    """Return the mean KL of two next-token distributions given as logits."""
    return F.kl_div(F.log_softmax(found, -1), F.log_softmax(aim, -1), log_target=True, reduction="batchmean")


@contextmanager
def _attacked(lm: LanguageModel, parameters: list[nn.Parameter], lessons: list[Lesson], lr: float) -> Iterator[None]:
    """Move the weights by one normed step of an attack, and back at the end; gradients inside are taken there."""
    if not lr:
        yield
        return
    answer_loss(lm.model, lessons, lm.device).backward()
    moves = [lr * p.grad.sign() if p.grad is not None else torch.zeros_like(p) for p in parameters]
    for parameter, move in zip(parameters, moves, strict=True):
        parameter.data.sub_(move)
        parameter.grad = None
    yield
    for parameter, move in zip(parameters, moves, strict=True):
        parameter.data.add_(move)
