"""What `wb cache-activations` does between its options and its result: model, plan, estimate, write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cli.inputs import documents_of, load_model
from cli.render import note, progress
from features.entities import load_entities
from features.prompts import entity_documents, load_templates
from sae_train.activations.estimate import estimate_store
from sae_train.activations.writer import write_store
from sae_train.config import CacheConfig
from sae_train.errors import ConfigError
from sae_train.lm.hooks import check_hook_point, verify_hook_points
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.lm.tokens import load_documents
from sae_train.lm.windows import TokenPlan, plan_windows
from sae_train.processes import Processes
from sae_train.progress import shown


@dataclass(frozen=True)
class Job:
    """What is to be run: model, windows, formats."""

    lm: LanguageModel
    plan: TokenPlan
    config: CacheConfig


def prepare(model: str, text: str, given: dict[str, Any], processes: Processes) -> Job:
    """Check the options, load the model, plan the windows: a job."""
    entities, templates = given["entities"], given["templates"]
    if (given["entity_share"] > 0) != (entities is not None and templates is not None):
        raise ConfigError(
            "entity contexts need all three of --entities, --templates, --entity-share",
            got=f"--entities {entities}, --templates {templates}, --entity-share {given['entity_share']}",
            expected="all of them, or none",
        )
    settings = {k: v for k, v in given.items() if k not in ("entities", "templates", "device", "lm_dtype")}
    config = CacheConfig(**settings)  # refuses bad values before the model is loaded
    extra = []
    if entities is not None and templates is not None:
        extra = entity_documents(load_entities(entities), load_templates(templates), seed=config.seed)
    documents = load_documents(text)
    lm = load_lm(model, device=processes.device(given["device"]), dtype=given["lm_dtype"])
    names = tuple(check_hook_point(lm.model, h, model_name=model) for h in config.hook_points)
    config = replace(config, hook_points=names)
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
        packing=config.packing,
        entity_documents=extra,
        entity_share=config.entity_share,
        seed=config.seed,
    )
    return Job(lm, plan, config)


def run(job: Job, out: Path, provenance: dict[str, Any], resume: bool, processes: Processes) -> dict[str, Any]:
    """Estimate, then write; return what `--json` prints."""
    lm, plan, config = job.lm, job.plan, job.config
    verify_hook_points(
        lm, torch.from_numpy(plan.tokens[plan.window(0)][:32]).long()[None].to(lm.device), config.hook_points
    )
    estimate = estimate_store(lm, plan, config, out, n_processes=processes.count)
    if processes.is_first:
        note(f"caching {estimate}")
    try:
        with shown("caching", plan.n_rows / processes.count) as advance:
            result = write_store(
                lm,
                plan,
                config,
                out,
                provenance={"model": lm.name, **provenance},
                resume=resume,
                processes=processes,
                advance=advance,
            )
    except KeyboardInterrupt:
        note(f"what is written so far is kept: the same command with --resume continues {out}")
        raise
    return {
        "n_rows": result.n_rows,
        "n_tokens": result.n_tokens,
        "n_special_left_out": result.n_special,
        "n_entity_rows": plan.n_entity_rows,
        "hook_points": list(result.hook_points),
        "tokens_per_s": result.tokens_per_s,
        "bytes": result.bytes,
        "estimated_s": estimate.seconds,
        "seconds": result.seconds,
        "largest_batch": result.largest_batch,
    }
