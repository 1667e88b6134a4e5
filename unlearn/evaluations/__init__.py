"""Evaluations of an audit: one file each, one registry. Each takes the audit's context and returns a plain dict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unlearn.context import AuditContext
from unlearn.evaluations.behaviour import evaluate_behaviour
from unlearn.evaluations.indistinguishability import evaluate_indistinguishability
from unlearn.evaluations.ranking import evaluate_ranking
from unlearn.evaluations.recall import evaluate_recall
from unlearn.evaluations.steer_back import evaluate_steer_back
from unlearn.evaluations.utility import evaluate_utility
from unlearn.evaluations.walk import evaluate_walk

EVALUATIONS: dict[str, Callable[[AuditContext], dict[str, Any]]] = {
    "recall": evaluate_recall,
    "ranking": evaluate_ranking,
    "utility": evaluate_utility,
    "indistinguishability": evaluate_indistinguishability,
    "behaviour": evaluate_behaviour,
    "steer-back": evaluate_steer_back,
    "walk": evaluate_walk,
}
