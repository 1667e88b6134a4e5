"""JumpReLU SAE. Source: Rajamanoharan et al. 2024 (arXiv:2407.14435), sec. 3 to 5.

latents = pre_acts * H(pre_acts - theta), H the unit step, theta > 0 one learned threshold per latent.
loss = (1/d_in) mean_tokens ||x - x_hat||^2 + lambda * (L0 / L0_target - 1)^2, inputs scaled to mean norm sqrt(d_in),
L0 = mean_tokens sum_j H(pre_acts_j - theta_j); lambda grows linearly over the first `frac_l1_warmup` of the run. The
paper's plain loss has lambda * L0 instead; the squared distance is its way to a target L0. It is taken of the mean over
the batch, so that a single token may use more latents than another. Over several processes it is the mean of all their
tokens; with micro batches L0 is that of one, and the second term the mean of theirs (at least as much as the batch's).

Both terms are flat in theta almost everywhere. The gradient of their expectation is estimated from the pre-activations
in a window of width eps around the threshold (K(u) = 1 for |u| < 1/2, else 0):

    d latents / d theta := -(theta / eps) K((pre_acts - theta) / eps)       d latents / d pre_acts = H(pre_acts - theta)
    d H       / d theta := -(1 / eps)     K((pre_acts - theta) / eps)       d H       / d pre_acts := 0

The window needs the gradient of latents that are zero, so decoding is dense here: slower than the TopK family.

Thresholds learn inside the window only, so that a narrow one kills latents: 62 % on planted data with 0.05, 40 % with 1
(docs/results/sae_recovery.md). What revives the rest (`jumprelu_revival`) is a choice, none by default:

    auxk        + alpha AuxK, the dead latents' reconstruction of x - x_hat (`losses/auxk.py`)
    pre-acts    + c / (n_tokens d_out) sum over tokens and dead j of max(0, theta_j - pre_acts_j) ||W_dec_j||

The second is the pre-activation loss of Conerly et al. 2025 (Anthropic, "Circuits Updates - January 2025"), of dead
latents only: it moves encoder and threshold towards each other, where no other gradient reaches either.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.fields import default_of
from sae_train.saes.base import LossTerms, StepContext
from sae_train.saes.losses.auxk import auxk_loss
from sae_train.saes.losses.frequency import frequency_penalty
from sae_train.saes.losses.whole_batch import WholeBatch
from sae_train.saes.threshold import ThresholdSae

START_THRESHOLD = 0.001  # for inputs of mean squared norm 1 (Rajamanoharan et al. 2024, sec. 5); times sqrt(d_in) here
# Adam moves a parameter by about one step size a step, too little for a logarithm in a short run. On planted data, 400
# steps at the default step size, L0 was 4.1 instead of 8 with a speed of 1 and 8.8 with 3; with 10 more latents died.
THRESHOLD_SPEED = 3


def _in_window(pre_acts: Tensor, thresholds: Tensor, bandwidth: float) -> Tensor:
    """Return K((pre_acts - theta) / eps) / eps."""
    return ((pre_acts - thresholds).abs() < bandwidth / 2).to(pre_acts.dtype) / bandwidth


class JumpRelu(torch.autograd.Function):
    """pre_acts * H(pre_acts - theta), with the gradients of the module's docstring."""

    @staticmethod
    def forward(ctx: Any, pre_acts: Tensor, thresholds: Tensor, bandwidth: float) -> Tensor:
        """Zero what does not exceed its threshold."""
        ctx.save_for_backward(pre_acts, thresholds)
        ctx.bandwidth = bandwidth
        return torch.where(pre_acts > thresholds, pre_acts, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of pre-activations (exact) and thresholds (estimated)."""
        pre_acts, thresholds = ctx.saved_tensors
        near = _in_window(pre_acts, thresholds, ctx.bandwidth)
        return torch.where(pre_acts > thresholds, grads[0], 0.0), -(grads[0] * near).sum(0) * thresholds, None


class Step(torch.autograd.Function):
    """H(pre_acts - theta), with the gradients of the module's docstring."""

    @staticmethod
    def forward(ctx: Any, pre_acts: Tensor, thresholds: Tensor, bandwidth: float) -> Tensor:
        """Return one where a threshold is exceeded, else zero."""
        ctx.save_for_backward(pre_acts, thresholds)
        ctx.bandwidth = bandwidth
        return (pre_acts > thresholds).to(pre_acts.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        """Return the estimated gradient of the thresholds."""
        pre_acts, thresholds = ctx.saved_tensors
        return None, -(grads[0] * _in_window(pre_acts, thresholds, ctx.bandwidth)).sum(0), None


class JumpReluSae(ThresholdSae):
    """Keeps the latents above thresholds that are learned, one per latent.

    theta = start_threshold * exp(THRESHOLD_SPEED * log_growth): positive whatever the optimizer does. The start is a
    buffer, so that a threshold read from a file stays what it was to the last bit, and zero is allowed.

    Args:
        d_in: Width of the activations.
        d_sae: Number of latents.
        k: The L0 that training aims at. Like the two below it means nothing in an SAE that is only read.
        l0_coefficient: lambda at full strength.
        jumprelu_bandwidth: eps.
        jumprelu_revival: What revives dead latents: `none`, `auxk` or `pre-acts`.
        pre_acts_coefficient: c.
    """

    arch: ClassVar[str] = "jumprelu"
    config_fields: ClassVar[tuple[str, ...]] = (
        "k",
        "l0_coefficient",
        "jumprelu_bandwidth",
        "jumprelu_revival",
        "pre_acts_coefficient",
    )
    start_threshold: Float[Tensor, " d_sae"]

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        k: int = 1,
        l0_coefficient: float = 0.0,
        jumprelu_bandwidth: float = default_of(SaeTrainConfig, "jumprelu_bandwidth"),
        jumprelu_revival: str = "none",
        pre_acts_coefficient: float = 0.0,
    ) -> None:
        super().__init__(d_in, d_sae)
        if not 1 <= k <= d_sae:
            raise ConfigError(
                "k does not fit the SAE", got=f"k {k}, d_sae {d_sae}", expected="1 <= k <= d_sae", field="k"
            )
        self.k, self.l0_coefficient, self.bandwidth = k, l0_coefficient, jumprelu_bandwidth
        self.revival, self.pre_acts_coefficient = jumprelu_revival, pre_acts_coefficient
        self.register_buffer("start_threshold", torch.full((d_sae,), START_THRESHOLD * d_in**0.5))
        self.log_growth = nn.Parameter(torch.zeros(d_sae))

    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """Return theta."""
        return self.start_threshold * (THRESHOLD_SPEED * self.log_growth).exp()

    @torch.no_grad()
    def init_thresholds(self, rows: Float[Tensor, "batch d_row"]) -> None:
        """Start all thresholds at the value which leaves k latents per token of a sample.

        From the paper's start, far below, a short run would never come near the target.
        """
        pre_acts = self.pre_acts(self.input_of(rows))
        # k per token on average, as the loss counts: a single token may have more or fewer.
        smallest_kept = torch.topk(pre_acts.flatten(), len(rows) * self.k, sorted=False).values.min()
        self.start_threshold.copy_(smallest_kept.clamp_min(START_THRESHOLD * self.d_in**0.5))

    def training_loss(self, acts: Float[Tensor, "batch d_row"], context: StepContext) -> LossTerms:
        """Return squared error per token and dimension plus the weighted squared distance from the target L0."""
        x, target = self.input_of(acts), self.target_of(acts)
        pre_acts, thresholds = self.pre_acts(x), self.thresholds()
        latents = JumpRelu.apply(pre_acts, thresholds, self.bandwidth)
        batch = context.batch_of(target)
        # Dense decoding: latents that are zero but inside the window need their gradient.
        residual = target - self.recon_of(x, latents)
        error = residual.square().sum(dim=1).sum() / (batch.n_tokens * self.d_out)
        l0 = Step.apply(pre_acts, thresholds, self.bandwidth).sum(dim=1).sum() / batch.micro_tokens
        # The square is of the batch's mean: per token it would force every token to k latents.
        off_target = batch.once((batch.micro_sum(l0) / self.k - 1).square())
        loss = error + self.l0_coefficient * context.warmup * off_target
        counts = (latents > 0).sum(dim=0)
        found = LossTerms(loss, {"mse": error.detach(), "l0": l0.detach() / batch.n_micro}, counts > 0)
        often = frequency_penalty(latents, counts, context, batch, self.d_out)
        found = found.plus("frequency", context.frequency_coefficient, often)
        if self.revival == "auxk":
            auxk = auxk_loss(self, self.encoder_rows(acts), residual.detach(), context.dead, batch)
            return found.plus("auxk", context.auxk_alpha, auxk)
        if self.revival == "pre-acts":
            return found.plus("pre_acts", self.pre_acts_coefficient, self._below(pre_acts, context.dead, batch))
        return found

    def _below(
        self, pre_acts: Float[Tensor, "batch d_sae"], dead: Int[Tensor, " n_dead"], batch: WholeBatch
    ) -> Float[Tensor, ""]:
        """Return how far dead latents stay below their thresholds, per token and dimension."""
        below = (self.thresholds()[dead] - pre_acts[:, dead]).clamp_min(0)
        return (below * self.W_dec[dead].norm(dim=1)).sum() / (batch.n_tokens * self.d_out)

    @torch.no_grad()
    def take_thresholds(self, thresholds: Float[Tensor, " d_sae"]) -> None:
        """Go on from these; one at zero could not grow and starts where the paper starts."""
        self.start_threshold.copy_(thresholds.clamp_min(START_THRESHOLD * self.d_in**0.5))
        self.log_growth.zero_()

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Fold the scale into biases and thresholds."""
        super().fold_scale(scale)
        self.start_threshold /= scale

    @torch.no_grad()
    def load_saelens_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy weights and thresholds in; SAELens applies ReLU first, so one below zero is zero."""
        super().load_saelens_tensors(tensors)
        self.start_threshold.copy_(tensors["threshold"].clamp_min(0))
        # The start is now the threshold that was read, exactly; growth would round it.
        self.log_growth.zero_()
