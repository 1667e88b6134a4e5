"""The last stations of a request, which are its own: the removal, the audit, the ledger, and the one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from features import LatentAnalysis
from features.entities.entities import Entity, entity_line
from features.labels.labels import Labels
from sae_train.run.progress import Progress
from sae_train.run.runs import file_hash, run_folder, text_hash
from unlearn.auditing.audit_json import load_report
from unlearn.auditing.audit_report import AuditReport
from unlearn.pages.audit_page import write_audit_page
from unlearn.pages.story_view import Story
from unlearn.removals.ledger import Ledger
from unlearn.removals.record import RECORD, RemovalRecord
from unlearn.removals.removal_audit import audit
from unlearn.removals.unlearning import unlearn
from unlearn.request.inputs import Inputs
from unlearn.request.stations import Visit, Workshop

MODEL, AUDIT, LEDGER, STATIONS = "model", "audit", "ledger", "stations"
LEDGER_FILE, PAGE = "removals.jsonl", "removal.html"


def removed_model(
    inputs: Inputs, shop: Workshop, out: Path, labels: Labels, latents: LatentAnalysis, progress: Progress
) -> Path:
    """Return the folder of the unlearned model."""
    folder = out / MODEL
    identity = {
        **inputs.model,
        "labels": text_hash(map(entity_line, labels)),
        "latents": [point.sae_hash for point in latents.hook_points],
        "selected": [point.selected for point in latents.hook_points],
        "text": inputs.text_hash,
        "unlearning": asdict(inputs.unlearning),
        "target": inputs.target.key,
    }

    def make(place: Path) -> None:
        if (place / RECORD).is_file() and not run_folder(place).exists():  # whole: it is put in place last
            return
        unlearn(
            inputs.lm,
            latents,
            forget=inputs.target.key,
            labels=labels,
            text=inputs.retained_text,
            out=place,
            config=inputs.unlearning,
            resume=True,
            progress=progress,
        )

    return shop.own("removal", folder, out / STATIONS / "removal.json", identity, make)


def audited(
    inputs: Inputs, shop: Workshop, out: Path, labels: Labels, latents: LatentAnalysis, progress: Progress
) -> AuditReport:
    """Return the audit of the unlearned model, which lies in `out`."""
    model, folder = out / MODEL, out / AUDIT
    record = RemovalRecord.read(model)
    saes = [] if latents.sources is None else latents.sources.saes
    identity = {
        "model": record.values["model_hash"],
        "labels": text_hash(map(entity_line, labels)),
        "text": inputs.text_hash,
        "auditing": asdict(inputs.auditing),
        "target": inputs.target.key,
    }

    def make(place: Path) -> None:
        audit(
            inputs.lm,
            model,
            latents,
            forget=inputs.target.key,
            labels=labels,
            sae=[s for s in saes if s.hook_point == record.hook_point],
            text=inputs.audited_text,
            text_name=f"{inputs.text_name}, documents that were not retained",
            out=place,
            config=inputs.auditing,
            overwrite=True,
            device=str(inputs.lm.device),
            progress=progress,
        )

    shop.own("audit", folder, out / STATIONS / "audit.json", identity, make)
    return load_report(folder / "audit.json")


def entered(shop: Workshop, out: Path, ledger: Path | None, reference: str) -> Path:
    """Add the removal to a ledger where it is not yet there; return the ledger's file."""
    path = ledger or out / LEDGER / LEDGER_FILE
    model_hash = str(RemovalRecord.read(out / MODEL).values["model_hash"])
    identity = {"model": model_hash, "audit": file_hash(out / AUDIT / "audit.json"), "ledger": str(path.absolute())}

    def make(_: Path) -> None:
        book = Ledger(path)
        known = book.removals() if path.exists() else []
        if all(entry.model["hash"] != model_hash for entry in known):
            book.add(out / MODEL, audit=out / AUDIT, reference=reference)

    shop.own("ledger", out / LEDGER, out / STATIONS / "ledger.json", identity, make)
    return path


def write_page(
    inputs: Inputs,
    out: Path,
    labels: Labels,
    latents: LatentAnalysis,
    report: AuditReport,
    visits: Sequence[Visit],
    ledger: Path,
) -> Path:
    """Write the one page of a request: what was done, then the audit."""
    target = labels[0]
    counts = labels.counts
    said = "facts given" if inputs.entities is not None and inputs.target.facts else "what the model says itself"
    rows = [
        ("kind", f"{target.type}, {'given' if inputs.entities is not None else 'with the wordings of that kind'}"),
        ("facts", f"{said}: {facts_text(target)}"),
        ("names to keep", f"{counts['known'] - 1:,} known, {names_text(labels, 'known', target)}"),
        ("unknown names", f"{counts['unknown']:,}, {names_text(labels, 'unknown', target)}"),
        ("rule", f"{inputs.rule.name}; {counts['between']:,} names between known and unknown were left out"),
        ("hook points", ", ".join(point.hook_point for point in latents.hook_points)),
        ("method", inputs.unlearning.method),
        ("ledger", str(ledger)),
    ]
    stations = [(v.station, "kept" if v.is_kept else "made", v.seconds, str(v.folder)) for v in visits]
    return write_audit_page(report, out / PAGE, story=Story(tuple(rows), tuple(stations)))


def facts_text(entity: Entity) -> str:
    """Return the facts of an entity as one reads them.

    Example:
        >>> facts_text(Entity("Nairobi", "city", {"country": ["Kenya", "Republic of Kenya"], "river": ["Athi"]}))
        'country: Kenya; river: Athi'
    """
    return "; ".join(f"{attribute}: {values[0]}" for attribute, values in entity.facts.items() if values)


def names_text(labels: Sequence[Entity], label: str, target: Entity, most: int = 8) -> str:
    """Return the first names with a label, the target left out."""
    names = [e.name for e in labels if e.label == label and e.key != target.key]
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")
