"""Compare the latents of two SAEs: decoder cosines, one-to-one matching, and a chance level.

    cos_ij = <d_i, e_j> / (|d_i| |e_j|), d_i the decoder rows of A, e_j those of B

Two matchings. `hungarian`: the one-to-one assignment of the smaller SAE's latents with the largest sum of cosines
(scipy's `linear_sum_assignment`); on one core 4,000 random directions took 1.9 s and every doubling takes 4 to 5 times
as long. `mutual-nearest`, above 16,384 latents: the pairs that are each other's nearest; the others stay alone, so that
its mean is over fewer and better pairs. Compare only numbers of the same matching.

A latent has a twin if it is matched with a cosine of at least the threshold. One that exists under one seed only is no
evidence of a feature (Paulo & Belrose 2025, arXiv:2501.16615, match like this and count from 0.7). Two SAEs of the
*same* seed share their dead latents, which never left their common start: weight by firing rate then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_train.config import CompareConfig
from sae_train.errors import MemoryShortError, ShapeError
from sae_train.fields import default_of
from sae_train.rng import torch_rng
from sae_train.run.progress import Advance, no_advance
from sae_train.saes.base import Sae

TWIN_COSINE: float = default_of(CompareConfig, "threshold")
MAX_HUNGARIAN: int = default_of(CompareConfig, "max_hungarian")
BLOCK_BYTES = 64 * 2**20  # of cosines at a time


class Nearest(NamedTuple):
    """For every latent of one SAE the most similar one of the other, whoever else has it.

    Attributes:
        latent: Index in the other SAE.
        cosine: Cosine of the decoder rows.
    """

    latent: Int[np.ndarray, " d_sae"]
    cosine: Float[np.ndarray, " d_sae"]


class Pairs(NamedTuple):
    """A one-to-one matching.

    Attributes:
        a: Latents of A, ascending.
        b: Their partners in B.
        cosine: Cosine of their decoder rows.
    """

    a: Int[np.ndarray, " pair"]
    b: Int[np.ndarray, " pair"]
    cosine: Float[np.ndarray, " pair"]


@dataclass(frozen=True)
class Chance:
    """The same figures for A and as many random directions as B has latents, uniform on the sphere.

    Uniform directions are the least one must beat: real activations, and with them decoders, fill the space unevenly.
    """

    mean_cosine: float
    median_cosine: float
    frac_twins_a: float
    frac_twins_b: float


@dataclass(frozen=True)
class SaeComparison:
    """What two SAEs share.

    Attributes:
        matching: `hungarian` or `mutual-nearest`.
        threshold: Cosine from which a partner is a twin.
        pairs: The matching, by decoder rows.
        encoder_cosine: Cosine of the encoder columns of the same pairs, (pair,).
        nearest_a: For every latent of A the nearest of B.
        nearest_b: For every latent of B the nearest of A.
        chance: The same with random directions in place of B.
        rate_a, rate_b: Share of the rows of a store on which each latent fires, where there was one.
    """

    matching: str
    threshold: float
    pairs: Pairs
    encoder_cosine: Float[np.ndarray, " pair"]
    nearest_a: Nearest
    nearest_b: Nearest
    chance: Chance
    rate_a: Float[np.ndarray, " d_sae"] | None = None
    rate_b: Float[np.ndarray, " d_sae"] | None = None

    def has_twin_a(self) -> Bool[np.ndarray, " d_sae"]:
        """Return which latents of A have a twin in B."""
        return _with_twin(self.pairs.a, self.pairs.cosine >= self.threshold, len(self.nearest_a.latent))

    def has_twin_b(self) -> Bool[np.ndarray, " d_sae"]:
        """Return which latents of B have a twin in A."""
        return _with_twin(self.pairs.b, self.pairs.cosine >= self.threshold, len(self.nearest_b.latent))

    def partner(self, latent: int) -> dict[str, Any]:
        """Return what is known about one latent of A: its partner, its nearest, whether it has a twin."""
        at = np.flatnonzero(self.pairs.a == latent)
        found = int(at[0]) if len(at) else None
        return {
            "latent": latent,
            "partner": None if found is None else int(self.pairs.b[found]),
            "cosine": None if found is None else float(self.pairs.cosine[found]),
            "encoder_cosine": None if found is None else float(self.encoder_cosine[found]),
            "nearest": int(self.nearest_a.latent[latent]),
            "nearest_cosine": float(self.nearest_a.cosine[latent]),
            "has_twin": found is not None and bool(self.pairs.cosine[found] >= self.threshold),
        }

    def summary(self) -> dict[str, Any]:
        """Return the figures, without the arrays; `frac_twins_a` is over the latents of A, and so on."""
        both = (self.pairs.cosine >= self.threshold) & (self.encoder_cosine >= self.threshold)
        n_a, n_b = len(self.nearest_a.latent), len(self.nearest_b.latent)
        return {
            "matching": self.matching,
            "threshold": self.threshold,
            "d_sae_a": n_a,
            "d_sae_b": n_b,
            "n_pairs": len(self.pairs.a),
            "mean_cosine": _mean(self.pairs.cosine),
            "median_cosine": _median(self.pairs.cosine),
            "mean_encoder_cosine": _mean(self.encoder_cosine),
            "median_encoder_cosine": _median(self.encoder_cosine),
            "frac_twins_a": float(self.has_twin_a().mean()),
            "frac_twins_b": float(self.has_twin_b().mean()),
            "frac_twins_a_encoder_too": float(both.sum()) / n_a,
            "mean_nearest_cosine_a": _mean(self.nearest_a.cosine),
            "mean_nearest_cosine_b": _mean(self.nearest_b.cosine),
            "chance_mean_cosine": self.chance.mean_cosine,
            "chance_median_cosine": self.chance.median_cosine,
            "chance_frac_twins_a": self.chance.frac_twins_a,
            "chance_frac_twins_b": self.chance.frac_twins_b,
            **self._frac_twins("a", self.has_twin_a(), self.rate_a),
            **self._frac_twins("b", self.has_twin_b(), self.rate_b),
        }

    def _frac_twins(self, name: str, has_twin: np.ndarray, rate: np.ndarray | None) -> dict[str, float]:
        """Return the share of twins among latents that fire at all, and weighted by how often they do."""
        if rate is None:
            return {}
        alive = rate > 0
        return {
            f"frac_twins_{name}_alive": float(has_twin[alive].mean()) if alive.any() else float("nan"),
            f"frac_twins_{name}_by_rate": frac_weighted(has_twin, rate),
        }


def match_latents(
    a: Sae,
    b: Sae,
    *,
    threshold: float = TWIN_COSINE,
    seed: int = 0,
    max_hungarian: int = MAX_HUNGARIAN,
) -> SaeComparison:
    """Match the latents of two SAEs by their decoder rows.

    Args:
        a, b: SAEs of one place in one model; the widths may differ. Cosines of different places mean nothing.
        threshold: Cosine from which a partner counts as a twin; a copy's cosines are one only up to rounding.
        seed: Of the random directions.
        max_hungarian: Latents, of the larger SAE, up to which the assignment is solved.

    Raises:
        ShapeError: They read activations of different width.
        MemoryShortError: The assignment's table, 8 bytes a pair of latents, does not fit.
    """
    _check_widths(a, b)
    matching = "hungarian" if max(a.d_sae, b.d_sae) <= max_hungarian else "mutual-nearest"
    rows_a, rows_b = unit_rows(a.W_dec), unit_rows(b.W_dec)
    pairs, nearest_a, nearest_b = _match(rows_a, rows_b, matching)
    columns_a, columns_b = unit_rows(a.W_enc.T[pairs.a]), unit_rows(b.W_enc.T[pairs.b])
    return SaeComparison(
        matching=matching,
        threshold=threshold,
        pairs=pairs,
        encoder_cosine=(columns_a * columns_b).sum(dim=1).numpy(),
        nearest_a=nearest_a,
        nearest_b=nearest_b,
        chance=_chance(rows_a, b.d_sae, matching, threshold, seed),
    )


def frac_weighted(has_twin: Bool[np.ndarray, " d_sae"], rate: Float[np.ndarray, " d_sae"]) -> float:
    """Return the share of firings that come from latents with a twin: sum rate * twin / sum rate.

    NaN where nothing fires.

    Example:
        >>> frac_weighted(np.array([True, False]), np.array([0.75, 0.25]))
        0.75
    """
    total = float(rate.sum(dtype=np.float64))
    return float(rate[has_twin].sum(dtype=np.float64)) / total if total > 0 else float("nan")


def unit_rows(rows: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_in"]:
    """Return rows of length one on the host; a row of zeros stays zero, with cosine 0 to everything."""
    rows = rows.detach().float().cpu()
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def nearest_latents(a: Sae, b: Sae, advance: Advance = no_advance) -> tuple[Nearest, Nearest]:
    """Return for every latent of A the nearest of B by decoder row, and for every latent of B the nearest of A.

    Args:
        a, b: The SAEs.
        advance: Called with the number of latents of A that are done.

    Raises:
        ShapeError: They read activations of different width.
    """
    _check_widths(a, b)
    _, nearest_a, nearest_b = _match(unit_rows(a.W_dec), unit_rows(b.W_dec), "mutual-nearest", advance)
    return nearest_a, nearest_b


def _check_widths(a: Sae, b: Sae) -> None:
    """Refuse SAEs of different places."""
    if (a.d_in, a.d_out) != (b.d_in, b.d_out):
        wide = [f"{s.d_in}" if s.d_in == s.d_out else f"{s.d_in} to {s.d_out}" for s in (a, b)]
        raise ShapeError(
            "the two SAEs read activations of different width", got=f"d_in {' and '.join(wide)}", expected="the same"
        )


def cosine_blocks(
    a: Float[Tensor, "d_sae_a d_in"], b: Float[Tensor, "d_sae_b d_in"]
) -> Iterator[tuple[slice, Float[Tensor, "row d_sae_b"]]]:
    """Yield the cosines of a few unit rows of A with all of B at a time, and which rows they are."""
    step = max(1, BLOCK_BYTES // (4 * len(b)))
    for start in range(0, len(a), step):
        part = slice(start, min(start + step, len(a)))
        yield part, a[part] @ b.T


def _match(a: Tensor, b: Tensor, matching: str, advance: Advance = no_advance) -> tuple[Pairs, Nearest, Nearest]:
    """Return the matching and, from the same pass over the cosines, everyone's nearest."""
    cost = _cost_table(len(a), len(b)) if matching == "hungarian" else None
    best_a, at_a = torch.empty(len(a)), torch.empty(len(a), dtype=torch.int64)
    best_b, at_b = torch.full((len(b),), -torch.inf), torch.zeros(len(b), dtype=torch.int64)
    for part, cosines in cosine_blocks(a, b):
        best_a[part], at_a[part] = cosines.max(dim=1)
        best, at = cosines.max(dim=0)
        at_b = torch.where(best > best_b, at + part.start, at_b)
        best_b = torch.maximum(best, best_b)
        if cost is not None:
            np.negative(cosines.numpy(), out=cost[part])
        advance(len(cosines))
    nearest_a, nearest_b = Nearest(at_a.numpy(), best_a.numpy()), Nearest(at_b.numpy(), best_b.numpy())
    if cost is None:
        latents = np.flatnonzero(nearest_b.latent[nearest_a.latent] == np.arange(len(a)))
        return Pairs(latents, nearest_a.latent[latents], nearest_a.cosine[latents]), nearest_a, nearest_b
    of_a, of_b = linear_sum_assignment(cost)
    return Pairs(of_a, of_b, (-cost[of_a, of_b]).astype(np.float32)), nearest_a, nearest_b


