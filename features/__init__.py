"""The first floor: find latents that tell known from unknown entities. May import sae_train only.

Its front door, imported when it is first used, so that `import features` costs nothing:

    load_entities         an entity file -> entities
    load_templates        a template file -> templates
    import_entities       a file of another benchmark -> ImportedEntities: entities, templates, forget list
    label_entities        language model + entities -> Labels: known or unknown by its own answers
    Labels                labelled entities that know their templates and rule
    collect_names         language model + Labels -> NameData, the activations at names
    find_entity_latents   language model + SAEs + Labels -> LatentAnalysis: which latents tell known from unknown
    plant                 language model + text -> Planted: a made-up world in it, and a twin that never met some of it
    probe_sae             SAE + language model -> ProbingReport: what few latents say about labelled texts
    browse                SAE + ActivationStore -> LatentBrowser: all latents as tables and as a page
    inspect_file          any of our HDF5 files -> Inspection: what is in it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_train.front_door import lazy_exports

if TYPE_CHECKING:
    from features.analysis.store import LatentAnalysis
    from features.browsing.browse import browse
    from features.browsing.browser import LatentBrowser
    from features.entities.entities import load_entities
    from features.entities.formats.registry import import_entities
    from features.entities.importing.imported import ImportedEntities
    from features.entities.name_acts import NameData
    from features.entities.templates import load_templates
    from features.factworld.planting.pair import plant
    from features.factworld.planting.planted import Planted
    from features.inspection.inspection import Inspection, inspect_file
    from features.labels.labelling import label_entities
    from features.labels.labels import Labels
    from features.mining.latent_search import collect_names, find_entity_latents
    from features.probing.figures import ProbingReport
    from features.probing.probing import probe_sae

__all__ = [
    "ImportedEntities",
    "Inspection",
    "Labels",
    "LatentAnalysis",
    "LatentBrowser",
    "NameData",
    "Planted",
    "ProbingReport",
    "browse",
    "collect_names",
    "find_entity_latents",
    "import_entities",
    "inspect_file",
    "label_entities",
    "load_entities",
    "load_templates",
    "plant",
    "probe_sae",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ImportedEntities": "features.entities.importing.imported",
        "Inspection": "features.inspection.inspection",
        "Labels": "features.labels.labels",
        "LatentAnalysis": "features.analysis.store",
        "LatentBrowser": "features.browsing.browser",
        "NameData": "features.entities.name_acts",
        "Planted": "features.factworld.planting.planted",
        "ProbingReport": "features.probing.figures",
        "browse": "features.browsing.browse",
        "collect_names": "features.mining.latent_search",
        "find_entity_latents": "features.mining.latent_search",
        "import_entities": "features.entities.formats.registry",
        "inspect_file": "features.inspection.inspection",
        "label_entities": "features.labels.labelling",
        "load_entities": "features.entities.entities",
        "load_templates": "features.entities.templates",
        "plant": "features.factworld.planting.pair",
        "probe_sae": "features.probing.probing",
    },
)
