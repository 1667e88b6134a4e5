"""Audit every removal of a ledger again on the newest model: has an earlier one come back?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.analysis.store import LatentAnalysis
from sae_train.errors import ConfigError
from sae_train.lm.models import LanguageModel
from sae_train.run.claims import clear_output
from sae_train.run.outputs import claimed
from sae_train.run.runs import write_json
from sae_train.text.tokens import Document
from unlearn.auditing.audit_figures import Figure
from unlearn.auditing.audit_report import AuditReport
from unlearn.problem.data import first_documents, resolve_targets
from unlearn.removals.ledger import Ledger
from unlearn.removals.ledger_entries import Entry
from unlearn.removals.removal_audit import Model, audit, loaded
from unlearn.removals.sources import documents_of, sources_of
from unlearn.removals.unlearned import Unlearned

TEXT_CHARS = 1_000_000  # of general text, kept for all audits
COMES_BACK = ("target recall", "true answer ranked first")  # checks that say so when they fail


@dataclass(frozen=True)
class Removal:
    """One removal, as audited then and on the newest model.

    Attributes:
        entry: Its entry in the ledger.
        report: Today's audit, on the newest model.
    """

    entry: Entry
    report: AuditReport

    @property
    def came_back(self) -> bool:
        """Tell whether the model answers again: recall or ranking of the targets fails."""
        return any(c.name in COMES_BACK and c.status == "fail" for c in self.report.checks)

    def summary(self) -> dict[str, Any]:
        """Return one row: entry, names, verdict then and now, what the model answers."""
        return {
            "entry": self.entry.index,
            "forget": list(self.report.request.forget),
            "verdict_then": None if self.entry.audit is None else self.entry.audit.verdict,
            "verdict": self.report.verdict,
            "recall_after": _after(self.report.forget.recall),
            "ranking_after": _after(self.report.forget.ranking),
            "came_back": self.came_back,
        }


def _after(figure: Figure | None) -> float | None:
    """Return what the newest model answers; None where that was not evaluated."""
    return None if figure is None else figure.after.value


def audit_ledger(
    ledger: Ledger | str | Path,
    lm: LanguageModel | str | Path,
    latents: LatentAnalysis | str | Path | None = None,
    *,
    unlearned: Model | None = None,
    text: str | Path | Iterable[str | Document] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    **options: Any,
) -> list[Removal]:
    """Audit every active removal of a ledger again on its newest model: has an earlier one come back?

    Args:
        ledger: The ledger.
        lm: The model before the first removal.
        latents: As for `audit`.
        unlearned: The model after the newest removal; by default the ledger knows.
        text: General text, as for `audit`.
        out: Folder in which the audit of entry N lies as `entry-N`.
        overwrite: Replace `out`.
        device: Where the tensors live, where a model is loaded.
        options: Whatever else `audit` takes.

    Returns:
        One result a removal, oldest first.

    Raises:
        InputError: Something that goes in cannot be used, or there is no active removal.
    """
    chain = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    folder = None if out is None else Path(out)
    with claimed(folder, overwrite=overwrite):
        removals, newest = chain.removals(), unlearned if unlearned is not None else chain.newest_model()
        if not removals or newest is None:
            raise ConfigError("nothing to audit", got=f"no active removal in {chain.path}", expected="at least one")
        known = sources_of(latents, **{part: options.pop(part, None) for part in ("sae", "labels", "templates")})
        for entry in removals:
            resolve_targets(known.labels, entry.targets)  # refuses a wrong name before a model is loaded
        documents = list(first_documents(documents_of(text), TEXT_CHARS))
        before = loaded(lm, device)
        after = newest if isinstance(newest, Unlearned) else loaded(newest, device)
        if folder is not None:
            clear_output(folder, overwrite=overwrite)
        shared = {"sae": known.load_saes(before.device), "labels": known.labels, "templates": known.templates}
        found = []
        for entry in removals:
            place = None if folder is None else folder / f"entry-{entry.index}"
            report = audit(
                before, after, known.analysis, forget=entry.targets, text=documents, out=place, **shared, **options
            )
            found.append(Removal(entry, report))
        if folder is not None:
            write_json(folder / "ledger.json", summary_of(found, chain.path, folder))
    return found


def summary_of(removals: Sequence[Removal], ledger: Path, folder: Path) -> dict[str, Any]:
    """Return what `ledger.json` says: one row a removal, and how many came back."""
    rows = [{**r.summary(), "page": str(folder / f"entry-{r.entry.index}" / "audit.html")} for r in removals]
    unlearned = removals[0].report.request.unlearned
    came_back = sum(r.came_back for r in removals)
    return {"ledger": str(ledger), "unlearned": unlearned, "came_back": came_back, "removals": rows}
