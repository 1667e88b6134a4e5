"""One definition of each SAE quality measure; trainer, evaluation and reports import these.

Figures that are ratios of sums are computed from sums kept per group of documents, so that the same function gives the
figure itself (the sums of all groups) and its replicates (the sums of resampled groups, see `bootstrap.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_train.errors import ShapeError
from sae_train.intervals import Interval

BIN_DECADES = 0.25  # width of a bin of the density histogram, in powers of ten


def fvu(acts: Float[Tensor, "n_tokens d_in"], recon: Float[Tensor, "n_tokens d_in"]) -> Float[Tensor, ""]:
    """Return the fraction of variance unexplained by a reconstruction.

    FVU = sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, the mean taken over the tokens given.
    0 is perfect, 1 is no better than predicting the mean; it can exceed 1. It is 1 - SAELens' `explained_variance`;
    SAELens' `explained_variance_legacy` is not a ratio of sums, and OpenAI's normalized MSE (Gao et al. 2024) does not
    subtract the mean.

    Args:
        acts: What the SAE read, in the model's own scale.
        recon: What it returned for the same tokens.

    Raises:
        ShapeError: There are fewer than two tokens, or they do not vary.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> fvu(x, x.mean(0, keepdim=True).expand(2, 1)).item()
        1.0
    """
    sums = VarianceSums(acts.shape[1])
    sums.update(acts, recon)
    return torch.tensor(sums.fvu())


class SquareSums(NamedTuple):
    """Sums over tokens, the first axis groups of documents or replicates; x is measured from a fixed vector `shift`.

    Attributes:
        n_tokens: How many, (n,).
        total: sum (x - shift), (n, d_in).
        squares: sum ||x - shift||^2, (n,).
        errors: sum ||x - x_hat||^2, (n,).
        raw_squares: sum ||x||^2, (n,).
        recon_squares: sum ||x_hat||^2, (n,).
    """

    n_tokens: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    errors: np.ndarray
    raw_squares: np.ndarray
    recon_squares: np.ndarray

    def weighted(self, weights: np.ndarray) -> SquareSums:
        """Return weighted sums over the groups: `weights` (n_draws, n) says how often each one counts."""
        return SquareSums(*(weights @ array for array in self))

    def fvu(self) -> np.ndarray:
        """Return errors / (squares - ||total||^2 / n_tokens), (n,); NaN where nothing varies."""
        variance = self.squares - np.square(self.total).sum(1) / np.maximum(self.n_tokens, 1)
        return np.divide(self.errors, variance, out=np.full(len(variance), np.nan), where=variance > 0)

    def l2_ratio(self) -> np.ndarray:
        """Return sqrt(recon_squares / raw_squares), (n,)."""
        return np.sqrt(self.recon_squares / self.raw_squares)


class VarianceSums:
    """Accumulates what FVU and L2 ratio need over batches, in float64, the mean shifted by the first batch.

    Args:
        d_in: Width of the activations.
        n_groups: Groups of documents whose sums are kept apart.
    """

    def __init__(self, d_in: int, n_groups: int = 1) -> None:
        self._shift: Tensor | None = None
        self._total = torch.zeros(n_groups, d_in, dtype=torch.float64)
        self._numbers = torch.zeros(n_groups, 5, dtype=torch.float64)

    def update(
        self,
        acts: Float[Tensor, "n_tokens d_in"],
        recon: Float[Tensor, "n_tokens d_in"],
        groups: Int[Tensor, " n_tokens"] | None = None,
    ) -> None:
        """Add one batch; `groups` says where each token belongs, by default to the first group."""
        x, y = acts.detach().cpu().double(), recon.detach().cpu().double()
        if self._shift is None:
            self._shift = x.mean(0)
        where = torch.zeros(len(x), dtype=torch.int64) if groups is None else groups.cpu()
        shifted = x - self._shift
        squares = [v.square().sum(1) for v in (shifted, x - y, x, y)]
        self._total.index_add_(0, where, shifted)
        self._numbers.index_add_(0, where, torch.stack([torch.ones_like(squares[0]), *squares], dim=1))

    def sums(self) -> SquareSums:
        """Return the sums of every group."""
        n_tokens, *squares = self._numbers.T.numpy()
        return SquareSums(n_tokens, self._total.numpy(), *squares)

    def all(self) -> SquareSums:
        """Return the sums over all groups, axes of length one.

        Raises:
            ShapeError: There are fewer than two tokens, or they do not vary.
        """
        sums = self.sums()
        found = sums.weighted(np.ones((1, len(sums.n_tokens))))
        if found.n_tokens[0] < 2:
            got = f"{int(found.n_tokens[0])} tokens"
            raise ShapeError("FVU needs at least two tokens", got=got, expected=">= 2")
        if np.isnan(found.fvu()[0]) and np.isfinite(found.errors[0]):
            raise ShapeError("FVU is undefined: the activations do not vary", got="variance 0", expected="> 0")
        return found

    def fvu(self) -> float:
        """Return the fraction of variance unexplained so far."""
        return float(self.all().fvu()[0])

    def l2_ratio(self) -> float:
        """Return sqrt(sum ||x_hat||^2 / sum ||x||^2); below 1 the reconstruction shrinks."""
        return float(self.all().l2_ratio()[0])


def l0(latents: Float[Tensor, "n_tokens d_sae"]) -> Float[Tensor, ""]:
    """Return the mean number of nonzero latents per token.

    Example:
        >>> l0(torch.tensor([[1.0, 0.0], [2.0, 3.0]])).item()
        1.5
    """
    return (latents != 0).sum(dim=1).float().mean()


def firing_counts(latents: Float[Tensor, "n_tokens d_sae"]) -> Int[Tensor, " d_sae"]:
    """Return on how many tokens each latent is nonzero."""
    return (latents != 0).sum(dim=0)


def dead_latents(tokens_since_fired: Int[Tensor, " d_sae"], dead_after_tokens: int) -> Bool[Tensor, " d_sae"]:
    """Return which latents have not fired in the last `dead_after_tokens` tokens."""
    return tokens_since_fired >= dead_after_tokens


def kl_divergence(
    log_p: Float[Tensor, "*tokens vocab"], log_q: Float[Tensor, "*tokens vocab"]
) -> Float[Tensor, "*tokens"]:
    """Return KL(p || q) = sum p (log p - log q) of every token, in nats; never below 0.

    Example:
        >>> p = torch.tensor([[0.5, 0.5]])
        >>> round(kl_divergence(p.log(), torch.tensor([[0.25, 0.75]]).log()).item(), 4)  # ln(2 / sqrt(3))
        0.1438
    """
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp_min(0)


def ce_recovered(*, ce_clean: float, ce_sae: float, ce_zero: float) -> float:
    """Return (CE_zero - CE_sae) / (CE_zero - CE_clean): 1 loses nothing, 0 is as bad as removing the activations.

    NaN where removing them costs nothing: there is nothing to recover.

    Example:
        >>> ce_recovered(ce_clean=2.0, ce_sae=3.0, ce_zero=12.0)
        0.9
    """
    gap = ce_zero - ce_clean
    return (ce_zero - ce_sae) / gap if gap else float("nan")


@dataclass(frozen=True)
class DensityHistogram:
    """How often latents fire: a histogram of log10(activation frequency over tokens).

    Attributes:
        log10_edges: Borders of the bins, the last one 0 (fires on every token), (n_bins + 1,).
        n_latents: Latents in each bin, (n_bins,).
        n_never: Latents that fire on none of the tokens: their logarithm lies in no bin.
    """

    log10_edges: tuple[float, ...]
    n_latents: tuple[int, ...]
    n_never: int


def density_histogram(counts: Int[Tensor, " d_sae"], n_tokens: int) -> DensityHistogram:
    """Return the histogram of log10(counts / n_tokens) in bins of a quarter of a decade.

    Args:
        counts: On how many of the tokens each latent fires.
        n_tokens: How many tokens there are.

    Example:
        >>> found = density_histogram(torch.tensor([0, 1, 10, 10]), 10)
        >>> found.log10_edges, found.n_latents, found.n_never
        ((-1.0, -0.75, -0.5, -0.25, 0.0), (1, 0, 0, 2), 1)
    """
    fired = counts[counts > 0].double().cpu()
    n_bins = max(1, int(np.ceil(round(np.log10(n_tokens) / BIN_DECADES, 9))))
    edges = -BIN_DECADES * np.arange(n_bins, -1, -1) + 0.0
    places = np.floor((np.log10(fired.numpy() / n_tokens) - edges[0]) / BIN_DECADES + 1e-9)
    found = np.bincount(places.clip(0, n_bins - 1).astype(int), minlength=n_bins)
    return DensityHistogram(tuple(edges.tolist()), tuple(found.tolist()), int((counts == 0).sum()))


@dataclass(frozen=True)
class SaeQuality:
    """Quality of one SAE on held-out documents, with 95 % bootstrap intervals over documents.

    Attributes:
        fvu: Fraction of variance unexplained.
        l0: Mean number of nonzero latents per token.
        frac_dead: Share of latents that fire on none of these tokens.
        l2_ratio: Size of the reconstruction against the activations.
        n_tokens: Held-out rows it was measured on.
        n_documents: Documents they belong to; a single one gives no interval (NaN).
        density: How often latents fire.
    """

    fvu: Interval
    l0: Interval
    frac_dead: Interval
    l2_ratio: Interval
    n_tokens: int
    n_documents: int
    density: DensityHistogram
