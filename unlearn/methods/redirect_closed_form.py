"""Redirection in closed form: solve for MLP output matrices instead of training them.

The aim is that of `redirect`: at the name tokens the residual stream behind the last of a few blocks should be what the
original model has there for the paired unknown entity. The gap is spread over these blocks, as MEMIT does (Meng et al.
2023, arXiv:2210.07229): block i of n closes 1 / (n - i) of what is left of it, by the least change of its MLP's output
matrix under the second moment of the keys of general text, retained entities and unknown ones (`losses/key_solve.py`).
Seconds instead of minutes: one pass for the moments and one per block; the matrix has to write straight into the
residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from features.entities.name_tokens import Encoded, encode
from features.entities.prompts import render
from sae_train.fields import require
from sae_train.lm.architecture import Matrix
from sae_train.lm.generate import pad_right
from sae_train.lm.hooks import capture, captured_keys
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import Advance, no_advance
from unlearn.losses.key_solve import KeyMoment, solve_update
from unlearn.problem.kept import counted, kept_sequences, name_contexts
from unlearn.problem.paired_prompts import PairBatch, pair_batch
from unlearn.problem.problem import Problem
from unlearn.settings.redirection import ClosedFormSettings

BATCH = 32  # prompts in a forward pass
# Blocks 5 to 8 of SmolLM2's 30: harmless there, while blocks 9 to 12 destroyed the model (loss 3.88 -> 9.04;
# docs/results/log_redirection.md, "what led to the closed form").
DEPTH = 0.27  # of the blocks: the last one that changes, where none is given


class RedirectClosedForm:
    """Solves for the output matrices of a few blocks; see the module's docstring."""

    has_full_size = True

    def __init__(self, problem: Problem, settings: ClosedFormSettings | None = None) -> None:
        own = problem.config.settings if settings is None else settings
        assert isinstance(own, ClosedFormSettings)
        self.problem, self.settings = problem, own
        self.blocks = self._chosen_blocks()
        # A matrix behind which a norm stands (Gemma 2 and 3) is refused: what is solved for would not be what arrives.
        self.matrices = problem.lm.architecture.straight_matrices(self.blocks)
        self.last = f"layers.{self.blocks[-1]}"
        self.reference = LanguageModel(problem.reference, problem.lm.tokenizer, problem.lm.name, problem.lm.device)
        self.batches = self._target_batches()

    def _chosen_blocks(self) -> list[int]:
        """Return the blocks whose matrices change.

        Raises:
            ConfigError: The model has no such block.
        """
        last, n_blocks = self.settings.last_block, self.problem.lm.n_blocks
        if last is None:
            last = round(DEPTH * n_blocks)
        require(last < n_blocks, "last_block", last, f"< {n_blocks}, the blocks of {self.problem.lm.name}")
        return list(range(max(0, last - self.settings.n_blocks + 1), last + 1))

    def _target_batches(self) -> list[PairBatch]:
        """Return the targets' names in every context, beside those of their partners."""
        lm, sets, templates = self.problem.lm, self.problem.sets, self.problem.templates
        own = [p for t in sets.forget for p in name_contexts(t, templates)]
        other = [
            render(p.template, partner)
            for target, partner in zip(sets.forget, sets.partner, strict=True)
            for p in name_contexts(target, templates)
        ]
        pairs = list(zip(encode(lm, own), encode(lm, other), strict=True))
        pairs = [p for p in pairs if p[0].name_from > 0] or pairs  # the first token's activations are like no other's
        return [
            # All name tokens by default: patched at the last one alone, a quarter to a third of the recall stayed, at
            # all of them 0.04 to 0.06 (docs/results/log_redirection.md, "what led to the closed form").
            pair_batch(pairs[i : i + BATCH], self.settings.positions, lm.device)
            for i in range(0, len(pairs), BATCH)
        ]

    @torch.no_grad()
    def edit(self, advance: Advance = no_advance) -> dict[str, float]:
        """Change the weights in place; return the targets' mean distance from their aims before and after."""
        settings = self.settings
        # Both are read off models that do not change, so once is enough.
        moments, aims = self._moments(), self._aims()
        distances: list[float] = []
        for index, block in enumerate(self.blocks):
            # Read again for every block: the edits of the blocks before change its keys and the gap that is left.
            advance(0, block=block)
            keys, residual = self._now(block)
            gap = aims - residual
            distances.append(float(gap.norm(dim=1).mean()))
            # An equal share of what is left, so that no single matrix changes much; the last block closes the rest.
            moves = gap / (len(self.blocks) - index)
            update = solve_update(keys, moves, moments[block], ridge=settings.ridge, frac_null=settings.frac_null)
            add_to_matrix(self.problem.lm.model, self.matrices[index], update)
        after = float((aims - self._now(self.blocks[-1])[1]).norm(dim=1).mean())
        return {"distance_before": distances[0], "distance_after": after}

    def _moments(self) -> dict[int, Tensor]:
        """Return the second moment of the keys to be left alone at every block: a weighted sum over groups."""
        total: dict[int, Tensor] = {}
        for weight, sequences in kept_sequences(self.problem, self.settings):
            for block, moment in self._moment_of(sequences).items():
                total[block] = total[block] + weight * moment if block in total else weight * moment
        return total

    def _moment_of(self, sequences: Sequence[Encoded]) -> dict[int, Tensor]:
        """Return the moments of one group, over the tokens from the name on; in running text that is all."""
        moments = {b: KeyMoment() for b in self.blocks}
        ordered = sorted(sequences, key=lambda s: len(s.ids))
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            ids, mask = pad_right([s.ids for s in batch], device=self.problem.lm.device)
            counts = counted(batch, mask)
            with captured_keys(self.problem.reference, self.blocks) as keys:
                capture(self.reference, ids, mask, [self.last])
            for block in self.blocks:
                moments[block].update(keys[block][counts])
        return {block: moment.result() for block, moment in moments.items()}

    def _aims(self) -> Tensor:
        """Return the original model's residual stream at the partners' tokens behind the last block, (n, d_model)."""
        original = replace(self.reference, model=self.problem.original)
        found = []
        for batch in self.batches:
            acts = capture(original, batch.other.ids, batch.other.mask, [self.last])[self.last]
            found.append(batch.other_at.of(acts).float())
        return torch.cat(found)

    def _now(self, block: int) -> tuple[Tensor, Tensor]:
        """Return the keys of one block and the residual stream behind the last one at the targets' tokens, as it is."""
        keys, residuals = [], []
        for batch in self.batches:
            with captured_keys(self.problem.lm.model, [block]) as found:
                acts = capture(self.problem.lm, batch.own.ids, batch.own.mask, [self.last])[self.last]
            keys.append(batch.at.of(found[block]).float())
            residuals.append(batch.at.of(acts).float())
        return torch.cat(keys), torch.cat(residuals)


@torch.no_grad()
def add_to_matrix(model: nn.Module, matrix: Matrix, update: Float[Tensor, "d_out d_key"]) -> None:
    """Add an update to an output matrix, in its own orientation."""
    module: Any = model.get_submodule(matrix.path)
    module.weight += (update.T if matrix.is_transposed else update).to(module.weight.dtype)
