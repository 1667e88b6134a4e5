"""`remove`: a removal request from a name to an audited model, station by station; and its plan."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.config import KnowledgeRule
from features.entities.entities import Entity, save_entities
from features.entities.templates import Templates
from sae_train.errors import EntityError, OutputExistsError
from sae_train.fields import config_of
from sae_train.lm.models import LanguageModel
from sae_train.run.claims import claim_output, clear_output, require_disk
from sae_train.run.heartbeat import beating
from sae_train.run.locks import only_writer
from sae_train.run.outputs import disk_may_fill
from sae_train.run.progress import Progress, shown
from sae_train.run.resuming import differences
from sae_train.run.runs import jsonable, write_json, write_text
from sae_train.text.tokens import Document
from sae_train.text_files import read_json
from unlearn.auditing.audit_report import AuditReport
from unlearn.removals.record import RemovalRecord
from unlearn.request.config import RemoveConfig
from unlearn.request.inputs import Inputs, gather
from unlearn.request.inside import latents_of
from unlearn.request.outcome import MODEL, audited, entered, facts_text, removed_model, write_page
from unlearn.request.people import LABELS, all_labels, everybody, known_target, labels_with, require_enough
from unlearn.request.plan import Planned, plan_request
from unlearn.request.stations import Visit, Workshop

MARK, WORK = "removal.json", "work"


@dataclass(frozen=True)
class Removed:
    """What a request came to.

    Attributes:
        target: Who was to be forgotten, with label and facts.
        report: The audit.
        model: Folder of the unlearned model.
        page: The one page: what was done, then the audit.
        ledger: Where the removal is entered.
        visits: The stations, in order: which were made now, which were kept.
        seconds: What this call took.
    """

    target: Entity
    report: AuditReport
    model: Path
    page: Path
    ledger: Path
    visits: tuple[Visit, ...]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Return the figures of the request, as `--json` prints them."""
        report, result = self.report, RemovalRecord.read(self.model).values["result"]
        recalls = {
            "target": report.forget.recall,
            "neighbours": report.neighbours.recall,
            "retain": report.retain.recall,
        }
        values = {
            f"{name}_recall_{when}": None if found is None else getattr(found, when).value
            for name, found in recalls.items()
            for when in ("before", "after")
        }
        utility = report.utility
        return {
            "name": self.target.name,
            "kind": self.target.type,
            "facts": facts_text(self.target),
            "verdict": report.verdict,
            **values,
            "loss_before": None if utility is None else utility.loss_before,
            "loss_after": None if utility is None else utility.loss_after,
            "hook_point": result["hook_point"],
            "method": result["method"],
            "seconds": self.seconds,
            "model": str(self.model),
            "page": str(self.page),
            "ledger": str(self.ledger),
            "stations": [
                {"station": v.station, "kept": v.is_kept, "seconds": v.seconds, "folder": str(v.folder)}
                for v in self.visits
            ],
        }


