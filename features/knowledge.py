"""What the model knows, by its own answers.

The rule, after Ferrando et al. (ICLR 2025), with greedy paraphrases in the place of samples: an attribute is known if
more than half of its paraphrased questions are answered rightly. An entity is *known* if at least
`min_known_attributes` (2, or all if it has fewer) are known, *unknown* if no answer is right, else *between*.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from features.entities import Entity
from features.prompts import Prompt, Templates, questions
from sae_train.lm.generate import greedy_answers
from sae_train.lm.models import LanguageModel

ANSWER_TOKENS = 10
ASK_BLOCK = 512  # prompts asked between two reports of progress
_REFUSAL = re.compile(
    r"^(unknown\b|i (do not|don t|dont|cannot|can t) |not known|no (information|idea)|unclear|n a\b"
    r"|i m (not|unable)|sorry)"
)
_SENTENCE_END = re.compile(r"\n|(?<!\b[A-Z])(?<!\b[A-Z][a-z])\.(?:\s|$)")  # not behind one or two letters: F., St.
Verdict = Literal["right", "refusal", "wrong", "empty"]


@dataclass(frozen=True)
class KnowledgeRule:
    """When an entity counts as known.

    Attributes:
        min_known_attributes: Attributes that must be known, if the entity has that many.
        min_right_share: An attribute is known if more than this share of its questions is answered rightly.
    """

    min_known_attributes: int = 2
    min_right_share: float = 0.5


def normalize(text: str) -> str:
    """Fold case, accents and punctuation; words stay apart by single spaces.

    Example:
        >>> normalize("  São Tomé & Príncipe. ")
        'sao tome principe'
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\w]+", " ", plain.casefold()).split())


def first_line(answer: str) -> str:
    """Return the answer up to its first full stop or line break; initials and `St.` end no sentence.

    Example:
        >>> first_line(" Kenya. The city is"), first_line(" St. Petersburg. It is")
        ('Kenya', 'St. Petersburg')
    """
    return _SENTENCE_END.split(answer.strip(), maxsplit=1)[0].strip()


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Tell whether the first line of an answer names an accepted value, as whole words.

    Example:
        >>> is_right(" Niger, in Africa", ["Niger"]), is_right(" Nigeria", ["Niger"])
        (True, False)
    """
    said = f" {normalize(first_line(answer))} "
    return any(f" {normalize(value)} " in said for value in accepted if normalize(value))


def judge(answer: str, accepted: Sequence[str]) -> Verdict:
    """Sort an answer: right, refusal (says it does not know), empty, or wrong."""
    if is_right(answer, accepted):
        return "right"
    said = normalize(first_line(answer))
    if not said:
        return "empty"
    return "refusal" if _REFUSAL.match(said) else "wrong"


@dataclass(frozen=True)
class Answer:
    """One question, what the model said, and what that is worth."""

    prompt: Prompt
    text: str
    verdict: Verdict


def ask(
    lm: LanguageModel,
    entities: Sequence[Entity],
    templates: Templates,
    *,
    heldout: bool,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, list[Answer]]:
    """Ask every question about every entity, greedily.

    Returns:
        Answers by entity key, in the order of the templates.
    """
    facts = {e.key: e.facts for e in entities}
    prompts = [p for e in entities for p in questions(e, templates, heldout=heldout)]
    found: dict[str, list[Answer]] = {e.key: [] for e in entities}
    for start in range(0, len(prompts), ASK_BLOCK):
        block = prompts[start : start + ASK_BLOCK]
        texts = greedy_answers(lm, [p.text for p in block], max_new_tokens=ANSWER_TOKENS)
        for prompt, text in zip(block, texts, strict=True):
            accepted = facts[prompt.entity][prompt.attribute or ""]
            found[prompt.entity].append(Answer(prompt, text, judge(text, accepted)))
        advance(len(block))
    return found


def recall(answers: dict[str, list[Answer]]) -> float:
    """Return the share of right answers: mean over entities of each one's share."""
    shares = [sum(a.verdict == "right" for a in found) / len(found) for found in answers.values() if found]
    return sum(shares) / len(shares) if shares else float("nan")


def label_of(entity: Entity, answers: Sequence[Answer], rule: KnowledgeRule) -> str:
    """Apply the rule to one entity's answers."""
    per_attribute: dict[str, list[bool]] = {}
    for answer in answers:
        per_attribute.setdefault(answer.prompt.attribute or "", []).append(answer.verdict == "right")
    n_known = sum(sum(v) / len(v) > rule.min_right_share for v in per_attribute.values())
    if per_attribute and n_known >= min(rule.min_known_attributes, len(per_attribute)):
        return "known"
    return "between" if any(any(v) for v in per_attribute.values()) else "unknown"


def label_entities(
    lm: LanguageModel,
    entities: Sequence[Entity],
    templates: Templates,
    rule: KnowledgeRule,
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Entity]:
    """Return the entities with label and answers; an entity nothing can be asked of is `between`."""
    asked = ask(lm, entities, templates, heldout=False, advance=advance)
    labelled = []
    for entity in entities:
        said: dict[str, list[str]] = {}
        for answer in asked[entity.key]:
            said.setdefault(answer.prompt.attribute or "", []).append(answer.text.strip())
        label = label_of(entity, asked[entity.key], rule) if said else "between"
        labelled.append(replace(entity, label=label, answers=said))
    return labelled
