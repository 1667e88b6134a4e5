"""TopK SAE with the AuxK loss. Source: Gao et al. 2024 (arXiv:2406.04093), sec. 2.3 and App. A.2.

latents = TopK(pre_acts), negative ones among the k set to zero.
loss = FVU(x, x_hat) + alpha * AuxK, AuxK = FVU(e, e_hat): the `k_aux = d_in // 2` strongest *dead* latents
reconstruct the error e = x - x_hat (detached, b_dec not added again). Its gradient reaches encoder and decoder.
Divided into micro batches, FVU is the same, AuxK the mean of theirs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.errors import ConfigError
from sae_train.saes.base import LossTerms, Reconstruction, Sae, StepContext
from sae_train.saes.losses.auxk import auxk_loss
from sae_train.saes.losses.frequency import frequency_penalty
from sae_train.saes.losses.squares import sum_of_squares
from sae_train.saes.losses.whole_batch import WholeBatch
from sae_train.saes.sparse_ops import Support, sparse_decode, sparse_encode, support_decode
from sae_train.saes.topk_search import top_k
from sae_train.saes.topk_search.candidates import Found
from sae_train.saes.topk_search.choice import best_dtype
from sae_train.saes.topk_search.memory import Memory


class TopKSae(Sae):
    """Keeps the `k` largest latents of every token."""

    arch: ClassVar[str] = "topk"
    config_fields: ClassVar[tuple[str, ...]] = ("k",)
    saelens_sizes: ClassVar[tuple[str, ...]] = ("k",)

    def __init__(self, d_in: int, d_sae: int, *, k: int) -> None:
        super().__init__(d_in, d_sae)
        if not 1 <= k <= d_sae:
            raise ConfigError(
                "k does not fit the SAE", got=f"k {k}, d_sae {d_sae}", expected="1 <= k <= d_sae", field="k"
            )
        self.k = k
        self._memory = Memory()

    def choose_search_dtype(self, rows: Float[Tensor, "batch d_row"], wanted: str) -> None:
        """Set `search_dtype`; see `sae_train.saes.topk_search`."""
        auto = wanted == "auto"
        self.search_dtype = best_dtype(self.encoder_rows(rows), self.W_enc, self.b_enc, self.k) if auto else wanted

    def largest(
        self, pre_acts: Float[Tensor, "*tokens d_sae"]
    ) -> tuple[Float[Tensor, "*tokens k"], Int[Tensor, "*tokens k"]]:
        """Return values (not below zero) and indices of the k largest pre-activations."""
        values, indices = torch.topk(pre_acts, self.k, dim=-1, sorted=False)
        return values.relu(), indices

    def activate(self, pre_acts: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        """Keep the k largest, zero the others."""
        values, indices = self.largest(pre_acts)
        return torch.zeros_like(pre_acts).scatter_(-1, indices, values)

    def forward(self, acts: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_out"]:
        """Return the reconstruction, decoding only the k latents that are on."""
        values, indices = (found.reshape(-1, self.k) for found in self.largest(self.pre_acts(acts)))
        return sparse_decode(values, indices, self.W_dec).view(*acts.shape[:-1], self.d_out) + self.b_dec

    def training_loss(self, acts: Float[Tensor, "batch d_row"], context: StepContext) -> LossTerms:
        """Return FVU plus the weighted AuxK term."""
        centered, batch = self.encoder_rows(acts), context.batch_of(self.target_of(acts))
        found = self.search(centered)
        support = Support.of_rows(found.indices, self.d_sae)
        values, b_dec = found.values.flatten(), self.encoder_b_dec
        pre_acts = sparse_encode(centered, self.W_enc, self.b_enc, support, values=values, b_dec=b_dec)
        latents = pre_acts.relu()
        recon = self.reconstruct(self.decoder_rows(acts, centered), latents, support, batch)
        auxk = auxk_loss(self, centered, recon.error.detach(), context.dead, batch)
        # Positive ones only: a row may have fewer than k, and a negative one among its k largest has not fired.
        counts = support.counts(pre_acts)
        terms = {**recon.terms, "auxk": auxk.detach(), "l0": counts.sum(dtype=acts.dtype) / batch.n_tokens}
        often = frequency_penalty(latents, counts, context, batch, self.d_out, support.latents)
        found = LossTerms(recon.loss + context.auxk_alpha * auxk, terms, counts > 0)
        return found.plus("frequency", context.frequency_coefficient, often)

    def search(self, centered: Float[Tensor, "batch d_in"]) -> Found:
        """Return the k largest pre-activations of every row of a step, in any order.

        Without gradient: only the k latents that it finds are differentiated, sparsely.
        """
        W_enc, b_enc = self.W_enc.detach(), self.b_enc.detach()
        return top_k(centered, W_enc, b_enc, self.k, dtype=self.search_dtype, memory=self._memory)

    def reconstruct(
        self, target: Float[Tensor, "batch d_out"], values: Float[Tensor, " n_on"], support: Support, batch: WholeBatch
    ) -> Reconstruction:
        """Return the FVU of the reconstruction; `target` is what `decoder_rows` returned, `values` the latents."""
        error = target - support_decode(values, support, self.W_dec, b_dec=self.b_dec)  # x - (latents W_dec + b_dec)
        fvu = sum_of_squares(error) / batch.variance
        return Reconstruction(fvu, error, {"fvu": fvu.detach()})

    def saelens_config(self) -> dict[str, Any]:
        """Return SAELens' fields for `topk`."""
        return {"architecture": "topk", "k": self.k, "rescale_acts_by_decoder_norm": False}
