"""One planting before any training: the world, what is read, and what identifies it all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from features.factworld.planting.config import PlantConfig
from features.factworld.planting.documents import PlantedDocument, draw_documents, twin_documents
from features.factworld.planting.lessons import GeneralText, general_text, lessons_of
from features.factworld.planting.memory import check_memory
from features.factworld.planting.training import Course
from features.factworld.planting.world import PlantedWorld, draw_planted_world
from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.run.runs import text_hash
from sae_train.text.tokens import Text, corpus_of

MODEL, TWIN = "model", "twin"


@dataclass(frozen=True)
class PlantJob:
    """What is planted into which model.

    Attributes:
        base: The model that is taught; it is not changed.
        world: Entities, roles, templates.
        documents: What the model reads, by `MODEL`, and the twin, by `TWIN`, where there is one.
        general: General text.
        config: Size of the world and settings of the training.
        text_name: What the general text is called.
    """

    base: LanguageModel
    world: PlantedWorld
    documents: dict[str, list[PlantedDocument]]
    general: GeneralText
    config: PlantConfig
    text_name: str

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return what decides the weights and the figures."""
        windows = (json.dumps(w) for w in (*self.general.trained, *self.general.heldout))
        return {
            "base": weights_hash(self.base.model),
            "tokenizer": self.base.tokenizer_hash,
            "text": text_hash(windows),
            "documents": text_hash(d.text for name in self.documents for d in self.documents[name]),
            "config": asdict(self.config),
        }

    @property
    def key(self) -> str:
        """Return the name under which a cache keeps it."""
        return text_hash([json.dumps(self.identity, sort_keys=True)])[:24]

    @cached_property
    def courses(self) -> dict[str, Course]:
        """Return what the model and the twin are taught, by name."""
        how = {"context_weight": self.config.context_weight, "ctx_len": _ctx_len(self.base, self.config)}
        return {
            name: Course(self.base, lessons_of(read, self.base.tokenizer, **how), self.general.trained, self.config)
            for name, read in self.documents.items()
        }


def prepare(base: LanguageModel, text: Text, config: PlantConfig) -> PlantJob:
    """Draw the world and its documents, read the general text, and refuse what does not fit.

    Raises:
        ConfigError: The general text is too short, or there are too few names.
        MemoryShortError: Planting does not fit into memory.
        InputError: The text cannot be read.
    """
    corpus = corpus_of(text)
    world = draw_planted_world(base.tokenizer, config)
    documents = {MODEL: draw_documents(world, config)}
    if config.leave_out:
        documents[TWIN] = twin_documents(documents[MODEL], world.roles.targets, seed=config.seed)
    n_windows = config.general_windows * -(-len(documents[MODEL]) // config.batch_docs)
    ctx_len = _ctx_len(base, config)
    general = general_text(corpus, base.tokenizer, world.names, ctx_len=ctx_len, n_windows=n_windows)
    job = PlantJob(base, world, documents, general, config, corpus.name)
    check_memory(job.courses[MODEL], n_models=len(documents))
    return job


def _ctx_len(base: LanguageModel, config: PlantConfig) -> int:
    """Return the tokens of a window: not more than the model has positions for."""
    return min(config.ctx_len, base.max_positions)
