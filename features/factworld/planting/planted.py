"""A planted pair: the model, its twin, who is who, and its folder.

model/          the model, a Hugging Face folder
twin/           the same run without the documents that name a target
entities.jsonl  all entities; `seen` says what the model's documents tell: facts, name, never
templates.json  mentions, training wordings and held-out ones
corpus.jsonl    the model's documents in the order of training: text, kind, and whom each names
roles.json      targets, retained, mentioned, never met, and validation targets
forget.txt      the targets, one a line
planted.json    seed, config, base, figures
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.entities.entities import Entity, load_entities, save_entities
from features.entities.templates import Templates, load_templates
from features.factworld.planting.documents import PlantedDocument
from features.factworld.planting.facts import Roles
from features.factworld.planting.job import MODEL, TWIN, PlantJob
from features.factworld.planting.world import as_entity
from features.factworld.templates import templates_json
from sae_train.errors import FileFormatError
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.run.runs import require_file, write_json, write_text
from sae_train.text_files import read_json

RECORD = "planted.json"
SCHEMA, SCHEMA_VERSION = "planted-world", 1


@dataclass(frozen=True)
class Planted:
    """A planted world, the model that was taught it, and the twin that was taught all of it but the targets.

    Attributes:
        lm: The model.
        twin: The twin; None where nobody was left out.
        entities: All entities.
        templates: Their wordings.
        roles: Who plays which part.
        figures: Recall and general-text loss of base, model and twin, and seconds; see `planted.json`.
        folder: Where it lies; None where it lies nowhere.
    """

    lm: LanguageModel
    twin: LanguageModel | None
    entities: tuple[Entity, ...]
    templates: Templates
    roles: Roles
    figures: dict[str, Any]
    folder: Path | None = None

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Planted:
        """Read a planted pair from its folder.

        Raises:
            MissingFileError, FileFormatError: It is not whole.
        """
        folder = Path(folder)
        record = _read(require_file(folder / RECORD, "a planted world"))
        if record.get("schema") != SCHEMA:
            raise FileFormatError(f"'{folder}' is no planted world", got=record.get("schema"), expected=SCHEMA)
        has_twin = bool(record["config"]["leave_out"])
        return cls(
            lm=load_lm(str(folder / MODEL), device=device),
            twin=load_lm(str(folder / TWIN), device=device) if has_twin else None,
            entities=tuple(load_entities(folder / "entities.jsonl")),
            templates=load_templates(folder / "templates.json"),
            roles=Roles(**{part: tuple(names) for part, names in _read(folder / "roles.json").items()}),
            figures=record["figures"],
            folder=folder,
        )


def is_planted(folder: Path) -> bool:
    """Tell whether a whole planted pair lies in a folder: its record is written last."""
    return (folder / RECORD).is_file()


def write_planted(folder: Path, job: PlantJob, record: dict[str, Any]) -> None:
    """Write everything but the models; the record last."""
    save_entities(map(as_entity, job.world.entities), folder / "entities.jsonl")
    write_json(folder / "templates.json", templates_json(job.world.templates))
    write_text(folder / "corpus.jsonl", _corpus_lines(job.documents[MODEL]))
    write_json(folder / "roles.json", job.world.roles.as_json())
    write_text(folder / "forget.txt", "".join(f"{name}\n" for name in job.world.roles.targets))
    write_json(folder / RECORD, {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **record})


def _corpus_lines(documents: Sequence[PlantedDocument]) -> str:
    """Return `corpus.jsonl` as one text."""
    return "".join(json.dumps({"text": d.text, "kind": d.kind, "names": list(d.names)}) + "\n" for d in documents)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise FileFormatError(f"cannot read '{path}'", got=type(found).__name__, expected="a JSON object")
    return found
