"""The station that caches activations: language model + text -> activation store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae_train.activations.layout import claim_parts, leftovers
from sae_train.activations.store import ActivationStore
from sae_train.activations.writing.estimate import estimate_store
from sae_train.activations.writing.writer import CacheResult, units_of, write_store
from sae_train.config import CacheConfig
from sae_train.errors import ConfigError
from sae_train.fields import config_of
from sae_train.lm.hooks import check_hook_point, verify_hook_points
from sae_train.lm.models import LanguageModel, as_lm
from sae_train.run.claims import clear_output
from sae_train.run.notes import note
from sae_train.run.outputs import Output
from sae_train.run.processes import ALONE, Processes
from sae_train.run.progress import Progress, shown, silent
from sae_train.text.token_plan import TokenPlan
from sae_train.text.tokens import Corpus, Document, Text, corpus_of
from sae_train.text.windows import plan_windows


def cache_activations(
    lm: LanguageModel | str | Path,
    text: Text,
    hook_points: str | Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    entity_documents: Iterable[Document] = (),
    device: str = "auto",
    lm_dtype: str = "float32",
    overwrite: bool = False,
    resume: bool = False,
    processes: Processes = ALONE,
    progress: Progress | None = None,
    config: CacheConfig | None = None,
    **settings: Any,
) -> ActivationStore:
    """Run a language model over text and keep its activations at one or more hook points.

    The forward pass ends behind the deepest hook point. Special tokens are left out and counted.

    Args:
        lm: The model, or what `load_lm` takes.
        text: A path, a hub dataset id, a `Corpus`, or documents or strings.
        hook_points: Where, `layers.2`; needed where `config` does not say.
        out: The store, an HDF5 file; None keeps it in a temporary folder, which goes away with the store.
        entity_documents: Contexts to mix in, of which only the last name token becomes a row; `frac_entity_rows` says
            how many.
        device: Where a model that is loaded here lives.
        lm_dtype: Format a model that is loaded here computes in.
        overwrite: What lies at `out` may be replaced.
        resume: Continue what an interrupted run left, to the same result.
        processes: Processes that share the rows.
        progress: Where to show how far it is; None shows it on the terminal, in the notebook or in the log.
        config: Settings together, instead of one by one.
        settings: Fields of `CacheConfig`: `ctx_len=128`, `max_tokens`, `packing`, `dtype`, …

    Returns:
        The open store; its `result` is what the run reports.

    Raises:
        ConfigError: A setting does not exist or is out of range, or differs from the run to be resumed.
        HookPointError: The model has no such hook point.
        OutputExistsError: `out` is taken.
        DiskSpaceError, MemoryShortError: It would not fit.
        DtypeError, NumericalError, StoppedError, BusyError: As `write_store`.
    """
    several = {"is_shared": processes.count > 1, "is_writer": processes.is_first}
    output = Output(out, name="acts.h5", overwrite=overwrite, resume=resume, **several)
    with output.held(leftovers(output.path)):
        processes.wait()
        contexts = list(entity_documents)
        if hook_points is not None:
            settings["hook_points"] = (hook_points,) if isinstance(hook_points, str) else tuple(hook_points)
        config = config_of(
            CacheConfig, config, settings, can_change=True
        )  # refuses bad values before the model is loaded
        corpus = _checked_text(text, contexts, config)
        lm = as_lm(lm, device=processes.device(device), dtype=lm_dtype)
        config = checked_config(config, lm)
        plan = planned(lm, corpus, contexts, config, output.path.parent)
        if processes.is_first:
            if not resume:
                clear_output(output.path, overwrite=overwrite)
            claim_parts(output.path, units_of(lm, plan, config, output.path).ending, resume=resume)
        processes.wait()
        result = _write(lm, plan, config, corpus.name, output, resume, processes, progress or shown)
        store = ActivationStore(output.path)
    store.result, store.output = result, output
    return store


def _checked_text(text: Text, contexts: Sequence[Document], config: CacheConfig) -> Corpus:
    """Return the text, once it is clear that it can be read, and that entity contexts and their share go together."""
    if (config.frac_entity_rows > 0) != bool(contexts):
        raise ConfigError(
            "entity contexts and their share go together",
            got=f"{len(contexts)} entity_documents, frac_entity_rows {config.frac_entity_rows}",
            expected="both, or neither",
        )
    return corpus_of(text)


def checked_config(config: CacheConfig, lm: LanguageModel) -> CacheConfig:
    """Return the config with canonical names of hook points that the model has."""
    names = tuple(check_hook_point(lm.model, h, model_name=lm.name) for h in config.hook_points)
    if config.ctx_len > lm.max_positions:
        raise ConfigError(
            "the context is longer than the model's",
            got=config.ctx_len,
            field="ctx_len",
            expected=f"<= {lm.max_positions}",
        )
    return replace(config, hook_points=names)


def planned(
    lm: LanguageModel, corpus: Corpus, contexts: Sequence[Document], config: CacheConfig, folder: Path
) -> TokenPlan:
    """Plan every row before the first forward pass; the plan lies on the disk that holds `folder`."""
    return plan_windows(
        corpus,
        lm.tokenizer,
        ctx_len=config.ctx_len,
        max_rows=config.max_tokens,
        packing=config.packing,
        entity_documents=contexts,
        frac_entity_rows=config.frac_entity_rows,
        seed=config.seed,
        folder=folder,
    )


def _write(
    lm: LanguageModel,
    plan: TokenPlan,
    config: CacheConfig,
    text_name: str,
    output: Output,
    resume: bool,
    processes: Processes,
    display: Progress,
) -> CacheResult:
    """Estimate, say so, then write."""
    first = torch.from_numpy(plan.tokens[plan.window(0)][:32]).long()[None].to(lm.device)
    verify_hook_points(lm, first, config.hook_points)
    estimate = estimate_store(lm, plan, config, output.path, n_processes=processes.count)
    if processes.is_first:
        note(f"caching {estimate}", is_news=True)
    lm_dtype = str(next(lm.model.parameters()).dtype).removeprefix("torch.")
    with (display if processes.is_first else silent)("caching", plan.n_rows / processes.count) as advance:
        result = write_store(
            lm,
            plan,
            config,
            output.path,
            provenance={"model": lm.name, "text": text_name, "lm_dtype": lm_dtype},
            resume=resume,
            processes=processes,
            advance=advance,
        )
    return replace(result, estimated_s=estimate.seconds)
