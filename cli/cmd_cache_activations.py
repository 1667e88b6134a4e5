"""`wb cache-activations`: language model + text -> activation store, all hook points in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import CacheConfig

DTYPES = click.Choice(["bfloat16", "float16", "float32"])


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
@options.field_option(CacheConfig, "batch_size", type=int, help="Windows in a forward pass.")
@options.field_option(CacheConfig, "dtype", type=DTYPES, help="Format on disk.")
@click.option("--lm-dtype", type=DTYPES, default="float32", show_default=True, help="Format the model computes in.")
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
    out: Path,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Run a language model over text and keep its activations at one or more hook points.

    The forward pass ends behind the deepest hook point. Special tokens are left out and counted. An interrupted
    run leaves OUT.partial, which --resume continues to the same result.
    """
    from cli.inputs import documents_of
    from cli.render import emit, progress
    from features.entities import load_entities
    from features.prompts import entity_documents, load_templates
    from sae_train.activations.writer import write_store
    from sae_train.errors import ConfigError
    from sae_train.lm.hooks import check_hook_point
    from sae_train.lm.models import load_lm
    from sae_train.lm.tokens import plan_windows
    from sae_train.runs import claim_output, clear_output

    claim_output(out, overwrite=overwrite, resume=resume)
    entities, templates = given.pop("entities"), given.pop("templates")
    if (given["entity_share"] > 0) != (entities is not None and templates is not None):
        raise ConfigError(
            "entity contexts need all three of --entities, --templates, --entity-share",
            got=f"--entities {entities}, --templates {templates}, --entity-share {given['entity_share']}",
            expected="all of them, or none",
        )
    hook_points, device, lm_dtype = given.pop("hook_points"), given.pop("device"), given.pop("lm_dtype")
    CacheConfig(hook_points=hook_points, **given)  # refuses bad values before the model is loaded
    extra = []
    if entities is not None and templates is not None:
        extra = entity_documents(load_entities(entities), load_templates(templates), seed=given["seed"])
    documents = documents_of(text)
    lm = load_lm(model, device=device, dtype=lm_dtype)
    names = tuple(check_hook_point(lm.model, h, model_name=model) for h in hook_points)
    config = CacheConfig(hook_points=names, **given)
    if config.ctx_len > lm.max_positions:
        raise ConfigError(
            "the context is longer than the model's",
            got=f"{config.ctx_len} (--ctx-len)",
            expected=f"<= {lm.max_positions}",
        )
    plan = plan_windows(
        documents,
        lm.tokenizer,
        ctx_len=config.ctx_len,
        max_rows=config.max_tokens,
        entity_documents=extra,
        entity_share=config.entity_share,
        seed=config.seed,
    )
    if not resume:
        clear_output(out, overwrite=overwrite)
    with progress("caching", plan.n_rows) as advance:
        result = write_store(
            lm,
            plan,
            config,
            out,
            provenance={"model": model, "text": text, "lm_dtype": lm_dtype},
            resume=resume,
            advance=advance,
        )
    values = {
        "out": str(out),
        "n_rows": result.n_rows,
        "n_tokens": result.n_tokens,
        "n_special_left_out": result.n_special,
    }
    values |= {
        "n_entity_rows": int(plan.row_fields()["from_entity"].sum()),
        "hook_points": list(result.hook_points),
    }
    emit(
        values | {"tokens_per_s": result.tokens_per_s, "bytes": result.bytes},
        as_json=as_json,
        title="Cached activations",
    )
