"""Estimate of a caching run before it starts: rows, bytes, memory, and time from a timed probe batch."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from sae_train.activations.forward import BatchRunner
from sae_train.activations.layout import COMMIT_EVERY_ROWS
from sae_train.activations.writing.writer import SMALLER, store_bytes
from sae_train.config import CacheConfig
from sae_train.errors import MemoryShortError
from sae_train.lm.models import LanguageModel
from sae_train.run.claims import require_disk
from sae_train.text.token_plan import TokenPlan

PROBE_TOKENS = 512


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        n_rows: Rows to be stored.
        disk_bytes: Size of the store.
        free_disk_bytes: Room where it will lie.
        memory_bytes: Host memory beside the model: rows waiting to be written, one batch's activations.
        free_memory_bytes: Host memory not in use.
        tokens_per_s: Speed of the probe, tokens read per second; 0 where nothing was probed.
        seconds: Tokens of the plan divided by that.
    """

    n_rows: int
    disk_bytes: int
    free_disk_bytes: int
    memory_bytes: int
    free_memory_bytes: int
    tokens_per_s: float
    seconds: float

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"{self.n_rows:,} rows, {_size(self.disk_bytes)} of {_size(self.free_disk_bytes)} free disk, "
            f"{_size(self.memory_bytes)} of {_size(self.free_memory_bytes)} free memory beside the model, "
            f"about {_duration(self.seconds)} at {self.tokens_per_s:,.0f} tokens/s"
        )


def estimate_store(lm: LanguageModel, plan: TokenPlan, config: CacheConfig, out: Path, *, n_processes: int) -> Estimate:
    """Refuse what cannot fit, then time a small batch.

    Args:
        lm: The model.
        plan: What will be read.
        config: Hook points and formats.
        out: The store.
        n_processes: Processes that share the work; they are taken to be equally fast.

    Raises:
        DiskSpaceError: The disk is too small.
        MemoryShortError: The host's memory is.
    """
    disk, memory = store_bytes(plan, config, lm.d_model), _memory_bytes(lm, plan, config)
    require_disk(out, disk, try_=SMALLER)
    free = psutil.virtual_memory().available
    if memory > free:
        raise MemoryShortError(
            "the memory is too small for this run",
            got=f"{_size(free)} free",
            expected=_size(memory),
            try_="a smaller `max_tokens` or `batch_size`, or more processes",
        )
    speed = _probe(lm, plan, config)
    folder = next(p for p in out.absolute().parents if p.exists())
    return Estimate(
        n_rows=plan.n_rows,
        disk_bytes=disk,
        free_disk_bytes=shutil.disk_usage(folder).free,
        memory_bytes=memory,
        free_memory_bytes=free,
        tokens_per_s=speed * n_processes,
        seconds=len(plan.tokens) / (speed * n_processes),
    )


def _memory_bytes(lm: LanguageModel, plan: TokenPlan, config: CacheConfig) -> int:
    """Return the host memory that waiting rows and one batch take, and a plan that lies there."""
    arrays = (plan.tokens, plan.starts, plan.doc_id, plan.keep, plan.position, plan.from_entity, plan.rows_before)
    held = sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
    rows = COMMIT_EVERY_ROWS + config.windows_per_batch * config.ctx_len
    return held + 2 * rows * lm.d_model * 4 * len(config.hook_points)


def _probe(lm: LanguageModel, plan: TokenPlan, config: CacheConfig) -> float:
    """Return tokens per second of a small batch, after one to warm up."""
    runner = BatchRunner(lm, plan, config.hook_points, config.windows_per_batch, config.dtype)
    n_windows = min(plan.n_windows, config.windows_per_batch, max(1, PROBE_TOKENS // config.ctx_len))
    runner.windows(range(1))
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)
    started = time.perf_counter()
    runner.windows(range(n_windows))  # its rows come to the host, so the device is done
    return int(plan.starts[n_windows]) / (time.perf_counter() - started)


def _size(n_bytes: int | float) -> str:
    """Return bytes as one reads them.

    Example:
        >>> _size(2_400_000), _size(80e9)
        ('2.3 MiB', '74.5 GiB')
    """
    unit, divisor = ("GiB", 2**30) if n_bytes >= 2**30 else ("MiB", 2**20)
    return f"{n_bytes / divisor:,.1f} {unit}"


def _duration(seconds: int | float) -> str:
    """Return a time as one reads it.

    Example:
        >>> _duration(12.3), _duration(600), _duration(9000)
        ('12 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
