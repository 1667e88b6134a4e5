"""Evaluations of an audit: one file each, one registry.

Each takes the audit's context and returns `Findings` with the parts it measured; None where nothing can be measured.
"""

from __future__ import annotations

from collections.abc import Callable

from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext
from unlearn.auditing.evaluations.behaviour import evaluate_behaviour
from unlearn.auditing.evaluations.benchmarks import evaluate_benchmarks
from unlearn.auditing.evaluations.crosscoder import evaluate_crosscoder
from unlearn.auditing.evaluations.detection import evaluate_detection
from unlearn.auditing.evaluations.indistinguishability import evaluate_indistinguishability
from unlearn.auditing.evaluations.logit_lens import evaluate_logit_lens
from unlearn.auditing.evaluations.matched_null import evaluate_matched_null
from unlearn.auditing.evaluations.neighbours import evaluate_neighbours
from unlearn.auditing.evaluations.quartiles import evaluate_quartiles
from unlearn.auditing.evaluations.ranking import evaluate_ranking
from unlearn.auditing.evaluations.recall import evaluate_recall
from unlearn.auditing.evaluations.sae_fit import evaluate_sae_fit
from unlearn.auditing.evaluations.utility import evaluate_utility
from unlearn.auditing.evaluations.walk import evaluate_walk

EVALUATIONS: dict[str, Callable[[AuditContext], Findings | None]] = {
    "recall": evaluate_recall,
    "ranking": evaluate_ranking,
    "utility": evaluate_utility,
    "behaviour": evaluate_behaviour,
    "neighbours": evaluate_neighbours,
    "indistinguishability": evaluate_indistinguishability,
    "matched-null": evaluate_matched_null,
    "logit-lens": evaluate_logit_lens,
    "sae-fit": evaluate_sae_fit,
    "crosscoder": evaluate_crosscoder,
    "walk": evaluate_walk,
    "quartiles": evaluate_quartiles,
    "detection": evaluate_detection,
    "lm-eval": evaluate_benchmarks,
}
