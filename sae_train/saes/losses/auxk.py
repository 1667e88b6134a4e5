"""AuxK: dead latents learn to reconstruct the error. Source: Gao et al. 2024 (arXiv:2406.04093), App. A.2.

AuxK = sum ||e - e_hat||^2 / sum ||e - mean(e)||^2, e = x - x_hat a constant, e_hat = decode(top k_aux dead latents)
without b_dec, k_aux = min(d_in // 2, number of dead latents). Its gradient reaches encoder and decoder.

The denominator is that of all processes, but of one micro batch: with several, AuxK is the mean of theirs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.saes.base import Sae
from sae_train.saes.losses.squares import sum_of_squares
from sae_train.saes.losses.whole_batch import WholeBatch, batch_variance


def auxk_loss(
    sae: Sae,
    centered: Float[Tensor, "batch d_in"],
    error: Float[Tensor, "batch d_out"],
    dead: Int[Tensor, " n_dead"],
    batch: WholeBatch | None = None,
) -> Float[Tensor, ""]:
    """Let the strongest dead latents reconstruct an error; the cost grows with their number, not with d_sae.

    Args:
        sae: The SAE.
        centered: What its encoder multiplies (`encoder_rows`), without gradient.
        error: The reconstruction error x - x_hat, without gradient.
        dead: The dead latents by number; without any, the loss is zero.
        batch: The whole batch, of which these rows are a part; by default these rows are all of it.
    """
    if len(dead) == 0:
        return error.new_zeros(())
    W_enc = sae.W_enc.T.index_select(0, dead)  # its gradient adds rows; that of W[dead] adds numbers one by one
    # With a gradient to the encoder: without it dead latents would not learn when to fire.
    dead_pre_acts = torch.addmm(sae.dead_bias(dead, W_enc), centered, W_enc.T)
    return dead_loss(dead_pre_acts, error, sae.W_dec.index_select(0, dead), batch)


def dead_loss(
    pre_acts: Float[Tensor, "batch n_dead"],
    error: Float[Tensor, "batch d_out"],
    W_dec: Float[Tensor, "n_dead d_out"],
    batch: WholeBatch | None = None,
) -> Float[Tensor, ""]:
    """Return AuxK, given the dead latents' pre-activations and decoder rows only.

    Products are dense: with k_aux = d_in // 2 on per token, sparse ones would save little and take longer.
    """
    # Half of d_in, as in Gao et al. 2024, App. A.2, and no more than there are dead latents.
    k_aux = min(W_dec.shape[1] // 2, len(W_dec))
    if k_aux < len(W_dec):
        values, indices = torch.topk(pre_acts, k_aux, dim=1, sorted=False)
        latents = torch.zeros_like(pre_acts).scatter(1, indices, values.relu())
    else:
        latents = pre_acts.relu()
    # Over the error's own variance, so that the weight 1/32 (Gao et al.) means the same however small the error is by
    # now.
    if batch is None:
        return sum_of_squares(error - latents @ W_dec) / batch_variance(error)
    variance = batch_variance(error, batch.processes)
    return sum_of_squares(error - latents @ W_dec) / (variance * batch.n_micro)
