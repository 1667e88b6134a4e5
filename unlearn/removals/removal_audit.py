"""`audit`: the public function that audits a removal, from objects or paths to a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from features.analysis.store import LatentAnalysis
from features.entities.entities import Entity
from features.entities.templates import Templates
from sae_train.fields import config_of
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.run.outputs import claimed, whole_folder
from sae_train.run.progress import Progress, shown
from sae_train.saes.base import Sae
from sae_train.text.tokens import Document
from unlearn.auditing.audit import check_names, run_audit
from unlearn.auditing.audit_report import AuditReport
from unlearn.auditing.compare import Other
from unlearn.auditing.evaluations.benchmarks import check_tasks
from unlearn.auditing.policy import AuditPolicy, default_policy, load_policy
from unlearn.auditing.request import Request
from unlearn.config import AuditConfig
from unlearn.problem.data import resolve_targets
from unlearn.removals.record import RemovalRecord
from unlearn.removals.sources import documents_of, names_of, sources_of
from unlearn.removals.unlearned import Unlearned

Model = LanguageModel | Unlearned | str | Path


def audit(
    lm: LanguageModel | str | Path,
    unlearned: Model,
    latents: LatentAnalysis | str | Path | None = None,
    *,
    forget: str | Sequence[str],
    sae: Sae | str | Path | Sequence[Sae | str | Path] | None = None,
    labels: Sequence[Entity] | str | Path | None = None,
    templates: Templates | str | Path | None = None,
    text: str | Path | Iterable[str | Document] | None = None,
    text_name: str = "",
    hook_point: str | None = None,
    compare: Sequence[str | Path] = (),
    policy: AuditPolicy | str | Path | None = None,
    quick: bool = False,
    out: str | Path | None = None,
    config: AuditConfig | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> AuditReport:
    """Compare two models on the named entities: what is said, kept and still inside, and what attacks bring back.

    Any pair of models of one shape will do. The verdict is `pass`, `fail` or `inconclusive` by the limits of a policy.

    Args:
        lm: The model before.
        unlearned: The model after: what `unlearn` returned, a model, or where it lies.
        latents: Mined latents, or `latents.h5`. What `find_entity_latents` returned knows its SAEs, labels and
            templates.
        forget: Names that were to be forgotten.
        sae: SAEs in which the targets are looked for too; a crosscoder of the two models shows what the removal
            changed.
        labels: Labelled entities.
        templates: Held-out wordings ask; training wordings teach in the relearning attack.
        text: General text for the loss: a path, a hub dataset id, `fact-world`, or texts. Documents that name a
            target are left out; without any, questions about other entities serve.
        text_name: What to call it in the report.
        hook_point: Where a known-unknown probe reads; by default the one that the unlearned model records.
        compare: Other unlearned models to be measured and shown beside it.
        policy: Limits of the verdict, or their file; the shipped ones by default.
        quick: Fewer draws, one relearning run, fewer targets attacked.
        out: Folder for `audit.json` and `audit.html`; without it nothing is written.
        config: A whole config, in the place of `settings`.
        overwrite: Replace `out`.
        device: Where the tensors live, where a model is loaded.
        progress: Where to show how far it is; None shows it on the terminal, in the notebook or in the log.
        settings: Fields of `AuditConfig`.

    Raises:
        InputError: Something that goes in cannot be used.
    """
    folder, names = None if out is None else Path(out), names_of(forget)
    with claimed(folder, overwrite=overwrite):
        chosen = _config(config, settings, quick=quick)
        known = sources_of(latents, sae=sae, labels=labels, templates=templates)
        resolve_targets(known.labels, names)  # refuses a wrong name before a model is loaded
        documents = documents_of(text)
        others = [Other(str(m), partial(load_lm, str(m), device=device), RemovalRecord.read(m).method) for m in compare]
        before, after = loaded(lm, device), loaded(unlearned, device)
        saes, crosscoders = known.load_dictionaries(before.device)
        request = Request(
            known.labels,
            known.templates,
            names,
            hook_point=hook_point,
            analysis=known.analysis,
            saes=saes,
            crosscoders=crosscoders,
            documents=documents,
            text_name=text_name or (Path(text).name if isinstance(text, str | Path) else ""),
        )
        request = as_recorded(request, before, unlearned)
        with (progress or shown)("auditing") as advance:
            report = run_audit(
                before, after, request, config=chosen, policy=_policy(policy), others=others, advance=advance
            )
        if folder is not None:
            with whole_folder(folder, overwrite=overwrite) as place:
                report.save(place)
    return report


def as_recorded(request: Request, before: LanguageModel, unlearned: Model) -> Request:
    """Return a request with what the unlearned model records of itself."""
    record = unlearned.record if isinstance(unlearned, Unlearned) else RemovalRecord.read(_spec(unlearned))
    return replace(
        request,
        hook_point=request.hook_point or record.hook_point,
        trained_on=(*record.retained, *record.unknown),
        removed=record.removed,
        facts={
            "model": before.name,
            "sae": ", ".join(str(s.folder or s.name) for s in (*request.saes, *request.crosscoders)) or None,
            "unlearned": _spec(unlearned),
            "method": record.method,
        },
    )


def _config(config: AuditConfig | None, settings: dict[str, Any], *, quick: bool) -> AuditConfig:
    """Return the whole config given, or the one that the settings make; `quick` makes it cheaper."""
    chosen = config_of(AuditConfig, config, settings)
    chosen = chosen.quick() if quick else chosen
    check_names(chosen.skip, "skip")
    check_tasks(chosen.lm_eval)
    return chosen


def _policy(policy: AuditPolicy | str | Path | None) -> AuditPolicy:
    """Return the limits: given, read from a file, or the shipped ones."""
    if policy is None:
        return default_policy()
    return policy if isinstance(policy, AuditPolicy) else load_policy(Path(policy))


def loaded(model: Model, device: str) -> LanguageModel:
    """Return a model, loaded where only its place is given."""
    if isinstance(model, Unlearned):
        return model.lm
    return model if isinstance(model, LanguageModel) else load_lm(str(model), device=device)


def _spec(model: Model) -> str:
    """Return what to call a model in a report: its folder, or where it was loaded from."""
    if isinstance(model, Unlearned):
        return str(model.folder or model.lm.name)
    return model.name if isinstance(model, LanguageModel) else str(model)
