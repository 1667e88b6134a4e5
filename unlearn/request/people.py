"""Who there is in a request: other names, the target's own label, and the labels of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features import Labels, label_entities
from features.entities.entities import Entity, entity_line, find_entity, load_entities, save_entities
from features.labels.rules import RULES
from features.naming.other_names import ask_for_names
from features.naming.unknown_names import unknown_names
from sae_train.errors import EntityError
from sae_train.run.progress import Progress
from sae_train.run.runs import file_hash, text_hash
from unlearn.removals.record import RemovalRecord
from unlearn.request.inputs import Inputs
from unlearn.request.stations import Workshop

N_BESIDE = 8  # others asked about beside the target, whose pieces make up the names that it is compared with
LEAST_OTHERS = 4  # names of which the rest can be made
ENTITIES, LABELS = "entities.jsonl", "labels.jsonl"


def everybody(inputs: Inputs, shop: Workshop, progress: Progress) -> list[Entity]:
    """Return the entities of a request, the target not necessarily among them: given, or named by the model.

    Names that the model gave are kept for every later request of that kind: they do not depend on the target but for
    the first one, like whom they were asked for.

    Raises:
        EntityError: The model names too few others.
    """
    if inputs.entities is not None:
        return [*inputs.entities]
    identity = {
        **inputs.asking,
        "kind": inputs.target.type,
        "others": list(inputs.others),
        "earlier": sorted(RemovalRecord.read(inputs.lm.name).removed),
        "sizes": [inputs.config.n_others, inputs.config.n_unknown, inputs.config.name_samples],
    }
    return load_entities(shop.shared("names", identity, lambda f: _name(inputs, f, progress)) / ENTITIES)


def _name(inputs: Inputs, folder: Path, progress: Progress) -> None:
    """Ask the model for other names, make up unknown ones, write both."""
    config, kind, target = inputs.config, inputs.target.type, inputs.target
    beginnings = inputs.kinds.similar[kind]
    with progress("asking for names", config.name_samples * len(beginnings), unit="answers") as advance:
        said = ask_for_names(
            inputs.lm,
            beginnings,
            target.name,
            n=config.n_others,
            samples=config.name_samples,
            seed=config.seed,
            advance=advance,
        )
    others = [Entity(name, kind) for name in _each_once([*inputs.others, *said])]
    if len(others) < LEAST_OTHERS:
        raise EntityError(
            f"too few other names like '{target.name}'",
            got=", ".join(e.name for e in others) or "none",
            expected=f"{LEAST_OTHERS} or more; the model was asked for them in {len(beginnings)} ways",
            try_="`others` with names that the model knows, or another `kind`",
        )
    made = unknown_names(inputs.lm, [*others, target], n=config.n_unknown, seed=config.seed)
    found = {e.key: e for e in [*made, *others, *_earlier(inputs)]}
    save_entities(found.values(), folder / ENTITIES)


def _each_once(names: Sequence[str]) -> list[str]:
    """Return names, each once, whatever its case."""
    return list({name.casefold(): name for name in reversed(names)}.values())[::-1]


def _earlier(inputs: Inputs) -> list[Entity]:
    """Return what was removed from this model before, as far as its kind is asked about: the removal looks for it."""
    removed = RemovalRecord.read(inputs.lm.name).removed
    pairs = [key.partition(":") for key in (*removed, *removed.values())]
    return [Entity(name, kind) for kind, sign, name in pairs if sign and kind == inputs.target.type]


def known_target(inputs: Inputs, shop: Workshop, people: Sequence[Entity], progress: Progress) -> Entity:
    """Return the target with its label and facts, asked before anything else is done.

    Raises:
        EntityError: The model does not know it.
    """
    asked = [inputs.target, *_beside(inputs, people)]
    identity = {**inputs.asking, "asked": text_hash(map(entity_line, asked))}
    folder = shop.shared("target", identity, lambda f: _label(inputs, asked, f, progress))
    found = find_entity(load_entities(folder / LABELS, need_labels=True), inputs.target.key)
    if found.label != "known":
        raise EntityError(
            f"the model does not know '{found.name}' as a {found.type}: nothing is to be removed",
            got=f"label {found.label}; {_said(found)}",
            field="name",
            expected=f"known by the rule {inputs.rule.name}: {inputs.rule.min_known_attributes} attributes (or all "
            "there are) answered alike in every wording, and otherwise than about made-up names",
            try_="the name as the model writes it, another `kind`, or facts of your own (`entities`)",
        )
    return found


def _beside(inputs: Inputs, people: Sequence[Entity]) -> list[Entity]:
    """Return who is asked about beside the target: nobody where facts judge, else a few of its type."""
    if RULES[inputs.rule.name].needs_facts:
        return []
    alike = [e for e in people if e.type == inputs.target.type and e.key != inputs.target.key and e.seen is None]
    return alike[:N_BESIDE]


def _said(entity: Entity) -> str:
    """Return what was said of an entity, shortly."""
    first = [f"{attribute}: {texts[0][:40]!r}" for attribute, texts in entity.answers.items() if texts]
    return "it says " + ", ".join(first) if first else "nothing was said"


def all_labels(inputs: Inputs, shop: Workshop, people: Sequence[Entity], progress: Progress) -> tuple[Labels, str]:
    """Return the labels of everybody, and the hash of their file."""
    identity = {**inputs.asking, "asked": text_hash(map(entity_line, people))}
    path = shop.shared("labels", identity, lambda f: _label(inputs, people, f, progress)) / LABELS
    return Labels.load(path, inputs.templates), file_hash(path)


def require_enough(labels: Sequence[Entity]) -> None:
    """Refuse labels with too few known or unknown names to mine, before anything more is made of them.

    Raises:
        EntityError: Fewer than `LEAST_OTHERS` of either: two on each half.
    """
    counts = {label: sum(e.label == label for e in labels) for label in ("known", "unknown")}
    if min(counts.values()) < LEAST_OTHERS:
        raise EntityError(
            "too few names to tell known from unknown",
            got=f"{counts['known']} known and {counts['unknown']} unknown of {len(labels)}",
            field="others",
            expected=f"{LEAST_OTHERS} of each, better dozens",
            try_="`others` with names that the model knows, more `n_others` and `n_unknown`, or `entities` of your own",
        )


def _label(inputs: Inputs, entities: Sequence[Entity], folder: Path, progress: Progress) -> None:
    """Label entities into a folder; answers that a run which was cut off left there are kept."""
    out = folder / LABELS
    if out.is_file():  # whole: it is written last
        return
    how: dict[str, Any] = {"rule": inputs.rule, "samples": inputs.samples, "seed": inputs.config.seed}
    label_entities(inputs.lm, entities, templates=inputs.templates, out=out, resume=True, progress=progress, **how)


def labels_with(labels: Labels, target: Entity) -> Labels:
    """Return the labels of a request: those of everybody, the target's own in front.

    The target was asked beside names like it; what everybody's labels say of it, if anything, gives way.
    """
    rest = [e for e in labels if e.key != target.key]
    return Labels((target, *rest), labels.templates, labels.rule, labels.lm_name)
