"""`wb cache-activations`: run a language model over text and store activations of all hook points in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.entity_source import mixed_entities_options
from sae_train.config import CacheConfig


@click.command(
    epilog=options.example(
        "wb cache-activations --model fact-world --text fact-world --hook-point layers.2 \\",
        "  --entities fact-world --templates fact-world --frac-entity-rows 0.5 --max-tokens 40000 --out acts.h5",
    )
)
@options.model_option()
@options.text_option()
@options.hook_point_option(multiple=True)
@options.out_option("The store, an HDF5 file.")
@options.config_options(CacheConfig, only=("ctx_len", "max_tokens", "packing", "batch_size", "dtype"))
@options.lm_dtype_option("bfloat16", "float16", "float32")
@mixed_entities_options
@options.config_options(CacheConfig, only=("frac_entity_rows",))
@options.run_options(resume=True)
def command(
    model: str,
    text: str,
    device: str,
    out: Path,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Run a language model over text and keep its activations at one or more hook points.

    The forward pass ends behind the deepest hook point. Special tokens are left out and counted. An interrupted run
    leaves OUT.partial, which --resume continues to the same result. Started by torchrun, the processes share the rows:
    torchrun --nproc-per-node 2 --no-python wb cache-activations ...
    """
    from cli.output.render import emit, interruptible
    from cli.usage import mixed_in
    from sae_train import cache_activations
    from sae_train.run.processes import joined_processes

    mixed = [given.pop(name) for name in ("entities", "templates", "entities_format")]
    with joined_processes() as processes, interruptible(out):
        where = {"out": out, "device": device, "overwrite": overwrite, "resume": resume, "processes": processes}
        contexts = mixed_in(*mixed, frac_entity_rows=given["frac_entity_rows"], seed=given["seed"])
        store = cache_activations(model, text, entity_documents=contexts, **where, **given)
    with store:
        if processes.is_first and store.result is not None:
            emit({"out": str(out), **store.result.summary()}, as_json=as_json, title="Cached activations")
