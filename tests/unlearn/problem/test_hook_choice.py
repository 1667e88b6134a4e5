"""Which hook point a removal takes, where latents were selected and the gate passed, or not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from features.analysis.causal_results import Gate, HookPointGate
from features.config import GateConfig
from sae_train.intervals import NO_INTERVAL, Interval
from unlearn.problem.hook_choice import choose_hook_point, gate_warning

POINTS = ("layers.3", "layers.6", "layers.9", "layers.12")
N = 40


def _gate(sae: str, passing: dict[str, float]) -> Gate:
    """Return a gate that is passed where a share of the recall is given: what all latents take."""

    def at(point: str) -> HookPointGate:
        taken = passing.get(point, 0.0)
        recall = {"residual": np.zeros(N), "latents": np.full(N, 1 - taken), "reconstruction": np.ones(N)}
        return HookPointGate(point, sae, np.ones(N), recall, GateConfig())

    return Gate([at(p) for p in POINTS], [], ["e"] * N, ["p"] * N, N)


@pytest.fixture
def choose(world_sae, world_analysis) -> Callable[..., str]:
    """Return a function that builds four hook points and returns the one chosen.

    The probe grows with the depth, so that the last one has the best mining score.
    """
    first = world_analysis.hook_points[0]

    def chosen(selected: dict[str, float], passing: dict[str, float] | None, have: tuple[str, ...] = POINTS) -> str:
        found = [
            replace(
                first,
                hook_point=point,
                selected={"known": [], "unknown": [1] if point in selected else []},
                score=Interval(selected[point], 0.0, 1.0) if point in selected else NO_INTERVAL,
                probe=Interval(0.5 + depth / 10, 0.0, 1.0),
            )
            for depth, point in enumerate(POINTS)
        ]
        gate = None if passing is None else _gate(first.sae, passing)
        analysis, saes = replace(world_analysis, hook_points=found, gate=gate), []
        for point in have:
            saes.append(copy.copy(world_sae))
            saes[-1].hook_point = point
        sae, at = choose_hook_point(saes, analysis, None)
        assert sae.hook_point == at.hook_point
        assert (gate_warning(analysis, at) is None) == (passing is not None and at.hook_point in passing)
        return at.hook_point

    return chosen


@pytest.mark.parametrize(
    ("selected", "passing", "expected"),
    [
        ({}, None, "layers.12"),
        ({}, {}, "layers.12"),
        ({}, {"layers.6": 0.6}, "layers.6"),
        ({}, {"layers.3": 0.7, "layers.6": 0.9, "layers.9": 0.6}, "layers.6"),
        ({"layers.9": 0.8}, {"layers.6": 0.9}, "layers.9"),
        ({"layers.3": 0.7, "layers.9": 0.8}, {"layers.6": 0.9, "layers.3": 0.6}, "layers.3"),
        ({"layers.3": 0.7, "layers.9": 0.8}, {}, "layers.9"),
    ],
)
def test_selected_latents_then_the_gate_then_the_score(selected, passing, expected, choose):
    assert choose(selected, passing) == expected


def test_the_best_gate_is_that_of_the_saes_at_hand(choose):
    assert choose({}, {"layers.3": 0.7, "layers.6": 0.9}, ("layers.3", "layers.12")) == "layers.3"
