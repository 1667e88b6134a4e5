"""Evaluations of an audit: one file each, one registry.

Each takes the audit's context and returns `Findings` with the parts it measured; None where nothing can be measured.
"""

from __future__ import annotations

from collections.abc import Callable

from unlearn.audit_report import Findings
from unlearn.context import AuditContext
from unlearn.evaluations.behaviour import evaluate_behaviour
from unlearn.evaluations.benchmarks import evaluate_benchmarks
from unlearn.evaluations.indistinguishability import evaluate_indistinguishability
from unlearn.evaluations.logit_lens import evaluate_logit_lens
from unlearn.evaluations.neighbours import evaluate_neighbours
from unlearn.evaluations.ranking import evaluate_ranking
from unlearn.evaluations.recall import evaluate_recall
from unlearn.evaluations.sae_fit import evaluate_sae_fit
from unlearn.evaluations.utility import evaluate_utility
from unlearn.evaluations.walk import evaluate_walk

EVALUATIONS: dict[str, Callable[[AuditContext], Findings | None]] = {
    "recall": evaluate_recall,
    "ranking": evaluate_ranking,
    "utility": evaluate_utility,
    "behaviour": evaluate_behaviour,
    "neighbours": evaluate_neighbours,
    "indistinguishability": evaluate_indistinguishability,
    "logit-lens": evaluate_logit_lens,
    "sae-fit": evaluate_sae_fit,
    "walk": evaluate_walk,
    "lm-eval": evaluate_benchmarks,
}
