"""BatchTopK SAE. Source: Bussmann, Leask & Nanda 2024 (arXiv:2412.06410), with AuxK (Gao et al. 2024, App. A.2).

Training: latents = pre_acts where they are among the `batch * k` largest of the batch and above zero, else 0, so that
a token may use more than k latents and another fewer. loss = FVU(x, x_hat) + alpha * AuxK.

Over several processes the batch is that of all of them. A micro batch (gradient accumulation) chooses among its own
latents, `k` per token on average, and moves the average below by itself; FVU is divided by the whole batch's variance.

Inference does not know a batch: latents = pre_acts where pre_acts > threshold, the threshold a moving average over
training batches of the smallest value that was kept. On disk it is SAELens' `jumprelu`, all thresholds equal.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.errors import ConfigError
from sae_train.run.processes import ALONE, Processes
from sae_train.saes.base import LossTerms, Reconstruction, StepContext
from sae_train.saes.losses.auxk import auxk_loss
from sae_train.saes.losses.frequency import frequency_penalty
from sae_train.saes.losses.squares import sum_of_squares
from sae_train.saes.losses.whole_batch import WholeBatch, nth_largest
from sae_train.saes.sparse_ops import Support, sparse_encode, support_decode
from sae_train.saes.threshold import ThresholdSae

THRESHOLD_RATE = 0.01  # of the moving average: it remembers about the last hundred batches
THRESHOLD_START = 5  # early on, the rate is START / (START + batches): the first one counts in full, then fades
FRAC_GUESS = 0.8  # of the threshold: the search for the largest values starts above this, where few are


class Kept(NamedTuple):
    """The latents that are on in a batch, token by token, inside a token by latent.

    Attributes:
        values: Their pre-activations, above zero, without gradient; zero is one that is not on and stands here because
            the host did not ask how many are.
        tokens: Which row of the batch each belongs to, ascending.
        latents: Which latent each is, ascending inside a token.
    """

    values: Float[Tensor, " n_on"]
    tokens: Int[Tensor, " n_on"]
    latents: Int[Tensor, " n_on"]


def keep_largest(
    pre_acts: Float[Tensor, "batch d_sae"], n_kept: int, guess: float = 0.0, processes: Processes = ALONE
) -> Kept:
    """Return the `n_kept` largest pre-activations of a batch that are above zero.

    Args:
        pre_acts: Latents before the activation function, without gradient.
        n_kept: How many at most; fewer where fewer are above zero.
        guess: A value, at least zero, that the wanted ones probably exceed. It changes the time, not the result:
            the search is among what exceeds it, and starts again from zero where that is too little.
        processes: The processes that share a batch: `n_kept` are kept over all of them, and the own ones returned.

    Example:
        >>> keep_largest(torch.tensor([[1.0, 3.0], [-1.0, 2.0]]), 2).tokens.tolist()
        [0, 1]
    """
    flat, d_sae = pre_acts.flatten(), pre_acts.shape[1]
    found = (flat > guess).nonzero().flatten()
    if _total(len(found), flat, processes) < n_kept and guess > 0:
        found = (flat > 0).nonzero().flatten()
    if processes.count > 1:
        if _total(len(found), flat, processes) > n_kept:
            found = found[flat[found] >= nth_largest(flat[found], n_kept, processes)]
    elif len(found) > n_kept:
        best = torch.topk(flat[found], n_kept, sorted=False).indices
        # In ascending order again, which `Kept` and `Support` rely on.
        found = found[best.sort().values]
    return Kept(flat[found], torch.div(found, d_sae, rounding_mode="floor"), found % d_sae)


def keep_unseen(pre_acts: Float[Tensor, "batch d_sae"], n_kept: int) -> Kept:
    """Return what `keep_largest` does, filled up with zeros to `n_kept`: the host need not know how many there are.

    Six passes over the pre-activations instead of three, and no wait for the device.

    Example:
        >>> keep_unseen(torch.tensor([[1.0, 3.0], [-1.0, -2.0]]), 3).values.tolist()
        [1.0, 3.0, 0.0]
    """
    flat, d_sae = pre_acts.flatten(), pre_acts.shape[1]
    found = torch.topk(flat, n_kept, sorted=False).indices.sort().values  # ascending, as in `keep_largest`
    return Kept(flat[found].relu(), torch.div(found, d_sae, rounding_mode="floor"), found % d_sae)


def _total(n: int, like: Tensor, processes: Processes) -> int:
    """Return the sum of a count over all processes."""
    return n if processes.count == 1 else int(processes.gather(torch.tensor(n, device=like.device)).sum())


def support_of(
    latents: Int[Tensor, " n_on"],
    groups: Int[Tensor, " n_on"],
    n_groups: int,
    d_sae: int,
    alike: Support | None = None,
) -> Support:
    """Return the support whose rows are groups; `groups` ascends, and a group may be empty. `alike` is `Support`'s.

    Example:
        >>> support_of(torch.tensor([7, 3, 5]), torch.tensor([0, 0, 2]), 3, 9).starts.tolist()
        [0, 2, 2]
    """
    starts = torch.searchsorted(groups, torch.arange(n_groups, device=groups.device))
    return Support(latents, starts, d_sae, known_rows=groups, alike=alike)


class BatchTopKSae(ThresholdSae):
    """Keeps the `batch * k` largest latents of a batch; at inference, those above one learned threshold."""

    arch: ClassVar[str] = "batch-topk"
    config_fields: ClassVar[tuple[str, ...]] = ("k",)
    threshold: Float[Tensor, ""]
    n_batches: Int[Tensor, ""]

    def __init__(self, d_in: int, d_sae: int, *, k: int) -> None:
        super().__init__(d_in, d_sae)
        if not 1 <= k <= d_sae:
            raise ConfigError(
                "k does not fit the SAE", got=f"k {k}, d_sae {d_sae}", expected="1 <= k <= d_sae", field="k"
            )
        self.k = k
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.int64))

    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """Return the learned threshold once per latent."""
        return self.threshold.expand(self.d_sae)

    def training_loss(self, acts: Float[Tensor, "batch d_row"], context: StepContext) -> LossTerms:
        """Return FVU plus the weighted AuxK term, and move the threshold towards this batch's."""
        centered, batch = self.encoder_rows(acts), context.batch_of(self.target_of(acts))
        with torch.no_grad():
            # No gradient through the choice: only what is kept is differentiated, sparsely, below.
            pre_acts = self.centered_pre_acts(centered)
            kept = self._kept(pre_acts, batch)
            self._update_threshold(kept.values, batch.processes)
        support = support_of(kept.latents, kept.tokens, len(acts), self.d_sae)
        b_dec = self.encoder_b_dec
        values = sparse_encode(centered, self.W_enc, self.b_enc, support, values=kept.values, b_dec=b_dec).relu()
        recon = self.reconstruct(self.decoder_rows(acts, centered), values, support, batch)
        auxk = auxk_loss(self, centered, recon.error.detach(), context.dead, batch)
        counts = support.counts(kept.values)
        terms = {**recon.terms, "auxk": auxk.detach(), "l0": counts.sum(dtype=acts.dtype) / batch.n_tokens}
        often = frequency_penalty(values, counts, context, batch, self.d_out, kept.latents)
        found = LossTerms(recon.loss + context.auxk_alpha * auxk, terms, counts > 0)
        return found.plus("frequency", context.frequency_coefficient, often)

    def reconstruct(
        self,
        centered: Float[Tensor, "batch d_out"],
        values: Float[Tensor, " n_on"],
        support: Support,
        batch: WholeBatch,
    ) -> Reconstruction:
        """Return the FVU of the reconstruction; `values` are the latents that are on.

        `centered` is the target minus b_dec without its gradient: decoding hands b_dec its own.
        """
        error = centered - support_decode(values, support, self.W_dec, b_dec=self.b_dec)  # x - (latents W_dec + b_dec)
        fvu = sum_of_squares(error) / batch.variance
        return Reconstruction(fvu, error, {"fvu": fvu.detach()})

    def _kept(self, pre_acts: Float[Tensor, "batch d_sae"], batch: WholeBatch) -> Kept:
        """Return the largest of a batch: where the host would wait for a device, without asking how many there are."""
        n_kept, processes = batch.micro_tokens * self.k, batch.processes
        if pre_acts.device.type != "cpu" and processes.count == 1:  # several wait for each other anyway
            return keep_unseen(pre_acts, n_kept)
        return keep_largest(pre_acts, n_kept, FRAC_GUESS * float(self.threshold), processes)

    def _update_threshold(self, values: Float[Tensor, " n_on"], processes: Processes) -> None:
        """Update the moving average by the smallest kept value; a batch without positive values changes nothing."""
        # Infinity where this process kept nothing, so that it never decides the minimum over all.
        smallest = torch.cat([values.masked_fill(values <= 0, torch.inf), values.new_full((1,), torch.inf)]).min()
        processes.min_(smallest)
        is_any = smallest < torch.inf
        # An average from zero would let far too many latents through at first, hence the fast start.
        rate = (THRESHOLD_START / (THRESHOLD_START + self.n_batches)).clamp_min(THRESHOLD_RATE)
        self.threshold += torch.where(is_any, rate * (smallest - self.threshold), 0.0)
        self.n_batches += is_any

    @torch.no_grad()
    def take_thresholds(self, thresholds: Float[Tensor, " d_sae"]) -> None:
        """Go on from a threshold, which moves as slowly as if it had been learned here for long.

        Raises:
            ConfigError: There are several: those of a JumpReLU SAE.
        """
        if bool((thresholds != thresholds[0]).any()):
            raise ConfigError(
                f"{self.arch} has one threshold for all latents",
                got=f"thresholds from {float(thresholds.min()):.4g} to {float(thresholds.max()):.4g}",
                field="init",
                expected="an SAE with one, or `arch`=jumprelu",
            )
        self.threshold.copy_(thresholds[0])
        self.n_batches.fill_(round(THRESHOLD_START / THRESHOLD_RATE))

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Fold the scale into biases and threshold."""
        super().fold_scale(scale)
        self.threshold /= scale
