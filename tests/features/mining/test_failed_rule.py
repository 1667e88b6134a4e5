"""Which rule keeps a list of latents empty: each made the only one that fails."""

from __future__ import annotations

import numpy as np
import pytest

from features.config import SelectionRule
from features.mining.failed_rule import failed_rule

RULE = SelectionRule(min_separation=0.1, max_q=0.05, max_general_rate=0.02, max_null_p=0.05)
MAXMIN, Q, ALLOWED = np.array([0.35, 0.3, 0.02]), np.array([0.01, 0.2, 0.001]), np.array([True, True, True])


@pytest.mark.parametrize(
    ("change", "null_p", "said"),
    [
        ({}, 0.2, "its p against shuffled labels is 0.2, above 0.05 (`max_null_p`)"),
        ({"maxmin": MAXMIN / 10}, 0.01, "no latent separates by 0.1 or more (`min_separation`): the best by 0.035"),
        (
            {"q": np.array([0.12, 0.2, 0.001])},
            0.01,
            "2 latents separate by 0.1 or more (`min_separation`), but the smallest q among them is 0.12, "
            "above 0.05 (`max_q`)",
        ),
        (
            {"allowed": np.array([False, True, True])},
            0.01,
            "1 latent would pass, but it fires on more than 2.0% of running text (`max_general_rate`)",
        ),
    ],
)
def test_the_rule_that_fails_is_named_with_its_number(change, null_p, said):
    given = {"maxmin": MAXMIN, "q": Q, "allowed": ALLOWED, **change}
    assert failed_rule(**given, null_p=null_p, rule=RULE) == said
