"""The teacher: fine-tunes a copy of a model on lessons. Every attack by training uses it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from features.entities.prompts import Prompt
from sae_train.lm.generate import answer_loss
from sae_train.lm.models import LanguageModel
from sae_train.text.packing import can_pack
from unlearn.finetuning.finetune import CLIP_NORM, adamw, trainable_parameters
from unlearn.problem.examples import encode_answered

Lesson = tuple[list[int], list[int]]
"""(context, what is learned behind it), in token ids."""


class Teacher:
    """Fine-tunes a model in place on lessons: AdamW, clipped gradient, the loss on what is learned only.

    Lessons lie several in a row where the model can read them so, and logits are computed behind no other token.
    """

    def __init__(self, lm: LanguageModel, lr: float) -> None:
        self.lm = lm
        self.packed = can_pack(lm.model)
        self.parameters = list(trainable_parameters(lm.model, "full").values())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = adamw(self.parameters, lr)

    @classmethod
    def of_copy(cls, lm: LanguageModel, lr: float) -> Teacher:
        """Return the teacher of a copy of a model; the model itself is left as it is."""
        return cls(replace(lm, model=copy.deepcopy(lm.model)), lr)

    def step(self, lessons: Sequence[Lesson]) -> None:
        """Take one step."""
        self.optimizer.zero_grad(set_to_none=True)
        answer_loss(self.lm.model, lessons, self.lm.device, packed=self.packed).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()


def make_lessons(lm: LanguageModel, taught: Sequence[tuple[Prompt, str]]) -> list[Lesson]:
    """Return questions with their answers as lessons.

    Raises:
        ShapeError: The model has no positions for a question and its answer.
    """
    found = encode_answered(lm, [p.text for p, _ in taught], [f" {answer}" for _, answer in taught])
    return [(lesson.question, lesson.answer) for lesson in found]


def drawn(lessons: Sequence[Lesson], size: int, generator: np.random.Generator) -> list[Lesson]:
    """Draw some lessons without replacement, as far as there are enough."""
    return [lessons[i] for i in generator.choice(len(lessons), min(size, len(lessons)), replace=False)]
