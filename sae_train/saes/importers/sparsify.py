"""EleutherAI's sparsify: a folder with `cfg.json` and `sae.safetensors` (read for facts: eai-sparsify 1.3.3).

    pre_acts = ReLU(encoder.weight (x - b_dec) + encoder.bias)        latents = TopK(pre_acts)
    recon = latents W_dec + b_dec

encoder.weight (num_latents, d_in) is `nn.Linear`'s, so W_enc is its transpose; W_dec (num_latents, d_in) is ours.
num_latents is written as 0 where it is expansion_factor * d_in. Transcoders, skip connections, groupmax and signed TopK
are other functions and refused.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from sae_train.errors import FileFormatError, ShapeError
from sae_train.saes.importers.draft import SaeDraft
from sae_train.saes.importers.reading import agreed_k, model_of, need_tensors, read_object, whole_number

NAME = "sparsify"
LOOKS_LIKE = "a folder with cfg.json and sae.safetensors"
WEIGHTS = "sae.safetensors"
_PLAIN = {"activation": "topk", "transcode": False, "skip_connection": False, "signed": False}
_HOOK_POINT = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d+)(?:\.(mlp|self_attn|attention|attn))?")


def matches(source: str) -> bool:
    """Tell whether a path holds one."""
    return (Path(source) / WEIGHTS).is_file()


def read(source: str, k: int | None) -> SaeDraft:
    """Return the SAE of a folder.

    Raises:
        MissingFileError: A file is missing.
        FileFormatError: A kind of coder that is no SAE of this formula, or damaged files.
        ShapeError: The weights do not have the sizes of `cfg.json`.
        ConfigError: No k, or another than `k`.
    """
    folder = Path(source)
    cfg = read_object(folder / "cfg.json", "sparsify's config")
    for key, plain in _PLAIN.items():
        if cfg.get(key, plain) != plain:
            raise FileFormatError(
                f"the coder in '{folder}' computes something else", got=f"{key} = {cfg[key]}", expected=f"{plain}"
            )
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise FileFormatError(
            f"cannot read '{folder / WEIGHTS}'", got=str(error), expected="whole safetensors"
        ) from error
    need_tensors(tensors, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"), folder / WEIGHTS)
    d_in = whole_number(cfg.get("d_in"), "d_in in cfg.json")
    d_sae = cfg.get("num_latents") or d_in * whole_number(cfg.get("expansion_factor"), "expansion_factor in cfg.json")
    if tuple(tensors["encoder.weight"].shape) != (d_sae, d_in):
        got = f"encoder.weight {tuple(tensors['encoder.weight'].shape)}"
        raise ShapeError(f"the weights in '{folder}' do not fit cfg.json", got=got, expected=(d_sae, d_in))
    return SaeDraft(
        architecture="topk",
        W_enc=tensors["encoder.weight"].T,
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        k=agreed_k(k, cfg.get("k")),
        hook_point=_hook_point(folder.resolve().name),
        model_name=_model_of_run(folder.resolve().parent),
    )


def _hook_point(folder_name: str) -> str | None:
    """Return our name for sparsify's folder name, which is the module's name in the model."""
    if folder_name.endswith("embed_tokens"):
        return "embed"
    found = _HOOK_POINT.fullmatch(folder_name)
    if found is None:
        return None
    return f"layers.{found[1]}" + {None: "", "mlp": ".mlp"}.get(found[2], ".self_attn")


def _model_of_run(folder: Path) -> str | None:
    """Return the language model that the run's `config.json`, one folder up, names."""
    path = folder / "config.json"
    return model_of(read_object(path, "sparsify's run").get("model")) if path.is_file() else None
