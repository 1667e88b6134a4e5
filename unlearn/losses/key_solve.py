"""Closed-form weight edits: the least change of a matrix that moves some keys and leaves others alone.

A matrix W reads keys k and writes W k. Given keys k_i whose output should move by r_i, and the second moment C of the
keys that are to be left alone, the update D minimises

    sum_i ||D k_i - r_i||^2 + n ridge tr(D C D^T),   D = R^T K (K^T K + n ridge C)^-1,

rows of K the keys, of R the moves, n their number. Source: the solve of MEMIT (Meng et al. 2023, arXiv:2210.07229,
eq. 14). With a null space, after AlphaEdit (Fang et al. 2025, arXiv:2410.02355), D reads only directions in which C is
next to nothing, so that what is to be left alone is not moved at all, as far as C has such directions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = 1e-2  # of the median of C's diagonal, added to it: directions that no kept key has are not quite free


class KeyMoment:
    """Accumulates the second moment of keys, sum k k^T / n, in float64."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def update(self, keys: Float[Tensor, "n d_key"]) -> None:
        """Add some keys."""
        rows = keys.float()
        # The product in fast float32; the sum over many batches in float64, in which small ones are not lost.
        product = (rows.T @ rows).double()
        self.total = product if self.total is None else self.total + product
        self.count += len(rows)

    def result(self) -> Float[Tensor, "d_key d_key"]:
        """Return the mean of k k^T over all keys seen."""
        assert self.total is not None, "no keys"
        return self.total / self.count


def solve_update(
    keys: Float[Tensor, "n d_key"],
    moves: Float[Tensor, "n d_out"],
    moment: Float[Tensor, "d_key d_key"],
    *,
    ridge: float,
    frac_null: float = 0.0,
) -> Float[Tensor, "d_out d_key"]:
    """Return the update D of the module's docstring.

    Args:
        keys: Keys that have to move.
        moves: How their outputs have to move.
        moment: Second moment C of the keys to be left alone.
        ridge: Weight of the change of these; 0 solves for the moves alone (least norm).
        frac_null: With a share > 0, D reads only eigenvectors of C that together hold at most this share of C's trace.

    Returns:
        The update, in the dtype of `moves`.
    """
    # float64, since the normal equations square the condition number of the keys.
    k, r, c = keys.double(), moves.double(), moment.double()
    basis = None
    if frac_null > 0:
        basis = null_space(c, frac_null)
        k, c = k @ basis, basis.T @ c @ basis
    width = k.shape[1]
    # No direction is free within that share, so nothing may move.
    if width == 0:
        return moves.new_zeros(moves.shape[1], keys.shape[1])
    floor = FLOOR * moment.double().diagonal().median()
    # Times n, since K^T K is a sum and C a mean: `ridge` then means the same for few keys and for many.
    penalty = len(k) * ridge * (c + floor * torch.eye(width, dtype=c.dtype, device=c.device))
    if ridge > 0:
        update = torch.linalg.solve(k.T @ k + penalty, k.T @ r).T
    else:
        update = (torch.linalg.pinv(k) @ r).T
    return (update if basis is None else update @ basis.T).to(moves.dtype)


def null_space(moment: Float[Tensor, "d_key d_key"], frac: float) -> Float[Tensor, "d_key d_null"]:
    """Return the eigenvectors with the smallest eigenvalues that together hold at most a share of the trace."""
    values, vectors = torch.linalg.eigh(moment)
    # Rounding can push the smallest eigenvalues of a second moment below zero.
    values = values.clamp_min(0)
    held = values.cumsum(0) <= frac * values.sum()
    return vectors[:, held]
