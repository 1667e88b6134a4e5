"""Questions about entities with patched activations at the name; shared by gate and steering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from features.entities.entities import Entity
from features.entities.name_tokens import encode, span_of
from features.entities.prompts import Prompt, questions, render
from features.entities.templates import Templates
from features.labels.knowledge import GREEDY, Verdict, judge
from features.labels.partners import pair
from sae_train.errors import EntityError
from sae_train.lm.answering import write_answers
from sae_train.lm.models import LanguageModel
from sae_train.lm.patching import Patch, patched_answers
from sae_train.lm.token_acts import acts_at
from sae_train.rng import rng


@dataclass(frozen=True)
class NameQuestions:
    """Questions about some entities and where the names stand in them.

    Attributes:
        entities: The entities that are asked about.
        prompts: Questions, entity by entity.
        entity: Index of each prompt's entity, (n_prompts,).
        ids: Token ids of each prompt.
        places: Token indices of each name, first to last; the last name token alone where only that is patched.
    """

    entities: list[Entity]
    prompts: list[Prompt]
    entity: np.ndarray
    ids: list[list[int]]
    places: list[range]

    @classmethod
    def of(
        cls, lm: LanguageModel, entities: Sequence[Entity], prompts: Sequence[Prompt], entity: np.ndarray, tokens: str
    ) -> NameQuestions:
        """Tokenize questions and find the names in them.

        Args:
            lm: For its tokenizer.
            entities, prompts, entity: As above.
            tokens: Which tokens of a name are patched: `all` or `last`, as in `name_tokens.POSITIONS`.
        """
        read = encode(lm, prompts)
        return cls(list(entities), list(prompts), entity, [r.ids for r in read], [span_of(r, tokens) for r in read])

    @property
    def types(self) -> list[str]:
        """Return the type of each prompt's entity."""
        return [self.entities[i].type for i in self.entity]

    def repeated(self, times: int) -> NameQuestions:
        """Return all questions several times, one round after the other."""
        entity = np.tile(self.entity, times)
        return NameQuestions(self.entities, self.prompts * times, entity, self.ids * times, self.places * times)

    def per_entity(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the mean over each entity's prompts, (n_entities,)."""
        return np.bincount(self.entity, values) / np.bincount(self.entity)


def draw_questions(entity: Entity, templates: Templates, most: int, seed: int) -> list[Prompt]:
    """Draw at most `most` questions: in held-out wordings where there are any, attributes in turn."""
    asked = list(questions(entity, templates, heldout=True)) or list(questions(entity, templates, heldout=False))
    generator = rng("questions.wordings", seed, *entity.key.encode())
    shuffled = [asked[i] for i in generator.permutation(len(asked))]
    turn: dict[str | None, int] = {}
    # Attributes in turn, so that few questions still cover as many facts as possible.
    ranked = []
    for prompt in shuffled:
        turn[prompt.attribute] = turn.get(prompt.attribute, 0) + 1
        ranked.append((turn[prompt.attribute], prompt))
    return [p for _, p in sorted(ranked, key=lambda rp: rp[0])[:most]]


def name_questions(
    lm: LanguageModel, entities: Sequence[Entity], templates: Templates, *, most: int, tokens: str, seed: int
) -> NameQuestions:
    """Draw questions about every entity and find the names' tokens; entities without a question are left out."""
    drawn = [(e, draw_questions(e, templates, most, seed)) for e in entities]
    kept = [(e, found) for e, found in drawn if found]
    prompts = [p for _, found in kept for p in found]
    entity = np.array([i for i, (_, found) in enumerate(kept) for _ in found], dtype=np.int64)
    return NameQuestions.of(lm, [e for e, _ in kept], prompts, entity, tokens)


def read_rows(lm: LanguageModel, asked: NameQuestions, hook_points: Sequence[str]) -> dict[str, list[Tensor]]:
    """Return the activations at the names' tokens, by hook point, one (n_places, d_in) per prompt."""
    return acts_at(lm, asked.ids, asked.places, hook_points)


def verdicts(
    lm: LanguageModel, asked: NameQuestions, patch: tuple[str, Sequence[Tensor]] | None = None
) -> list[Verdict]:
    """Ask all questions and grade the answers, with patched activations at the names if a patch is given.

    Args:
        lm: The model that is asked.
        asked: The questions.
        patch: Hook point, and the activations that are patched in at each prompt's places.
    """
    if patch is None:
        written = write_answers(lm, asked.ids, GREEDY)
    else:
        written = patched_answers(lm, asked.ids, Patch(patch[0], asked.places, patch[1]), GREEDY)
    accepted = [asked.entities[i].facts[p.attribute or ""] for i, p in zip(asked.entity, asked.prompts, strict=True)]
    return [judge(w.greedy, right) for w, right in zip(written, accepted, strict=True)]


def recall_per_entity(asked: NameQuestions, found: Sequence[Verdict]) -> np.ndarray:
    """Return the share of right answers of each entity, (n_entities,)."""
    return asked.per_entity([float(v == "right") for v in found])


def partner_rows(
    lm: LanguageModel, asked: NameQuestions, pool: Sequence[Entity], hook_points: Sequence[str], tokens: str
) -> tuple[list[Entity], dict[str, list[Tensor]]]:
    """Return a paired unknown entity for each entity, and its rows in the same questions, aligned to the own places.

    Names are aligned from their ends; tokens that the shorter name lacks take its first one.
    """
    partners = pair(lm, asked.entities, pool)
    prompts = [render(p.template, partners[i], p.attribute) for i, p in zip(asked.entity, asked.prompts, strict=True)]
    rows = read_rows(lm, NameQuestions.of(lm, partners, prompts, asked.entity, tokens), hook_points)
    counts = [len(places) for places in asked.places]
    return partners, {
        name: [aligned(row, n) for row, n in zip(found, counts, strict=True)] for name, found in rows.items()
    }


def aligned(rows: Tensor, n_places: int) -> Tensor:
    """Return `n_places` rows: the last ones, the first one repeated in front where there are fewer."""
    return rows[[max(0, len(rows) - n_places + i) for i in range(n_places)]]


def sample(entities: Sequence[Entity], most: int, seed: int) -> list[Entity]:
    """Draw at most `most` entities, in their order.

    Raises:
        EntityError: There is none.
    """
    if not entities:
        raise EntityError("nobody to ask about", got="no entity", expected="known and unknown ones in both halves")
    rows = rng("questions.entities", seed).permutation(len(entities))[:most]
    return [entities[i] for i in sorted(rows)]
