"""The layout of `latents.h5`: names, units and axes of the arrays of each SAE, and allowed file names."""

from __future__ import annotations

from pathlib import Path

from sae_train.errors import FileFormatError

ARRAYS = (
    ("q_value", "probability", ("latent",)),
    ("mean_active", "activation", ("label", "latent")),
    ("pre_act_mean", "activation", ("label", "latent")),
    ("pre_act_std", "activation", ("label", "latent")),
    ("W_dec", "unit vector", ("latent", "d_in")),
)
OPTIONAL_ARRAYS = (
    ("general_rate", "share of tokens", ("latent",)),
    ("general_interval", "share of tokens", ("end", "latent")),
    ("maxmin_p", "probability", ("direction", "latent")),
    ("null", "share of entities", ("direction", "shuffle")),
    ("entity_score", "log odds", ("entity",)),
    ("entity_probe", "log odds", ("entity",)),
)
SCORES = ("score", "low", "high", "maxmin_known", "maxmin_unknown", "auroc", "p_value")


def check_name(path: Path) -> Path:
    """Return the path unless the files that go beside the analysis would take its place.

    Raises:
        FileFormatError: It ends in .json or .html.
    """
    if path.suffix.lower() in (".json", ".html"):
        raise FileFormatError(
            f"the analysis is an HDF5 file: '{path}'",
            got=path.name,
            field="out",
            expected=f"{path.stem}.h5; {path.stem}.json and {path.stem}.html are written beside it",
        )
    return path
