"""Other models on the audit page: colours and marks, walks, and a table of headline figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from features.pages.plots import OTHERS, Number, is_number
from unlearn.auditing.audit_figures import Figure
from unlearn.auditing.audit_report import AuditReport, Findings
from unlearn.auditing.compare import short_names
from unlearn.auditing.verdict import judged_places
from unlearn.pages.plots import Walked

MARKS = (
    ("^", "triangle"),
    ("s", "square"),
    ("v", "triangle-down"),
    ("o", ""),
    ("P", "plus"),
)  # matplotlib's, the page's
COLOURS = tuple(f"other-{i}" for i in range(1, len(OTHERS) + 1))
ORIGINAL = "the original model"


@dataclass(frozen=True)
class Row:
    """Headline figures of one model; None where one was not measured.

    Attributes:
        name: Of the model's folder.
        colour, shape: Of its mark in the walk; empty for the original model.
        method: What made it, where that is recorded.
        recall, ranking: Of the targets: right answers; true answer ranked first.
        neighbours, retained: Recall.
        loss: Relative change of the loss on general text.
        gibberish: Share of the answers about targets.
        auroc: Highest AUROC of a fresh classifier at a judged place; None without loss and gibberish.
        auroc_place: Where that is.
        control: Upper end of what never-known groups reach there.
        called_unknown: Share of target contexts that the original model's probe calls unknown; None likewise.
        relearned: Recall of untaught facts after lessons about others.
        relearned_control: The same of never-known entities.
    """

    name: str
    colour: str
    shape: str
    method: str
    recall: Number
    ranking: Number
    neighbours: Number
    retained: Number
    loss: Number
    gibberish: Number
    auroc: Number
    auroc_place: str
    control: Number
    called_unknown: Number
    relearned: Number
    relearned_control: Number


def compare_view(report: AuditReport) -> list[Row]:
    """Return the rows of the table: the original model, the audited one, the others; none where nothing is compared."""
    others = report.compare
    if not others:
        return []
    own = report.request.unlearned or "this model"
    name, *_ = short_names([own, *(model.unlearned for model in others.values())])
    reported = report.policy.reported_places
    return [
        _before(report, reported),
        _after(report, name, ("target", "diamond"), report.request.method or "", reported),
        *(
            _after(model, name, _mark(index), model.method, reported)
            for index, (name, model) in enumerate(others.items())
        ),
    ]


def walked(report: AuditReport, block: str) -> list[Walked]:
    """Return where the other models have the targets at one block."""
    found = []
    for index, (name, other) in enumerate(report.compare.items()):
        if block in other.walk:
            marker, _ = MARKS[index % len(MARKS)]
            found.append(Walked(name, other.walk[block].after, OTHERS[index % len(OTHERS)], marker))
    return found


def has_price(found: Findings) -> bool:
    """Tell whether text loss and behaviour were measured: no figure of the inside is shown without them."""
    return found.utility is not None and found.behaviour is not None


def _mark(index: int) -> tuple[str, str]:
    """Return colour and shape of one of the other models."""
    return COLOURS[index % len(COLOURS)], MARKS[index % len(MARKS)][1]


def _before(report: AuditReport, reported: Sequence[str]) -> Row:
    """Cut the figures of the original model out of what was measured."""
    inside = report.indistinguishability if has_price(report) else {}
    auroc = {name: place.auroc_before for name, place in judged_places(inside, reported).items()}
    place = _highest(auroc)
    return Row(
        name=ORIGINAL,
        colour="",
        shape="",
        method="",
        recall=_value(report.forget.recall, is_after=False),
        ranking=_value(report.forget.ranking, is_after=False),
        neighbours=_value(report.neighbours.recall, is_after=False),
        retained=_value(report.retain.recall, is_after=False),
        loss=None,
        gibberish=None if report.behaviour is None else report.behaviour.before.gibberish,
        auroc=auroc.get(place),
        auroc_place=place,
        control=None,
        called_unknown=report.probe.unknown_before if report.probe is not None and has_price(report) else None,
        relearned=None,
        relearned_control=None,
    )


def _after(found: Findings, name: str, mark: tuple[str, str], method: str, reported: Sequence[str]) -> Row:
    """Cut the figures of one unlearned model out of what was measured."""
    inside = judged_places(found.indistinguishability if has_price(found) else {}, reported)
    place = _highest({at: own.auroc.value for at, own in inside.items()})
    relearn = found.attacks.get("relearn")
    return Row(
        name=name,
        colour=mark[0],
        shape=mark[1],
        method=method,
        recall=_value(found.forget.recall),
        ranking=_value(found.forget.ranking),
        neighbours=_value(found.neighbours.recall),
        retained=_value(found.retain.recall),
        loss=None if found.utility is None else found.utility.rise,
        gibberish=None if found.behaviour is None else found.behaviour.after.gibberish,
        auroc=inside[place].auroc.value if place else None,
        auroc_place=place,
        control=inside[place].control_high if place else None,
        called_unknown=found.probe.unknown_after.value if found.probe is not None and has_price(found) else None,
        relearned=None if relearn is None else relearn.recall_after.value,
        relearned_control=None if relearn is None else relearn.compared.value,
    )


def _value(figure: Figure | None, *, is_after: bool = True) -> Number:
    """Return a figure of one of the two models; None where it was not evaluated."""
    return None if figure is None else (figure.after if is_after else figure.before).value


def _highest(aurocs: Mapping[str, float]) -> str:
    """Return the place where targets are told apart best; empty where none was measured."""
    measured = {name: auroc for name, auroc in aurocs.items() if is_number(auroc)}
    return max(measured, key=measured.__getitem__) if measured else ""