def remove(
    lm: LanguageModel | str | Path,
    name: str,
    *,
    out: str | Path,
    text: str | Path | Iterable[str | Document] | None,
    entities: Iterable[Entity] | str | Path | None = None,
    entities_format: str = "auto",
    templates: Templates | str | Path | None = None,
    kind: str | None = None,
    others: str | Path | Sequence[str] | None = None,
    rule: str | KnowledgeRule | None = None,
    labelling: Mapping[str, Any] | None = None,
    work: str | Path | None = None,
    ledger: str | Path | None = None,
    reference: str = "",
    config: RemoveConfig | None = None,
    unlearning: Mapping[str, Any] | None = None,
    auditing: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> Removed:
    """Make a model forget one name, and audit it: every station from the name to the page, in one call.

    A station whose inputs have not changed is skipped; one that was cut off goes on. So the same call again, after
    whatever interrupted it, comes to the same result. Stations that do not depend on the name lie in `work`, where
    requests about other names of the same model find them.

    Args:
        lm: The model, or what `load_lm` takes.
        name: Who is to be forgotten; with `entities` a name shared by two types is written `type:name`.
        out: Folder of the request: model, audit, ledger, `removal.html`.
        text: General text: a path, a hub dataset id, `fact-world`, or texts. SAEs are trained on it; one half of its
            documents is retained, the price is measured on the other.
        entities: Who there is, with facts or without; by default the model names others itself, and unknown names are
            made up of their pieces.
        entities_format: As for `label_entities`.
        templates: The questions. Without `entities` their types are the kinds; by default those of the world that the
            model is, or `person`, `place`, `organisation`, `work` with wordings that come with the package.
        kind: What the name is, without `entities`; by default what the model takes it for.
        others: Names to be kept beside those that the model names: a list, a text file with one a line, or a file of
            entities.
        rule: When an entity is known; by default `paraphrases` where everybody has facts, else `self-consistent`.
        labelling: Fields of `KnowledgeRule`, in the place of a whole rule.
        work: Folder of the stations that other requests may use; by default `work` in `out`.
        ledger: The ledger to enter the removal in; by default one of its own in `out`.
        reference: What the request is called outside, for the ledger.
        config: Sizes together, instead of one by one.
        unlearning: Fields of `UnlearnConfig` and of the method's own settings.
        auditing: Fields of `AuditConfig`.
        overwrite: Another request, or other settings, may take the place of the one in `out`.
        device: Where the tensors live, where a model is loaded.
        progress: Where to show how far it is; None shows it on the terminal, in the notebook or in the log.
        settings: Fields of `RemoveConfig`: `method`, `n_others`, …

    Raises:
        InputError: Something cannot be used; the model does not know the name: then nothing is left in `out`.
        RunError: The removal changed nothing, or destroyed the model.
    """
    started, place = time.monotonic(), Path(out)
    inputs = gather(
        lm,
        name,
        text=text,
        entities=entities,
        entities_format=entities_format,
        templates=templates,
        kind=kind,
        others=others,
        rule=rule,
        labelling=labelling,
        config=config_of(RemoveConfig, config, settings),
        unlearning=unlearning,
        auditing=auditing,
        device=device,
    )
    with only_writer(place), disk_may_fill(place):
        require_disk(place, 0)
        shop = Workshop(place / WORK if work is None else Path(work))
        book = None if ledger is None else Path(ledger)
        before = _claim(place, inputs, overwrite=overwrite)
        heard = progress or shown
        with beating():
            with _left_as_it_was(place, shop, before):
                people = everybody(inputs, shop, heard)
                target = known_target(inputs, shop, people, heard)
            report, page, book = _stations(inputs, shop, place, people, target, book, reference, heard)
        removed = Removed(target, report, place / MODEL, page, book, tuple(shop.visits), time.monotonic() - started)
        write_json(place / MARK, {"request": _written(inputs), "summary": removed.summary()})
    return removed


def plan_removal(
    lm: LanguageModel | str | Path,
    name: str,
    *,
    out: str | Path,
    work: str | Path | None = None,
    config: RemoveConfig | None = None,
    progress: Progress | None = None,
    **request: Any,
) -> list[Planned]:
    """Return the stations of a request, kept or to be made, with estimated seconds, memory and disk; write nothing.

    Args:
        lm, name, out, work, config: As for `remove`.
        progress: Where to show the probes.
        request: What else `remove` takes, settings apart: `text`, `entities`, `kind`, …

    Raises:
        InputError: Something cannot be used, or an earlier run found that the model does not know the name.
    """
    inputs = gather(lm, name, config=config or RemoveConfig(), **request)
    return plan_request(inputs, Path(out) / WORK if work is None else Path(work), progress=progress or shown)


def _claim(out: Path, inputs: Inputs, *, overwrite: bool) -> str | None:
    """Take the folder of a request; the same request goes on in it, another one needs leave to.

    Returns:
        What marked the request that lay there; None where there was none.

    Raises:
        OutputExistsError: Another request lies there, or something that is none.
    """
    mark, identity = out / MARK, _written(inputs)
    if not mark.is_file():
        claim_output(out, overwrite=overwrite)
        clear_output(out, overwrite=overwrite)
    elif not overwrite:
        changed = [key for key, _, _ in differences(read_json(mark)["request"], identity)]
        if changed:
            raise OutputExistsError(
                f"another removal request lies in '{out}'",
                got=f"other {', '.join(changed[:6])}",
                field="out",
                expected="the same request, which goes on; a new folder (`work` shares stations); or `overwrite`",
            )
    before = mark.read_text(encoding="utf-8") if mark.is_file() else None
    write_json(mark, {"request": identity})
    return before


def _written(inputs: Inputs) -> dict[str, Any]:
    """Return the identity of a request as a JSON file gives it back."""
    return jsonable(inputs.identity)


def _stations(
    inputs: Inputs,
    shop: Workshop,
    out: Path,
    people: Sequence[Entity],
    target: Entity,
    ledger: Path | None,
    reference: str,
    progress: Progress,
) -> tuple[AuditReport, Path, Path]:
    """Visit the stations behind the target's, one after the other; return audit, page and ledger."""
    asked, labels_hash = all_labels(inputs, shop, people, progress)
    require_enough(asked)
    latents = latents_of(inputs, shop, asked, labels_hash, progress)
    labels = labels_with(asked, target)
    save_entities(labels, out / LABELS)
    removed_model(inputs, shop, out, labels, latents, progress)
    report = audited(inputs, shop, out, labels, latents, progress)
    book = entered(shop, out, ledger, reference)
    page = write_page(inputs, out, labels, latents, report, shop.visits, book)
    return report, page, book


@contextmanager
def _left_as_it_was(out: Path, shop: Workshop, before: str | None) -> Iterator[None]:
    """Where a name is refused, put back the mark of the request before, or remove the folder if nothing else is in it.

    Args:
        out: The folder of the request.
        shop: Its workshop; one that lies elsewhere keeps what it has.
        before: What marked the request before; None where there was none.
    """
    try:
        yield
    except EntityError:
        own = {MARK, WORK} if shop.folder == out / WORK else {MARK}
        if before is not None:
            write_text(out / MARK, before)
        elif {path.name for path in out.iterdir()} <= own:
            shutil.rmtree(out)
        raise
