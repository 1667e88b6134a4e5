"""SAELens: a folder of its own, or `release:sae_id` of its list of published SAEs (Gemma Scope, Llama Scope, …).

SAELens reads it, whatever the release's own format is; what its config says is then folded into the weights:
`apply_b_dec_to_input` false into b_enc, `rescale_acts_by_decoder_norm` into the rows, gates into thresholds, centred
activations into W_enc and b_enc (`processing.py`).
Normalisations that depend on the input (layer_norm, constant_norm_rescale), hook_z and transcoders are refused. A
release is fetched by SAELens from the Hugging Face hub: the only importer with a network, and only when one is named.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from sae_train.errors import ConfigError, FileFormatError, MissingFileError, nearest_first
from sae_train.saes.importers.draft import (
    SaeDraft,
    gated_as_jumprelu,
    jumprelu_threshold,
    with_folded_norms,
    with_input_centred,
)
from sae_train.saes.importers.processing import with_processing
from sae_train.saes.importers.reading import agreed_k, known_hook_point, model_of

NAME = "saelens"
LOOKS_LIKE = "a folder with cfg.json and sae_weights.safetensors, or release:sae_id"
_WEIGHTS = ("sae_weights.safetensors", "cfg.json")
_FOREIGN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError, SafetensorError)


def matches(source: str) -> bool:
    """Tell whether a path holds one, or a text names a release."""
    path = Path(source)
    if path.exists():
        return all((path / name).is_file() for name in _WEIGHTS)
    release, _, sae_id = source.partition(":")
    return bool(release.strip() and sae_id.strip())


def read(source: str, k: int | None) -> SaeDraft:
    """Return the SAE of a folder or a release.

    Raises:
        ConfigError: There is no such release, or no such SAE in it, or `k` differs.
        MissingFileError: It cannot be fetched.
        FileFormatError: It is damaged, or computes something that cannot be folded in.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SAELens' imports and its own advice about releases
        sae = _load_folder(Path(source)) if Path(source).exists() else _load_release(*source.split(":", 1))
    return draft_of(sae, source, k)


def _load_folder(folder: Path) -> Any:
    """Let SAELens read a folder of its own."""
    from sae_lens import SAE

    return _guarded(
        lambda: SAE.load_from_disk(str(folder), device="cpu", dtype="float32"),
        lambda error: FileFormatError(
            f"SAELens cannot read '{folder}'", got=_first_line(error), expected=f"{' and '.join(_WEIGHTS)}, whole"
        ),
    )


def _load_release(release: str, sae_id: str) -> Any:
    """Let SAELens fetch and read a published SAE."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    if release in known:
        if sae_id not in known[release].saes_map:
            raise ConfigError(
                f"no SAE '{sae_id}' in the release '{release}'",
                got=f"{release}:{sae_id}",
                expected=nearest_first(sae_id, known[release].saes_map),
            )
    elif "/" not in release:
        raise ConfigError(
            f"no release '{release}', and no file or folder '{release}:{sae_id}'",
            got=f"{release}:{sae_id}",
            expected=f"{nearest_first(release, known)}; or a repository, as in owner/name:folder",
        )
    return _guarded(
        lambda: SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32"),
        lambda error: MissingFileError(
            f"cannot get '{release}:{sae_id}'",
            got=_first_line(error),
            expected="a release that SAELens reads, and a connection to the Hugging Face hub",
            try_="the downloaded file or folder in its place",
        ),
    )


def _guarded(load: Callable[[], Any], complaint: Callable[[BaseException], Exception]) -> Any:
    """Turn whatever a load of foreign files raises into one of our errors."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    from_client: Any = HfHubHTTPError.__bases__  # the base of whichever HTTP client the hub uses
    try:
        return load()
    except (*_FOREIGN, *from_client, EntryNotFoundError) as error:
        raise complaint(error) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def draft_of(sae: Any, source: str, k: int | None) -> SaeDraft:
    """Fold what the config of a SAELens SAE says into its weights.

    Raises:
        FileFormatError: It cannot be folded in.
        ConfigError: `k` differs from the config's.
    """
    cfg, architecture = sae.cfg, str(sae.cfg.architecture())
    if architecture not in _READERS:
        raise FileFormatError(
            f"cannot use '{source}'", got=f"architecture {architecture}", expected=", ".join(_READERS)
        )
    for key in ("normalize_activations", "reshape_activations"):
        if getattr(cfg, key) != "none":
            raise FileFormatError(
                f"'{source}' changes activations in a way that cannot be folded in",
                got=f"{key} = {getattr(cfg, key)}",
                expected="none",
            )
    tensors = {name: t.detach().float() for name, t in sae.state_dict().items()}
    parts = _READERS[architecture](tensors)
    notes = ("gate rewritten as a threshold",) if architecture == "gated" else ()
    if architecture == "topk":
        parts["k"] = agreed_k(k, cfg.k)
    elif k is not None:
        raise ConfigError(f"'{source}' has no k", got=k, expected=f"no `k`: it is {architecture}", field="k")
    metadata = _metadata(cfg)
    draft = SaeDraft(
        architecture="jumprelu" if architecture == "gated" else architecture,
        hook_point=known_hook_point(metadata.get("hook_point")) or known_hook_point(metadata.get("hook_name")),
        model_name=model_of(metadata.get("model_name")),
        notes=notes,
        **parts,
    )
    draft = draft if cfg.apply_b_dec_to_input else with_input_centred(draft)
    draft = with_processing(draft, metadata)
    return with_folded_norms(draft) if getattr(cfg, "rescale_acts_by_decoder_norm", False) else draft


def _metadata(cfg: Any) -> dict[str, Any]:
    """Return SAELens' metadata as plain values."""
    found = cfg.metadata
    if hasattr(found, "to_dict"):
        return dict(found.to_dict())
    return dict(found) if isinstance(found, dict) else asdict(found)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def _jumprelu(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {**_plain(tensors), "threshold": jumprelu_threshold(tensors["threshold"], len(tensors["b_enc"]))}


def _gated(tensors: dict[str, Tensor]) -> dict[str, Any]:
    parts = gated_as_jumprelu(tensors["W_enc"], tensors["r_mag"], tensors["b_mag"], tensors["b_gate"])
    return {**parts, "W_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]}


_READERS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "topk": _plain,
    "standard": _plain,
    "jumprelu": _jumprelu,
    "gated": _gated,
}
