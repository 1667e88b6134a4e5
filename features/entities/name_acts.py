"""Activations at names: read from the language model once and stored, so that later steps need no model.

/                attributes: model, model_hash, position, templates (by type, in the order of their index)
/entities        name, type, label, popularity (NaN: not given), name_ends
/name_ids        token ids of all names, one behind the other; those of entity i end at name_ends[i]
/contexts        entity, template: one row per context; every entity once per template
/acts/<hook>     (n_contexts, d_in), float32
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from features.entities.collect import token_rows
from features.entities.entities import Entity
from features.entities.name_tokens import encode
from features.entities.prompts import Prompt, check_types, contexts
from features.entities.templates import Templates
from sae_train.errors import HookPointError, nearest_first
from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.run.progress import Advance, no_advance
from sae_train.storage import h5

SCHEMA = "name-activations"
VERSION = 1


@dataclass(frozen=True)
class NameData:
    """Activations at the names of labelled entities.

    Attributes:
        entities: Known and unknown ones, in order.
        entity: Index of the entity of each context, (n_contexts,).
        template: Which template of its type each context was made from, (n_contexts,).
        templates: The templates' texts by type; `template` counts in them.
        name_ids: Token ids of each name.
        popularity: Of each entity, NaN where it is not given, (n_entities,).
        acts: By hook point, (n_contexts, d_in), float32.
        attrs: `model`, `model_hash` and `position`, the tokens that were read.
    """

    entities: list[Entity]
    entity: Int[np.ndarray, " n_contexts"]
    template: Int[np.ndarray, " n_contexts"]
    templates: dict[str, list[str]]
    name_ids: list[np.ndarray]
    popularity: Float[np.ndarray, " n_entities"]
    acts: dict[str, Tensor]
    attrs: dict[str, Any]

    def at(self, hook_point: str) -> Tensor:
        """Return the activations at a hook point.

        Raises:
            HookPointError: They were not read there.
        """
        if hook_point not in self.acts:
            raise HookPointError(
                f"no activations at names at '{hook_point}'",
                got=f"{hook_point}",
                field="sae",
                expected=nearest_first(hook_point, self.acts) + " (`acts`)",
            )
        return self.acts[hook_point]


def read_names(
    lm: LanguageModel,
    labels: Sequence[Entity],
    templates: Templates,
    hook_points: Sequence[str],
    *,
    position: str = "last",
    advance: Advance = no_advance,
) -> NameData:
    """Read the activations at the names of all known and unknown entities, in every context of the templates.

    Args:
        lm, labels, templates, hook_points, advance: As elsewhere.
        position: Which tokens (`name_tokens.POSITIONS`): `last` of the name, `first`, `all` of them (a row each), or
            `end` of the prompt.

    Raises:
        EntityError: A type without templates.
        ConfigError: There is no such position.
    """
    entities = [e for e in labels if e.label in ("known", "unknown")]
    check_types(entities, templates)
    prompts = [contexts(e, templates) for e in entities]
    texts: dict[str, list[str]] = {}
    number: dict[tuple[str, str], int] = {}
    for entity, own in zip(entities, prompts, strict=True):
        known = texts.setdefault(entity.type, [])
        for prompt in own:
            if (entity.type, prompt.template) not in number:
                number[entity.type, prompt.template] = len(known)
                known.append(prompt.template)
    owner = np.repeat(np.arange(len(entities)), [len(own) for own in prompts])
    template = np.array([number[e.type, p.template] for e, own in zip(entities, prompts, strict=True) for p in own])
    flat = [p for own in prompts for p in own]
    rows = token_rows(lm, flat, hook_points, position=position, advance=advance)
    return NameData(
        entities=entities,
        entity=owner[rows.prompt],
        template=template[rows.prompt],
        templates=texts,
        name_ids=_name_ids(lm, [own[0] for own in prompts]),
        popularity=np.array([_number(e.popularity) for e in entities]),
        acts=rows.acts,
        attrs={"model": lm.name, "model_hash": weights_hash(lm.model), "position": position},
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _name_ids(lm: LanguageModel, prompts: Sequence[Prompt]) -> list[np.ndarray]:
    """Return the ids of the tokens that hold any of the name's characters."""
    return [np.array(read.ids[read.name_from : read.name_at + 1]) for read in encode(lm, prompts)]


def save_names(data: NameData, path: Path) -> None:
    """Write the file whole."""
    with h5.create(path, SCHEMA, VERSION, {**data.attrs, "templates": data.templates}) as file:
        entities = file.create_group("entities")
        for name in ("name", "type", "label"):
            values = np.array([str(getattr(e, name)) for e in data.entities], dtype=object)
            h5.write_array(entities, name, values, unit="text", axes=("entity",))
        h5.write_array(entities, "popularity", data.popularity, unit="as given", axes=("entity",))
        ends = np.cumsum([len(ids) for ids in data.name_ids])
        h5.write_array(entities, "name_ends", ends, unit="index", axes=("entity",))
        h5.write_array(file, "name_ids", np.concatenate(data.name_ids), unit="token id", axes=("token",))
        rows = file.create_group("contexts")
        h5.write_array(rows, "entity", data.entity, unit="index", axes=("context",))
        h5.write_array(rows, "template", data.template, unit="index", axes=("context",))
        acts = file.create_group("acts")
        for name, values in data.acts.items():
            h5.write_array(acts, name, values, unit="activation", axes=("context", "d_in"))


def load_names(path: Path) -> NameData:
    """Read the file back; the entities have names, types and labels only.

    Raises:
        MissingFileError, FileFormatError, SchemaError: It is not one.
    """
    with h5.open_checked(path, SCHEMA, VERSION) as file, h5.understood(path):
        attrs = h5.get_attrs(file)
        group = h5.group_of(file, "entities", path)
        texts = [h5.read_text(h5.dataset_of(group, name, path)) for name in ("name", "type", "label")]
        ends = h5.read(h5.dataset_of(group, "name_ends", path))
        popularity = h5.read(h5.dataset_of(group, "popularity", path))
        ids = h5.read(h5.dataset_of(file, "name_ids", path))
        rows = h5.group_of(file, "contexts", path)
        entity, template = (h5.read(h5.dataset_of(rows, name, path)) for name in ("entity", "template"))
        inside = h5.group_of(file, "acts", path)
        acts = {str(n): torch.from_numpy(h5.read(h5.dataset_of(inside, str(n), path))) for n in inside}
    return NameData(
        entities=[Entity(name=n, type=t, label=label) for n, t, label in zip(*texts, strict=True)],
        entity=entity,
        template=template,
        templates=attrs["templates"],
        name_ids=np.split(ids, ends[:-1]),
        popularity=popularity,
        acts=acts,
        attrs={k: attrs.get(k) for k in ("model", "model_hash", "position")},
    )
