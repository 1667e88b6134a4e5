"""First floor: which latents know an entity. Entities, labels, statistics, the embedded world. May import sae_train.

Its front door, imported when it is first used, so that `import features` costs nothing:

    load_entities         an entity file -> entities
    load_templates        a template file -> templates
    label_entities        language model + entities -> Labels: known or unknown by its own answers
    Labels                labelled entities that know their templates and rule
    collect_names         language model + Labels -> NameData, the activations at names
    find_entity_latents   language model + SAEs + Labels -> LatentAnalysis: which latents tell known from unknown
    inspect_file          any of our HDF5 files -> Inspection: what is in it
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features.entities import load_entities
    from features.inspection import Inspection, inspect_file
    from features.labelling import label_entities
    from features.labels import Labels
    from features.latent_search import collect_names, find_entity_latents
    from features.name_acts import NameData
    from features.prompts import load_templates
    from features.store import LatentAnalysis

__all__ = [
    "Inspection",
    "Labels",
    "LatentAnalysis",
    "NameData",
    "collect_names",
    "find_entity_latents",
    "inspect_file",
    "label_entities",
    "load_entities",
    "load_templates",
]

_MODULES = {
    "Inspection": "features.inspection",
    "Labels": "features.labels",
    "LatentAnalysis": "features.store",
    "NameData": "features.name_acts",
    "collect_names": "features.latent_search",
    "find_entity_latents": "features.latent_search",
    "inspect_file": "features.inspection",
    "label_entities": "features.labelling",
    "load_entities": "features.entities",
    "load_templates": "features.prompts",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562); names of modules are left to the import system."""
    if name not in _MODULES:
        raise AttributeError(f"module 'features' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the names of the front door."""
    return sorted(__all__)
