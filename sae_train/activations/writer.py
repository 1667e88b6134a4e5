"""Write an activation store: language model + token plan -> HDF5, all hook points in one pass, resumable.

The plan fixes every row before the first forward pass, so the file is allocated whole (`sae_train/h5.py`), the row
fields are written first, and a commit is one number: `rows_committed`. A resumed run goes on
behind the last whole chunk; batches do not depend on where it stopped, so the finished file is the same.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_train import h5
from sae_train.config import CacheConfig
from sae_train.errors import ConfigError, DtypeError, NumericalError, WorkbenchError
from sae_train.lm.generate import pad_right
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.lm.tokens import TokenPlan
from sae_train.runs import now, partial_path, require_disk

SCHEMA = "activations"
VERSION = 1
COMMIT_EVERY_ROWS = 16_384
FLOAT16_MAX = 65_504.0
_IDENTITY = ("model_hash", "tokenizer_hash", "plan_hash", "hook_points", "dtype", "batch_size")


@dataclass(frozen=True)
class CacheResult:
    """What was written.

    Attributes:
        n_rows: Rows in the store.
        n_tokens: Tokens read by the model, special ones included.
        tokens_per_s: Tokens read per second in this process; 0 when nothing was left to do.
        bytes: Size of the finished file.
    """

    n_rows: int
    n_tokens: int
    n_special: int
    hook_points: tuple[str, ...]
    tokens_per_s: float
    bytes: int
    seconds: float


def plan_hash(plan: TokenPlan) -> str:
    """Return the SHA-256 of a plan: tokens, windows, documents, positions and kept rows."""
    digest = hashlib.sha256()
    for array in (plan.tokens, plan.starts, plan.doc_id, plan.keep, plan.position, plan.from_entity):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def store_bytes(plan: TokenPlan, config: CacheConfig, d_model: int) -> int:
    """Return the size of the finished file in bytes, to about a chunk per dataset."""
    item = 4 if config.dtype == "float32" else 2
    return plan.n_rows * (d_model * item * len(config.hook_points) + 12) + (2 + len(config.hook_points)) * 2**20


def write_store(
    lm: LanguageModel,
    plan: TokenPlan,
    config: CacheConfig,
    out: Path,
    *,
    provenance: dict[str, Any],
    resume: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> CacheResult:
    """Run the plan through the model and leave a complete store at `out`.

    Args:
        lm: The model.
        plan: What to read; see `sae_train.lm.tokens.plan_windows`.
        config: Hook points (canonical names) and formats.
        out: The store. While it grows it is called `<out>.partial`.
        provenance: Names to record: model, text.
        resume: Continue `<out>.partial`.
        advance: Called with the number of rows just stored.

    Raises:
        DiskSpaceError: It would not fit.
        ConfigError: At resume, something that decides the rows has changed.
        DtypeError: float16 cannot hold a value; the measured maximum is named.
        NumericalError: The model produced NaN or Inf.
    """
    started = time.monotonic()
    identity = _identity(lm, plan, config)
    partial = partial_path(out)
    if resume and not partial.exists() and out.exists():
        _check_identity(out, identity)
        return _result(plan, config, out, 0, started)
    if not (resume and partial.exists()):
        partial.unlink(missing_ok=True)
        require_disk(out, store_bytes(plan, config, lm.d_model))
        _allocate(partial, lm, plan, config, {**identity, **provenance})
    else:
        _check_identity(partial, identity)
    n_read = _fill(partial, lm, plan, config, advance)
    os.replace(partial, out)
    return _result(plan, config, out, n_read, started)


def _result(plan: TokenPlan, config: CacheConfig, out: Path, n_read: int, started: float) -> CacheResult:
    """Gather the figures of a finished store."""
    seconds = time.monotonic() - started
    return CacheResult(
        n_rows=plan.n_rows,
        n_tokens=len(plan.tokens),
        n_special=plan.n_special,
        hook_points=config.hook_points,
        tokens_per_s=n_read / seconds,
        bytes=out.stat().st_size,
        seconds=seconds,
    )


def _identity(lm: LanguageModel, plan: TokenPlan, config: CacheConfig) -> dict[str, Any]:
    """Everything that decides the content of the file."""
    return {
        "model_hash": weights_hash(lm.model),
        "tokenizer_hash": lm.tokenizer_hash,
        "plan_hash": plan_hash(plan),
        "hook_points": list(config.hook_points),
        "dtype": config.dtype,
        "batch_size": config.batch_size,
    }


def _check_identity(path: Path, identity: dict[str, Any]) -> None:
    """Refuse to continue a file that other inputs began."""
    with h5.open_checked(path, SCHEMA, VERSION) as file:
        found = h5.get_attrs(file)
    for key in _IDENTITY:
        if found.get(key) != identity[key]:
            raise ConfigError(
                f"cannot continue '{path}': {key.removesuffix('_hash')} has changed",
                got=f"{identity[key]} now",
                expected=f"{found.get(key)} as when the file was begun",
                try_="the same inputs and options, or --overwrite to start again",
            )


def _allocate(partial: Path, lm: LanguageModel, plan: TokenPlan, config: CacheConfig, attrs: dict[str, Any]) -> None:
    """Create the file whole: structure, provenance, row fields, room for every activation."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    building = partial.with_name(partial.name + ".new")
    try:
        _build(building, lm, plan, config, attrs)
        os.replace(building, partial)
    finally:
        building.unlink(missing_ok=True)


