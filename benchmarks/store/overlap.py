"""Does caching take as long as its longest part, or as long as all of them together? On a CPU, with a slowed disk.

    python -m benchmarks.store.overlap [--batches 40] [--ms 60]

The language model is a stand-in whose forward pass takes a given time and needs no processor; each write of the store
takes as long or half as long on top of what it takes anyway. The wall time of `write_store` without its beginning and
end is compared with the parts, which are timed in the same run. Nothing of it needs a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from sae_train import load_lm
from sae_train.activations import forward, layout
from sae_train.activations.writing.writer import write_store
from sae_train.config import CacheConfig
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows

LENGTH, AT_ONCE = 32, 16


def timed(seconds: float, work: Callable[..., Any], spans: list[tuple[float, float]]) -> Callable[..., Any]:
    """Return a call that takes at least so long, and notes when it began and ended."""

    def slow(*args: Any, **settings: Any) -> Any:
        began = time.perf_counter()
        time.sleep(seconds)
        found = work(*args, **settings)
        spans.append((began, time.perf_counter()))
        return found

    return slow


def overlap(n_batches: int, forward_s: float, write_s: float) -> dict[str, float]:
    """Write a store with slowed parts; return wall time and the sum of each part, in seconds."""
    lm = load_lm("fact-world", device="cpu")
    text = " ".join(["Mira sang."] * (n_batches * AT_ONCE * LENGTH))
    plan = plan_windows([Document(text)], lm.tokenizer, ctx_len=LENGTH, max_rows=n_batches * AT_ONCE * (LENGTH - 1))
    config = CacheConfig(("layers.0",), ctx_len=LENGTH, batch_size=AT_ONCE, dtype="bfloat16")
    forwards, writes = list[tuple[float, float]](), list[tuple[float, float]]()
    acts = torch.randn(AT_ONCE, LENGTH, lm.d_model)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(
            forward, "capture", timed(forward_s, lambda _lm, ids, *_: {"layers.0": acts[: len(ids)]}, forwards)
        ),
        patch.object(layout.RowWriter, "add", timed(write_s, layout.RowWriter.add, writes)),
    ):
        write_store(lm, plan, config, Path(folder) / "acts.h5", provenance={"model": "none", "text": "none"})
    wall = max(end for _, end in writes) - min(began for began, _ in forwards)
    sums = [float(np.sum([end - began for began, end in spans])) for spans in (forwards, writes)]
    return {"wall": wall, "forward": sums[0], "write": sums[1], "longest": max(sums), "sum": sum(sums)}


def main() -> None:
    """Print a line for each ratio of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--ms", type=float, default=60.0, help="Of the longer part of a batch.")
    args = parser.parse_args()
    sys.stdout.write("| forward, s | write, s | wall, s | of the longest part | of the sum |\n|---|---|---|---|---|\n")
    for forward_share, write_share in ((1.0, 0.5), (1.0, 1.0), (0.5, 1.0)):
        found = overlap(args.batches, args.ms / 1000 * forward_share, args.ms / 1000 * write_share)
        row = (
            found["forward"],
            found["write"],
            found["wall"],
            found["wall"] / found["longest"],
            found["wall"] / found["sum"],
        )
        sys.stdout.write(f"| {' | '.join(f'{value:.2f}' for value in row)} |\n")


if __name__ == "__main__":
    main()
