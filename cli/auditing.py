"""What `wb audit` does between its options and its result: one request, or every removal of a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cli.inputs import load_model
from cli.render import emit
from sae_train.errors import ConfigError
from sae_train.lm.models import LanguageModel
from sae_train.progress import shown
from sae_train.runs import clear_output, write_json
from unlearn.audit import audit
from unlearn.audit_json import report_to_json
from unlearn.compare import Other
from unlearn.config import AuditConfig
from unlearn.data import resolve_targets
from unlearn.ledger import newest_model, read_ledger
from unlearn.policy import AuditPolicy
from unlearn.reaudit import reaudit
from unlearn.record import hook_point_of, method_of, removed_from, retained_of
from unlearn.request import Request

COLUMNS = ("entry", "forget", "verdict then", "now", "recall", "ranked first", "came back")


@dataclass(frozen=True)
class Job:
    """What is to be audited, and where the result goes."""

    model: str
    unlearned: str | None
    request: Request
    config: AuditConfig
    policy: AuditPolicy
    out: Path
    device: str
    overwrite: bool
    as_json: bool

    def about(self, unlearned: str) -> Request:
        """Return the request with what a model folder says about itself."""
        return replace(
            self.request,
            hook_point=self.request.hook_point or hook_point_of(unlearned),
            trained_on=retained_of(unlearned),
            removed=removed_from(unlearned),
            facts={**self.request.facts, "unlearned": unlearned, "method": method_of(unlearned)},
        )

    def models(self, unlearned: str) -> tuple[LanguageModel, LanguageModel]:
        """Load the model before and the model after."""
        return load_model(self.model, device=self.device), load_model(unlearned, device=self.device)


def audit_one(job: Job, names: Sequence[str], compare: Sequence[str] = ()) -> None:
    """Audit one request, other models beside it; leaves `audit.json` and `audit.html`."""
    if job.unlearned is None:
        raise ConfigError("which model is to be audited?", got="no --unlearned", expected="--unlearned, or --ledger")
    request = replace(job.about(job.unlearned), names=names)
    resolve_targets(request.labels, names)  # refuses a wrong name before a model is loaded
    before, after = job.models(job.unlearned)
    others = [Other(m, partial(load_model, m, device=job.device), method_of(m)) for m in compare]
    with shown("auditing") as advance:
        report = audit(
            before,
            after,
            request,
            config=job.config,
            policy=job.policy,
            others=others,
            advance=lambda name: advance(1, now=name),
        )
    clear_output(job.out, overwrite=job.overwrite)
    page = report.save(job.out)
    rows = [(c.name, c.value, f"{c.rule} {c.threshold:.3g}", c.status) for c in report.checks]
    emit(
        {**report_to_json(report), "page": str(page)},
        as_json=job.as_json,
        title=f"Verdict: {report.verdict} ({page})",
        columns=("check", "value", "threshold", "status"),
        rows=rows,
    )


def audit_ledger(job: Job, ledger: Path, names: Sequence[str], compare: Sequence[str] = ()) -> None:
    """Audit every removal of a ledger; leaves `ledger.json`, and the audit of entry N in `entry-N`."""
    if names:
        raise ConfigError("the names are those of the ledger", got=f"{names[0]} with --ledger", expected="no --forget")
    if compare:
        raise ConfigError(
            "one request at a time is compared", got=f"--compare {compare[0]} with --ledger", expected="--forget"
        )
    entries = read_ledger(ledger)
    unlearned = job.unlearned or newest_model(entries, ledger)
    if unlearned is None:
        raise ConfigError("nothing to audit", got=f"no active removal in {ledger}", expected="at least one")
    request = job.about(unlearned)
    for entry in entries:
        resolve_targets(request.labels, entry.targets)
    before, after = job.models(unlearned)
    clear_output(job.out, overwrite=job.overwrite)
    rows: list[dict[str, Any]] = []
    with shown("auditing") as advance:
        for removal in reaudit(
            entries,
            before,
            after,
            request,
            config=job.config,
            policy=job.policy,
            advance=lambda name: advance(1, now=name),
        ):
            page = removal.report.save(job.out / f"entry-{removal.entry.index}")
            rows.append({**removal.summary(), "page": str(page)})
    came_back = sum(row["came_back"] for row in rows)
    result = {"ledger": str(ledger), "unlearned": unlearned, "came_back": came_back, "removals": rows}
    write_json(job.out / "ledger.json", result)
    title = f"{came_back} of {len(rows)} removals came back in {unlearned}"
    emit(result, as_json=job.as_json, title=title, columns=COLUMNS, rows=[list(r.values())[:-1] for r in rows])
