"""One definition of each quantity that says how good an SAE is. Trainer, evaluation and reports import these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_train.errors import ShapeError


def fvu(acts: Float[Tensor, "n_tokens d_in"], recon: Float[Tensor, "n_tokens d_in"]) -> Float[Tensor, ""]:
    """Return the fraction of variance unexplained by a reconstruction.

    FVU = sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, the mean taken over the tokens given.
    0 is perfect, 1 is no better than predicting the mean; it can exceed 1.
    Not OpenAI's normalized MSE (Gao et al. 2024), which does not subtract the mean.

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


class VarianceSums:
    """Accumulates FVU over batches; equals the one-shot value (float64 sums, the mean shifted by the first batch)."""

    def __init__(self, d_in: int) -> None:
        self.n_tokens = 0
        self._shift: Tensor | None = None
        self._total = torch.zeros(d_in, dtype=torch.float64)
        self._squares = 0.0
        self._errors = 0.0
        self._recon_squares = 0.0
        self._raw_squares = 0.0

    def update(self, acts: Float[Tensor, "n_tokens d_in"], recon: Float[Tensor, "n_tokens d_in"]) -> None:
        """Add one batch."""
        x, y = acts.detach().cpu().double(), recon.detach().cpu().double()
        if self._shift is None:
            self._shift = x.mean(0)
        shifted = x - self._shift
        self.n_tokens += len(x)
        self._total += shifted.sum(0)
        self._squares += float(shifted.square().sum())
        self._errors += float((x - y).square().sum())
        self._raw_squares += float(x.square().sum())
        self._recon_squares += float(y.square().sum())

    def fvu(self) -> float:
        """Return the fraction of variance unexplained so far."""
        if self.n_tokens < 2:
            raise ShapeError("FVU needs at least two tokens", got=f"{self.n_tokens} tokens", expected=">= 2")
        variance = self._squares - float(self._total.square().sum()) / self.n_tokens
        if variance <= 0:
            raise ShapeError("FVU is undefined: the activations do not vary", got="variance 0", expected="> 0")
        return self._errors / variance

    def l2_ratio(self) -> float:
        """Return sqrt(sum ||x_hat||^2 / sum ||x||^2); below 1 the reconstruction shrinks."""
        return (self._recon_squares / self._raw_squares) ** 0.5


def l0(latents: Float[Tensor, "n_tokens d_sae"]) -> Float[Tensor, ""]:
    """Return the mean number of nonzero latents per token.

    Example:
        >>> l0(torch.tensor([[1.0, 0.0], [2.0, 3.0]])).item()
        1.5
    """
    return (latents != 0).sum(dim=1).float().mean()


def dead_latents(tokens_since_fired: Int[Tensor, " d_sae"], dead_after_tokens: int) -> Bool[Tensor, " d_sae"]:
    """Return which latents have not fired in the last `dead_after_tokens` tokens."""
    return tokens_since_fired >= dead_after_tokens


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
class SaeQuality:
    """Quality of one SAE on held-out documents.

    Attributes:
        fvu: Fraction of variance unexplained.
        l0: Mean number of nonzero latents per token.
        frac_dead: Share of latents that fire on none of these tokens.
        l2_ratio: Size of the reconstruction against the activations.
        n_tokens: Held-out rows it was measured on.
    """

    fvu: float
    l0: float
    frac_dead: float
    l2_ratio: float
    n_tokens: int
