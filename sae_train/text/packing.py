"""Batches of sequences of unequal length: packed one behind another, or padded, one per row.

Packed, hardly a token is padding. Positions begin anew with every sequence, from which transformers tells that those of
a row must not see each other; whether a model heeds that is measured (`can_pack`), and where not, sequences are padded.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

WIDTH = 64  # columns of packed rows, where no sequence is longer: attention's cost grows with it, padding falls
PACK_TOLERANCE = 1e-3  # of the largest logit: how far those of packed sequences may be from those of padded ones
_PROBE = [[1, 2, 3] * n for n in range(1, 9)]  # packed into two rows of several


@dataclass(frozen=True)
class Places:
    """Tokens of a batch.

    Attributes:
        rows: Row of each token.
        columns: Its column there.
    """

    rows: Int[Tensor, " n"]
    columns: Int[Tensor, " n"]

    def of(self, batch: Tensor) -> Tensor:
        """Return the entries of a (row, column, …) tensor at these tokens."""
        return batch[self.rows, self.columns]


@dataclass(frozen=True)
class Batch:
    """Sequences laid out in rows.

    Attributes:
        ids: Token ids; 0 where there is none.
        mask: 1 at tokens; None in a packed batch, where no token sees what is none.
        positions: Place of each token in its sequence; None in a padded batch, where it is the column.
        sequence: Number of the sequence that a token is of; -1 where there is none.
        starts: Row and first column of each sequence.
        lengths: Tokens of each.
    """

    ids: Int[Tensor, "row column"]
    mask: Int[Tensor, "row column"] | None
    positions: Int[Tensor, "row column"] | None
    sequence: Int[Tensor, "row column"]
    starts: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Return what a model is called with."""
        found = {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": self.positions}
        return {name: value for name, value in found.items() if value is not None}

    def places(self, tokens: Sequence[tuple[int, int]]) -> Places:
        """Return where some tokens lie, given as number of the sequence and place in it."""
        found = [(self.starts[n][0], self.starts[n][1] + at) for n, at in tokens]
        rows, columns = torch.tensor(found, dtype=torch.long, device=self.ids.device).reshape(-1, 2).unbind(1)
        return Places(rows, columns)

    def tokens(self) -> Places:
        """Return where all tokens lie, sequence by sequence."""
        return self.places([(n, at) for n, length in enumerate(self.lengths) for at in range(length)])


def lay_out(sequences: Sequence[Sequence[int]], device: torch.device, *, packed: bool) -> Batch:
    """Lay sequences out in rows: packed by first fit, the longest first, or one in each.

    Example:
        >>> lay_out([[5], [7, 8, 9], [6, 6]], torch.device("cpu"), packed=True).ids.tolist()
        [[7, 8, 9, 6, 6, 5]]
    """
    lengths = tuple(map(len, sequences))
    starts = _first_fit(lengths, max(WIDTH, *lengths)) if packed else [(row, 0) for row in range(len(lengths))]
    ends = [start + length for (_, start), length in zip(starts, lengths, strict=True)]
    shape = (1 + max(row for row, _ in starts), max(ends))
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    sequence = torch.full(shape, -1)
    for number, ((row, start), tokens) in enumerate(zip(starts, sequences, strict=True)):
        span = slice(start, start + len(tokens))
        ids[row, span], sequence[row, span] = torch.tensor(tokens, dtype=torch.long), number
        positions[row, span] = torch.arange(len(tokens))
    ids, positions, sequence = torch.stack([ids, positions, sequence]).to(device).unbind()  # one transfer
    mask = None if packed else (sequence >= 0).long()
    return Batch(ids, mask, positions if packed else None, sequence, tuple(starts), lengths)


def _first_fit(lengths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Return row and first column of each sequence: the first row with room, the longest sequence first."""
    filled, starts = list[int](), [(0, 0)] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        row = next((r for r, n in enumerate(filled) if n + lengths[number] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        starts[number] = (row, filled[row])
        filled[row] += lengths[number]
    return starts


@torch.no_grad()
def can_pack(model: nn.Module) -> bool:
    """Tell whether a model gives packed sequences the logits that it gives them in rows of their own."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    device = next(model.parameters()).device
    batches = [lay_out(_PROBE, device, packed=packed) for packed in (False, True)]
    apart, packed = (b.tokens().of(model(**b.inputs, use_cache=False).logits).float() for b in batches)
    return float((packed - apart).abs().max()) <= PACK_TOLERANCE * float(apart.abs().max())
