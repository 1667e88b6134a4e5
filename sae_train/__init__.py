"""The ground floor: language model -> activations on disk -> sparse autoencoder. It imports no other floor.

Its front door, imported when it is first used, so that `import sae_train` costs nothing:

    load_lm               a language model and its tokenizer
    cache_activations     language model + text -> ActivationStore, all hook points in one pass
    computed_activations  the same, computed whenever they are read; nothing is written
    ActivationStore       an activation store, open for reading
    train_sae, train_saes ActivationStore -> Sae, without any language model in memory
    Sae                   a sparse autoencoder: encode, decode, load, save, to_saelens
    eval_sae              how good an SAE is, and what it costs the language model
    import_sae            an SAE of another library -> Sae
    push_sae              an SAE folder -> the Hugging Face hub
    compare_saes          which latents of one SAE another one has too
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_train.front_door import lazy_exports

if TYPE_CHECKING:
    from sae_train.activations.caching import cache_activations
    from sae_train.activations.computed import computed_activations
    from sae_train.activations.store import ActivationStore
    from sae_train.lm.models import load_lm
    from sae_train.quality.evaluation import compare_saes, eval_sae
    from sae_train.saes.base import Sae
    from sae_train.saes.importers import import_sae
    from sae_train.sharing.push import push_sae
    from sae_train.training.stations import train_sae, train_saes

__all__ = [
    "ActivationStore",
    "Sae",
    "cache_activations",
    "compare_saes",
    "computed_activations",
    "eval_sae",
    "import_sae",
    "load_lm",
    "push_sae",
    "train_sae",
    "train_saes",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ActivationStore": "sae_train.activations.store",
        "Sae": "sae_train.saes.base",
        "cache_activations": "sae_train.activations.caching",
        "compare_saes": "sae_train.quality.evaluation",
        "computed_activations": "sae_train.activations.computed",
        "eval_sae": "sae_train.quality.evaluation",
        "import_sae": "sae_train.saes.importers",
        "load_lm": "sae_train.lm.models",
        "push_sae": "sae_train.sharing.push",
        "train_sae": "sae_train.training.stations",
        "train_saes": "sae_train.training.stations",
    },
)
