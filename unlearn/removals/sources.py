"""Inputs of removal and audit, as objects or paths: latents, SAEs, labels, templates, names, text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from features.analysis.store import LatentAnalysis, load_analysis
from features.entities.entities import Entity, load_entities
from features.entities.opening import open_templates
from features.entities.templates import Templates
from sae_train.errors import ConfigError
from sae_train.saes.base import Sae, require_autoencoder
from sae_train.text.tokens import Document, load_documents


@dataclass(frozen=True)
class Sources:
    """The inputs of a removal or an audit: mined latents, labels, templates and SAEs.

    Attributes:
        analysis: Mined latents; None where there are none.
        labels: Labelled entities.
        templates: Wordings.
        saes: SAEs, or their folders.
    """

    analysis: LatentAnalysis | None
    labels: Sequence[Entity]
    templates: Templates
    saes: tuple[Sae | str | Path, ...]

    def load_saes(self, device: torch.device) -> list[Sae]:
        """Return the SAEs, on a device.

        Raises:
            ConfigError: One is a transcoder or a crosscoder.
        """
        return [require_autoencoder(sae, "a removal") for sae in self._load(device)]

    def load_dictionaries(self, device: torch.device) -> tuple[list[Sae], list[Sae]]:
        """Return the SAEs and the crosscoders, on a device.

        Raises:
            ConfigError: One is a transcoder.
        """
        found = self._load(device)
        crosscoders = [sae for sae in found if len(sae.sides) > 1]
        return [require_autoencoder(sae, "an audit") for sae in found if len(sae.sides) == 1], crosscoders

    def _load(self, device: torch.device) -> list[Sae]:
        return [s.to(device) if isinstance(s, Sae) else Sae.load(s, device=str(device)) for s in self.saes]


def sources_of(
    latents: LatentAnalysis | str | Path | None,
    *,
    sae: Sae | str | Path | Sequence[Sae | str | Path] | None,
    labels: Sequence[Entity] | str | Path | None,
    templates: Templates | str | Path | None,
) -> Sources:
    """Return what is given, and for what is not given what the latents know.

    Raises:
        ConfigError: Labels or templates are neither given nor known.
        InputError: A file cannot be used.
    """
    analysis = load_analysis(Path(latents)) if isinstance(latents, str | Path) else latents
    known = None if analysis is None else analysis.sources
    if labels is None and known is not None:
        labels = known.labels
    if templates is None:
        templates = getattr(labels, "templates", None) or (None if known is None else known.templates)
    if labels is None or templates is None:
        missing = "labels" if labels is None else "templates"
        raise ConfigError(
            f"no {missing} are given", got=f"{missing} = None", expected="an object or a path", field=missing
        )
    if sae is None:
        saes: tuple[Sae | str | Path, ...] = () if known is None else tuple(known.saes)
    else:
        saes = (sae,) if isinstance(sae, Sae | str | Path) else tuple(sae)
    return Sources(
        analysis,
        load_entities(Path(labels), need_labels=True) if isinstance(labels, str | Path) else labels,
        open_templates(templates),
        saes,
    )


def names_of(forget: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names to forget, each once, in the order given.

    Raises:
        ConfigError: There is none.

    Example:
        >>> names_of("Osk"), names_of(["Mira Tolvan", "Osk", "Mira Tolvan"])
        (('Osk',), ('Mira Tolvan', 'Osk'))
    """
    names = (forget,) if isinstance(forget, str) else tuple(dict.fromkeys(forget))
    if not names:
        raise ConfigError("nothing to forget", got="no names", expected="at least one", field="forget")
    return names


def documents_of(text: str | Path | Iterable[str | Document] | None) -> Iterator[Document]:
    """Return the documents of a text: a path, a hub dataset id, the name of a world, or the texts themselves.

    The first one is read at once, so that a text that cannot be read is refused before anything is done.
    """
    if text is None:
        return iter(())
    if isinstance(text, str | Path):
        documents = load_documents(str(text))
    else:
        documents = (t if isinstance(t, Document) else Document(t) for t in text)
    return itertools.chain(list(itertools.islice(documents, 1)), documents)
