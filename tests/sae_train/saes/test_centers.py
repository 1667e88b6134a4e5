"""Where `b_dec` starts: the geometric median against a general minimiser, and in a trained SAE."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize

from sae_train.activations.store import ActivationStore
from sae_train.config import B_DEC_INITS, SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.saes.centers import CENTERS, geometric_median
from sae_train.saes.interop import WEIGHTS
from sae_train.training.jobs import train_one


def _rows(n: int = 300, d: int = 5, seed: int = 0) -> torch.Tensor:
    """Skewed rows: the median is far from the mean."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()


def _distances(center: torch.Tensor, rows: torch.Tensor) -> float:
    return float((rows - center).norm(dim=1).sum())


@pytest.mark.parametrize("d", [1, 2, 5, 40])
def test_the_geometric_median_is_the_minimum(d):
    rows = _rows(301, d)
    found = minimize(lambda y: _distances(torch.from_numpy(y), rows), rows.mean(0).numpy(), method="BFGS")
    median = geometric_median(rows)
    assert _distances(median, rows) <= found.fun * (1 + 1e-9)
    torch.testing.assert_close(median, torch.from_numpy(found.x), rtol=0, atol=5e-3 if d == 1 else 1e-4)
    assert _distances(rows.mean(0), rows) > 1.001 * found.fun
    torch.testing.assert_close(geometric_median(rows.float()).double(), median, rtol=1e-3, atol=1e-4)


def test_a_row_at_the_start_neither_holds_it_nor_is_lost():
    """The mean of these rows is one of them: a plain Weiszfeld step divides by its zero distance."""
    rows = torch.tensor([[0.0, 0.0], [6.0, 0.0], [5.0, 1.0], [5.0, -1.0], [-16.0, 0.0]], dtype=torch.float64)
    assert rows.mean(0).tolist() == [0, 0]
    found = minimize(lambda y: _distances(torch.from_numpy(y), rows), [1.0, 0.5], method="Nelder-Mead")
    assert _distances(geometric_median(rows), rows) == pytest.approx(found.fun, rel=1e-6)
    cross = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert geometric_median(cross).tolist() == [0, 0]  # the row is the median


def test_huge_rows_hardly_move_the_median():
    rows = _rows()
    worse = torch.cat([rows, torch.full((30, 5), 1e6, dtype=torch.float64)])  # a tenth of the rows
    moved = {name: float((center(worse) - center(rows)).norm()) for name, center in CENTERS.items()}
    assert moved["geometric-median"] < 2 < 1e5 < moved["mean"]


def test_rows_that_are_all_the_same_are_their_own_median():
    assert geometric_median(torch.full((9, 3), 7.0)).tolist() == [7, 7, 7]


@pytest.mark.parametrize("name", B_DEC_INITS)
def test_the_bias_of_an_untrained_sae_is_the_center_asked_for(make_store, tmp_path, name):
    rows = _rows(400, 32).float()
    config = SaeTrainConfig("layers.0", b_dec_init=name, k=2, d_sae=40, tokens=1, lr=1e-12, batch_size=64)
    with ActivationStore(make_store(rows)) as store:
        train_one(store, config, tmp_path / "sae", device="cpu")
        used = store.rows("layers.0", slice(0, 400))[torch.from_numpy(~store.holdout_rows(0.05, 0))]
    b_dec = load_file(tmp_path / "sae" / WEIGHTS)["b_dec"]
    torch.testing.assert_close(b_dec, CENTERS[name](used), rtol=1e-4, atol=1e-4)  # in the model's own scale


def test_other_centers_are_refused():
    assert tuple(CENTERS) == B_DEC_INITS
    with pytest.raises(ConfigError, match="b_dec_init"):
        SaeTrainConfig("layers.0", b_dec_init="median")