def _cost_table(n_a: int, n_b: int) -> Float[np.ndarray, "d_sae_a d_sae_b"]:
    """Return room for the costs in float64, which scipy takes without a copy."""
    needed, free = n_a * n_b * 8, psutil.virtual_memory().available
    if needed > free:
        raise MemoryShortError(
            "the memory is too small to match these SAEs",
            got=f"{free / 2**20:,.0f} MiB free",
            expected=f"{needed / 2**20:,.0f} MiB for {n_a:,} times {n_b:,} cosines",
            try_="`max_hungarian`=0, which matches mutual nearest neighbours",
        )
    return np.empty((n_a, n_b))


def _chance(rows_a: Tensor, n_b: int, matching: str, threshold: float, seed: int) -> Chance:
    """Match A with random directions."""
    generator = torch_rng("comparison.null", seed)
    drawn = unit_rows(torch.randn(n_b, rows_a.shape[1], generator=generator))
    pairs, _, _ = _match(rows_a, drawn, matching)
    n_twins = float((pairs.cosine >= threshold).sum())
    return Chance(_mean(pairs.cosine), _median(pairs.cosine), n_twins / len(rows_a), n_twins / n_b)


def _with_twin(latents: np.ndarray, is_twin: np.ndarray, d_sae: int) -> np.ndarray:
    """Spread a property of pairs over all latents; those without a partner lack it."""
    found = np.zeros(d_sae, dtype=bool)
    found[latents] = is_twin
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
