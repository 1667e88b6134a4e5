"""Go on from an SAE: its weights and thresholds, in the scale of a new run, in the place of drawn ones.

With s the new run's scale (`Plan.scale`), an SAE in the model's own scale becomes the same function of s x:

    W_enc, W_dec as they are        b_enc s        b_dec s        thresholds s

Decoder rows are brought to length one first (W_enc n, b_enc n, threshold n, W_dec / n), which is exact for ReLU and
thresholds; a TopK SAE with rows of another length is refused, since other latents would be kept.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sae_train.config import ImportConfig, SaeTrainConfig
from sae_train.errors import ConfigError, ShapeError
from sae_train.run.notes import note
from sae_train.saes.base import Sae
from sae_train.saes.importers import read_source
from sae_train.saes.importers.draft import UNIT_TOLERANCE
from sae_train.saes.interop import load_sae
from sae_train.text_files import read_json

# Kinds, by SAELens' name, that an architecture can go on from: those that compute the same, or nearly.
STARTS = {
    "topk": ("topk",),
    "hierarchical-topk": ("topk",),
    "batch-topk": ("jumprelu", "topk"),
    "matryoshka": ("jumprelu", "topk"),
    "relu": ("standard",),
    "jumprelu": ("jumprelu",),
}


def initial_sae(config: SaeTrainConfig) -> Sae:
    """Read the SAE that a run goes on from, in the model's own scale, decoder rows of length one.

    Raises:
        ConfigError: It is of another kind than is to be trained, reads another place, or is a TopK SAE with rows of
            another length.
        InputError: It cannot be read; see `import_sae`.
    """
    assert config.init is not None
    source, path = config.init, Path(config.init) / "cfg.json"
    if path.is_file() and "workbench_arch" in (read_json(path).get("metadata") or {}):
        sae = load_sae(Path(source))
    else:
        # Where the source names no place, it is taken to be the one that is to be trained.
        draft = read_source(ImportConfig(source, hook_point=None, k=None), default_place=config.hook_point)[1]
        sae = draft.build()
        sae.hook_point = draft.hook_point or ""
    places = (sae.hook_point, sae.target_hook_point or None)
    if places != (config.hook_point, config.target_hook_point):
        raise ConfigError(
            f"the SAE in '{source}' has another place",
            got=" to ".join(p for p in places if p),
            field="init",
            expected=" to ".join(p for p in (config.hook_point, config.target_hook_point) if p),
        )
    kind = _kind_of(sae)
    if kind not in STARTS[config.arch]:
        raise ConfigError(
            f"the SAE in '{source}' computes something else than is to be trained",
            got=f"{kind}, for `arch`={config.arch}",
            field="init",
            expected=f"{' or '.join(STARTS[config.arch])}",
        )
    if STARTS[config.arch] == ("topk",) and getattr(sae, "k", config.k) != config.k:
        note(f"the SAE in '{source}' keeps {getattr(sae, 'k', None)} latents per token; it goes on with {config.k}")
    _to_unit_rows(sae, kind, source)
    return sae


def check_initial(config: SaeTrainConfig, sae: Sae) -> None:
    """Refuse an SAE to go on from that does not fit the one to be trained, `sae` (of which shapes are looked at).

    Raises:
        ConfigError, InputError: As `initial_sae`.
        ShapeError: Their sizes differ.
    """
    _check_shapes(initial_sae(config), sae, config)


@torch.no_grad()
def take_over(sae: Sae, config: SaeTrainConfig, scale: float) -> None:
    """Put weights and thresholds of the SAE that a run goes on from into the one to be trained.

    Args:
        sae: Its weights are drawn, its inputs (a transcoder's) are measured.
        config: The run's; nothing happens where it names none.
        scale: What activations are multiplied by.

    Raises:
        ConfigError, InputError, ShapeError: As `check_initial`.
    """
    if config.init is None:
        return
    found = initial_sae(config)
    _check_shapes(found, sae, config)
    tensors = found.saelens_tensors()
    for name, parameter in sae.named_parameters():
        if name in tensors:
            parameter.copy_(tensors[name])
    sae.unfold_scale(scale)
    if "threshold" in tensors:
        sae.take_thresholds(tensors["threshold"] * scale)


def _kind_of(sae: Sae) -> str:
    """Return SAELens' name of an SAE, that of a transcoder by its activation."""
    name = str(sae.saelens_config()["architecture"]).replace("skip_", "")
    return {"transcoder": "standard", "topk_transcoder": "topk", "jumprelu_transcoder": "jumprelu"}.get(name, name)


def _check_shapes(found: Sae, sae: Sae, config: SaeTrainConfig) -> None:
    """Refuse tensors of other names or sizes than the parameters that they are for."""
    wanted = {n: tuple(p.shape) for n, p in sae.named_parameters() if n != "log_growth"}
    got = {n: tuple(p.shape) for n, p in found.named_parameters() if n != "log_growth"}
    if (got, found.sides) != (wanted, sae.sides):
        raise ShapeError(
            f"the SAE in '{config.init}' has another size",
            got=f"{_shapes(got)}, sides {found.sides}",
            expected=f"{_shapes(wanted)}, sides {sae.sides}",
            try_=f"`d_sae`={found.d_sae}" if found.d_sae != sae.d_sae else None,
        )


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    """Return shapes for a message."""
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


@torch.no_grad()
def _to_unit_rows(sae: Sae, kind: str, source: str) -> None:
    """Bring decoder rows to length one where latents scale with their argument; else refuse."""
    norms = sae.W_dec.norm(dim=1)
    if not bool(((norms - 1).abs() > UNIT_TOLERANCE).any()):
        return
    if kind == "topk":
        raise ConfigError(
            f"the decoder rows of the TopK SAE in '{source}' have other lengths than one",
            got=f"{float(norms.min()):.4g} to {float(norms.max()):.4g}",
            field="init",
            expected="rows of length one, which training keeps",
        )
    safe = torch.where(norms > 0, norms, 1.0)
    tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in sae.saelens_tensors().items()}
    tensors |= {"W_enc": tensors["W_enc"] * safe, "b_enc": tensors["b_enc"] * safe}
    tensors |= {"W_dec": tensors["W_dec"] / safe[:, None]}
    tensors |= {"threshold": tensors["threshold"] * safe} if "threshold" in tensors else {}
    sae.load_saelens_tensors(tensors)
