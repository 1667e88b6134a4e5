"""The registry of formats: which are read, which are refused and why, and what a file seems to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.entities.formats import (
    counterfact,
    lume,
    pararel,
    popqa,
    qa,
    relations,
    rwku,
    table,
    tofu,
    wikidata,
)
from features.entities.importing.findings import Format
from features.entities.importing.imported import ImportedEntities, assemble
from features.entities.importing.source_files import read_source
from sae_train.errors import ConfigError, FileFormatError, nearest_first

FORMATS: dict[str, Format] = {
    "tofu": tofu.FORMAT,
    "rwku": rwku.FORMAT,
    "lume": lume.FORMAT,
    "qa": qa.FORMAT,
    "counterfact": counterfact.FORMAT,
    "pararel": pararel.FORMAT,
    "popqa": popqa.FORMAT,
    "relations": relations.FORMAT,
    "wikidata": wikidata.FORMAT,
    "csv": table.FORMAT,
}
REFUSED = {
    "wmdp": "WMDP asks about fields of knowledge (biology, chemistry, security); no question is about an entity",
    "muse": "MUSE removes documents (news, books); no row is about an entity",
}
AUTO = "auto"


def import_entities(source: str | Path, *, format: str = AUTO, type: str | None = None) -> ImportedEntities:
    """Read entities, templates and a forget list from the files of another benchmark.

    Args:
        source: A file (JSON, JSON lines, CSV, TSV, parquet; plain or gzip), a folder or tar archive of files, or the
            id of a hub dataset. What lies in files with `forget` in their name is to be forgotten.
        format: An entry of `FORMATS`, or `auto`: seen by the first row.
        type: Type of the entities whose rows name none; by default one that fits the format.

    Raises:
        ConfigError: There is no such format, or it has no entities.
        MissingFileError: There is no such source.
        FileFormatError: A row is not of the format; its place is given.
        EntityError: No row can be used.
    """
    if format != AUTO:
        check_format(format)
    files = read_source(source, (lambda name: True) if format == AUTO else FORMATS[format].wanted)
    first = next(file.rows[0] for file in files if file.rows)
    name = format_of(first.raw, first.where) if format == AUTO else format
    if format == AUTO:
        files = [file for file in files if len(files) == 1 or FORMATS[name].wanted(file.name)]
    found = FORMATS[name].read(files, type or FORMATS[name].kind)
    return assemble(found, format=name)


def check_format(name: str) -> None:
    """Refuse what is no format, and benchmarks without entities.

    Raises:
        ConfigError: It is one of them.
    """
    if name in REFUSED:
        raise ConfigError(
            f"'{name}' has no entities to import", got=REFUSED[name], field="format", expected=", ".join(FORMATS)
        )
    if name not in FORMATS:
        expected = nearest_first(name, [AUTO, *FORMATS])
        raise ConfigError(f"no format '{name}'", got=name, field="format", expected=expected)


def format_of(raw: Any, where: str) -> str:
    """Return the format of a file by its first row.

    Raises:
        ConfigError: It is of a benchmark without entities.
        FileFormatError: It is of no format.
    """
    found = seen_format(raw)
    if found is None:
        keys = ", ".join(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise FileFormatError(
            f"{where}: no format has such rows", got=keys[:120], expected=", ".join(FORMATS), try_="name the `format`"
        )
    check_format(found)
    return found


def seen_format(raw: Any) -> str | None:
    """Return the format whose rows look like this one, also one that is refused; None where there is none.

    Example:
        >>> seen_format({"question": "…", "answer": "…"}), seen_format({"question": "…", "choices": ["…"], "answer": 0})
        ('tofu', 'wmdp')
    """
    if not isinstance(raw, Mapping):
        return None
    if {"question", "choices"} <= set(raw):
        return "wmdp"
    if set(raw) in ({"text"}, {"prompt", "gt"}):
        return "muse"
    return next((name for name, form in FORMATS.items() if form.has(raw)), None)
