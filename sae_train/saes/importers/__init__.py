"""Import SAEs of other libraries: one module and one registry line per source.

A source is a module with `NAME`, `LOOKS_LIKE` (for messages), `matches(source) -> bool`, which looks at what lies at a
path, and `read(source, k) -> SaeDraft`, which writes nothing. `import_sae` leaves the result as an SAE folder, whole or
not at all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sae_train.config import ImportConfig
from sae_train.errors import ConfigError, FileFormatError, InputError, MissingFileError, nearest_first
from sae_train.fields import config_of
from sae_train.run.claims import require_disk
from sae_train.run.outputs import Output, whole_folder
from sae_train.run.runs import Run, file_hash, folder_hash, resolve_device
from sae_train.saes.base import Sae
from sae_train.saes.importers import dictionary_learning, gemma_scope, saelens, sparsify
from sae_train.saes.importers.draft import SaeDraft, with_unit_rows
from sae_train.saes.importers.reading import known_hook_point
from sae_train.saes.interop import load_sae, save_sae

IMPORTERS: dict[str, ModuleType] = {m.NAME: m for m in (sparsify, dictionary_learning, gemma_scope, saelens)}


def importer_of(source: str) -> ModuleType:
    """Return the importer for what is at a path, or for a release.

    Raises:
        MissingFileError: There is nothing at the path.
        FileFormatError: None of them knows what is there.
    """
    for module in IMPORTERS.values():
        if module.matches(source):
            return module
    path, looks = Path(source), "; ".join(f"{name}: {m.LOOKS_LIKE}" for name, m in IMPORTERS.items())
    if not path.exists():
        names = [p.name for p in path.absolute().parent.iterdir()] if path.absolute().parent.is_dir() else []
        near = f"; nearest: {nearest_first(path.name, names, most=3)}" if names else ""
        raise MissingFileError(f"no SAE at '{source}'", got=f"{source}, which does not exist", expected=looks + near)
    inside = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else []
    below = [p.name for p in sorted(path.iterdir()) if p.is_dir() and _is_known(p)] if path.is_dir() else []
    raise FileFormatError(
        f"no SAE in '{source}'",
        got=f"a folder with {', '.join(inside) or 'nothing'}" if path.is_dir() else f"a file named {path.name}",
        expected=looks,
        try_=f"one of the folders in it, as in {path / below[0]}" if below else None,
    )


def _is_known(path: Path) -> bool:
    return any(module.matches(str(path)) for module in IMPORTERS.values())


def read_source(config: ImportConfig, *, default_place: str | None = None) -> tuple[str, SaeDraft]:
    """Return the importer's name and the SAE, with where it reads settled.

    Args:
        config: What is said of it.
        default_place: Where it reads if neither `config` nor the source says.

    Raises:
        InputError: The source cannot be used; see the importers.
        ConfigError: Nobody says where it reads, or --unit-norm does not apply.
    """
    module = importer_of(config.source)
    try:
        draft: SaeDraft = module.read(config.source, config.k)
    except InputError as error:
        if config.source in error.what:
            raise
        raise type(error)(
            f"cannot import '{config.source}': {error.what}",
            got=error.got,
            expected=error.expected,
            try_=error.try_,
            field=error.field,
        ) from error
    hook_point = known_hook_point(config.hook_point) if config.hook_point is not None else draft.hook_point
    hook_point = hook_point or (default_place if config.hook_point is None else None)
    if hook_point is None:
        raise ConfigError(
            f"where does the SAE of '{config.source}' read?",
            got="nothing that says it" if config.hook_point is None else f"{config.hook_point} (`hook_point`)",
            expected="embed, layers.N, layers.N.mlp, layers.N.mlp:in or layers.N.self_attn",
            try_="`hook_point`=layers.N",
        )
    draft = with_unit_rows(draft) if config.unit_norm else draft
    return module.NAME, replace(draft, hook_point=hook_point, model_name=config.model_name or draft.model_name)


def import_sae(
    source: str | Path | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    config: ImportConfig | None = None,
    **settings: Any,
) -> Sae:
    """Turn the SAE of another library into one that computes the same function, in a folder whole or not at all.

    Args:
        source: A folder of SAELens, sparsify or dictionary_learning, a file `ae.pt` or `.npz`, or `release:sae_id`.
        out: The SAE folder; None keeps it in a temporary one, which goes away with the SAE.
        overwrite: What is there may be replaced.
        config: Settings together, instead of one by one.
        settings: Fields of `ImportConfig`: `hook_point`, `model_name`, `k`, `unit_norm`.

    Returns:
        The SAE; its `metrics` are `format, architecture, d_in, d_sae, k, hook_point, model_name, decoder_norm_low,
        decoder_norm_high, notes`.

    Raises:
        InputError: The source cannot be used, the disk is too small, or `out` is taken.
    """
    settings |= {} if source is None else {"source": str(source)}
    config = config_of(ImportConfig, config, settings, can_change=True)
    output = Output(out, name="sae", overwrite=overwrite)
    with output.held():
        name, draft = read_source(config)
        require_disk(output.path, sum(t.numel() * 4 for t in draft.tensors().values()))
        result = _result(name, draft)
        _write(draft, config, name, result, output.path, overwrite=overwrite)
        sae = load_sae(output.path)
    sae.output, sae.metrics = output, result
    return sae


def _result(name: str, draft: SaeDraft) -> dict[str, Any]:
    """Return what is to be said about an import."""
    norms = draft.decoder_norms()
    return {
        "format": name,
        "architecture": draft.architecture,
        "d_in": draft.W_enc.shape[0],
        "d_sae": draft.W_enc.shape[1],
        "k": draft.k,
        "hook_point": draft.hook_point,
        "model_name": draft.model_name,
        "decoder_norm_low": float(norms.min()),
        "decoder_norm_high": float(norms.max()),
        "notes": list(draft.notes),
    }


def _write(
    draft: SaeDraft, config: ImportConfig, name: str, result: dict[str, Any], out: Path, *, overwrite: bool
) -> None:
    """Write the SAE folder, whole or not at all."""
    assert draft.hook_point is not None
    with whole_folder(out, overwrite=overwrite) as place:
        run = Run(place, config=config, command="import-sae", inputs=source_identity(config.source))
        origin = {"imported_from": name, "model_name": draft.model_name}
        save_sae(draft.build(), place, hook_point=draft.hook_point, metadata=origin)
        run.finish(result=result)
        load_sae(place)  # what we cannot read again is not an import


def load_anywhere(source: str, *, device: torch.device | str) -> Sae:
    """Read an SAE folder, or a release that SAELens knows; see `Sae.load`."""
    where = resolve_device(device) if isinstance(device, str) else device
    if Path(source).exists() or not saelens.matches(source):
        return load_sae(Path(source), device=where)
    _, draft = read_source(ImportConfig(source))
    assert draft.hook_point is not None
    sae = draft.build()
    sae.hook_point = draft.hook_point
    sae.cfg = {"metadata": {"imported_from": source, "model_name": draft.model_name}}
    return sae.to(where)


def source_identity(source: str) -> dict[str, Any]:
    """Return what the source was, with the hash of its bytes where it lies here."""
    path = Path(source)
    if not path.exists():
        return {"source": source}
    patterns = ("*.safetensors", "*.json", "*.pt", "*.npz")
    return {"source": source, "sha256": folder_hash(path, patterns) if path.is_dir() else file_hash(path)}
