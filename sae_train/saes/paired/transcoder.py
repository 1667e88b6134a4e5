"""Transcoders: SAEs that read one place and reconstruct another, as an MLP's output from its input.

    pre_acts = x W_enc + b_enc        latents = activation(pre_acts)        y_hat = latents W_dec + b_dec [+ x W_skip^T]

The loss is that of the architecture, on y. Sources: Dunefsky, Chlenski & Nanda 2024 (arXiv:2406.11944); the linear path
(`skip`): Paulo, Shabalin & Belrose 2025 (arXiv:2501.18823).

A row is (x, y) side by side. `scale` concerns y as it does an SAE's x; training reads inputs as

    u = gain (x - center)        center = mean(x), gain so that the mean norm is sqrt(d_in), both of a sample

in the place of x, because an MLP's input may have another norm than its output, and coordinates with large means. At
the end they are folded: W_enc gain, W_skip gain, b_enc - gain center W_enc, b_dec - gain center W_skip^T. Encoder and
decoder live in different spaces, so that they cannot start tied: encoder columns e are random directions, and the
decoder row of a latent is where the output is when it is among the k strongest of a token,

    d = sum over tokens latent(u) (y - b_dec), made of length one        e := s e

s the number by which these latents reconstruct the sample best. Measured in docs/concepts/training.md.

On disk: SAELens' `transcoder` (ReLU) or `jumprelu_transcoder`, with a skip connection `skip_transcoder` or
`jumprelu_skip_transcoder`. SAELens has none for TopK; ours is `topk_transcoder`, `topk_skip_transcoder`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.errors import NumericalError
from sae_train.rng import torch_rng
from sae_train.saes.base import Sae
from sae_train.saes.batch_topk import BatchTopKSae
from sae_train.saes.hierarchical import HierarchicalTopKSae
from sae_train.saes.jumprelu import JumpReluSae
from sae_train.saes.matryoshka import MatryoshkaSae
from sae_train.saes.relu import ReluSae
from sae_train.saes.topk import TopKSae

DECODER_ROWS, PART_ROWS = 8_192, 512  # on which the decoder starts, and those of them in memory as latents
STRONGEST = 32  # latents of a token that are taken to be on, where the architecture has no k
NAMES = {
    "standard": "",
    "jumprelu": "jumprelu_",
    "topk": "topk_",
}  # in front of `transcoder`, by SAELens' name of the SAE


class Transcoder(Sae):
    """What all transcoders share; stands before an architecture among the bases of a class.

    Args:
        d_in: Width of the input.
        d_sae: Number of latents.
        d_out: Width of the output; by default that of the input.
        skip: Whether there is a linear path from input to output, zero at the start.
        settings: What the architecture's constructor takes.
    """

    subtracts_b_dec: ClassVar[bool] = False
    scale_is_in_weights: ClassVar[bool] = True
    center: Float[Tensor, " d_in"]
    gain: Float[Tensor, ""]
    W_skip: nn.Parameter | None

    def __init__(self, d_in: int, d_sae: int, *, d_out: int | None = None, skip: bool = False, **settings: Any) -> None:
        super().__init__(d_in, d_sae, **settings)
        self.d_out = d_in if d_out is None else d_out
        self.W_dec = nn.Parameter(torch.zeros(d_sae, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(self.d_out, d_in)) if skip else None
        self.register_buffer("center", torch.zeros(d_in))
        self.register_buffer("gain", torch.ones(()))

    @classmethod
    def from_saelens(cls, cfg: dict[str, Any]) -> Sae:
        """Build a transcoder with zero weights from a `cfg.json`."""
        sizes = {name: int(cfg[name]) for name in ("d_out", *cls.saelens_sizes)}
        return cls(int(cfg["d_in"]), int(cfg["d_sae"]), skip="skip" in str(cfg["architecture"]), **sizes)

    @property
    def d_row(self) -> int:
        """Return the width of input and output together."""
        return self.d_in + self.d_out

    def input_of(self, rows: Float[Tensor, "*tokens d_row"]) -> Float[Tensor, "*tokens d_in"]:
        """Return x."""
        return rows[..., : self.d_in]

    def target_of(self, rows: Float[Tensor, "*tokens d_row"]) -> Float[Tensor, "*tokens d_out"]:
        """Return y."""
        return rows[..., self.d_in :]

    def measured(self, acts: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_in"]:
        """Return u = gain (x - center); once folded, x itself."""
        return (acts - self.center) * self.gain

    def encoder_rows(self, rows: Float[Tensor, "batch d_row"]) -> Float[Tensor, "batch d_in"]:
        """Return u."""
        return self.measured(self.input_of(rows))

    def decoder_rows(
        self, rows: Float[Tensor, "batch d_row"], encoded: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch d_out"]:
        """Return y - b_dec - u W_skip^T; the last one with its gradient."""
        target = self.target_of(rows) - self.b_dec.detach()
        return target if self.W_skip is None else target - encoded @ self.W_skip.T

    @property
    def encoder_b_dec(self) -> Tensor | None:
        """Return None: the encoder knows nothing of b_dec."""
        return None

    def dead_bias(self, dead: Int[Tensor, " n_dead"], W_enc: Float[Tensor, "n_dead d_in"]) -> Float[Tensor, " n_dead"]:
        """Return the bias of dead latents."""
        return self.b_enc[dead]

    @torch.no_grad()
    def init_weights(self, center: Float[Tensor, " d_out"], seed: int) -> None:
        """Draw unit rows for encoder and decoder, each its own, and set `b_dec`; `init_inputs` goes on."""
        generators = (torch_rng("sae.directions", seed), torch_rng("transcoder.encoder", seed))
        for weight, generator in zip((self.W_dec, self.W_enc.T), generators, strict=True):
            directions = torch.randn(weight.shape, generator=generator)
            weight.copy_(directions / directions.norm(dim=1, keepdim=True))
        self.b_dec.copy_(center)

    @torch.no_grad()
    def init_inputs(self, rows: Float[Tensor, "batch d_row"]) -> None:
        """Measure center and gain, then point the decoder to where the output is.

        Raises:
            NumericalError: The inputs are not finite, or all the same.
        """
        inputs = self.input_of(rows)
        self.center.copy_(inputs.mean(dim=0))
        norm = float((inputs - self.center).norm(dim=1).mean())
        if not 0 < norm < float("inf"):
            raise NumericalError(
                f"the activations at {self.hook_point} cannot be learned from",
                got=f"a mean distance of {norm} from their mean",
                expected="finite activations that vary",
            )
        self.gain.fill_(self.d_in**0.5 / norm)
        self._init_decoder(rows[:DECODER_ROWS])

    def _init_decoder(self, rows: Float[Tensor, "batch d_row"]) -> None:
        """Point decoder rows to where the output is when a latent is on; those that are on nowhere stay random."""
        target, sums = self.target_of(rows) - self.b_dec, torch.zeros_like(self.W_dec)
        parts = list(zip(self.encoder_rows(rows).split(PART_ROWS), target.split(PART_ROWS), strict=True))
        for u, y in parts:
            sums += self._strongest(u).T @ y
        is_on = sums.any(dim=1)
        self.W_dec[is_on] = nn.functional.normalize(sums[is_on], dim=1)
        recon = torch.cat([self._strongest(u) @ self.W_dec for u, _ in parts])
        self.W_enc.mul_(((target * recon).sum() / recon.square().sum().clamp_min(1e-30)).clamp_min(0.01))

    def _strongest(self, u: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the strongest latents of every token: as many as the architecture keeps, where it says."""
        values, at = (u @ self.W_enc).topk(min(getattr(self, "k", STRONGEST), self.d_sae), dim=1)
        return torch.zeros(len(u), self.d_sae, dtype=u.dtype, device=u.device).scatter_(1, at, values.relu())

    def pre_acts(self, acts: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        """Return the latents before the activation function."""
        return self.centered_pre_acts(self.measured(acts))

    def recon_of(
        self, acts: Float[Tensor, "*tokens d_in"], latents: Float[Tensor, "*tokens d_sae"]
    ) -> Float[Tensor, "*tokens d_out"]:
        """Return y_hat."""
        return self.decode(latents) + self.linear(acts)

    def linear(self, acts: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_out"] | float:
        """Return u W_skip^T, zero without."""
        return 0.0 if self.W_skip is None else self.measured(acts) @ self.W_skip.T

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Return to the model's own scales: those of the input into the weights, the output's into biases."""
        # In float64: where means are large, the sum is a small difference of large numbers.
        shift = self.center.double() * self.gain.double()
        self.b_enc.copy_((self.b_enc.double() - shift @ self.W_enc.double()).to(self.b_enc.dtype))
        self.W_enc.mul_(self.gain)
        if self.W_skip is not None:
            self.b_dec.copy_((self.b_dec.double() - self.W_skip.double() @ shift).to(self.b_dec.dtype))
            self.W_skip.mul_(self.gain)
        self.center.zero_()
        self.gain.fill_(1.0)
        super().fold_scale(scale)

    @torch.no_grad()
    def unfold_scale(self, scale: float) -> None:
        """Turn a transcoder of the model's own scales into the same one of scaled rows, center and gain as measured."""
        center, gain = self.center.clone(), self.gain.clone()
        self.center.zero_()
        self.gain.fill_(1.0)
        self.fold_scale(1 / scale)
        # x = u / gain + center
        self.b_enc.add_(center @ self.W_enc)
        self.W_enc.div_(gain)
        if self.W_skip is not None:
            self.b_dec.add_(self.W_skip @ center)
            self.W_skip.div_(gain)
        self.center.copy_(center)
        self.gain.copy_(gain)

    def saelens_config(self) -> dict[str, Any]:
        """Return the fields of SAELens' transcoder classes."""
        found = super().saelens_config()
        skip = "" if self.W_skip is None else "skip_"
        return {**found, "architecture": f"{NAMES[found['architecture']]}{skip}transcoder", "d_out": self.d_out}

    def saelens_tensors(self) -> dict[str, Tensor]:
        """Return the tensors, `W_skip` (d_out, d_in) among them where there is one."""
        return {**super().saelens_tensors(), **({} if self.W_skip is None else {"W_skip": self.W_skip.detach()})}

    @torch.no_grad()
    def load_saelens_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors in."""
        super().load_saelens_tensors(tensors)
        if self.W_skip is not None:
            self.W_skip.copy_(tensors["W_skip"])


class TopKTranscoder(Transcoder, TopKSae):
    """A transcoder that keeps the `k` largest latents of every token."""

    config_fields: ClassVar[tuple[str, ...]] = (*TopKSae.config_fields, "skip")

    def forward(self, acts: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_out"]:
        """Return y_hat, decoding only the k latents that are on."""
        return super().forward(acts) + self.linear(acts)


class HierarchicalTopKTranscoder(TopKTranscoder, HierarchicalTopKSae):
    """A TopK transcoder whose strongest latents reconstruct on their own; the linear path helps at each level."""

    config_fields: ClassVar[tuple[str, ...]] = (*HierarchicalTopKSae.config_fields, "skip")


class BatchTopKTranscoder(Transcoder, BatchTopKSae):
    """A transcoder that keeps the `batch * k` largest latents of a batch."""

    config_fields: ClassVar[tuple[str, ...]] = (*BatchTopKSae.config_fields, "skip")


class ReluTranscoder(Transcoder, ReluSae):
    """A transcoder with an L1 penalty."""

    config_fields: ClassVar[tuple[str, ...]] = (*ReluSae.config_fields, "skip")


class JumpReluTranscoder(Transcoder, JumpReluSae):
    """A transcoder with learned thresholds."""

    config_fields: ClassVar[tuple[str, ...]] = (*JumpReluSae.config_fields, "skip")


class MatryoshkaTranscoder(Transcoder, MatryoshkaSae):
    """A transcoder whose prefixes reconstruct on their own; the linear path helps each of them."""

    config_fields: ClassVar[tuple[str, ...]] = (*MatryoshkaSae.config_fields, "skip")


TRANSCODERS: dict[str, type[Transcoder]] = {
    kind.arch: kind
    for kind in (
        TopKTranscoder,
        BatchTopKTranscoder,
        ReluTranscoder,
        JumpReluTranscoder,
        MatryoshkaTranscoder,
        HierarchicalTopKTranscoder,
    )
}
