"""Two stores: what is measured on equal rows, what on others, and known answers for both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sae_train.activations.comparison import common_hook_points, compare_stores, linear_cka
from sae_train.activations.store import ActivationStore
from sae_train.errors import HookPointError, ShapeError
from sae_train.run.runs import jsonable
from sae_train.storage import h5

torch.set_num_threads(1)
N, D = 900, 6


def _draw(seed: int, n: int = N, d: int = D) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def compare(make_store):
    """Write two stores with chunks of different sizes and compare them."""

    def run(a: torch.Tensor, b: torch.Tensor, fields_a=None, fields_b=None):
        one = make_store(a, name="a.h5", chunk_rows=16, **(fields_a or {}))
        two = make_store(b, name="b.h5", chunk_rows=50, **(fields_b or {}))
        with ActivationStore(one) as first, ActivationStore(two) as second:
            return compare_stores(first, second, "layers.0")

    return run


# ------------------------------------------------------------------------------ CKA
def test_cka_of_a_rotated_scaled_shifted_copy_is_one():
    x = _draw(0)
    rotation, _ = torch.linalg.qr(_draw(1, D, D))
    assert linear_cka(x, 3 * x @ rotation + 7) == pytest.approx(1, abs=1e-6)  # float32 rotation
    assert linear_cka(x, x * torch.tensor([5.0, 1, 1, 1, 1, 1])) < 0.9  # stretching one axis is no rotation


def test_cka_of_independent_rows_is_near_zero():
    assert linear_cka(_draw(0, 5000), _draw(1, 5000)) < 0.01  # about d / n_rows = 0.0012
    assert linear_cka(_draw(0), _draw(0)[torch.randperm(N, generator=torch.Generator().manual_seed(2))]) < 0.05


def test_cka_is_the_same_from_either_gram_matrix():
    x, y = _draw(0, 40, 30), _draw(1, 40, 30)
    y[:, :10] = x[:, :10]
    narrow = linear_cka(x, y)
    # Zero columns change nothing but the shapes: 60 dimensions of 40 rows take the other way.
    wide = linear_cka(torch.cat([x, torch.zeros(40, 30)], 1), y)
    assert wide == pytest.approx(narrow, rel=1e-9)


def test_cka_of_odd_rows():
    assert math.isnan(linear_cka(torch.ones(5, 2), torch.randn(5, 2)))
    assert math.isnan(linear_cka(torch.ones(1, 2), torch.ones(1, 2)))


# ------------------------------------------------------------------------------ equal rows
def test_a_store_against_itself(compare):
    found = compare(_draw(0), _draw(0))
    assert found.has_same_rows and found.frac_same_rows == 1
    assert (found.mean_shift, found.spread_ratio) == (0, 1)
    assert found.cka == pytest.approx(1)
    assert found.row_change is not None
    assert (found.row_change.mean, found.row_change.frac_unchanged) == (0, 1)
    assert all(d.change == 0 and d.std_ratio == 1 for d in found.changed_dims)


def test_a_known_shift_of_the_mean(compare):
    x = _draw(0)
    shift = torch.tensor([0.0, 3, 0, 0, 4, 0])
    found = compare(x, x + shift)
    # ||shift|| = 5 over the square root of the summed variances, about 6.
    assert found.mean_shift == pytest.approx(5 / float(x.double().var(0, unbiased=False).sum()) ** 0.5, rel=1e-6)
    assert found.spread_ratio == pytest.approx(1, rel=1e-6)
    assert found.cka == pytest.approx(1, rel=1e-6)
    std = x.double().std(0, unbiased=False).numpy()
    assert [d.dimension for d in found.changed_dims[:2]] == [4, 1]
    assert [d.change for d in found.changed_dims[:2]] == pytest.approx([4 / std[4], 3 / std[1]], rel=1e-6)
    assert found.dimension_change == pytest.approx((shift.numpy() / std).tolist(), abs=1e-6)


def test_the_change_of_rows_by_kind(compare):
    x = _draw(0)
    is_entity = np.arange(N) % 10 == 0
    scale = torch.where(torch.from_numpy(is_entity), 1.5, 1.0)  # a name's row grows by half, text stays
    found = compare(x, x * scale[:, None], {"from_entity": is_entity}, {"from_entity": is_entity})
    assert found.row_change is not None
    assert found.row_change.mean_entity == pytest.approx(0.5, rel=1e-5)
    assert found.row_change.mean_text == 0
    assert found.row_change.mean == pytest.approx(0.05, rel=1e-5)
    assert found.row_change.frac_unchanged == pytest.approx(0.9)
    assert found.row_change.percentiles == pytest.approx({"p50": 0, "p90": 0.05, "p99": 0.5, "max": 0.5}, abs=0.06)


def test_the_spread_of_a_dimension(compare):
    x = _draw(0)
    found = compare(x, torch.cat([x[:, :5], 2 * x[:, 5:] + 10], 1))
    assert (found.changed_dims[0].dimension, found.changed_dims[0].std_ratio) == pytest.approx((5, 2), rel=1e-6)


# ------------------------------------------------------------------------------ other rows
@pytest.mark.parametrize("field", ["token_id", "doc_id", "position"])
def test_other_rows_are_said(compare, field):
    values = np.arange(N)
    other = values.copy()
    other[:90] += 1
    found = compare(_draw(0), _draw(0), {field: values}, {field: other})
    assert not found.has_same_rows and found.frac_same_rows == pytest.approx(0.9)
    assert math.isnan(found.cka) and found.row_change is None
    assert found.mean_shift == 0


@pytest.mark.parametrize(("n_a", "n_b"), [(900, 333), (333, 900), (16, 17)])
def test_another_number_of_rows(compare, n_a, n_b):
    a, b = _draw(0, n_a), _draw(1, n_b) + 2
    found = compare(a, b)
    assert (found.n_rows_a, found.n_rows_b, found.has_same_rows) == (n_a, n_b, False)
    assert found.frac_same_rows == pytest.approx(min(n_a, n_b) / max(n_a, n_b))
    total = float(a.double().var(0, unbiased=False).sum())
    assert found.mean_shift == pytest.approx(float((b.double().mean(0) - a.double().mean(0)).norm()) / total**0.5)
    assert found.spread_ratio == pytest.approx((float(b.double().var(0, unbiased=False).sum()) / total) ** 0.5)


# ------------------------------------------------------------------------------ odd rows and refusals
def test_odd_rows_do_not_crash(compare):
    holes = _draw(0)
    holes[5] = math.nan
    holes[6] = 0
    cases = [(torch.ones(20, 2), torch.ones(20, 2)), (torch.zeros(1, 3), torch.ones(1, 3)), (holes, _draw(1))]
    cases.append((torch.full((4, 2), math.nan), torch.ones(4, 2)))
    for a, b in cases:
        found = compare(a, b)
        assert jsonable(found)["hook_point"] == "layers.0"
    whole = compare(holes, _draw(0))
    assert whole.row_change is not None and whole.row_change.n_rows == N - 2
    assert whole.row_change.mean == 0


def test_constant_dimensions_have_no_change(compare):
    x = _draw(0)
    x[:, 2] = 1.0
    y = x.clone()
    y[:, 2] = 2.0
    found = compare(x, y)
    assert math.isnan(found.dimension_change[2])
    assert 2 not in [d.dimension for d in found.changed_dims]


def test_what_does_not_fit_is_refused(compare, make_store):
    with pytest.raises(ShapeError, match=r"\(n_rows, 4\)"):
        compare(_draw(0), _draw(0, N, 4))
    with ActivationStore(make_store(_draw(0), name="a.h5")) as a:
        with pytest.raises(HookPointError, match=r"layers\.3"):
            compare_stores(a, a, "layers.3")
        assert common_hook_points(a, a) == ["layers.0"]
    path = make_store(_draw(0), name="b.h5")
    with h5.open_checked(path, None, 9, mode="r+") as file:
        for group in ("acts", "chunk_checksums"):
            file.move(f"{group}/layers.0", f"{group}/layers.7")
        file.attrs["hook_points"] = '["layers.7"]'
        h5.seal(file)
    with ActivationStore(make_store(_draw(0), name="a.h5")) as a, ActivationStore(path) as b:
        with pytest.raises(HookPointError, match=r"layers\.7"):
            common_hook_points(a, b)
