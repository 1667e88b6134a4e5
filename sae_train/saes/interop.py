"""SAE folders in SAELens' own format (`cfg.json`, `sae_weights.safetensors`); no export step is needed."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from sae_train.errors import ConfigError, FileFormatError, ShapeError
from sae_train.lm.hook_names import canonical_hook_point, saelens_name
from sae_train.run.claims import require_finished
from sae_train.run.outputs import Output, whole_folder
from sae_train.run.runs import file_hash, require_file, write_json
from sae_train.run.tensor_files import write_tensors
from sae_train.saes import SAELENS_ARCHS
from sae_train.saes.base import Sae
from sae_train.text_files import read_json

WEIGHTS = "sae_weights.safetensors"
METRICS = "metrics.json"
_PLACES = ("hook_name", "hook_point", "hook_name_out", "target_hook_point")
RECORDS = ("config.json", "metrics.jsonl", METRICS, "run.json")  # what a run leaves beside the SAE; run.json last
SAELENS_VERSION = "6.54.12"  # the version whose folder format is written


def save_sae(sae: Sae, folder: Path, *, hook_point: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Write a folder that SAELens' `SAE.load_from_disk` reads, weights first, `cfg.json` last; return the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, _stored_tensors(sae))
    cfg = {
        **sae.saelens_config(),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtracts_b_dec,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAELENS_VERSION,
            "hook_name": saelens_name(hook_point),
            "hook_point": hook_point,
            "workbench_arch": sae.arch,  # several of ours are one architecture to SAELens
            **_target_of(sae),
            **metadata,
        },
    }
    write_json(folder / "cfg.json", cfg)
    return cfg


def copy_sae(sae: Sae, folder: Path, *, overwrite: bool) -> Path:
    """Write an SAE and the records of its training to another folder, where it lies from now on; return the folder.

    Raises:
        ConfigError: Nobody says where it reads.
        OutputExistsError: Something is there already, and it is not to be overwritten.
    """
    hook_point, source = _place_of(sae), sae.folder
    output = Output(folder, name=folder.name, overwrite=overwrite)
    with output.held():
        if source is not None and folder.exists() and folder.samefile(source):
            sae.cfg = save_sae(sae, folder, hook_point=hook_point, metadata=_metadata_of(sae))
        else:
            with whole_folder(folder, overwrite=overwrite) as place:
                sae.cfg = save_sae(sae, place, hook_point=hook_point, metadata=_metadata_of(sae))
                for name in RECORDS:
                    if source is not None and (source / name).is_file():
                        shutil.copyfile(source / name, place / name)
    sae.folder, sae.output = folder, output
    return folder


def saelens_sae(sae: Sae) -> Any:
    """Return an SAE as SAELens' class, on the same device.

    Raises:
        ConfigError: Nobody says where it reads.
    """
    hook_point = _place_of(sae)
    architecture = str(sae.saelens_config()["architecture"])
    if architecture.startswith("topk_"):
        raise ConfigError(
            "SAELens has no transcoder with TopK",
            got=f"architecture {architecture}",
            expected="relu, jumprelu, batch-topk or matryoshka",
        )
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of SAELens' imports
        from sae_lens import SAE

        save_sae(sae, Path(folder), hook_point=hook_point, metadata=_metadata_of(sae))
        return SAE.load_from_disk(folder, device=str(sae.W_dec.device))


def _target_of(sae: Sae) -> dict[str, Any]:
    """Return where a transcoder's output belongs, by SAELens' name and ours; or a crosscoder's sides."""
    name = sae.target_hook_point
    found: dict[str, Any] = {"hook_name_out": saelens_name(name), "target_hook_point": name} if name else {}
    return found | ({"sides": list(sae.sides)} if len(sae.sides) > 1 else {})


def _place_of(sae: Sae) -> str:
    """Return where an SAE reads, which its `cfg.json` has to say."""
    if not sae.hook_point:
        raise ConfigError(
            "where does this SAE read?", got="hook_point ''", expected="layers.N", try_='sae.hook_point = "layers.N"'
        )
    return sae.hook_point


def _metadata_of(sae: Sae) -> dict[str, Any]:
    """Return what `cfg.json` says about the origin of an SAE; where it reads is its own to say."""
    found = {"model_name": None, **sae.cfg.get("metadata", {})}
    return {key: value for key, value in found.items() if key not in _PLACES}


def sae_hash(sae: Sae) -> str:
    """Return the SHA-256 of an SAE's weights: of its file, or of the file that `save` would write."""
    if sae.folder is not None:
        return file_hash(sae.folder / WEIGHTS)
    return hashlib.sha256(save(_stored_tensors(sae))).hexdigest()


def _stored_tensors(sae: Sae) -> dict[str, Tensor]:
    """Return the tensors as they are stored."""
    return {name: tensor.float().cpu().contiguous() for name, tensor in sae.saelens_tensors().items()}


