"""How good an SAE is: on held-out rows of a store, and spliced into the language model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_train.activations.store import ActivationStore
from sae_train.errors import ShapeError
from sae_train.metrics import SaeQuality, VarianceSums
from sae_train.saes.base import Sae


class QualityAccumulator:
    """Collects FVU, L0 and firing counts over batches."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.variance = VarianceSums(d_in)
        self.fired = torch.zeros(d_sae, dtype=torch.int64)
        self.n_tokens = 0

    @torch.no_grad()
    def update(self, sae: Sae, acts: Float[Tensor, "batch d_in"]) -> None:
        """Add one batch of activations in the model's own scale."""
        latents = sae.encode(acts)
        self.variance.update(acts, sae.decode(latents))
        self.fired += (latents != 0).sum(dim=0).cpu()
        self.n_tokens += len(acts)

    def result(self) -> SaeQuality:
        """Return the figures."""
        return SaeQuality(
            fvu=self.variance.fvu(),
            l0=float(self.fired.sum()) / self.n_tokens,
            frac_dead=float((self.fired == 0).float().mean()),
            l2_ratio=self.variance.l2_ratio(),
            n_tokens=self.n_tokens,
        )


def used_blocks(store: ActivationStore, hook_point: str, use: np.ndarray) -> Iterator[Float[Tensor, "row d_in"]]:
    """Yield the rows where `use` is true, block by block in file order; chunks without any are not read."""
    step = store.chunk_rows(hook_point)
    for start in range(0, store.n_rows, step):
        part = slice(start, min(start + step, store.n_rows))
        if use[part].any():
            yield store.rows(hook_point, part)[torch.from_numpy(use[part])]


def check_width(sae: Sae, store: ActivationStore, hook_point: str) -> None:
    """Refuse an SAE for activations of another width."""
    if store.d_in(hook_point) != sae.d_in:
        raise ShapeError(
            f"the SAE does not fit '{store.path}' at {hook_point}",
            got=f"activations (rows, {store.d_in(hook_point)})",
            expected=f"(rows, d_in = {sae.d_in})",
        )


def store_quality(sae: Sae, store: ActivationStore, hook_point: str, use: np.ndarray) -> SaeQuality:
    """Return the quality of an SAE on the rows where `use` is true."""
    check_width(sae, store, hook_point)
    device = sae.W_dec.device
    total = QualityAccumulator(sae.d_in, sae.d_sae)
    for acts in used_blocks(store, hook_point, use):
        for part in acts.split(4096):
            total.update(sae, part.to(device))
    return total.result()


def firing_rate(
    sae: Sae,
    store: ActivationStore,
    hook_point: str,
    use: Bool[np.ndarray, " row"] | np.ndarray,
    *,
    max_rows: int,
) -> Float[Tensor, " d_sae"]:
    """Return the share of rows on which each latent fires, over at most `max_rows` of the usable rows."""
    check_width(sae, store, hook_point)
    total = QualityAccumulator(sae.d_in, sae.d_sae)
    for acts in used_blocks(store, hook_point, use):
        total.update(sae, acts[: max_rows - total.n_tokens].to(sae.W_dec.device))
        if total.n_tokens >= max_rows:
            break
    return total.fired.float() / max(1, total.n_tokens)
