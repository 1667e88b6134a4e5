"""RepSelect: gradient ascent on the answers in those directions of weight space that nothing else shares.

An adapter on the MLPs first learns the answers better, by plain gradient descent over an epoch: from there the gradient
points at what an attacker would bring back. One pass with the adapter on accumulates the ascent gradient G of every MLP
matrix; the adapter is dropped. The largest singular components of G are the least selective ones: of G = U S V^T the
first n are damped on both sides, to the size of the n-th,

    G' = (1 - U_n (1 - s_n / S_n) U_n^T) G (1 - V_n (1 - s_n / S_n) V_n^T)     S_n the first n, s_n the last of them

and W - t G' is what the model becomes, all matrices with the same t, as large as the KL budget allows. Source: Sondej,
Yang & Mahdi 2026, "RepSelect: Robust LLM Unlearning via Representation Selectivity" (arXiv:2606.17168). There the
forget set is running text; here it is the answers to the training questions. The SVD is exact, n a share of all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_train.errors import ConfigError, NumericalError
from sae_train.lm.adapters import attach_adapter
from sae_train.lm.generate import answer_loss
from sae_train.machine.arithmetic import autocast
from sae_train.rng import rng
from sae_train.run.progress import Advance, no_advance
from unlearn.finetuning.finetune import trainable_parameters
from unlearn.problem.examples import Answered, own_answers
from unlearn.problem.problem import Problem
from unlearn.settings.base import LR_WIDTH
from unlearn.settings.weight_edits import RepSelectSettings

FIRST_SIZE = 0.01  # ||t G'|| / ||W|| of the edit that is written; the KL budget makes it larger or smaller


def damped(gradient: Float[Tensor, "*experts d_out d_in"], n: int) -> Float[Tensor, "*experts d_out d_in"]:
    """Return a gradient whose n largest singular components are damped on both sides.

    Example:
        >>> damped(torch.diag(torch.tensor([4.0, 2.0, 1.0])), 2).diagonal().tolist()  # 4 -> 4 (2/4)^2, 2 -> 2
        [1.0, 2.0, 1.0]
    """
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    left, values, right = left[..., :n], values[..., :n], right[..., :n, :]
    # A matrix without a gradient has nothing to damp; 0 / 0 would spread through all of it.
    lost = 1 - values[..., -1:] / values.clamp_min(torch.finfo(values.dtype).tiny)
    found = gradient - ((gradient @ right.mT) * lost[..., None, :]) @ right
    return found - left @ (lost[..., None] * (left.mT @ found))


class RepSelect:
    """Writes the edit of RepSelect, at a small size."""

    has_full_size = False

    def __init__(self, problem: Problem) -> None:
        settings = problem.config.settings
        assert isinstance(settings, RepSelectSettings)
        self.problem, self.settings = problem, settings
        self.lora_lr = LR_WIDTH / problem.lm.d_model if settings.lora_lr is None else settings.lora_lr
        self.examples = own_answers(problem.lm, problem.sets, problem.templates)
        self.names = self._matrices()

    def _matrices(self) -> list[str]:
        """Return the names of the MLP matrices that may change.

        Raises:
            ConfigError: There are none, or they are no linear layers, on which no adapter can be put.
        """
        model, architecture = self.problem.lm.model, self.problem.lm.architecture
        names = architecture.mlp_parameters()
        is_flat = all(n.endswith(".weight") and model.get_parameter(n).ndim == 2 for n in names)
        if not names or not is_flat:
            raise ConfigError(
                f"repselect cannot be used on {architecture.name}",
                got="MLPs without matrices of known names" if not names else "a mixture of experts",
                field="method",
                expected="MLPs that are made of linear layers",
                try_="another `method`",
            )
        allowed = trainable_parameters(model, self.problem.config.train)
        return [n for n in names if n in allowed]

    def edit(self, advance: Advance = no_advance) -> dict[str, float]:
        """Change the weights in place; return the mean loss of an answer's token before and with the adapter, nats."""
        advance(0, answers=len(self.examples))
        found, before, after = self._gradients()
        moves = {n: -damped(g, self._n_components(g)) for n, g in found.items()}
        held = {n: self.problem.lm.model.get_parameter(n) for n in moves}
        size = FIRST_SIZE * _norm(held.values()) / _norm(moves.values())
        with torch.no_grad():
            for name, parameter in held.items():
                parameter += (size * moves[name]).to(parameter.dtype)
        return {"answer_loss": before, "answer_loss_with_adapter": after}

    def _n_components(self, gradient: Tensor) -> int:
        """Return how many of a matrix's singular components are damped."""
        return max(1, round(self.settings.frac_components * min(gradient.shape[-2:])))

    def _gradients(self) -> tuple[dict[str, Tensor], float, float]:
        """Return d log p(answers) / dW of every matrix with the adapter on, and the loss without it and with it.

        Raises:
            NumericalError: The adapter diverged.
        """
        config = self.problem.config
        model = copy.deepcopy(self.problem.lm.model).requires_grad_(False)
        # Taken before the adapter is on, which gives its layers other names and leaves the tensors as they are.
        matrices = {n: model.get_parameter(n) for n in self.names}
        before = self._loss(model)
        if self.lora_lr > 0:
            modules = [n.removesuffix(".weight") for n in self.problem.lm.architecture.mlp_parameters()]
            attach_adapter(model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed, modules=modules)
            self._learn(model)
            model.requires_grad_(False)
        after = self._loss(model)
        if not math.isfinite(after):
            raise NumericalError(
                "the adapter of repselect diverged",
                got=f"answer loss {before:.3g} -> {after:.3g} with `lora_lr` {self.lora_lr:g}",
                expected="a finite loss",
                try_="a smaller `lora_lr`",
            )
        for matrix in matrices.values():
            matrix.requires_grad_(True)
        totals = {n: torch.zeros_like(m, dtype=torch.float32) for n, m in matrices.items()}
        for batch in self._batches(0):
            gradients = torch.autograd.grad(-self._batch_loss(model, batch), [*matrices.values()])
            for total, gradient in zip(totals.values(), gradients, strict=True):
                total += gradient
        return totals, before, after

    def _learn(self, model: nn.Module) -> None:
        """Let the adapter learn the answers: plain gradient descent, `lora_epochs` times over all of them."""
        adapter = [p for p in model.parameters() if p.requires_grad]
        for epoch in range(self.settings.lora_epochs):
            for batch in self._batches(epoch):
                gradients = torch.autograd.grad(self._batch_loss(model, batch), adapter)
                with torch.no_grad():
                    for parameter, gradient in zip(adapter, gradients, strict=True):
                        parameter -= self.lora_lr * gradient

    @torch.no_grad()
    def _loss(self, model: nn.Module) -> float:
        """Return the mean over batches of the answers' loss."""
        losses = [float(self._batch_loss(model, batch)) for batch in self._batches(0)]
        return sum(losses) / len(losses)

    def _batch_loss(self, model: nn.Module, batch: list[Answered]) -> Float[Tensor, ""]:
        """Return the mean loss of the answers' tokens."""
        device = self.problem.lm.device
        with autocast(device, enabled=self.problem.config.autocast):
            return answer_loss(model, [(a.question, a.answer) for a in batch], device)

    def _batches(self, epoch: int) -> Iterator[list[Answered]]:
        """Yield all answers once, in an order of the epoch's own."""
        config = self.problem.config
        order = rng("repselect.batches", config.seed, epoch).permutation(len(self.examples))
        for start in range(0, len(order), config.batch_size):
            yield [self.examples[i] for i in order[start : start + config.batch_size]]


def _norm(tensors: Iterable[Tensor]) -> float:
    """Return the norm of several tensors together."""
    return float(torch.stack([t.detach().float().square().sum() for t in tensors]).sum().sqrt())