def load_sae(folder: Path, *, device: torch.device | str = "cpu") -> Sae:
    """Read an SAE folder, ours or SAELens', of a supported architecture; see `Sae.load`.

    Raises:
        MissingFileError: `cfg.json` or the weights are not there.
        FileFormatError: Another architecture, a normalisation that is not folded in, damaged weights, or a run that
            has not ended.
        ShapeError: Tensors that do not fit the config.
    """
    require_finished(folder, "the SAE")
    cfg = _read_cfg(folder)
    kind = SAELENS_ARCHS.get(str(cfg["architecture"]))
    if kind is None:
        raise FileFormatError(
            f"cannot use the SAE in '{folder}'",
            got=f"architecture {cfg['architecture']}",
            expected=", ".join(SAELENS_ARCHS),
        )
    _require_keys(cfg, (*kind.saelens_sizes, *(() if kind.subtracts_b_dec else ("d_out",))), folder)
    for key, plain in (
        ("normalize_activations", "none"),
        ("apply_b_dec_to_input", kind.subtracts_b_dec),
        ("reshape_activations", "none"),
        ("rescale_acts_by_decoder_norm", False),
    ):
        if cfg.get(key, plain) != plain:
            raise FileFormatError(
                f"the SAE in '{folder}' changes activations in a way that is not folded in",
                got=f"{key} = {cfg[key]}",
                expected=f"{plain}",
            )
    metadata = cfg.get("metadata", {})
    _refuse_processed(cfg, metadata, folder)
    sae = _empty_sae(kind, cfg, folder)
    _load_weights(sae, folder)
    sae.hook_point = metadata.get("hook_point") or canonical_hook_point(str(metadata.get("hook_name", "")))
    target = str(metadata.get("hook_name_out") or "")
    sae.target_hook_point = metadata.get("target_hook_point") or canonical_hook_point(target)
    sae.sides = tuple(map(int, metadata.get("sides") or (sae.d_in,)))
    if sum(sae.sides) != sae.d_in:
        raise ShapeError(
            f"the sides in '{folder / 'cfg.json'}' do not fit", got=sae.sides, expected=f"{sae.d_in} in all"
        )
    sae.folder, sae.cfg = folder, cfg
    if (folder / METRICS).is_file():
        sae.metrics = _read_json(folder / METRICS, "the trainer's figures")
    return sae.requires_grad_(False).eval().to(device)


def _refuse_processed(cfg: dict[str, Any], metadata: dict[str, Any], folder: Path) -> None:
    """Refuse a folder of SAELens whose SAE reads centred activations; what `import_sae` writes does not say so."""
    words = metadata.get("model_from_pretrained_kwargs") or cfg.get("model_from_pretrained_kwargs")
    if isinstance(words, dict) and words.get("center_writing_weights"):
        raise FileFormatError(
            f"the SAE in '{folder}' reads the activations of a model with centred weights",
            got="center_writing_weights = True",
            expected="an SAE that reads the model as it is",
            try_=f"import it: wb import-sae {folder} --out DIR",
        )


def _read_cfg(folder: Path) -> dict[str, Any]:
    """Read and check `cfg.json`."""
    cfg = _read_json(require_file(folder / "cfg.json", "an SAE's config", field="sae"), "SAELens' cfg")
    _require_keys(cfg, ("architecture", "d_in", "d_sae"), folder)
    metadata = cfg.get("metadata", {})
    place = metadata.get("hook_point") if isinstance(metadata, dict) else 0
    if not isinstance(place, str | None):
        raise FileFormatError(
            f"'{folder / 'cfg.json'}' has no usable metadata", got=repr(metadata)[:80], expected="an object"
        )
    return cfg


def _empty_sae(kind: type[Sae], cfg: dict[str, Any], folder: Path) -> Sae:
    """Return an SAE of the sizes that `cfg.json` names, which have to be those of the weights: they are allocated.

    Raises:
        FileFormatError: They are no sizes.
        ShapeError: The weights have others.
    """
    sizes = {name: cfg[name] for name in ("d_in", "d_sae", "d_out", *kind.saelens_sizes) if name in cfg}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 2**31 or size != int(size):
            raise FileFormatError(
                f"'{folder / 'cfg.json'}' names no usable size", got=f"{name} = {size!r}"[:80], expected="a number > 0"
            )
    path = require_file(folder / WEIGHTS, "an SAE's weights", field="sae")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            found = tuple(file.get_slice("W_dec").get_shape()) if "W_dec" in names else names
    except SafetensorError as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="safetensors") from error
    # Another width is written only by what reads one place and writes another: transcoders.
    wanted = (int(cfg["d_sae"]), int(cfg["d_in"] if kind.subtracts_b_dec else cfg["d_out"]))
    if found != wanted:
        raise ShapeError(f"the weights in '{path}' do not fit cfg.json", got=f"W_dec {found}", expected=wanted)
    return kind.from_saelens(cfg)


def _read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise FileFormatError(f"cannot read '{path}'", got=f"a {type(found).__name__}", expected=what)
    return found


def _require_keys(cfg: dict[str, Any], keys: tuple[str, ...], folder: Path) -> None:
    """Refuse a config that lacks one of these keys."""
    missing = sorted(set(keys) - set(cfg))
    if missing:
        raise FileFormatError(
            f"'{folder / 'cfg.json'}' is incomplete", got=f"no {', '.join(missing)}", expected="SAELens' cfg"
        )


def _load_weights(sae: Sae, folder: Path) -> None:
    """Copy the tensors in; names and shapes must be exactly these."""
    path = require_file(folder / WEIGHTS, "an SAE's weights", field="sae")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="safetensors") from error
    wanted = {k: tuple(v.shape) for k, v in sae.saelens_tensors().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    if wanted != found:
        raise ShapeError(f"the weights in '{path}' do not fit cfg.json", got=found, expected=wanted)
    sae.load_saelens_tensors(tensors)
