"""Write an activation store: language model + token plan -> HDF5, all hook points in one pass, resumable.

The plan fixes every row before the first forward pass, so the file is allocated whole (`activations/layout.py`), the
row fields are written first, and a commit is one number: `rows_committed`. A resumed run goes on behind the last whole
chunk; batches do not depend on where it stopped, so the finished file is the same.

Several processes deal the rows among them in units of whole chunks (`writing/units.py`); each unit is a part file, and
the first process joins them. Rows, order and checksums are those that one process writes.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae_train.activations import layout
from sae_train.activations.forward import Batch, BatchRunner
from sae_train.activations.writing.units import Share, Units
from sae_train.config import CacheConfig
from sae_train.errors import StoppedError, WorkbenchError
from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.renamed import with_current_names
from sae_train.run.claims import require_disk
from sae_train.run.locks import only_writer
from sae_train.run.outputs import RESUME, disk_may_fill
from sae_train.run.processes import Processes
from sae_train.run.progress import Advance, no_advance
from sae_train.run.resuming import check_unchanged
from sae_train.run.runs import now, partial_path
from sae_train.run.stopping import saving
from sae_train.storage import h5
from sae_train.storage.arrays import blocks_of
from sae_train.storage.behind import Behind
from sae_train.text.token_plan import TokenPlan
from sae_train.text.tokenizer_hash import tokenizer_hash

_OPTIONS = ("hook_points", "dtype", "batch_size", "ctx_len", "packing", "max_tokens", "frac_entity_rows", "seed")
SMALLER = "a smaller `max_tokens`, fewer `hook_point`, `dtype`=bfloat16, or another disk"
_NAMES = {"model_hash": "model", "tokenizer_hash": "tokenizer", "plan_hash": "text (or entities, or templates)"}


@dataclass(frozen=True)
class CacheResult:
    """What was written.

    Attributes:
        n_rows: Rows in the store.
        n_tokens: Tokens read by the model, special ones included.
        n_special: Special tokens left out.
        n_entity_rows: Rows that are last name tokens of entity contexts.
        hook_points: Canonical names.
        tokens_per_s: Tokens read per second in this process; 0 when nothing was left to do.
        bytes: Size of the finished file and its parts.
        seconds: Time it took.
        largest_batch: Windows that fit into memory at once; below `batch_size` after running out of it.
        estimated_s: What was expected before, from a timed probe; NaN without an estimate.
    """

    n_rows: int
    n_tokens: int
    n_special: int
    n_entity_rows: int
    hook_points: tuple[str, ...]
    tokens_per_s: float
    bytes: int
    seconds: float
    largest_batch: int
    estimated_s: float = math.nan

    def summary(self) -> dict[str, Any]:
        """Return it as `wb cache-activations --json` prints it."""
        values = asdict(self)
        return {"n_special_left_out" if name == "n_special" else name: value for name, value in values.items()}


def plan_hash(plan: TokenPlan) -> str:
    """Return the SHA-256 of a plan: tokens, windows, documents, positions and kept rows."""
    digest = hashlib.sha256()
    for array in (plan.tokens, plan.starts, plan.doc_id, plan.keep, plan.position, plan.from_entity):
        digest.update(f"{array.dtype}{array.shape}".encode())
        for part in blocks_of(len(array)):
            digest.update(np.ascontiguousarray(array[part]).data)
    return digest.hexdigest()


def store_bytes(plan: TokenPlan, config: CacheConfig, d_model: int) -> int:
    """Return the size of the finished file in bytes, to about a chunk per dataset."""
    item = 4 if config.dtype == "float32" else 2
    return plan.n_rows * (d_model * item * len(config.hook_points) + 13) + (2 + len(config.hook_points)) * 2**20


def write_store(
    lm: LanguageModel,
    plan: TokenPlan,
    config: CacheConfig,
    out: Path,
    *,
    provenance: dict[str, Any],
    resume: bool = False,
    processes: Processes | None = None,
    advance: Advance = no_advance,
) -> CacheResult:
    """Run the plan through the model and leave a complete store at `out`.

    Args:
        lm: The model.
        plan: What to read; see `sae_train.text.windows.plan_windows`.
        config: Hook points (canonical names) and formats.
        out: The store. While it grows it is called `<out>.partial`.
        provenance: Names to record: model, text.
        resume: Continue `<out>.partial`.
        processes: The other processes that write this store; None without any.
        advance: Called with the rows just stored; at resume first with those that are there already.

    Raises:
        DiskSpaceError: It would not fit.
        BusyError: Another process is writing this file.
        ConfigError: At resume, something that decides the rows has changed.
        DtypeError: float16 cannot hold a value; the measured maximum is named.
        NumericalError: The model produced NaN or Inf.
        StoppedError: The disk filled up on the way; what is written can be continued.
    """
    started = time.monotonic()
    processes = processes or Processes()
    identity = store_identity(lm, plan, config)
    units = units_of(lm, plan, config, out)
    mine = units.of(processes, resume=resume)
    runner = BatchRunner(lm, plan, config.hook_points, config.windows_per_batch, config.dtype)
    n_read = 0
    if resume and not partial_path(out).exists() and out.exists():
        _check_identity(out, identity, layout.SCHEMA, lm.tokenizer)
    else:
        for share in mine:
            with only_writer(partial_path(share.path)):
                n_read += _write_share(
                    share, runner, config, {**identity, **provenance}, resume=resume, advance=advance
                )
    processes.wait()
    if mine and not mine[0].is_whole and processes.is_first and not (resume and out.exists()):
        _join(units, lm, plan, config, {**identity, **provenance})
    processes.wait()
    seconds = time.monotonic() - started
    files = [out, *(share.path for share in units.all())]
    return CacheResult(
        n_rows=plan.n_rows,
        n_tokens=len(plan.tokens),
        n_special=plan.n_special,
        n_entity_rows=plan.n_entity_rows,
        hook_points=config.hook_points,
        tokens_per_s=n_read / seconds,
        bytes=sum(f.stat().st_size for f in files if f.exists()),
        seconds=seconds,
        largest_batch=runner.fitting,
    )


def units_of(lm: LanguageModel, plan: TokenPlan, config: CacheConfig, out: Path) -> Units:
    """Return the units that processes share a store by."""
    chunk = layout.chunk_height(lm.d_model, config.dtype)
    return Units(plan.n_rows, chunk, config.windows_per_batch * config.ctx_len, out)


def store_identity(lm: LanguageModel, plan: TokenPlan, config: CacheConfig) -> dict[str, Any]:
    """Everything that decides the content of the file; what a user changed is to be named, so the plan comes last."""
    options = {**asdict(config), "hook_points": list(config.hook_points), "batch_size": config.windows_per_batch}
    return {
        "model_hash": weights_hash(lm.model),
        "tokenizer_hash": lm.tokenizer_hash,
        **{name: options[name] for name in _OPTIONS},
        "plan_hash": plan_hash(plan),
    }


def _check_identity(path: Path, identity: dict[str, Any], schema: str, tokenizer: Any) -> None:
    """Refuse to continue a file that other inputs began."""
    mode = "r" if path.suffix != ".partial" else "r+"  # an unfinished file has no seal to check
    with h5.open_checked(path, schema, layout.VERSION, mode=mode, may_join=schema == layout.SCHEMA) as file:
        found = with_current_names(h5.get_attrs(file))
    now = {**identity, "tokenizer_hash": tokenizer_hash(tokenizer, like=found.get("tokenizer_hash"))}
    check_unchanged(path, found, now, names=_NAMES, derived=("plan_hash",))


def _write_share(
    share: Share,
    runner: BatchRunner,
    config: CacheConfig,
    attrs: dict[str, Any],
    *,
    resume: bool,
    advance: Advance,
) -> int:
    """Write or continue the file of this process; return how many tokens were read."""
    partial = partial_path(share.path)
    d_in = runner.lm.d_model
    schema = layout.SCHEMA if share.is_whole else layout.PART_SCHEMA
    identity = {k: v for k, v in attrs.items() if k in (*_NAMES, *_OPTIONS)}
    if resume and not partial.exists() and share.path.exists():
        _check_identity(share.path, identity, schema, runner.lm.tokenizer)
        advance(0, earlier=share.n_rows)
        return 0
    if resume and partial.exists():
        _check_identity(partial, identity, schema, runner.lm.tokenizer)
    else:
        partial.unlink(missing_ok=True)
        n_bytes = store_bytes(runner.plan, config, d_in) * share.n_rows // runner.plan.n_rows
        require_disk(share.path, n_bytes, try_=SMALLER)
        with disk_may_fill(partial, try_=RESUME, expected=f"room for {share.n_rows:,} rows"):
            _allocate(partial, schema, share, runner, config, attrs)
    try:
        with disk_may_fill(partial, try_=RESUME, expected=f"room for {share.n_rows:,} rows"):
            n_read = _fill(partial, schema, share, runner, config, advance)
    except StoppedError:
        raise
    except WorkbenchError:
        partial.unlink(missing_ok=True)  # wrong values cannot be continued; a kill or a full disk can
        raise
    os.replace(partial, share.path)
    return n_read


def _allocate(
    partial: Path, schema: str, share: Share, runner: BatchRunner, config: CacheConfig, attrs: dict[str, Any]
) -> None:
    """Create the file whole: structure, provenance, row fields, room for every activation."""
    building = partial.with_name(partial.name + ".new")
    try:
        with h5.open_file(building, "w") as file:
            _describe(file, schema, runner.lm, runner.plan, {**attrs, "n_rows": share.n_rows})
            if schema == layout.SCHEMA:
                layout.write_row_fields(file, runner.plan.row_blocks, runner.plan.n_rows)
            layout.allocate_acts(file, config.hook_points, share.n_rows, runner.lm.d_model, config.dtype)
        os.replace(building, partial)
    finally:
        building.unlink(missing_ok=True)


def _describe(file: h5.H5File, schema: str, lm: LanguageModel, plan: TokenPlan, attrs: dict[str, Any]) -> None:
    """Write provenance and counts; nothing counts as written yet."""
    counts = {"n_tokens": len(plan.tokens), "n_special_left_out": plan.n_special}
    special = {"special_tokens_left_out": [int(t) for t in sorted(set(lm.tokenizer.all_special_ids))]}
    progress = {"rows_committed": 0, "complete": False, "created": now()}
    version = {"schema": h5.SCHEMA_PREFIX + schema, "schema_version": layout.VERSION}
    h5.set_attrs(file, {**version, **attrs, **counts, **special, **progress})


def _fill(
    partial: Path,
    schema: str,
    share: Share,
    runner: BatchRunner,
    config: CacheConfig,
    advance: Advance,
) -> int:
    """Store every row not yet committed; return how many tokens were read."""
    n_read = 0

    def stored(batches: list[Batch]) -> None:
        nonlocal n_read
        for batch in batches:
            n_read += batch.n_tokens
            advance(batch.n_rows)

    def save() -> None:
        stored(behind.drain())
        writer.commit()

    with h5.open_checked(partial, schema, layout.VERSION, mode="r+") as file:
        writer = layout.RowWriter(file, config.hook_points, config.dtype)
        advance(0, earlier=writer.n_rows)
        # One batch is computed while the one before is on its way and the one before that is written. Every process has
        # rows of its own, so each saves by itself.
        with Behind[Batch](lambda batch: writer.add(batch.arrived())) as behind, saving(save) as stop_if_told:
            for batch in runner.run(share.first + writer.n_rows, share.end):
                stored(behind.put(batch))
                stop_if_told()
            stored(behind.drain())
        writer.commit(is_last=True)
        assert writer.n_rows == share.n_rows, (writer.n_rows, share.n_rows)
        layout.finish(file)
    return n_read


def _join(units: Units, lm: LanguageModel, plan: TokenPlan, config: CacheConfig, attrs: dict[str, Any]) -> None:
    """Join the part files of all units into one store."""
    parts = [(share.path.name, share.n_rows) for share in units.all()]
    with h5.create(units.out, layout.SCHEMA, layout.VERSION, {}) as file:
        _describe(file, layout.SCHEMA, lm, plan, {**attrs, "n_rows": plan.n_rows})
        layout.write_row_fields(file, plan.row_blocks, plan.n_rows)
        layout.join_parts(file, parts, h5.get_attrs(file), lm.d_model)
        h5.set_attrs(file, {"rows_committed": plan.n_rows, "complete": True})
