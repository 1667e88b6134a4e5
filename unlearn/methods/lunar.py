"""LUNAR: shift the targets' activations to the region where the model says that it does not know.

    r = mean of h over questions it refuses - mean of h over the targets' questions     (original model, last token)
    forget = mean ||h - (h_ref + r)||^2 / v                    at the last token of the targets' questions

Source: Shen et al. 2025, "LUNAR: LLM Unlearning via Neural Activation Redirection" (arXiv:2502.07218). There the
refused prompts are harmful or made-up requests and one MLP down-projection is trained; here they are the questions
about unknown entities that the model refuses, the hook point is the SAE's, and all down-projections are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from features.entities.entities import Entity
from features.entities.name_tokens import Encoded, encode
from features.entities.prompts import questions
from features.labels.knowledge import judge
from sae_train.errors import EntityError
from unlearn.methods.forgetting import ActivationForgetting, drawn, variance
from unlearn.problem.problem import Problem


def shift_distance(
    acts: Float[Tensor, "n d_model"],
    reference: Float[Tensor, "n d_model"],
    shift: Float[Tensor, " d_model"],
    unit: float,
) -> Float[Tensor, ""]:
    """Return the mean squared distance from the shifted original activations, in units of their variance."""
    return (acts - reference - shift).square().sum(dim=1).mean() / unit


class Lunar(ActivationForgetting):
    """The loss of LUNAR."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.examples = _at_last_token(self._questions(problem.sets.forget))
        refused = _at_last_token(self._refused(problem.sets.unknown))
        own, there = self.reference_acts(self.examples), self.reference_acts(refused)
        self.shift, self.unit = there.mean(0) - own.mean(0), variance(there)

    def _questions(self, entities: Sequence[Entity]) -> list[Encoded]:
        """Return the training questions about some entities."""
        templates = self.problem.templates
        return encode(self.problem.lm, [p for e in entities for p in questions(e, templates, heldout=False)])

    def _refused(self, unknown: Sequence[Entity]) -> list[Encoded]:
        """Return the questions about unknown entities of which the model says that it does not know.

        Raises:
            EntityError: It refuses none.
        """
        found = []
        for entity in unknown:
            said = {attribute: iter(texts) for attribute, texts in entity.answers.items()}
            for prompt in questions(entity, self.problem.templates, heldout=False):
                if judge(next(said.get(prompt.attribute or "", iter(())), ""), []) == "refusal":
                    found.append(prompt)
        if not found:
            raise EntityError(
                "lunar has nothing to aim at",
                got=f"no refusal among the answers about {len(unknown)} unknown entities",
                field="labels",
                expected="a model that says of some entities that it does not know them",
                try_="`method`=redirect, or mean-difference",
            )
        return encode(self.problem.lm, found)

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        batch = drawn(self.examples, self.problem, step)
        with torch.no_grad():
            reference = self.acts(self.problem.reference, batch)
        return shift_distance(self.acts(self.problem.lm.model, batch), reference, self.shift, self.unit)


def _at_last_token(prompts: Sequence[Encoded]) -> list[Encoded]:
    """Read a question where its answer begins."""
    return [Encoded(p.ids, p.end, p.end) for p in prompts]
