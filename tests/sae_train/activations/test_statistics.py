"""Statistics of a hook point: known answers, the same answer for any blocks, nothing that crashes on odd rows."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import scipy.stats
import torch

from sae_train.activations.measures.moments import MomentSums
from sae_train.activations.measures.row_statistics import (
    MIN_TOKEN_ROWS,
    HookPointAccumulator,
    HookPointStats,
    TokenNorm,
    hook_point_stats,
)
from sae_train.activations.measures.sample_geometry import RowSample, duplicates, spectrum
from sae_train.activations.store import ActivationStore
from sae_train.run.runs import jsonable

torch.set_num_threads(1)


def _draw(n_rows: int, d_in: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_rows, d_in, generator=torch.Generator().manual_seed(seed))


def _stats(rows: torch.Tensor, *, block: int = 10**9, token_id=None, position=None) -> HookPointStats:
    n = len(rows)
    tokens = np.zeros(n, np.int32) if token_id is None else np.asarray(token_id)
    places = np.zeros(n, np.int32) if position is None else np.asarray(position)
    sums = HookPointAccumulator(rows.shape[1], n)
    for start in range(0, n, block):
        part = slice(start, start + block)
        sums.update(rows[part], tokens[part], places[part])
    return sums.result()


# ------------------------------------------------------------------------------ moments
def test_moments_are_those_of_known_distributions():
    # Excess kurtosis: Gaussian 0, uniform -1.2, Laplace 3, a fair coin -2 exactly.
    draw = np.random.default_rng(0)
    columns = [draw.normal(5, 2, 200_000), draw.uniform(-1, 3, 200_000), draw.laplace(0, 1, 200_000)]
    rows = torch.from_numpy(np.stack([*columns, np.arange(200_000) % 2], 1)).float()
    sums = MomentSums(4)
    for block in rows.split(30_000):
        sums.update(block)
    found = sums.result()
    assert found.kurtosis.numpy() == pytest.approx([0, -1.2, 3, -2], abs=0.12)  # 5 sigma of 200,000 Laplace draws
    assert found.kurtosis.numpy() == pytest.approx(scipy.stats.kurtosis(rows.double().numpy()), rel=1e-9)
    assert found.mean.numpy() == pytest.approx(rows.double().mean(0).numpy(), rel=1e-12)
    assert found.variance.numpy() == pytest.approx(rows.double().var(0, unbiased=False).numpy(), rel=1e-12)


def test_a_large_mean_costs_no_digits():
    """A spread of 1 on a mean of 1e6: raw fourth powers of 1e24 would leave nothing of a kurtosis in float64."""
    x = _draw(5000, 3).double()
    sums, shifted = MomentSums(3), MomentSums(3)
    for block in x.split(700):
        sums.update(block)
        shifted.update(block + 1e6)
    assert shifted.result().kurtosis.numpy() == pytest.approx(sums.result().kurtosis.numpy(), abs=1e-6)
    assert shifted.result().variance.numpy() == pytest.approx(sums.result().variance.numpy(), rel=1e-8)


def test_a_first_block_unlike_the_rest_costs_no_digits():
    x = torch.cat([_draw(10, 2) * 1e-3 + 1e4, _draw(4000, 2)])
    sums = MomentSums(2)
    for block in (x[:10], x[10:]):
        sums.update(block)
    assert sums.result().kurtosis.numpy() == pytest.approx(scipy.stats.kurtosis(x.double().numpy()), rel=1e-9)


# ------------------------------------------------------------------------------ one pass
@pytest.mark.parametrize("block", [1, 7, 250, 399, 400])
def test_streaming_equals_one_shot(block):
    rows = _draw(400, 6) * torch.tensor([1.0, 1, 1, 1, 1, 30]) + torch.arange(6.0)
    rows[[17, 300]] = torch.tensor([math.nan, math.inf])[:, None]
    tokens, places = np.arange(400) % 13, np.arange(400) % 37
    whole, parts = (jsonable(_stats(rows, block=b, token_id=tokens, position=places)) for b in (10**9, block))
    assert _flat(parts) == pytest.approx(_flat(whole), rel=1e-9, abs=1e-12)
    assert whole["n_nonfinite_rows"] == 2


def _flat(value) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in _flat(v)]
    return [n for v in value for n in _flat(v)] if isinstance(value, list) else [value]


def test_norms_and_their_histogram():
    # Norms 1, 2, …, 101 on one axis: the median is 51, the 25th percentile 26, the maximum 101.
    found = _stats(torch.arange(1.0, 102.0)[:, None] * torch.tensor([[0.6, -0.8]]))
    assert found.norm_percentiles == pytest.approx({"p01": 2, "p25": 26, "p50": 51, "p75": 76, "p99": 100, "max": 101})
    assert found.mean_norm == pytest.approx(51)
    assert found.largest == pytest.approx(80.8)
    assert sum(found.norm_histogram.counts) == 101
    assert found.norm_histogram.edges[0] == pytest.approx(1) and found.norm_histogram.edges[-1] == pytest.approx(101)


def test_a_planted_massive_dimension_is_found():
    rows = _draw(1500, 64)
    plain = _stats(rows)
    assert plain.massive_dims[0].frac_squares < 2 / 64  # all 64 alike
    rows[:, 7] = 50.0
    # The others have mean square 1 each: the share is 2500 / (2500 + 63), the ratio of root mean squares 50.
    first, second = _stats(rows).massive_dims[:2]
    assert (first.dimension, first.frac_squares, first.times_median) == pytest.approx((7, 2500 / 2563, 50), rel=0.03)
    assert second.frac_squares < 0.001
    assert _stats(rows).frac_mean == pytest.approx(2500 / 2563, rel=0.01)  # a constant is all mean


def test_the_heaviest_tail_is_named():
    rows = _draw(2000, 8)
    rows[:, 3] *= (torch.arange(2000) % 100 == 0).float() * 20 + 1
    found = _stats(rows)
    assert found.largest_kurtosis is not None and found.largest_kurtosis.dimension == 3
    assert found.largest_kurtosis.kurtosis == pytest.approx(
        float(scipy.stats.kurtosis(rows[:, 3].double().numpy())), rel=1e-9
    )
    assert found.mean_kurtosis == pytest.approx(np.mean(found.dimensions.kurtosis))


# ------------------------------------------------------------------------------ spectrum
def test_effective_rank_counts_equal_directions():
    # Five orthogonal directions of equal strength in 40 dimensions; 4,000 rows leave eigenvalues equal to about 3 %.
    basis, _ = torch.linalg.qr(_draw(40, 5, seed=1))
    low = spectrum(_draw(4000, 5) @ basis.T + 100)
    assert low.effective_rank == pytest.approx(5, rel=0.01)
    assert low.frac_top1 == pytest.approx(0.2, abs=0.02)
    assert low.frac_top10 == pytest.approx(1)
    assert sum(low.frac_components) == pytest.approx(1)
    assert low.frac_components == sorted(low.frac_components, reverse=True)
    full = spectrum(_draw(4000, 40))
    assert full.effective_rank > 39


def test_effective_rank_of_unequal_directions():
    # Variances 3 and 1: p = 3/4, 1/4, exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 1.7548.
    rows = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) * torch.tensor([3**0.5, 1.0])
    assert spectrum(rows).effective_rank == pytest.approx(1.7548, abs=1e-4)


def test_few_rows_in_many_dimensions():
    rows = _draw(12, 300)
    wide = spectrum(rows)
    assert len(wide.frac_components) == 12 and wide.effective_rank < 11.01  # the mean takes one
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(0)).square()
    assert wide.frac_components == pytest.approx((values / values.sum()).tolist(), abs=1e-12)


# ------------------------------------------------------------------------------ duplicates
def test_planted_duplicates_are_found_and_none_without():
    rows = _draw(600, 32)
    assert (duplicates(rows).frac_exact, duplicates(rows).frac_near) == (0, 0)
    rows[1], rows[2] = rows[0], rows[0]  # three equal rows
    rows[11] = rows[10] * 1.005  # same direction, norm within 1 %
    rows[21] = rows[20] * 1.05  # same direction, another norm
    rows[31] = -rows[30]
    found = duplicates(rows)
    assert (found.n_rows, found.frac_exact, found.frac_near) == pytest.approx((600, 3 / 600, 5 / 600))


def test_duplicates_across_the_blocks_of_the_comparison():
    rows = _draw(2500, 16)
    rows[2400] = rows[3]
    assert duplicates(rows).frac_exact == duplicates(rows).frac_near == pytest.approx(2 / 2500)


def test_a_sample_is_bounded_even_and_blind_to_blocks():
    stream = torch.arange(50_000.0)[:, None]
    found = []
    for block in (50_000, 777):
        sample = RowSample(50_000, 1, size=2000, seed=0)
        for part in stream.split(block):
            sample.update(part)
        found.append(sample.rows()[:, 0])
    assert torch.equal(*found) and len(found[0].unique()) == 2000
    assert float(found[0].mean()) == pytest.approx(25_000, rel=0.05)  # 7 sigma of the mean of 2,000 uniform draws
    half = RowSample(50_000, 1, size=2000, seed=0)
    half.update(stream[:25_000])
    assert torch.equal(half.rows()[:, 0], found[0][found[0] < 25_000])


# ------------------------------------------------------------------------------ tokens and positions
def test_top_tokens_are_frequent_ones():
    norms = torch.tensor([1.0] * 10 + [4.0, 6.0] * 5 + [100.0] * (MIN_TOKEN_ROWS - 1) + [2.0] * 5)
    tokens = [3] * 10 + [70_000] * 10 + [8] * (MIN_TOKEN_ROWS - 1) + [0] * 5
    found = _stats(norms[:, None], token_id=tokens, block=6).top_tokens
    assert found == [TokenNorm(70_000, 10, 5.0), TokenNorm(0, 5, 2.0), TokenNorm(3, 10, 1.0)]


def test_drift_by_position():
    # Positions 0 … 9, two rows each: 0 and 1 point along x with norm 5, the rest along y with norm 1. The mean of all
    # is (4 * 5, 16 * 1) / 20 = (1, 0.8), at a cosine of 1 / 1.2806 to x and 0.8 / 1.2806 to y.
    position = np.repeat(np.arange(10), 2)
    rows = torch.where(torch.from_numpy(position < 2)[:, None], torch.tensor([5.0, 0]), torch.tensor([0.0, 1]))
    found = _stats(rows, position=position, block=3).positions
    assert [(p.first, p.last, p.n_rows, p.mean_norm) for p in found] == [
        (0, 0, 2, 5),
        (1, 1, 2, 5),
        (2, 3, 4, 1),
        (4, 7, 8, 1),
        (8, 15, 4, 1),
    ]
    assert [p.cosine for p in found] == pytest.approx([1 / 1.64**0.5] * 2 + [0.8 / 1.64**0.5] * 3)


def test_impossible_tokens_and_positions_are_left_out():
    found = _stats(torch.ones(20, 2), token_id=[-1] * 10 + [2**30] * 10, position=[-5] * 20)
    assert (found.top_tokens, found.positions, found.n_nonfinite_rows) == ([], [], 0)


# ------------------------------------------------------------------------------ odd rows
@pytest.mark.parametrize(
    "rows",
    [
        torch.full((50, 3), 2.7),
        torch.zeros(20, 3),
        torch.randn(1, 4),
        torch.full((5, 4), math.nan),
        torch.randn(50, 1),
        torch.empty(0, 3),
        torch.full((4, 2), 3e38),
    ],
    ids=["constant", "zeros", "one-row", "all-nan", "one-dimension", "no-rows", "huge"],
)
def test_odd_rows_do_not_crash(rows):
    found = _stats(rows)
    assert jsonable(asdict(found))["d_in"] == rows.shape[1]
    assert found.n_nonfinite_rows == int((~torch.isfinite(rows)).any(1).sum())


def test_a_constant_has_no_kurtosis_and_no_rank():
    found = _stats(torch.full((1000, 3), 0.1), block=7)
    assert found.variance == 0 and found.largest_kurtosis is None
    assert math.isnan(found.mean_kurtosis) and math.isnan(found.spectrum.effective_rank)
    assert found.duplicates.frac_exact == 1 and found.frac_mean == 1


def test_a_store_is_read_in_one_pass(make_store, monkeypatch):
    rows = _draw(500, 5)
    with ActivationStore(make_store(rows, token_id=np.arange(500) % 7, position=np.arange(500) % 40)) as store:
        read = []
        real = store.rows
        monkeypatch.setattr(store, "rows", lambda name, part: read.append(part) or real(name, part))
        found = hook_point_stats(store, "layers.0")
    assert sum(part.stop - part.start for part in read) == 500
    expected = _stats(rows, token_id=np.arange(500) % 7, position=np.arange(500) % 40)
    assert _flat(jsonable(found)) == pytest.approx(_flat(jsonable(expected)), rel=1e-9, abs=1e-12)
