"""The whole batch of a step, of which a loss sees one part: micro batches and parallel processes.

A loss over the rows of a batch is a sum over rows divided by something of the whole batch. Each part returns what it
adds to that loss, so that losses, and gradients, of all parts add up to those of the batch. What the parts have to know
of each other (numbers of rows, variances, the value that the batch's largest exceed) is asked for here.

With one process and one micro batch the part is the batch, and nothing is sent or summed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.run.processes import ALONE, Processes
from sae_train.saes.losses.squares import sum_of_squares


@dataclass(frozen=True)
class WholeBatch:
    """What a loss needs to know of the rows that it is not given.

    Attributes:
        n_tokens: Rows of the step, those of all processes and micro batches.
        variance: sum ||x - mean(x)||^2 over them.
        n_micro: Micro batches into which each process divides its rows. What a loss can only know of one micro batch
            (AuxK's denominator, a choice within the batch, a mean inside a square) is the micro batch's, over all
            processes, and counts by `1 / n_micro`.
        processes: The processes that have the other rows.
    """

    n_tokens: int
    variance: Float[Tensor, ""]
    n_micro: int = 1
    processes: Processes = ALONE

    @classmethod
    def of(cls, acts: Float[Tensor, "batch d_out"], *, n_micro: int = 1, processes: Processes = ALONE) -> WholeBatch:
        """Describe the batch of whose targets `acts` are this process's rows, as many as everybody's."""
        return cls(len(acts) * processes.count, batch_variance(acts, processes), n_micro, processes)

    @property
    def micro_tokens(self) -> int:
        """Return the rows of one micro batch, over all processes."""
        return self.n_tokens // self.n_micro

    def micro_sum(self, value: Tensor) -> Tensor:
        """Return the sum of a number over the processes of this micro batch; the gradient is that of the own part.

        A loss that is not linear in the sum has, so differentiated on every process, gradients that add up to its own.
        """
        total = value.detach().clone()
        self.processes.sum_(total)
        return value + (total - value.detach()) if self.processes.count > 1 else value

    def once(self, loss: Tensor) -> Tensor:
        """Return the part of a micro batch's loss which every process computes in full: all parts add up to one."""
        n_others = self.processes.count - 1
        return (loss - loss.detach() * (n_others / self.processes.count) if n_others else loss) / self.n_micro


def batch_variance(acts: Float[Tensor, "batch d_in"], processes: Processes = ALONE) -> Float[Tensor, ""]:
    """Return sum ||x - mean(x)||^2 over the rows of all processes (equally many each), kept off zero."""
    mean = acts.mean(dim=0)
    if processes.count > 1:
        processes.sum_(mean)
        mean /= processes.count
    total = sum_of_squares(acts - mean)
    processes.sum_(total)
    return total.clamp_min(1e-12)


def nth_largest(values: Float[Tensor, " n_found"], n: int, processes: Processes) -> Float[Tensor, ""]:
    """Return the n-th largest of the numbers above zero of all processes together, which are at least n."""
    own = torch.topk(values, n, sorted=False).values if len(values) > n else values
    counts = processes.gather(torch.tensor(len(own), device=values.device))
    padded = values.new_zeros(int(counts.max()))
    padded[: len(own)] = own
    return torch.topk(processes.gather(padded).flatten(), n, sorted=False).values.min()
