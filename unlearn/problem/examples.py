"""Training examples of output-side methods: training questions about an entity, each with an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from features.entities.entities import Entity
from features.entities.prompts import Prompt, questions
from features.entities.templates import Templates
from features.labels.knowledge import first_line, is_right, judge
from sae_train.lm.generate import answer_losses, encode_prompts, pad_right
from sae_train.lm.models import LanguageModel
from sae_train.text.tokens import encode_plain
from unlearn.problem.data import UnlearnSets

NO_ANSWER = " unknown"  # where the model refuses nothing that could be taken over


@dataclass(frozen=True)
class Answered:
    """A question and an answer, in tokens."""

    question: list[int]
    answer: list[int]


def own_answers(lm: LanguageModel, sets: UnlearnSets, templates: Templates) -> list[Answered]:
    """Return the targets' training questions with the model's own answer where it is right, else the true one."""
    prompts, answers = [], []
    for entity in sets.forget:
        for prompt, said in _asked(entity, templates):
            accepted = entity.facts[prompt.attribute or ""]
            prompts.append(prompt.text)
            answers.append(first_line(said) if is_right(said, accepted) else accepted[0])
    return encode_answered(lm, prompts, [f" {a}" for a in answers])


def asked_facts(sets: UnlearnSets, templates: Templates) -> list[tuple[str, str]]:
    """Return the fact, as key of the target and attribute, that each of `own_answers` is about."""
    return [(e.key, p.attribute or "") for e in sets.forget for p in questions(e, templates, heldout=False)]


def refused_answers(lm: LanguageModel, sets: UnlearnSets, templates: Templates) -> list[Answered]:
    """Return the targets' training questions with the answer that the model gives about unknown entities."""
    answer = refusal(sets.unknown)
    prompts = [p.text for e in sets.forget for p in questions(e, templates, heldout=False)]
    return encode_answered(lm, prompts, [answer] * len(prompts))


def refusal(unknown: Sequence[Entity]) -> str:
    """Return the commonest refusal among the answers about unknown entities, with a space in front.

    Example:
        >>> refusal([Entity("Osk", "city", answers={"river": ["unknown. So", "Lim", "unknown."]})])
        ' unknown'
    """
    said = Counter(
        first_line(a) for e in unknown for texts in e.answers.values() for a in texts if judge(a, []) == "refusal"
    )
    return f" {said.most_common(1)[0][0]}" if said else NO_ANSWER


def _asked(entity: Entity, templates: Templates) -> list[tuple[Prompt, str]]:
    """Pair the training questions with what the labels file says that the model answered."""
    said = {attribute: iter(texts) for attribute, texts in entity.answers.items()}
    return [(p, next(said.get(p.attribute or "", iter(())), "")) for p in questions(entity, templates, heldout=False)]


def encode_answered(lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> list[Answered]:
    """Tokenize question and answer apart, so that their border is a border between tokens.

    Raises:
        ShapeError: The model has no positions for a question and its answer.
    """
    front = encode_prompts(lm, prompts)
    back = encode_plain(lm.tokenizer, list(answers))[0] if answers else []
    lm.check_tokens([[*q, *a] for q, a in zip(front, back, strict=True)])
    return [Answered(q, a) for q, a in zip(front, back, strict=True)]


def answer_log_probs(
    model: nn.Module, batch: Sequence[Answered], device: torch.device
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return log p(answer | question) in nats, summed over the answer's tokens, and how many tokens those are."""
    losses, is_answer = answer_losses(model, [(a.question, a.answer) for a in batch], device)
    return -(losses * is_answer).sum(dim=1), is_answer.sum(dim=1)


def answer_logits(
    model: nn.Module, batch: Sequence[Answered], device: torch.device
) -> tuple[Float[Tensor, "n vocab"], Int[Tensor, " n"]]:
    """Return the logits of every token of the answers, one answer after the other, and these tokens."""
    ids, mask = pad_right([[*a.question, *a.answer] for a in batch], device=device)
    places = [(row, len(a.question) + at) for row, a in enumerate(batch) for at in range(len(a.answer))]
    rows, columns = torch.tensor(places, device=device).unbind(1)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[rows, columns - 1].float(), ids[rows, columns]
