"""SAEs of other libraries: one file per source, one registry. Add a module and a line to add a source.

A source is a module with `NAME`, `LOOKS_LIKE` (for messages), `matches(source) -> bool`, which looks at what lies at a
path, and `read(source, k) -> SaeDraft`, which writes nothing. `import_sae` leaves the result as an SAE folder, whole or
not at all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from sae_train.errors import ConfigError, FileFormatError, InputError, MissingFileError, nearest_first
from sae_train.runs import Run, clear_output, file_hash, folder_hash, partial_path, require_disk
from sae_train.saes.importers import dictionary_learning, gemma_scope, saelens, sparsify
from sae_train.saes.importers.draft import SaeDraft, with_unit_rows
from sae_train.saes.importers.reading import known_hook_point
from sae_train.saes.interop import load_sae, save_sae

IMPORTERS: dict[str, ModuleType] = {m.NAME: m for m in (sparsify, dictionary_learning, gemma_scope, saelens)}


@dataclass(frozen=True)
class ImportConfig:
    """What an import is told beside its source.

    Attributes:
        source: A path, or `release:sae_id`.
        hook_point: Where the SAE reads; None takes what the source says.
        model_name: The language model; None takes what the source says.
        k: Latents kept per token, where the source does not say.
        unit_norm: Bring decoder rows to length one, by scaling the latents.
    """

    source: str
    hook_point: str | None = None
    model_name: str | None = None
    k: int | None = None
    unit_norm: bool = False


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


def read_source(config: ImportConfig) -> tuple[str, SaeDraft]:
    """Return the importer's name and the SAE, with where it reads settled.

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
    if hook_point is None:
        raise ConfigError(
            f"where does the SAE of '{config.source}' read?",
            got="nothing that says it" if config.hook_point is None else f"{config.hook_point} (`hook_point`)",
            expected="embed, layers.N, layers.N.mlp or layers.N.self_attn",
            try_="`hook_point`=layers.N",
        )
    draft = with_unit_rows(draft) if config.unit_norm else draft
    return module.NAME, replace(draft, hook_point=hook_point, model_name=config.model_name or draft.model_name)


def import_sae(config: ImportConfig, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the SAE of another library as an SAE folder, whole or not at all.

    Returns:
        `format, architecture, d_in, d_sae, k, hook_point, model_name, decoder_norm_low, decoder_norm_high, notes`.

    Raises:
        InputError: The source cannot be used, or the disk is too small.
    """
    name, draft = read_source(config)
    assert draft.hook_point is not None
    require_disk(out, sum(t.numel() * 4 for t in draft.tensors().values()))
    norms = draft.decoder_norms()
    result = {
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
    partial = partial_path(out)
    clear_output(partial, overwrite=True)
    try:
        run = Run(partial, config=config, command="import-sae", inputs=_inputs(config.source))
        origin = {"imported_from": name, "model_name": draft.model_name}
        save_sae(draft.build(), partial, hook_point=draft.hook_point, metadata=origin)
        load_sae(partial)  # what we cannot read again is not an import
        run.finish(result=result)
        clear_output(out, overwrite=overwrite)
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return result


def _inputs(source: str) -> dict[str, Any]:
    """Return what the source was, with the hash of its bytes where it lies here."""
    path = Path(source)
    if not path.exists():
        return {"source": source}
    patterns = ("*.safetensors", "*.json", "*.pt", "*.npz")
    return {"source": source, "sha256": folder_hash(path, patterns) if path.is_dir() else file_hash(path)}
