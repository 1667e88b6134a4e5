"""A figure with its interval: the keys it has in files, and back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from sae_train.intervals import NO_INTERVAL, Interval, flat, read_interval
from sae_train.lm.hook_names import spread_blocks
from sae_train.quality.bootstrap import central_range
from sae_train.run.runs import jsonable


@dataclass(frozen=True)
class _Inner:
    n: int


@dataclass(frozen=True)
class _Quality:
    fvu: Interval
    n_tokens: int
    density: _Inner


def test_a_dataclass_is_flattened_in_the_order_of_its_fields():
    found = flat(_Quality(Interval(0.25, 0.2, 0.3), 7, _Inner(2)))
    assert list(found.items()) == [
        ("fvu", 0.25), ("fvu_low", 0.2), ("fvu_high", 0.3), ("n_tokens", 7), ("density", {"n": 2})
    ]  # fmt: skip


@pytest.mark.parametrize("figure", ["", "auroc"])
@pytest.mark.parametrize("one", [Interval(0.5, 0.25, 0.75), Interval(0.5, math.nan, math.nan), NO_INTERVAL])
def test_what_is_written_as_json_is_read_back(one, figure):
    text = json.dumps(jsonable(flat({"probe": one, "score": Interval(1.0, 0.0, 2.0)}, figure=figure)))
    back = read_interval(json.loads(text), "probe", figure=figure)
    np.testing.assert_equal([back.value, back.low, back.high], [one.value, one.low, one.high])


def test_a_figure_may_lack_its_ends_but_not_itself():
    found = read_interval({"kl": 1}, "kl")
    assert found.value == 1.0 and math.isnan(found.low) and math.isnan(found.high)
    with pytest.raises(KeyError, match="kl"):
        read_interval({"kl_low": 0.0, "kl_high": 1.0}, "kl")


def test_the_central_range_is_numpys_percentiles_to_the_last_bit():
    for seed in range(50):
        draws = np.random.default_rng(seed).random(1000)
        assert central_range(draws) == tuple(np.percentile(draws, [2.5, 97.5]))
    assert central_range([*map(float, range(41)), math.nan]) == (1.0, 39.0)


@pytest.mark.parametrize("n_blocks", [1, 2, 12, 30, 48])
@pytest.mark.parametrize("most", [0, 1, 2, 5, 23, 60])
def test_blocks_are_spread_as_numpys_linspace_is(n_blocks, most):
    last = n_blocks - 1
    for start, end in ((0, last), (last, 0)):
        expected = sorted({int(i) for i in np.linspace(start, end, min(most, n_blocks)).round()})
        assert spread_blocks(start, end, most) == [f"layers.{i}" for i in expected]
