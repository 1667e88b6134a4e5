"""Open what a station is given: objects or paths become objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.entities.entities import Entity, distinct, load_entities
from features.entities.formats.registry import AUTO, check_format, import_entities, seen_format
from features.entities.importing.source_files import first_row
from features.entities.named_inputs import entity_source, world_part
from features.entities.templates import Templates, load_templates
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError
from sae_train.run.runs import resolve_device
from sae_train.saes.base import Sae, require_autoencoder
from sae_train.saes.interop import load_sae

OWN = "own"  # entities in the form of this workbench


def open_templates(given: Templates | str | Path) -> Templates:
    """Return templates, or read them from a file or the world of a name."""
    return given if isinstance(given, Templates) else load_templates(given)


def open_entities(
    given: Iterable[Entity] | str | Path,
    templates: Templates | str | Path | None,
    *,
    format: str = OWN,
    duplicates: str = "error",
) -> tuple[list[Entity], Templates]:
    """Return entities, each once, and the templates that ask about them.

    Args:
        given: Entities; a file of ours or of another benchmark, the id of a hub dataset, or the name of a world.
        templates: An object, a file or the name of a world; None takes those that come with another format.
        format: An entry of `features.entities.formats.registry.FORMATS`, `own`, or `auto`: by the first row.
        duplicates: What becomes of a name that its type has twice.

    Raises:
        ConfigError: There are no templates, or no such format.
        InputError: Something cannot be read.
    """
    if isinstance(given, str | Path):
        name = _format_of(given) if format == AUTO else format
        if name != OWN:
            found = import_entities(given, format=name)
            return list(found.entities), found.templates if templates is None else open_templates(templates)
        entities = load_entities(given, duplicates=duplicates)
    else:
        entities = distinct(((f"entity {i} of those given", e) for i, e in enumerate(given)), duplicates)
    if templates is None:
        raise ConfigError(
            "nobody says how to ask about the entities",
            got="none",
            field="templates",
            expected="a template file; only a file of another benchmark (`entities_format`) brings its own",
        )
    return entities, open_templates(templates)


def _format_of(given: str | Path) -> str:
    """Return the format that a file seems to have; what has a name and a type, or is none of them, is ours."""
    where = entity_source(given)
    if isinstance(where, str) or world_part(given, "entities") is not None or not where.exists():
        return OWN
    seen = seen_format(first_row(where))
    if seen is not None:
        check_format(seen)
    return OWN if seen in (None, "csv") else seen


def open_saes(given: Sae | str | Path | Sequence[Sae | str | Path], *, device: Any = "auto") -> list[Sae]:
    """Return SAEs, or read them from their folders onto a device.

    Raises:
        ConfigError: There is none, or one is a transcoder.
    """
    several = [given] if isinstance(given, Sae | str | Path) else list(given)
    if not several:
        raise ConfigError("no SAE to look into", got="none", field="saes", expected="one or more, objects or folders")
    where = resolve_device(str(device))
    found = [s if isinstance(s, Sae) else load_sae(Path(s), device=where) for s in several]
    return [require_autoencoder(sae, "mining") for sae in found]


@contextmanager
def open_store(given: ActivationStore | str | Path | None) -> Iterator[ActivationStore | None]:
    """Open an activation store and close it again; one that is open already stays so."""
    if given is None or isinstance(given, ActivationStore):
        yield given
        return
    with ActivationStore(Path(given)) as store:
        yield store
