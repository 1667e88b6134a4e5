"""An imported SAE before it is finished, and the exact rewritings that bring it to our formula.

    pre_acts = (x - b_dec) W_enc + b_enc        latents = activation(pre_acts)        recon = latents W_dec + b_dec

Every rewriting here keeps the function x -> recon, up to float32 rounding, and says what it does to the latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.errors import ConfigError, FileFormatError, ShapeError
from sae_train.saes import SAE_ARCHS
from sae_train.saes.base import Sae

UNIT_TOLERANCE = 1e-3  # rows this close to length one are unit rows: weights kept in bfloat16 are no closer
COLUMNS = 4096  # columns of W_enc in float64 at a time


@dataclass(frozen=True)
class SaeDraft:
    """Weights, activation and origin of an SAE, checked for shape and finiteness.

    Attributes:
        architecture: SAELens' name: `topk`, `standard` (ReLU) or `jumprelu`.
        W_enc: (d_in, d_sae).
        b_enc: (d_sae,).
        W_dec: (d_sae, d_in).
        b_dec: (d_in,), subtracted from the input as well.
        threshold: (d_sae,), of jumprelu only.
        k: Latents kept per token, of topk only.
        hook_point: Where it reads, if the source says so in words we know.
        model_name: The language model, if the source says so.
        notes: What was rewritten on the way.
    """

    architecture: str
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    k: int | None = None
    hook_point: str | None = None
    model_name: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.architecture in SAE_ARCHS, self.architecture
        assert (self.k is not None) == (self.architecture == "topk"), self.k
        assert (self.threshold is not None) == (self.architecture == "jumprelu"), self.architecture
        shapes = {name: tuple(t.shape) for name, t in self.tensors().items()}
        d_in, d_sae = (*shapes["W_enc"], 0, 0)[:2]
        wanted = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
        if self.threshold is not None:
            wanted["threshold"] = (d_sae,)
        if shapes != wanted or not d_in or not d_sae:
            raise ShapeError("the weights do not fit each other", got=shapes, expected=wanted)
        bad = [name for name, t in self.tensors().items() if not bool(torch.isfinite(t).all())]
        if bad:
            raise FileFormatError(
                "the weights cannot be used", got=f"NaN or Inf in {', '.join(bad)}", expected="finite numbers"
            )
        if self.k is not None and not 1 <= self.k <= d_sae:
            raise ConfigError("k does not fit the SAE", got=f"k {self.k}", expected=f"1 <= k <= d_sae = {d_sae}")

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by SAELens' names, in float32."""
        found = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec}
        if self.threshold is not None:
            found["threshold"] = self.threshold
        return {name: t.detach().float() for name, t in found.items()}

    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of every decoder row."""
        return self.W_dec.detach().float().norm(dim=1)

    def build(self) -> Sae:
        """Return it as one of our SAEs."""
        d_in, d_sae = self.W_enc.shape
        sizes = {"d_in": d_in, "d_sae": d_sae, "k": self.k}
        sae = SAE_ARCHS[self.architecture].from_saelens(sizes)
        sae.load_saelens_tensors(self.tensors())
        return sae.requires_grad_(False).eval()


def with_input_centred(draft: SaeDraft) -> SaeDraft:
    """Return an SAE that reads x - b_dec from the weights of one that reads x itself; latents stay what they are.

    b_enc' = b_enc + b_dec W_enc, so that (x - b_dec) W_enc + b_enc' = x W_enc + b_enc. The sum is taken in float64.
    """
    added = [draft.b_dec.double() @ part.double() for part in draft.W_enc.split(COLUMNS, dim=1)]
    b_enc = (draft.b_enc.double() + torch.cat(added)).float()
    return replace(draft, b_enc=b_enc, notes=(*draft.notes, "input bias folded: b_enc + b_dec W_enc"))


def with_unit_rows(draft: SaeDraft) -> SaeDraft:
    """Return the same function with decoder rows of length one, latents in the scale of their contribution.

    With n the length of a row: W_enc n, b_enc n, threshold n, W_dec / n, so that the latent is n times what it was.
    Exact for ReLU and JumpReLU, which scale with their argument. TopK would compare other numbers and keep other
    latents. A row of length zero stays as it is, and so does everything where all rows are of length one already.

    Raises:
        ConfigError: TopK with rows of another length.
    """
    norms = draft.decoder_norms()
    if not bool(((norms - 1).abs() > UNIT_TOLERANCE).any()):
        return draft
    if draft.architecture == "topk":
        raise ConfigError(
            "`unit_norm` would change which latents a TopK SAE keeps",
            got=f"decoder rows of length {float(norms.min()):.4g} to {float(norms.max()):.4g}",
            expected="rows of length one, or a ReLU or JumpReLU SAE",
            try_="the command without `unit_norm`",
        )
    return _rescaled(draft, norms, "decoder rows brought to length one")


def with_folded_norms(draft: SaeDraft) -> SaeDraft:
    """Return a TopK SAE that selects by pre_acts * n, n the length of the decoder row, without that factor.

    SAELens' `rescale_acts_by_decoder_norm`: latents = TopK(n pre_acts), recon = (latents / n) W_dec + b_dec. With
    W_enc n, b_enc n and W_dec / n selection, latents and reconstruction are the same ones.
    """
    return _rescaled(draft, draft.decoder_norms(), "rescale_acts_by_decoder_norm folded into the weights")


def _rescaled(draft: SaeDraft, norms: Tensor, note: str) -> SaeDraft:
    """Multiply encoder, bias and threshold by `norms`, divide the decoder rows by them."""
    safe = torch.where(norms > 0, norms, 1.0)
    return replace(
        draft,
        W_enc=draft.W_enc.float() * safe,
        b_enc=draft.b_enc.float() * safe,
        W_dec=draft.W_dec.float() / safe[:, None],
        threshold=None if draft.threshold is None else draft.threshold.float() * safe,
        notes=(*draft.notes, note),
    )


def gated_as_jumprelu(
    W_enc: Float[Tensor, "d_in d_sae"],
    r_mag: Float[Tensor, " d_sae"],
    b_mag: Float[Tensor, " d_sae"],
    b_gate: Float[Tensor, " d_sae"],
) -> dict[str, Tensor]:
    """Return encoder, bias and threshold of the JumpReLU SAE that a gated one is.

    Gated: latents = [u + b_gate > 0] ReLU(exp(r_mag) u + b_mag) with u = (x - b_dec) W_enc. Put y = exp(r_mag) u +
    b_mag: the gate is open where y > b_mag - exp(r_mag) b_gate, so W_enc' = W_enc exp(r_mag), b_enc' = b_mag and the
    threshold is that bound. Source: Rajamanoharan et al. 2024 (arXiv:2404.16014), who tie the two encoders.
    """
    gain = r_mag.float().exp()
    return {
        "W_enc": W_enc.float() * gain,
        "b_enc": b_mag.float(),
        "threshold": jumprelu_threshold(b_mag.float() - gain * b_gate.float(), len(b_mag)),
    }


def jumprelu_threshold(value: Tensor, d_sae: int) -> Float[Tensor, " d_sae"]:
    """Return one threshold per latent from one for each or one for all; below zero ReLU decides, which is zero.

    Example:
        >>> jumprelu_threshold(torch.tensor(-1.0), 2).tolist()
        [0.0, 0.0]
    """
    return value.float().clamp_min(0).expand(d_sae).clone() if value.ndim == 0 else value.float().clamp_min(0)
