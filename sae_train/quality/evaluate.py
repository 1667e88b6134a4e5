"""SAE quality on held-out documents of a store, with intervals over documents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_train.activations.store import ActivationStore
from sae_train.errors import ShapeError
from sae_train.quality.bootstrap import Groups, absent_interval, document_groups, draw_counts, percentile_interval
from sae_train.quality.metrics import SaeQuality, VarianceSums, density_histogram, firing_counts
from sae_train.saes.base import Sae

BATCH_ROWS = 4096


class QualityAccumulator:
    """Collects what the quality of an SAE is computed from, per group of documents, over batches.

    Args:
        sae: Whose quality; it may not change meanwhile.
        groups: The documents of all rows there will be.
    """

    def __init__(self, sae: Sae, groups: Groups) -> None:
        self.sae, self.groups = sae, groups
        self.variance = VarianceSums(sae.d_out, groups.n)
        self.n_fired = torch.zeros(groups.n, dtype=torch.int64)
        self.counts = torch.zeros(sae.d_sae, dtype=torch.int64)
        self.present = torch.zeros(groups.n, sae.d_sae, dtype=torch.bool)

    @torch.no_grad()
    def update(self, acts: Float[Tensor, "batch d_row"], where: Int[Tensor, " batch"]) -> None:
        """Add one batch of rows in the model's own scale; `where` is the group of each row."""
        x = self.sae.input_of(acts)
        latents = self.sae.encode(x)
        self.variance.update(self.sae.target_of(acts), self.sae.recon_of(x, latents), where)
        rows, fired = (found.cpu() for found in (latents != 0).nonzero(as_tuple=True))
        self.counts += torch.bincount(fired, minlength=self.sae.d_sae)
        self.n_fired += torch.bincount(where[rows], minlength=self.groups.n)
        self.present[where[rows], fired] = True

    def result(self) -> SaeQuality:
        """Return the figures with their intervals."""
        total, n_groups = self.variance.all(), self.groups.n
        n_tokens = int(total.n_tokens[0])
        draws = draw_counts(n_groups)
        replicates = self.variance.sums().weighted(draws)
        l0_draws = draws @ self.n_fired.numpy() / replicates.n_tokens
        return SaeQuality(
            fvu=percentile_interval(float(total.fvu()[0]), replicates.fvu(), n_groups),
            l0=percentile_interval(float(self.n_fired.sum()) / n_tokens, l0_draws, n_groups),
            frac_dead=absent_interval(self.present.numpy(), draws),
            l2_ratio=percentile_interval(float(total.l2_ratio()[0]), replicates.l2_ratio(), n_groups),
            n_tokens=n_tokens,
            n_documents=self.groups.n_documents,
            density=density_histogram(self.counts, n_tokens),
        )


def used_blocks(store: ActivationStore, hook_point: str, use: np.ndarray) -> Iterator[Float[Tensor, "row d_in"]]:
    """Yield the rows where `use` is true, block by block in file order; chunks without any are not read."""
    edges = store.chunk_edges(hook_point).tolist()
    for part in map(slice, edges[:-1], edges[1:]):
        if use[part].any():
            yield store.rows_where(hook_point, part, use[part])


def check_width(width: int, store: ActivationStore, hook_point: str) -> None:
    """Refuse an SAE for activations of another width than it has."""
    if store.d_in(hook_point) != width:
        raise ShapeError(
            f"the SAE does not fit '{store.path}' at {hook_point}",
            got=f"activations (rows, {store.d_in(hook_point)})",
            expected=f"(rows, d_in = {width})",
        )


def store_quality(sae: Sae, store: ActivationStore, hook_point: str, use: np.ndarray) -> SaeQuality:
    """Return the quality of an SAE on the rows where `use` is true, with intervals over their documents.

    A transcoder's rows are those of `joined_rows`.
    """
    check_width(sae.d_row, store, hook_point)
    groups = document_groups(store.doc_id[use])
    total, where = QualityAccumulator(sae, groups), torch.from_numpy(groups.of_row)
    first = 0
    for acts in used_blocks(store, hook_point, use):
        for part in acts.split(BATCH_ROWS):
            total.update(part.to(sae.W_dec.device), where[first : first + len(part)])
            first += len(part)
    return total.result()


@torch.no_grad()
def firing_rate(
    sae: Sae,
    store: ActivationStore,
    hook_point: str,
    use: Bool[np.ndarray, " row"] | np.ndarray,
    *,
    max_rows: int,
) -> Float[Tensor, " d_sae"]:
    """Return the share of rows on which each latent fires, over at most `max_rows` of the usable rows."""
    check_width(sae.d_in, store, hook_point)
    counts, n_rows = torch.zeros(sae.d_sae, dtype=torch.int64), 0
    for acts in used_blocks(store, hook_point, use):
        part = acts[: max_rows - n_rows]
        counts += firing_counts(sae.encode(part.to(sae.W_dec.device))).cpu()
        n_rows += len(part)
        if n_rows >= max_rows:
            break
    return counts.float() / max(1, n_rows)
