"""Redirection by natural gradients: a few steps, each the one that redirects most for what it does to all else.

With p the original model's next token about the paired unknown entity, from the name's last token on, in questions with
and without answers (`paired_prompts.py`), q the model's own about the target, and q~ the same where the original's
activations are put back behind a block drawn among the first two thirds,

    loss = KL(p || q) + frac_put_back * KL(p || q~) + retained_weight * KL(original || model) about others,

these others retained entities and unknown ones, whose gradient G by the matrices that write into the residual stream is
turned into D = -B^-1 G C^-1 (`losses/kronecker.py`), B and C measured on general text, retained and unknown entities
and those that share a target's answers. The steps are as long as the metric says, not as the gradient is, and end at
the KL budget. The second term reaches behind the key: activations of the original hold the answer, and later blocks
must not read it. Unknown names spare known ones that nobody retains: what tells a target from all of them is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from features.entities.name_tokens import Encoded
from sae_train.errors import ConfigError
from sae_train.lm.generate import logits_at, pad_right
from sae_train.lm.hooks import capture, captured_linears, replaced
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng, torch_rng
from sae_train.run.progress import Advance, no_advance
from sae_train.text.packing import Batch, Places, can_pack, lay_out
from unlearn.finetuning.finetune import trainable_parameters
from unlearn.losses.divergence import next_token_kl
from unlearn.losses.key_solve import KeyMoment
from unlearn.losses.kronecker import Factors, stepped
from unlearn.problem.data import retained_prompts
from unlearn.problem.kept import counted, kept_sequences
from unlearn.problem.paired_prompts import Pair, PairBatch, pair_batch, paired_prompts
from unlearn.problem.problem import Problem
from unlearn.settings.redirection import NaturalSettings

BATCH = 16  # sequences in a forward and backward pass in which the factors are measured
# Of a name the last token and what follows: other names begin like it, and what is said after these is theirs too.
POSITIONS = "from-name-on"
RISING = 5  # steps over which the length of a step rises
FRAC_PUT_BACK = 2 / 3  # of the blocks, behind which original activations may be put back


class RedirectNatural:
    """Takes the steps; see the module's docstring."""

    has_full_size = True

    def __init__(self, problem: Problem) -> None:
        settings, sets = problem.config.settings, problem.sets
        assert isinstance(settings, NaturalSettings)
        self.settings = settings
        everyone = sets.with_targets(sets.forget + sets.earlier, sets.partner + sets.earlier_partner)
        self.problem = problem = replace(problem, sets=everyone)
        self.original = LanguageModel(problem.original, problem.lm.tokenizer, problem.lm.name, problem.lm.device)
        self.weights = self._matrices()
        self.packed = can_pack(problem.original)
        seed = problem.config.seed
        self.pairs = paired_prompts(problem.lm, everyone, problem.templates, with_answers=True, seed=seed)
        self.retained = retained_prompts(problem.lm, everyone.retain, problem.templates)
        partners = {e.key for e in everyone.partner}
        names = [e for e in everyone.unknown if e.key not in partners]
        self.unknown = retained_prompts(problem.lm, names, problem.templates) if names else []

    def _matrices(self) -> dict[str, nn.Parameter]:
        """Return the matrices that change, by the path of their layer.

        Raises:
            ConfigError: There are none.
        """
        model = self.problem.lm.model
        allowed = trainable_parameters(model, self.problem.config.train)
        paths = [p for p in self.problem.lm.architecture.writing_linears() if f"{p}.weight" in allowed]
        if not paths:
            raise ConfigError(
                f"redirect-natural cannot be used on {self.problem.lm.architecture.name}",
                got="no linear layer by which attention or an MLP writes",
                field="method",
                expected="such layers under known names",
                try_="--method redirect",
            )
        return {p: model.get_parameter(f"{p}.weight") for p in paths}

    def edit(self, advance: Advance = no_advance) -> dict[str, float]:
        """Change the weights in place; return the loss of the first and of the last step, nats."""
        settings = self.settings
        factors = self._factors(advance)
        moves = {path: torch.zeros_like(w) for path, w in self.weights.items()}
        losses: list[float] = []
        for step, length in enumerate(step_lengths(settings.n_steps, settings.length)):
            gradients, loss = self._gradients(step)
            losses.append(loss)
            advance(0, step=f"{step + 1}/{settings.n_steps}", loss=loss)
            for path, gradient in gradients.items():
                moves[path] = settings.momentum * moves[path] - self._turned(factors[path], gradient, path)
            scaled, _ = stepped({p: self._upright(p, m) for p, m in moves.items()}, factors, length)
            with torch.no_grad():
                for path, move in scaled.items():
                    self.weights[path].add_(self._upright(path, move))
        return {"loss_before": losses[0], "loss_after": losses[-1]}

    def _upright(self, path: str, matrix: Tensor) -> Tensor:
        """Turn a matrix of a layer that keeps it as (d_in, d_out), or back."""
        is_transposed = not isinstance(self.problem.lm.model.get_submodule(path), nn.Linear)
        return matrix.T if is_transposed else matrix

    def _turned(self, factors: Factors, gradient: Tensor, path: str) -> Tensor:
        """Return B^-1 G C^-1 in the layer's own orientation."""
        return self._upright(path, factors.direction(self._upright(path, gradient)))

    def _factors(self, advance: Advance) -> dict[str, Factors]:
        """Measure the factors on the model as it was found."""
        settings, generator = self.settings, torch_rng("redirect.fisher", self.problem.config.seed)
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for weight, sequences in kept_sequences(self.problem, settings):
            # Forward and backward passes: a part of what the closed form reads in forward passes alone is enough.
            chosen = _drawn(sequences, settings.n_measured, rng("redirect.measured", self.problem.config.seed))
            for total, moments in zip((inputs, outputs), self._moments(chosen, generator, advance), strict=True):
                for path, moment in moments.items():
                    own = weight * moment.result()
                    total[path] = total[path] + own if path in total else own
        damping = {"damping": settings.damping, "output_damping": settings.output_damping}
        return {path: Factors.of(inputs[path], outputs[path], **damping) for path in self.weights}

    def _moments(
        self, sequences: Sequence[Encoded], generator: torch.Generator, advance: Advance
    ) -> tuple[dict[str, KeyMoment], dict[str, KeyMoment]]:
        """Return the second moments of what the layers read, and of the gradients by what they return."""
        model, device = self.problem.reference, self.problem.lm.device
        inputs, outputs = ({path: KeyMoment() for path in self.weights} for _ in range(2))
        ordered = sorted(sequences, key=lambda s: len(s.ids))
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            ids, mask = pad_right([s.ids for s in batch], device=device)
            counts = counted(batch, mask)
            with torch.enable_grad(), captured_linears(model, list(self.weights)) as (read, returned):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[counts].float()
                # Drawn from the model itself: with the text's own next tokens it would be no Fisher information.
                drawn = torch.multinomial(logits.detach().softmax(dim=-1).cpu(), 1, generator=generator)[:, 0]
                loss = F.cross_entropy(logits, drawn.to(device), reduction="sum")
                gradients = torch.autograd.grad(loss, [returned[path] for path in self.weights])
            for path, gradient in zip(self.weights, gradients, strict=True):
                rows = _as(ids, read[path].detach())[counts], _as(ids, gradient)[counts]
                inputs[path].update(rows[0])
                outputs[path].update(rows[1])
            advance(0, measured=f"{min(len(ordered), start + BATCH)}/{len(ordered)}")
        return inputs, outputs

    def _gradients(self, step: int) -> tuple[dict[str, Tensor], float]:
        """Return the gradient of one step's loss by every matrix, and the loss."""
        totals = {path: torch.zeros_like(w) for path, w in self.weights.items()}
        for weight in self.weights.values():
            weight.requires_grad_(True)
        terms: list[Tensor] = []
        with torch.enable_grad():
            for loss in self._losses(step):
                gradients = torch.autograd.grad(loss, [*self.weights.values()], allow_unused=True)
                for path, gradient in zip(totals, gradients, strict=True):
                    if gradient is not None:  # blocks before the put-back have no part in it
                        totals[path] += gradient
                terms.append(loss.detach())
        for weight in self.weights.values():
            weight.requires_grad_(False)
        return totals, sum(torch.stack(terms).tolist())  # read once, when all are there

    def _losses(self, step: int) -> Iterator[Float[Tensor, ""]]:
        """Yield the terms of one step's loss, one graph at a time."""
        settings, lm = self.settings, self.problem.lm
        generator = rng("redirect.natural", self.problem.config.seed, step)
        drawn = _drawn(self.pairs, settings.n_prompts, generator)
        n_behind = round(settings.frac_put_back * len(drawn)) if lm.n_blocks > 1 else 0
        for pairs, is_behind in ((drawn[n_behind:], False), (drawn[:n_behind], True)):
            if not pairs:
                continue
            batch = pair_batch(pairs, POSITIONS, lm.device, packed=self.packed)
            aim = self._aim(batch.other, batch.other_at)
            if is_behind:
                yield settings.frac_put_back * next_token_kl(self._behind(batch, generator), aim)
            else:
                yield next_token_kl(logits_at(lm.model, batch.own, batch.at), aim)
        n_unknown = round(settings.frac_unknown * settings.n_retained) if self.unknown else 0
        others = [
            *_drawn(self.retained, settings.n_retained - n_unknown, generator),
            *_drawn(self.unknown, n_unknown, generator),
        ]
        if settings.retained_weight > 0 and others:
            yield settings.retained_weight * self._retained(others)

    def _behind(self, batch: PairBatch, generator: np.random.Generator) -> Float[Tensor, "n vocab"]:
        """Return the logits about targets with the original's activations put back behind a block."""
        lm, own = self.problem.lm, batch.own
        last = max(1, min(lm.n_blocks - 1, round(FRAC_PUT_BACK * lm.n_blocks)))
        name = f"layers.{int(generator.integers(0, last))}"
        back = capture(self.original, own.ids, own.mask, [name], position_ids=own.positions)[name]
        with replaced(lm.model, name, lambda acts: back.to(acts.dtype)):
            return logits_at(lm.model, own, batch.at)

    def _retained(self, prompts: Sequence[Encoded]) -> Float[Tensor, ""]:
        """Return KL(original || model) about retained and unknown entities, from their names on."""
        batch = lay_out([p.ids for p in prompts], self.problem.lm.device, packed=self.packed)
        at = batch.places([(n, at) for n, p in enumerate(prompts) for at in range(p.name_from, len(p.ids))])
        return next_token_kl(logits_at(self.problem.lm.model, batch, at), self._aim(batch, at))

    @torch.no_grad()
    def _aim(self, batch: Batch, at: Places) -> Float[Tensor, "n vocab"]:
        """Return the original's logits behind some tokens."""
        return logits_at(self.original.model, batch, at)


def step_lengths(n_steps: int, total: float) -> list[float]:
    """Return the lengths of some steps that have a total length together: they rise over the first, then fall.

    The first gradients are the largest and least certain; at full length the loss rose sevenfold before it fell. The
    steps after these take the knowledge, the last ones mend.

    Example:
        >>> [round(length, 3) for length in step_lengths(6, 1.0)]
        [0.122, 0.2, 0.233, 0.222, 0.167, 0.056]
    """
    falling = [1 - (step + 0.5) / n_steps for step in range(n_steps)]
    lengths = [length * min(1.0, (step + 1) / RISING) for step, length in enumerate(falling)]
    return [total * length / sum(lengths) for length in lengths]


def _as(ids: Tensor, rows: Tensor) -> Tensor:
    """Return rows in the batch's own shape, where a layer is given all tokens end to end (OPT)."""
    return rows if rows.ndim == 3 else rows.unflatten(0, tuple(ids.shape))


def _drawn(items: Sequence[Pair] | Sequence[Encoded], n: int, generator: np.random.Generator) -> list:
    """Draw some items, each once."""
    return [items[i] for i in generator.choice(len(items), min(n, len(items)), replace=False)]