def _build(path: Path, lm: LanguageModel, plan: TokenPlan, config: CacheConfig, attrs: dict[str, Any]) -> None:
    """Write everything but the activations."""
    with h5.H5File(path, "w") as file:
        settings = {k: v for k, v in asdict(config).items() if k not in ("hook_points", "dtype", "batch_size")}
        counts = {"n_rows": plan.n_rows, "n_tokens": len(plan.tokens), "n_special_left_out": plan.n_special}
        special = {"special_tokens_left_out": [int(t) for t in sorted(set(lm.tokenizer.all_special_ids))]}
        progress = {"rows_committed": 0, "complete": False, "created": now()}
        schema = {"schema": h5.SCHEMA_PREFIX + SCHEMA, "schema_version": VERSION}
        h5.set_attrs(file, {**schema, **attrs, **settings, **counts, **special, **progress})
        for name, values in plan.row_fields().items():
            h5.write_array(file, name, values, unit="index", axes=("row",))
        acts = file.create_group("acts")
        for name in config.hook_points:
            dataset = h5.preallocate(
                acts,
                name,
                (plan.n_rows, lm.d_model),
                h5.STORED_KIND[config.dtype],
                unit="activation",
                axes=("row", "d_in"),
            )
            dataset.attrs["encoding"] = config.dtype


def _fill(
    partial: Path, lm: LanguageModel, plan: TokenPlan, config: CacheConfig, advance: Callable[[int], None]
) -> int:
    """Store every row not yet committed; return how many tokens were read."""
    rows_before = np.concatenate([[0], np.cumsum(np.add.reduceat(plan.keep, plan.starts[:-1]))])
    n_read = 0
    try:
        with h5.open_checked(partial, SCHEMA, VERSION, mode="r+") as file:
            writer = _RowWriter(file, config.hook_points, config.dtype)
            done = writer.n_rows
            advance(done)
            for first in range(0, plan.n_windows, config.batch_size):
                last = min(first + config.batch_size, plan.n_windows)
                if rows_before[last] <= done:
                    continue
                acts = _batch_rows(lm, plan, range(first, last), config.hook_points)
                skip = max(0, done - int(rows_before[first]))
                writer.add({name: rows[skip:] for name, rows in acts.items()})
                n_read += int(plan.starts[last] - plan.starts[first])
                advance(int(rows_before[last] - rows_before[first]) - skip)
            writer.commit(is_last=True)
            assert writer.n_rows == plan.n_rows, (writer.n_rows, plan.n_rows)
            file.attrs.modify("complete", True)
    except WorkbenchError:
        partial.unlink(missing_ok=True)  # wrong values cannot be continued; a kill or a full disk can
        raise
    return n_read


