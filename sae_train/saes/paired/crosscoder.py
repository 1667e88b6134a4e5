"""Crosscoders: one dictionary for two models that read the same tokens, and what its decoder says of either.

    pre_acts = sum over sides (x_side - b_dec_side) W_enc_side + b_enc
    recon_side = latents W_dec_side + b_dec_side

A row is (x_before, x_after), so that any SAE of rows is one: the sum over sides is the product with the joined row.
Both sides are multiplied by one scale; decoder rows have length one over both together, and start with the same
direction on either side. Which side a latent belongs to is read from its decoder norms:

    relative norm = ||W_dec_after|| / (||W_dec_before|| + ||W_dec_after||)

0 is only before, 1/2 is both, 1 is only after. A latent of both whose two directions are not alike (cosine below 1/2)
is *turned*: both models have it, and write something else with it. Sources: Lindsey et al. 2024, "Sparse Crosscoders
for Cross-Layer Features and Model Diffing"; the bounds, and TopK in the place of an L1 penalty, which shrinks a side to
zero without a reason: Minder et al. 2025 (arXiv:2504.02922).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_train.errors import ConfigError
from sae_train.saes.base import Sae

ONLY = 0.1  # relative norm up to which (or one minus which) a latent belongs to one side alone
SHARED = (0.4, 0.6)
TURNED = 0.5  # cosine below which a latent of both models does not write the same in them


@dataclass(frozen=True)
class SideComparison:
    """Which latents of a crosscoder belong to which model.

    Attributes:
        relative_norm: 0 only before, 1 only after, (d_sae,).
        cosine: Cosine of a latent's two decoder directions; 0 where one has no length, (d_sae,).
        rate: Share of rows on which each latent fires; None without stores.
    """

    relative_norm: Float[np.ndarray, " d_sae"]
    cosine: Float[np.ndarray, " d_sae"]
    rate: Float[np.ndarray, " d_sae"] | None = None

    def kinds(self) -> dict[str, Bool[np.ndarray, " d_sae"]]:
        """Return which latents are `shared`, `turned`, `only_before`, `only_after` or in `between`: those that fire."""
        r, is_on = self.relative_norm, True if self.rate is None else self.rate > 0
        is_both, is_alike = (r >= SHARED[0]) & (r <= SHARED[1]), self.cosine >= TURNED
        found = {"shared": is_both & is_alike, "turned": is_both & ~is_alike}
        found |= {"only_before": r <= ONLY, "only_after": r >= 1 - ONLY}
        found["between"] = ~(is_both | found["only_before"] | found["only_after"])
        return {name: of_kind & is_on for name, of_kind in found.items()}

    def latent(self, index: int) -> dict[str, Any]:
        """Return what is known of one latent."""
        kind = next((name for name, of_kind in self.kinds().items() if of_kind[index]), "never fires")
        found = {"latent": index, "kind": kind, "relative_norm": float(self.relative_norm[index])}
        found["cosine"] = float(self.cosine[index])
        return found if self.rate is None else {**found, "rate": float(self.rate[index])}

    def strongest(self, kind: str, most: int = 10) -> list[int]:
        """Return latents of a kind, those that fire most first; without stores by number."""
        found = np.flatnonzero(self.kinds()[kind])
        order = found if self.rate is None else found[np.argsort(-self.rate[found], kind="stable")]
        return order[:most].tolist()

    def summary(self) -> dict[str, Any]:
        """Return numbers of latents by kind, and the first of those that are turned or that only one model has."""
        kinds = self.kinds()
        found: dict[str, Any] = {"d_sae": len(self.relative_norm)}
        found |= {"n_never_fire": int((self.rate == 0).sum())} if self.rate is not None else {}
        found |= {f"n_{name}": int(of_kind.sum()) for name, of_kind in kinds.items()}
        shared = self.cosine[kinds["shared"]]
        found["median_cosine_shared"] = float(np.median(shared)) if len(shared) else float("nan")
        return found | {name: self.strongest(name) for name in ("turned", "only_before", "only_after")}


def side_comparison(sae: Sae, rate: Float[np.ndarray, " d_sae"] | None = None) -> SideComparison:
    """Return which latents of a crosscoder belong to which model.

    Args:
        sae: The crosscoder.
        rate: Share of rows on which each latent fires: one that never does has a decoder that says nothing.

    Raises:
        ConfigError: It is none.
    """
    if len(sae.sides) != 2:
        raise ConfigError("this SAE has no two sides", got=sae.name, expected="a crosscoder, or two SAEs")
    before, after = side_rows(sae)
    norms = [rows.norm(dim=1) for rows in (before, after)]
    relative = norms[1] / (norms[0] + norms[1]).clamp_min(torch.finfo(torch.float32).tiny)
    product = (norms[0] * norms[1]).clamp_min(torch.finfo(torch.float32).tiny)
    return SideComparison(relative.numpy(), ((before * after).sum(dim=1) / product).numpy(), rate)


def side_rows(sae: Sae) -> tuple[Float[Tensor, "d_sae d_before"], Float[Tensor, "d_sae d_after"]]:
    """Return the decoder rows of either side, in float32 on the host."""
    before, after = sae.W_dec.detach().float().cpu().split(list(sae.sides), dim=1)
    return before, after
