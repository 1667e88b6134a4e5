"""`wb import-sae`: convert an SAE of another library to an SAE folder."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from sae_train.config import ImportConfig


@click.command(epilog=options.example("wb import-sae sae --hook-point layers.2 --out imported"))
@click.argument("source")
@options.out_option("The SAE folder; every command and SAELens read it.")
@options.hook_point_option(required=False)
@options.config_options(ImportConfig, only=("model_name", "k", "unit_norm"))
@options.overwrite_option
@options.common_options
def command(
    source: str,
    out: Path,
    hook_point: str | None,
    model_name: str | None,
    k: int | None,
    unit_norm: bool,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Turn SOURCE into an SAE folder that computes the same function.

    \b
    SOURCE is one of
      release:sae_id   a published SAE that SAELens knows (Gemma Scope, Llama Scope, …); fetched from the hub
      a folder         of SAELens, of sparsify (sae.safetensors), of dictionary_learning (ae.pt)
      a file           ae.pt of dictionary_learning, .npz of Gemma Scope

    What is there decides how it is read. --hook-point and --model-name are needed where the source does not say.
    Nothing but tensors is unpickled.
    """
    from cli.output.render import emit, note
    from sae_train import import_sae

    settings = {"hook_point": hook_point, "model_name": model_name, "k": k, "unit_norm": unit_norm}
    found = import_sae(source, out=out, overwrite=overwrite, **settings).metrics
    for text in found["notes"]:
        note(text)
    if not 0.99 < found["decoder_norm_low"] <= found["decoder_norm_high"] < 1.01:
        note(
            "decoder rows differ in length, so latents are not on one scale; --unit-norm (ReLU, JumpReLU) changes that"
        )
    rows = [(key, value) for key, value in found.items() if key != "notes"]
    emit({"out": str(out), "source": source, **found}, as_json=as_json, title=f"SAE at {out}", rows=rows)