def _batch_rows(
    lm: LanguageModel, plan: TokenPlan, windows: range, hook_points: tuple[str, ...]
) -> dict[str, Float[Tensor, "row d_in"]]:
    """Run one batch of windows and return the kept rows of each hook point, in plan order."""
    parts = [plan.window(w) for w in windows]
    ids, mask = pad_right([plan.tokens[p].tolist() for p in parts], device=lm.device)
    kept = torch.zeros_like(mask, dtype=torch.bool, device="cpu")
    for row, part in enumerate(parts):
        kept[row, : part.stop - part.start] = torch.from_numpy(plan.keep[part])
    acts = capture(lm, ids, mask, hook_points)
    return {name: acts[name][kept.to(lm.device)].cpu() for name in hook_points}


class _RowWriter:
    """Collects rows and writes them by whole chunks; `commit` makes what was written count.

    Begins at the last whole chunk that was committed. Only the last chunk of the file is ever written in part, so it
    is cleared first: a kill may have left it half written.
    """

    def __init__(self, file: h5.H5File, hook_points: tuple[str, ...], dtype: str) -> None:
        self.file, self.dtype = file, dtype
        acts = h5.group_of(file, "acts", Path(file.filename))
        self.datasets = {name: h5.dataset_of(acts, name, Path(file.filename)) for name in hook_points}
        chunks = self.datasets[hook_points[0]].chunks
        assert chunks is not None, hook_points
        self.chunk = int(chunks[0])
        self.n_rows = int(h5.get_attrs(file)["rows_committed"]) // self.chunk * self.chunk
        for dataset in self.datasets.values():
            h5.clear_last_chunk(dataset)
        self.held: dict[str, list[Tensor]] = {name: [] for name in hook_points}
        self.n_held = 0

    def add(self, acts: dict[str, Float[Tensor, "row d_in"]]) -> None:
        """Take rows of every hook point; commit when enough are held."""
        for name, rows in acts.items():
            self.held[name].append(checked_rows(rows, name, self.dtype))
        self.n_held += len(next(iter(acts.values())))
        if self.n_held >= max(COMMIT_EVERY_ROWS, self.chunk):
            self.commit()

    def commit(self, *, is_last: bool = False) -> None:
        """Write the held rows, all of them or whole chunks only, then the number that makes them count."""
        n_new = self.n_held if is_last else self.n_held // self.chunk * self.chunk
        if n_new:
            for name, parts in self.held.items():
                rows = torch.cat(parts)
                self.datasets[name][self.n_rows : self.n_rows + n_new] = h5.encode_acts(rows[:n_new], self.dtype)
                self.held[name] = [rows[n_new:].clone()]
            self.file.flush()
            self.n_rows += n_new
            self.n_held -= n_new
        self.file.attrs.modify("rows_committed", self.n_rows)
        self.file.flush()


def checked_rows(rows: Float[Tensor, "row d_in"], name: str, dtype: str) -> Float[Tensor, "row d_in"]:
    """Return the rows if the stored dtype can hold them.

    Raises:
        NumericalError: NaN or Inf.
        DtypeError: A value beyond float16's 65,504.
    """
    if not torch.isfinite(rows).all():
        n_bad = int((~torch.isfinite(rows)).any(dim=1).sum())
        raise NumericalError(
            f"the model's activations at {name} are not finite",
            got=f"{n_bad} of {len(rows)} rows with NaN or Inf",
            expected="finite numbers",
            try_="--lm-dtype float32",
        )
    largest = float(rows.abs().max()) if len(rows) else 0.0
    if dtype == "float16" and largest > FLOAT16_MAX:
        raise DtypeError(
            f"float16 cannot hold the activations at {name}",
            got=f"a maximum of {largest:,.0f} (--dtype float16)",
            expected=f"at most {FLOAT16_MAX:,.0f}",
            try_="--dtype bfloat16",
        )
    return rows
