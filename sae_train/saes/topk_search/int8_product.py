"""Approximate pre-activations in int8, several times as fast on processors with int8 instructions.

    x . w + b ~ s_x s_w sum_j q(x'_j / s_x) q(w'_j / s_w)      x'_j = x_j / f_j, w'_j = w_j f_j, q rounds

The steps s bring the largest of a row to 127; b is one more column of w', beside a constant one of x'. Activations of
language models have coordinates that dwarf the others, beside which a step of one size would drown the rest: the
balance f_j = (mean x_j^2)^(1/4) moves half of that into the weights, the idea of SmoothQuant (Xiao et al. 2023,
arXiv:2211.10438).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from sae_train.saes.topk_search.strongest import Scores, groups_of

ROWS_IN_CACHE = 256  # of a matrix that is passed over several times
COLUMNS = 16  # in multiples of these a product is fast
TOP = 127
LARGE = 4.0  # the constant column in root mean squares of the others: about the largest of a row
TINY = 1e-30  # what a row of zeros is divided by


class Int8Scores(Scores):
    """Scores of some rows, computed from whole sums when they are asked for.

    Attributes:
        sums: Of products of whole numbers.
        row_step: What they count in, by row.
        step: The same by latent; those of a column of latents are alike.
    """

    def __init__(
        self, sums: Int[Tensor, "n_rows width"], row_step: Float[Tensor, "n_rows 1"], step: Float[Tensor, " width"]
    ) -> None:
        super().__init__(*sums.shape)
        self.sums, self.row_step, self.step = sums, row_step, step

    def part(self, rows: slice) -> Int8Scores:
        """Return those of some rows."""
        return Int8Scores(self.sums[rows], self.row_step[rows], self.step)

    def maxima(self, groups: int) -> Float[Tensor, "n_rows group"]:
        """Return the largest of each column of `groups` latents, in units of the row."""
        return self.sums.unflatten(1, (groups, -1)).amax(dim=1) * self.step[: self.width // groups]

    def at(self, latents: Int[Tensor, "n_rows n"]) -> Float[Tensor, "n_rows n"]:
        """Return the scores of some latents in each row."""
        return self.sums.gather(1, latents) * self.step[latents] * self.row_step


class Int8Product:
    """Rows and latents in whole numbers, ready to be multiplied some rows at a time."""

    def __init__(
        self, x: Float[Tensor, "batch d_in"], w: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], n: int
    ) -> None:
        balance = x.square().mean(dim=0).clamp_(min=TINY).sqrt_().sqrt_()
        constant = LARGE * balance.square().mean().sqrt()  # mean balance^2 is mean x'^2
        self.x, self.row_step = in_whole_numbers(x, 1 / balance, constant.expand(len(x)))
        self.w, step = in_whole_numbers(w, balance, bias / constant, alike=groups_of(len(w), n))
        self.step = step.flatten()

    def scores(self, rows: slice, room: Int[Tensor, "row d_sae"]) -> Int8Scores:
        """Multiply some rows; the sums are kept in `room`."""
        sums = torch._int_mm(self.x[rows], self.w.T, out=room)  # pyright: ignore[reportPrivateImportUsage]  no public name
        return Int8Scores(sums, self.row_step[rows], self.step)


def in_whole_numbers(
    matrix: Float[Tensor, "row width"], factor: Float[Tensor, " width"], last: Float[Tensor, " row"], *, alike: int = 1
) -> tuple[Int8[Tensor, "row columns"], Float[Tensor, "row 1"]]:
    """Return `matrix * factor` and a last column in steps of a 127th of each row's largest, and the steps.

    Columns of zeros are added up to a multiple of `COLUMNS`. Rows that are a multiple of `len(matrix) // alike` apart
    have one step.

    Example:
        >>> in_whole_numbers(torch.tensor([[0.5, -1.27]]), torch.ones(2), torch.tensor([1.0]))[0][0, :3].tolist()
        [50, -127, 100]
    """
    width = matrix.shape[1]
    whole = torch.zeros(len(matrix), -(-(width + 1) // COLUMNS) * COLUMNS, dtype=torch.int8)
    largest = torch.empty(len(matrix), 1)
    for part, out in zip(matrix.split(ROWS_IN_CACHE), largest.split(ROWS_IN_CACHE), strict=True):
        out.copy_((part * factor).abs_().amax(dim=1, keepdim=True))
    largest = torch.maximum(largest, last.abs().unsqueeze(1)).clamp_(min=TINY)
    # One step for the whole group, so that the largest whole number of a group is its largest score.
    steps = largest.view(alike, -1).amax(dim=0).div_(TOP).repeat(alike).unsqueeze(1)
    for part, out, step in zip(*(m.split(ROWS_IN_CACHE) for m in (matrix, whole, steps)), strict=True):
        out[:, :width] = (part * factor).div_(step).round_()
    whole[:, width] = (last / steps.squeeze(1)).round_()
    return whole, steps


def int8_is_fast() -> bool:
    """Return whether this processor multiplies 8-bit whole numbers in instructions of their own."""
    told = getattr(torch.cpu, "get_capabilities", dict)  # an older torch does not say
    found = told()
    return any(found.get(name, False) for name in ("avx512_vnni", "amx_int8"))
