"""The n largest of many scores per row, approximate in the last bits; ties may go either way.

On CPU a score is turned into a whole number whose high bits are the score's and whose low bits say which latent it
is: positive floats are ordered as their bits are. A vectorised partition of such numbers then brings the latents
along, at a fraction of the time of one that has to return places. Where it is less work, groups of latents are looked
at first: every one of the n strongest is in one of the n groups with the largest maxima.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 512  # at a time: what is made of their scores stays in the cache
ROWS_IN_CACHE = 64  # of scores that are passed over twice
GROUP = 4  # latents in a group: a column of four, whose members are far apart and whose maximum is fast
FLOAT_BITS, MANTISSA_BITS = 0x7FFFFFFF, 23


class Scores(ABC):
    """Scores of some rows, (n_rows, width), that may be computed when they are asked for."""

    def __init__(self, n_rows: int, width: int) -> None:
        self.n_rows, self.width = n_rows, width

    @abstractmethod
    def part(self, rows: slice) -> Scores:
        """Return those of some rows."""

    @abstractmethod
    def maxima(self, groups: int) -> Float[Tensor, "n_rows group"]:
        """Return the largest of each column of `groups` latents, up to a positive factor for each row."""

    @abstractmethod
    def at(self, latents: Int[Tensor, "n_rows n"]) -> Float[Tensor, "n_rows n"]:
        """Return those of some latents in each row."""


class FloatScores(Scores):
    """Scores of some rows: a product, to which the bias is added when they are asked for."""

    def __init__(self, product: Float[Tensor, "n_rows width"], bias: Float[Tensor, " width"]) -> None:
        super().__init__(*product.shape)
        self.product, self.bias = product, bias

    def part(self, rows: slice) -> FloatScores:
        """Return those of some rows."""
        return FloatScores(self.product[rows], self.bias)

    def maxima(self, groups: int) -> Float[Tensor, "n_rows group"]:
        """Return the largest of each column of `groups` latents."""
        found = self.bias.new_empty(self.n_rows, self.width // groups)
        for rows, out in zip(self.product.split(ROWS_IN_CACHE), found.split(ROWS_IN_CACHE), strict=True):
            torch.amax((rows + self.bias).unflatten(1, (groups, -1)), dim=1, out=out)
        return found

    def at(self, latents: Int[Tensor, "n_rows n"]) -> Float[Tensor, "n_rows n"]:
        """Return the scores of some latents in each row."""
        return self.product.gather(1, latents) + self.bias[latents]


class Strongest(NamedTuple):
    """The n strongest latents of each row, in no order.

    Attributes:
        scores: Theirs.
        latents: Their numbers.
        ceiling: What no other score of the row exceeds; at least zero.
    """

    scores: Float[Tensor, "batch n"]
    latents: Int[Tensor, "batch n"]
    ceiling: Float[Tensor, " batch"]


def strongest(scores: Scores, n: int) -> Strongest:
    """Return the n strongest of each row, up to the last bits of a score; those below zero are taken for zeros."""
    parts = [scores.part(slice(start, start + ROWS)) for start in range(0, scores.n_rows, ROWS)]
    return Strongest(*map(torch.cat, zip(*(_strongest(part, n) for part in parts), strict=True)))


def _strongest(scores: Scores, n: int) -> Strongest:
    """Return them for a few rows."""
    groups = groups_of(scores.width, n)
    latents = _places(scores.maxima(groups), n)
    if groups > 1:
        members = (latents.unsqueeze(1) + torch.arange(0, scores.width, scores.width // groups).unsqueeze(1)).flatten(1)
        latents = members.gather(1, _places(scores.at(members), n))
    found = scores.at(latents)
    unseen = 2.0 ** (_bits(scores.width // groups) - MANTISSA_BITS)  # share of a score that its number does not tell
    return Strongest(found, latents, found.amin(dim=1).relu() * (1 + unseen))


def groups_of(width: int, n: int) -> int:
    """Return how many latents are looked at together.

    Example:
        >>> groups_of(4608, 48), groups_of(4607, 48), groups_of(96, 48)
        (4, 1, 1)
    """
    return GROUP if width % GROUP == 0 and width // GROUP > n else 1


def _bits(width: int) -> int:
    """Return how many bits a place needs."""
    return (width - 1).bit_length()


def _places(values: Float[Tensor, "batch width"], n: int) -> Int[Tensor, "batch n"]:
    """Return the places of the n largest in each row; NaN counts as larger than anything.

    In this thread alone: other ones would wait behind those that torch keeps busy between its calls.
    """
    width = values.shape[1]
    low = (1 << _bits(width)) - 1
    # Only bits of non-negative floats are ordered as the floats are.
    numbers = values.float().clamp(min=0).view(torch.int32)  # NaN stays, and without its sign is above all others
    numbers.bitwise_and_(FLOAT_BITS & ~low).bitwise_or_(torch.arange(width, dtype=torch.int32))
    # A partition of the numbers themselves, which carry their places; one that returns places takes far longer.
    numbers.numpy().partition(width - n, axis=1)
    return numbers[:, width - n :].bitwise_and(low).long()
