"""Other models on the audit page: which colour and mark each has, its walk, and a table of headline figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.plots import OTHERS, Number, is_number
from unlearn.compare import PRICE, short_names
from unlearn.plots import Walked
from unlearn.verdict import judged_places, loss_rise

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


def compare_view(audit: Mapping[str, Any]) -> list[Row]:
    """Return the rows of the table: the original model, the audited one, the others; none where nothing is compared."""
    others = audit.get("compare") or {}
    if not others:
        return []
    own = str(audit["request"].get("unlearned") or "this model")
    name, *_ = short_names([own, *(str(found["unlearned"]) for found in others.values())])
    reported = (audit.get("policy") or {}).get("reported_places") or ()
    return [
        _row(audit, ORIGINAL, "", "", "", "before", reported),
        _row(audit, name, "target", "diamond", str(audit["request"].get("method") or ""), "after", reported),
        *(
            _row(found, name, *_mark(index), str(found.get("method") or ""), "after", reported)
            for index, (name, found) in enumerate(others.items())
        ),
    ]


def walked(audit: Mapping[str, Any], block: str) -> list[Walked]:
    """Return where the other models have the targets at one block."""
    found = []
    for index, (name, other) in enumerate((audit.get("compare") or {}).items()):
        if block in other.get("walk", {}):
            marker, _ = MARKS[index % len(MARKS)]
            found.append(Walked(name, other["walk"][block]["after"], OTHERS[index % len(OTHERS)], marker))
    return found


def has_price(found: Mapping[str, Any]) -> bool:
    """Tell whether text loss and behaviour were measured: no figure of the inside is shown without them."""
    return all(part in found for part in PRICE)


def _mark(index: int) -> tuple[str, str]:
    """Return colour and shape of one of the other models."""
    return COLOURS[index % len(COLOURS)], MARKS[index % len(MARKS)][1]


def _row(
    found: Mapping[str, Any], name: str, colour: str, shape: str, method: str, when: str, reported: Sequence[str]
) -> Row:
    """Cut the figures of one model out of what was measured."""
    is_after = when == "after"
    inside = found.get("indistinguishability", {}) if has_price(found) else {}
    place, auroc, control = _highest(inside, "auroc" if is_after else "auroc_before", reported)
    relearn = found.get("attacks", {}).get("relearn", {}) if is_after else {}
    return Row(
        name=name,
        colour=colour,
        shape=shape,
        method=method,
        recall=found.get("forget", {}).get(f"recall_{when}"),
        ranking=found.get("forget", {}).get(f"ranking_{when}"),
        neighbours=found.get("neighbours", {}).get(f"recall_{when}"),
        retained=found.get("retain", {}).get(f"recall_{when}"),
        loss=loss_rise(found) if is_after else None,
        gibberish=found.get("behaviour", {}).get(when, {}).get("gibberish"),
        auroc=auroc,
        auroc_place=place,
        control=control if is_after else None,
        called_unknown=found.get("probe", {}).get(f"unknown_{when}") if has_price(found) else None,
        relearned=relearn.get("recall_after"),
        relearned_control=relearn.get("compared_value"),
    )


def _highest(places: Mapping[str, Any], key: str, reported: Sequence[str]) -> tuple[str, Number, Number]:
    """Return the judged place where targets are told apart best, the AUROC, and the control's upper end there."""
    judged = {n: p for n, p in judged_places(places, reported).items() if is_number(p.get(key))}
    if not judged:
        return "", None, None
    name = max(judged, key=lambda n: judged[n][key])
    return name, judged[name][key], judged[name].get("control_high")
