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
    from cli.render import emit, interruptible, show_log
    from cli.usage import mixed_in
    from sae_train import cache_activations, load_lm
    from sae_train.run.processes import joined_processes
    from sae_train.run.runs import claim_output
    from sae_train.text.tokens import corpus_of

    show_log("sae_train.activations.caching")
    with joined_processes() as processes:
        claim_output(out, overwrite=overwrite, resume=resume)  # bad input is refused before the model is loaded
        config = CacheConfig(**given)
        contexts, corpus = mixed_in(entities, templates, config), corpus_of(text)
        lm = load_lm(model, device=processes.device(device), dtype=lm_dtype)
        where = {"out": out, "overwrite": overwrite, "resume": resume, "processes": processes}
        with interruptible(out):
            store = cache_activations(lm, corpus, entity_documents=contexts, config=config, **where)
    with store:
        assert store.result is not None
        if processes.is_first:
            emit({"out": str(out), **store.result.summary()}, as_json=as_json, title="Cached activations")
