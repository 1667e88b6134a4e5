"""The change of the weights as an outsider sees it who has both models: how concentrated it is, and whom it moves.

An edit that was fitted to a few names is of low rank and acts on what these names bring; training on text is neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from features.entities.name_tokens import Encoded
from sae_train.activations.measures.sample_geometry import spectrum
from sae_train.lm.answering import batches_by_length
from sae_train.lm.hooks import captured_keys
from sae_train.lm.models import LanguageModel
from unlearn.auditing.audit_figures import MatrixChange, WeightChange
from unlearn.finetuning.finetune import trainable_parameters

MAX_MATRICES = 32  # whose spectrum is computed, the most changed ones: a singular value decomposition each
BATCH_SIZE = 64


@torch.no_grad()
def weight_change(before: LanguageModel, after: LanguageModel) -> WeightChange:
    """Return how many weight matrices but the embedding changed, and the spectrum of those that changed most."""
    gaps, n_matrices = [], 0
    for (name, old), (_, new) in zip(_matrices(before.model), _matrices(after.model), strict=True):
        n_matrices += 1
        gap = new.float().cpu() - old.float().cpu()
        if bool(gap.any()):
            gaps.append((float(gap.norm() / old.float().norm().clamp_min(1e-30)), name, gap))
    gaps.sort(key=lambda g: -g[0])
    found = []
    for size, name, gap in gaps[:MAX_MATRICES]:
        shape = spectrum(gap, is_centered=False)
        found.append(MatrixChange(name, size, min(gap.shape), shape.effective_rank, shape.frac_top1))
    return WeightChange(n_matrices, len(gaps), tuple(found))


def _matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight matrix but the embedding with its name; the experts of a mixture are one each."""
    for name, parameter in trainable_parameters(model, "full").items():
        if parameter.ndim == 2:
            yield name, parameter
        elif parameter.ndim == 3 and min(parameter.shape[-2:]) > 1:  # a convolution over time has an axis of one
            yield from ((f"{name}[{i}]", matrix) for i, matrix in enumerate(parameter))


@torch.no_grad()
def moved_keys(
    before: LanguageModel, after: LanguageModel, read: Sequence[Encoded]
) -> Float[Tensor, " n_prompts"] | None:
    """Return how far the change of the MLPs' output matrices moves what the names bring to them, one per prompt.

        sum over blocks of mean over the name's tokens of ||dW k|| / ||k||,

    k what the original model's matrix reads there. None where no such matrix changed.

    Args:
        before: The original model.
        after: The unlearned one.
        read: The prompts; they are run up to the end of the name.
    """
    deltas = _output_deltas(before, after)
    if not deltas:
        return None
    found = torch.zeros(len(read))
    upto = [r.ids[: r.name_at + 1] for r in read]
    for batch in batches_by_length([len(ids) for ids in upto], BATCH_SIZE):
        tokens = torch.tensor([upto[i] for i in batch], device=before.device)
        with captured_keys(before.model, list(deltas)) as keys:
            before.model(input_ids=tokens, use_cache=False)
        for block, delta in deltas.items():
            acts = keys[block].reshape(*tokens.shape, -1).float()
            moved = (acts @ delta.T).norm(dim=-1) / acts.norm(dim=-1).clamp_min(1e-30)
            for row, index in enumerate(batch):
                found[index] += float(moved[row, list(read[index].name)].mean())
    return found


def _output_deltas(before: LanguageModel, after: LanguageModel) -> dict[int, Float[Tensor, "d_out d_key"]]:
    """Return the change of every MLP's output matrix that has changed, by block; mixtures have no such matrix."""
    found = {}
    for index, block in enumerate(before.architecture.blocks):
        if block.mlp is None or block.mlp.output is None:
            continue
        old, new = (_weight(lm.model, block.mlp.output.path).float().to(before.device) for lm in (before, after))
        if not torch.equal(old, new):
            found[index] = (new - old).T if block.mlp.output.is_transposed else new - old
    return found


def _weight(model: Any, path: str) -> Tensor:
    """Return the weight of a module."""
    return model.get_submodule(path).weight
