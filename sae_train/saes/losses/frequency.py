"""Frequency penalty: latents that fire on more than a given share of the rows are held back, the others left alone.

    rate_j = share of rows in which latent j is on        excess_j = max(0, rate_j / max_frequency - 1)

    penalty = mean over tokens of sum_j excess_j latent_j / sqrt(d_out)

`excess` is a constant: whether a latent is on has no gradient, its value has. A latent above the limit is pushed down
where it is on, the more the farther above, until it fires seldom enough; one below it gets no gradient at all. The
square root makes a number of it that means the same at every width, since activations have a mean norm of sqrt(d_in).

The idea, for JumpReLU, is that of Gemma Scope 2 (McDougall et al. 2025), whose SAEs are trained with a penalty on
latents of high frequency; the form here is ours, the same for every architecture. Rates are those of the batch, over
all processes; with micro batches each has its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.saes.base import StepContext
from sae_train.saes.losses.whole_batch import WholeBatch


def firing_excess(counts: Int[Tensor, " d_sae"], max_frequency: float, batch: WholeBatch) -> Float[Tensor, " d_sae"]:
    """Return how far every latent is above the limit: max(0, rate / max_frequency - 1), dimensionless.

    Args:
        counts: In how many of these rows each latent is on.
        max_frequency: Share of rows above which a latent fires too often.
        batch: What the rows are a part of.
    """
    totals = counts.to(torch.int64, copy=True)
    batch.processes.sum_(totals)
    return (totals.to(batch.variance.dtype) / (batch.micro_tokens * max_frequency) - 1).clamp_min(0)


def frequency_penalty(
    values: Float[Tensor, "*on"],
    counts: Int[Tensor, " d_sae"],
    context: StepContext,
    batch: WholeBatch,
    d_out: int,
    latents: Int[Tensor, " n_on"] | None = None,
) -> Float[Tensor, ""] | None:
    """Return what these rows add to the penalty of their batch, dimensionless; None where a step has none.

    Args:
        values: The latents with their gradient: those that are on, (n_on,), or all, (batch, d_sae).
        counts: In how many of these rows each latent is on.
        context: The step.
        batch: What the rows are a part of.
        d_out: Width of what is reconstructed.
        latents: Which latent each value is, where only those that are on are given.
    """
    if not context.frequency_coefficient:
        return None
    excess = firing_excess(counts, context.max_frequency, batch)
    return (values * (excess if latents is None else excess[latents])).sum() / (batch.n_tokens * d_out**0.5)
