"""Audit every removal of a ledger again on the newest model: has an earlier one come back?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sae_train.lm.models import LanguageModel
from unlearn.audit import audit
from unlearn.config import AuditConfig
from unlearn.data import first_documents
from unlearn.ledger_entries import Entry, active_removals
from unlearn.policy import AuditPolicy
from unlearn.request import Request

TEXT_CHARS = 1_000_000  # of general text, kept for all audits
COMES_BACK = ("target recall", "true answer ranked first")  # checks that say so when they fail


@dataclass(frozen=True)
class Removal:
    """One removal, then and now.

    Attributes:
        entry: Its entry in the ledger.
        report: Today's audit, on the newest model.
    """

    entry: Entry
    report: dict[str, Any]

    @property
    def came_back(self) -> bool:
        """Tell whether the model answers again: recall or ranking of the targets fails."""
        return any(c["name"] in COMES_BACK and c["status"] == "fail" for c in self.report["checks"])

    def summary(self) -> dict[str, Any]:
        """Return one row: entry, names, verdict then and now, what the model answers."""
        return {
            "entry": self.entry.index,
            "forget": self.report["request"]["forget"],
            "verdict_then": None if self.entry.audit is None else self.entry.audit["verdict"],
            "verdict": self.report["verdict"],
            "recall_after": self.report["forget"]["recall_after"],
            "ranking_after": self.report["forget"]["ranking_after"],
            "came_back": self.came_back,
        }


def reaudit(
    entries: Sequence[Entry],
    before: LanguageModel,
    after: LanguageModel,
    request: Request,
    *,
    config: AuditConfig,
    policy: AuditPolicy,
    advance: Callable[[str], None] = lambda name: None,
) -> Iterator[Removal]:
    """Yield every active removal of a ledger with its audit on the newest model, oldest first.

    Args:
        entries: Of the ledger.
        before: The model before the first removal.
        after: The model after the newest one.
        request: Everything but the names, which are each removal's own. No removed entity counts as known.
        config: How to sample.
        policy: Limits of the verdict.
        advance: Called with the name of each part before it starts.

    Raises:
        EntityError: The labels do not hold a removed entity, or not as known.
    """
    removals = active_removals(entries)
    removed = [name for entry in removals for name in entry.targets]
    documents = list(first_documents(request.documents, TEXT_CHARS))
    for entry in removals:
        own = replace(request, names=entry.targets, removed=removed, documents=documents)
        yield Removal(entry, audit(before, after, own, config=config, policy=policy, advance=advance))
