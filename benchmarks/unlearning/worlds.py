"""What a removal benchmark works on: a model, what is known about its entities, and general text, some of it retained.

A fact world with what `wb demo` left of it is opened by `open_world`; a real model is put together where it is measured.
Every removal goes through `unlearn`, every audit through `audit`: the original model stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from features.analysis.store import LatentAnalysis, load_analysis
from features.entities.entities import Entity, load_entities
from features.entities.templates import Templates, load_templates
from features.factworld import shipped_world
from features.factworld.corpus import world_corpus
from sae_train import Sae
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.run.progress import silent
from sae_train.text.tokens import Document
from unlearn import audit, unlearn
from unlearn.auditing.audit_report import AuditReport
from unlearn.auditing.context import AuditContext
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig, UnlearnConfig
from unlearn.removals.unlearned import Unlearned


@dataclass(frozen=True)
class World:
    """A model and what is known about it.

    Attributes:
        name: What results are kept under.
        lm: The original model.
        labels: Labelled entities.
        templates: Wordings.
        latents: File of the mined latents.
        sae_folders: SAEs, one of which the latents were mined with.
        documents: General text.
        n_retained: How many of them, from the first on, a removal retains.
        entities: All entities there are, labelled or not.
    """

    name: str
    lm: LanguageModel
    labels: Sequence[Entity]
    templates: Templates
    latents: Path
    sae_folders: tuple[Path, ...]
    documents: Sequence[Document]
    n_retained: int
    entities: Sequence[Entity] = ()

    @cached_property
    def analysis(self) -> LatentAnalysis:
        """The mined latents, read when they are first asked for: an audit can do without."""
        return load_analysis(self.latents)

    @cached_property
    def saes(self) -> list[Sae]:
        """The SAEs, likewise."""
        return [Sae.load(folder, device=str(self.lm.device)) for folder in self.sae_folders]

    @property
    def unretained(self) -> Sequence[Document]:
        """The documents that no removal retains."""
        return self.documents[self.n_retained :]

    def forget(self, names: Sequence[str], config: UnlearnConfig, *, after: Unlearned | None = None) -> Unlearned:
        """Remove entities from the original model, or from one from which others were removed before."""
        return unlearn(
            self.lm if after is None else after,
            self.analysis,
            forget=names,
            sae=self.saes,
            labels=self.labels,
            templates=self.templates,
            text=self.documents[: self.n_retained],
            original=None if after is None else self.lm,
            config=config,
            progress=silent,
        )

    def audit(self, after: LanguageModel, names: Sequence[str], config: AuditConfig, **given: Any) -> AuditReport:
        """Audit any model against the original one, without SAEs: all are asked the same, however made.

        Of the latents, where they are, only the halves are used: what a removal read is not what it is audited on.
        """
        halves = self.latents if self.latents.exists() else None
        known = {"latents": halves, "labels": self.labels, "templates": self.templates}
        return audit(self.lm, after, forget=names, config=config, progress=silent, **known, **given)

    def context(self, after: LanguageModel, names: Sequence[str], config: AuditConfig, **given: Any) -> AuditContext:
        """Return what single parts of an audit measure on; `given` are further fields of the request."""
        request = Request(self.labels, self.templates, names, analysis=self.analysis, **given)
        return make_context(self.lm, after, request, config)


def open_world(
    folder: Path,
    demo: Path,
    *,
    labels: Iterable[Entity] | None = None,
    n_documents: int | None = None,
    n_retained: int | None = None,
) -> World:
    """Open a fact world and the demo run on it.

    Args:
        folder: Of the world.
        demo: Of the demo run; latents and SAEs are read from it when they are needed.
        labels: Labelled entities, where they are not those of the demo.
        n_documents: Documents of its corpus, from the first on; by default all.
        n_retained: How many of these a removal retains; by default half.
    """
    seed = int(json.loads((folder / "world.json").read_text(encoding="utf-8"))["seed"])
    documents = [Document(d.text) for d in world_corpus(seed)[:n_documents]]
    return World(
        name=f"world-{seed}",
        lm=load_lm(str(folder), device="cpu"),
        labels=load_entities(demo / "labels.jsonl", need_labels=True) if labels is None else list(labels),
        templates=load_templates(folder / "templates.json"),
        latents=demo / "latents.h5",
        sae_folders=tuple(sorted(demo.glob("sae-*"))),
        documents=documents,
        n_retained=len(documents) // 2 if n_retained is None else n_retained,
        entities=load_entities(folder / "entities.jsonl"),
    )


def world_folder(seed: int, worlds: Path) -> Path:
    """Return the folder of a world; seed 0 is the one that ships, the others lie in `worlds` as world-N."""
    return shipped_world() if seed == 0 else worlds / f"world-{seed}"
