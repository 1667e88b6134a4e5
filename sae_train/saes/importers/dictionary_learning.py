"""dictionary_learning: `ae.pt`, a pickled state dict, beside a `config.json` that names the class (read: 0.1.0).

Only tensors are unpickled. E and D are the weights of `nn.Linear`, so W_enc = E^T and W_dec = D^T:

    AutoEncoder             latents = ReLU(E (x - bias) + e), b_dec = bias                         -> standard
    AutoEncoderNew          latents = ReLU(E x + e), b_enc = e + b_dec W_enc                       -> standard
    AutoEncoderTopK         latents = TopK(ReLU(E (x - b_dec) + e)); its threshold is not used     -> topk
    BatchTopKSAE            latents = y [y > threshold], y = ReLU(E (x - b_dec) + e)               -> jumprelu
    MatryoshkaBatchTopKSAE  the same, all groups, W_enc and W_dec as ours                          -> jumprelu
    JumpReluAutoEncoder     latents = ReLU(y [y > threshold]), y = x W_enc + b; b_enc = b + b_dec W_enc -> jumprelu
    GatedAutoEncoder        see `gated_as_jumprelu`                                                -> jumprelu

`apply_b_dec_to_input` of a JumpReluAutoEncoder is an attribute that the library neither saves nor sets: false, unless
config.json says otherwise. A BatchTopKSAE whose threshold is still -1 has never measured it and is ReLU, here as there.
The library's loader brings an AutoEncoder's decoder to unit rows, which scales its latents: `--unit-norm` does that.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_train.errors import ConfigError, FileFormatError, nearest_first
from sae_train.saes.importers.draft import SaeDraft, gated_as_jumprelu, jumprelu_threshold, with_input_centred
from sae_train.saes.importers.reading import agreed_k, known_hook_point, model_of, need_tensors, read_object

NAME = "dictionary_learning"
LOOKS_LIKE = "ae.pt, or a folder with it, config.json beside it"
WEIGHTS = "ae.pt"
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_OWN = ("W_enc", "b_enc", "W_dec", "b_dec")


class _State(NamedTuple):
    """The tensors, the `trainer` part of config.json, and the `k` given."""

    tensors: dict[str, Tensor]
    trainer: dict[str, Any]
    k: int | None


class _Class(NamedTuple):
    """The tensors of a class, and what makes a draft of them."""

    tensors: tuple[str, ...]
    read: Callable[[_State], SaeDraft]


def matches(source: str) -> bool:
    """Tell whether a path holds one."""
    path = Path(source)
    return (path / WEIGHTS).is_file() or (path.is_file() and path.suffix in (".pt", ".pth"))


def read(source: str, k: int | None) -> SaeDraft:
    """Return the SAE of a file or folder.

    Raises:
        FileFormatError: Something other than tensors is pickled, other tensors, or a class that is not known.
        ConfigError: `k` differs from the file's, is missing, or does not apply.
    """
    path = Path(source)
    path = path / WEIGHTS if path.is_dir() else path
    tensors, trainer = _read_tensors(path), _read_trainer(path.with_name("config.json"))
    name = str(trainer.get("dict_class") or _class_of(set(tensors), path))
    if name not in _CLASSES:
        raise FileFormatError(
            f"cannot use the dictionary in '{path}'", got=name, expected=nearest_first(name, _CLASSES, most=7)
        )
    need_tensors(tensors, _CLASSES[name].tensors, path)
    return _CLASSES[name].read(_State(tensors, trainer, k))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Unpickle tensors, and nothing else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileFormatError(
            f"cannot read '{path}'", got=reason, expected="a pickled state dict that holds tensors only"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise FileFormatError(f"'{path}' is no state dict", got=f"a {type(found).__name__}", expected="named tensors")
    return {str(name): value for name, value in found.items()}


def _read_trainer(path: Path) -> dict[str, Any]:
    """Return the `trainer` part of config.json; empty where there is no such file."""
    if not path.is_file():
        return {}
    trainer = read_object(path, "dictionary_learning's config").get("trainer")
    if not isinstance(trainer, dict):
        raise FileFormatError(f"'{path}' names no class", got=f"trainer: {trainer!r}", expected="trainer.dict_class")
    return trainer


def _class_of(names: set[str], path: Path) -> str:
    """Return the only class that has these tensors."""
    fitting = [name for name, kind in _CLASSES.items() if set(kind.tensors) == names]
    if len(fitting) == 1:
        return fitting[0]
    raise FileFormatError(
        f"'{path}' does not say its class",
        got=f"no config.json beside it, tensors {', '.join(sorted(names))}",
        expected=", ".join(fitting or _CLASSES),
        try_=f'a config.json beside it: {{"trainer": {{"dict_class": "{(fitting or ["AutoEncoder"])[0]}"}}}}',
    )


def _draft(state: _State, architecture: str, **parts: Any) -> SaeDraft:
    """Return a draft with what config.json says about its origin."""
    trainer, tensors = state.trainer, state.tensors
    if architecture != "topk" and state.k is not None and "k" not in tensors:
        raise ConfigError("this dictionary has no k", got=state.k, expected="no `k`", field="k")
    module = str(trainer.get("submodule_name") or "")
    site = f"layers.{module.removeprefix('resid_post_layer_')}" if module.startswith("resid_post_layer_") else module
    found = {"hook_point": known_hook_point(site), "model_name": model_of(trainer.get("lm_name"))}
    return SaeDraft(architecture=architecture, **found, **parts)


def _linear(tensors: dict[str, Tensor], bias: str) -> dict[str, Tensor]:
    """Return our four weights from two `nn.Linear` and the bias that is called so."""
    return {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["decoder.weight"].T,
        "b_dec": tensors[bias],
    }


def _autoencoder(state: _State) -> SaeDraft:
    return _draft(state, "standard", **_linear(state.tensors, "bias"))


def _autoencoder_new(state: _State) -> SaeDraft:
    return with_input_centred(_draft(state, "standard", **_linear(state.tensors, "decoder.bias")))


def _topk(state: _State) -> SaeDraft:
    k = agreed_k(state.k, state.trainer.get("k"), state.tensors["k"].tolist())
    return _draft(state, "topk", **_linear(state.tensors, "b_dec"), k=k, notes=("its threshold is not used",))


def _batch_topk(state: _State) -> SaeDraft:
    tensors = state.tensors
    agreed_k(state.k, state.trainer.get("k"), tensors["k"].tolist())
    weights = _linear(tensors, "b_dec") if "encoder.weight" in tensors else {name: tensors[name] for name in _OWN}
    threshold = jumprelu_threshold(tensors["threshold"], len(weights["b_enc"]))
    measured = bool((tensors["threshold"] >= 0).all())
    note = "one threshold for all latents" if measured else "its threshold was never measured: it is ReLU"
    return _draft(state, "jumprelu", **weights, threshold=threshold, notes=(note,))


def _jumprelu(state: _State) -> SaeDraft:
    weights = {name: state.tensors[name] for name in _OWN}
    threshold = jumprelu_threshold(state.tensors["threshold"], len(weights["b_enc"]))
    draft = _draft(state, "jumprelu", **weights, threshold=threshold)
    return draft if state.trainer.get("apply_b_dec_to_input", False) else with_input_centred(draft)


def _gated(state: _State) -> SaeDraft:
    t = state.tensors
    parts = gated_as_jumprelu(t["encoder.weight"].T, t["r_mag"], t["mag_bias"], t["gate_bias"])
    parts |= {"W_dec": t["decoder.weight"].T, "b_dec": t["decoder_bias"]}
    return _draft(state, "jumprelu", **parts, notes=("gate rewritten as a threshold",))


_CLASSES: dict[str, _Class] = {
    "AutoEncoder": _Class((*_LINEAR, "bias"), _autoencoder),
    "AutoEncoderNew": _Class((*_LINEAR, "decoder.bias"), _autoencoder_new),
    "AutoEncoderTopK": _Class((*_LINEAR, "b_dec", "k", "threshold"), _topk),
    "BatchTopKSAE": _Class((*_LINEAR, "b_dec", "k", "threshold"), _batch_topk),
    "MatryoshkaBatchTopKSAE": _Class((*_OWN, "k", "threshold", "group_sizes"), _batch_topk),
    "JumpReluAutoEncoder": _Class((*_OWN, "threshold"), _jumprelu),
    "GatedAutoEncoder": _Class(
        ("encoder.weight", "decoder.weight", "r_mag", "mag_bias", "gate_bias", "decoder_bias"), _gated
    ),
}
