"""`wb cache-activations`: language model + text -> activation store, all hook points in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import CacheConfig

PACKINGS = ("documents", "packed")
DTYPES = ("bfloat16", "float16", "float32")


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
@options.field_option(CacheConfig, "ctx_len", type=int, help="Tokens in a window.")
@options.field_option(CacheConfig, "max_tokens", type=int, help="Rows to store; the whole text by default.")
@options.field_option(
    CacheConfig, "packing", type=click.Choice(PACKINGS), help="Documents apart, or several in a window."
)
@options.field_option(
    CacheConfig, "batch_size", type=int, help="Windows in a forward pass; about 4,096 tokens by default."
)
@options.field_option(CacheConfig, "dtype", type=click.Choice(DTYPES), help="Format on disk.")
@options.lm_dtype_option(*DTYPES)
@options.file_option("--entities", "entities to mix in (JSON lines)", world="entities", required=False)
@options.file_option("--templates", "prompt templates (JSON)", world="templates", required=False)
@options.field_option(CacheConfig, "entity_share", type=float, help="Share of rows that are last name tokens.")
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.resume_option
@options.common_options
def command(
    model: str,
    text: str,
    entities: Path | None,
    templates: Path | None,
    device: str,
    lm_dtype: str,
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
    from cli.inputs import load_model, mixed_in, named_text
    from cli.render import emit, interruptible, show_log
    from sae_train import cache_activations
    from sae_train.processes import joined_processes
    from sae_train.runs import claim_output

    show_log("sae_train.activations.caching")
    with joined_processes() as processes:
        claim_output(out, overwrite=overwrite, resume=resume)  # bad input is refused before the model is loaded
        config = CacheConfig(**given)
        contexts, corpus = mixed_in(entities, templates, config), named_text(text)
        lm = load_model(model, device=processes.device(device), dtype=lm_dtype)
        where = {"out": out, "overwrite": overwrite, "resume": resume, "processes": processes}
        with interruptible(out):
            store = cache_activations(lm, corpus, entity_documents=contexts, config=config, **where)
    with store:
        assert store.result is not None
        if processes.is_first:
            emit({"out": str(out), **store.result.summary()}, as_json=as_json, title="Cached activations")
