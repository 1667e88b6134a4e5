"""Sampling of next tokens in a batch: source of random numbers, and which answers are still unfinished.

`PerQuestion` is what answers are sampled with. `PerBatch` draws as transformers' `generate` does; audits keep it,
because the sampled recalls that were published were drawn so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_train.rng import rng, torch_rng


class Draws(ABC):
    """Chooses the next token of every row of a batch; of each prompt's rows the first one is greedy.

    Args:
        n_samples: Sampled rows per prompt.
        max_new_tokens: Longest answer.
        temperature: Logits are divided by it.
        seed: Of the random numbers.
        device: Where the logits are.
    """

    def __init__(
        self, n_samples: int, max_new_tokens: int, temperature: float, seed: int, device: torch.device
    ) -> None:
        self.n_samples, self.max_new_tokens, self.temperature = n_samples, max_new_tokens, temperature
        self.seed, self.device = seed, device

    @abstractmethod
    def order(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Return the order in which prompts are taken into batches."""

    @abstractmethod
    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """Get ready for a batch; its row i of prompt p is p * (1 + n_samples) + i."""

    @abstractmethod
    def choose(self, logits: Float[Tensor, "row vocab"], rows: Int[Tensor, " row"], step: int) -> Int[Tensor, " row"]:
        """Return the next token of those rows that are still in the batch.

        Their numbers lie on the device, as all that is needed: the host does not wait for it here.
        """

    @abstractmethod
    def staying(self, rows: Sequence[int], is_over: Sequence[bool], has_ended: Sequence[bool]) -> list[int]:
        """Return which places of the batch go on; with none the batch is done.

        Args:
            rows: The row at each place.
            is_over: For every row, whether its answer is over.
            has_ended: For every row, whether it wrote an end token.
        """


class PerQuestion(Draws):
    """Every question has its own random numbers, from the seed and its tokens.

    So neither its neighbours in the batch nor the order of the questions decide what is drawn, and a row leaves the
    batch when its answer is over.
    """

    def order(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Return prompts that begin alike side by side, short ones first."""
        return sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), tuple(prompts[i])))

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """Draw the numbers of these questions, one for every row and step; the greedy rows use none."""
        drawn = np.zeros((len(prompts), 1 + self.n_samples, self.max_new_tokens), np.float32)
        for own, prompt in zip(drawn, prompts, strict=True):
            generator = rng("answering.samples", self.seed, *prompt)
            own[1:] = generator.random((self.n_samples, self.max_new_tokens), dtype=np.float32)
        self._uniform = torch.from_numpy(drawn.reshape(-1, self.max_new_tokens)).to(self.device)

    def choose(self, logits: Float[Tensor, "row vocab"], rows: Int[Tensor, " row"], step: int) -> Int[Tensor, " row"]:
        """Return the likeliest tokens and the drawn ones."""
        if not self.n_samples:
            return logits.argmax(dim=-1)
        is_greedy = rows % (1 + self.n_samples) == 0
        return choose_by_number(logits, self._uniform[rows, step], is_greedy, self.temperature)

    def staying(self, rows: Sequence[int], is_over: Sequence[bool], has_ended: Sequence[bool]) -> list[int]:
        """Return the places of the answers that are not over."""
        return [place for place, row in enumerate(rows) if not is_over[row]]


class PerBatch(Draws):
    """One stream of random numbers for all questions, as transformers' `generate` draws from it.

    At every step each sampled row takes its numbers from the stream, also where its answer is over; so all rows stay
    until every one has written an end token, and what is drawn depends on all questions asked before.
    """

    def order(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Return prompts as they come."""
        self._stream = torch_rng("candidates.sampling", self.seed, self.device)
        return list(range(len(prompts)))

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """Go on with the stream."""

    def choose(self, logits: Float[Tensor, "row vocab"], rows: Int[Tensor, " row"], step: int) -> Int[Tensor, " row"]:
        """Return the likeliest tokens and the drawn ones."""
        tokens, per_prompt = logits.argmax(dim=-1), 1 + self.n_samples
        if not self.n_samples:
            return tokens
        # Every row is there: by slices, since of a mask the host would have to know how many are in it.
        sampled = logits.unflatten(0, (-1, per_prompt))[:, 1:].flatten(0, 1)
        drawn = torch.multinomial((sampled.float() / self.temperature).softmax(dim=-1), 1, generator=self._stream)
        tokens.view(-1, per_prompt)[:, 1:] = drawn.view(-1, self.n_samples)
        return tokens

    def staying(self, rows: Sequence[int], is_over: Sequence[bool], has_ended: Sequence[bool]) -> list[int]:
        """Return all places as long as a sampled row has not ended."""
        goes_on = any(not has_ended[row] for row in rows if row % (1 + self.n_samples))
        return list(range(len(rows))) if goes_on else []


def choose_by_number(
    logits: Float[Tensor, "row vocab"],
    uniform: Float[Tensor, " row"],
    is_greedy: Bool[Tensor, " row"],
    temperature: float,
) -> Int[Tensor, " row"]:
    """Return the likeliest token, or the first one whose cumulated probability exceeds the row's random number."""
    likeliest = logits.argmax(dim=-1)
    cumulated = (logits.float() / temperature).softmax(dim=-1).cumsum(dim=-1)
    target = (uniform * cumulated[:, -1]).unsqueeze(1)
    drawn = torch.searchsorted(cumulated, target, right=True).squeeze(1).clamp_max(logits.shape[1] - 1)
    return torch.where(is_greedy, likeliest, drawn)
