"""`wb cache-activations`: language model + text -> activation store, all hook points in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import CacheConfig


@click.command(
    epilog=options.example(
        "wb cache-activations --model fact-world --text fact-world --hook-point layers.2 \\",
        "  --entities fact-world --templates fact-world --entity-share 0.5 --max-tokens 40000 --out acts.h5",
    )
)
@options.model_option()
@options.text_option()
@options.hook_point_option(multiple=True)
@options.out_option("The store, an HDF5 file.")
@options.config_options(CacheConfig, only=("ctx_len", "max_tokens", "packing", "batch_size", "dtype"))
@options.lm_dtype_option("bfloat16", "float16", "float32")
@options.file_option("--entities", "entities to mix in (JSON lines)", world="entities", required=False)
@options.file_option("--templates", "prompt templates (JSON)", world="templates", required=False)
@options.config_options(CacheConfig, only=("entity_share",))
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.resume_option
@options.common_options
def command(
    model: str,
    text: str,
    out: Path,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Run a language model over text and keep its activations at one or more hook points.

    The forward pass ends behind the deepest hook point. Special tokens are left out and counted. An interrupted
    run leaves OUT.partial, which --resume continues to the same result. Started by torchrun, the processes share
    the rows: torchrun --nproc-per-node 2 --no-python wb cache-activations ...
    """
    from cli.caching import prepare, run
    from cli.render import emit
    from sae_train.activations.layout import claim_parts
    from sae_train.processes import joined_processes
    from sae_train.runs import claim_output, clear_output

    with joined_processes() as processes:
        claim_output(out, overwrite=overwrite, resume=resume)
        processes.wait()
        job = prepare(model, text, given, processes)
        if processes.is_first:
            if not resume:
                clear_output(out, overwrite=overwrite)
            claim_parts(out, processes.count, resume=resume)
        processes.wait()
        result = run(job, out, {"text": text, "lm_dtype": given["lm_dtype"]}, resume, processes)
    if processes.is_first:
        emit({"out": str(out), **result}, as_json=as_json, title="Cached activations")
