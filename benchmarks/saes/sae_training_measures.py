"""What benchmarks/saes/sae_training.py times, each in a process of its own.

    python -m benchmarks.saes.sae_training_measures NAME ARGUMENTS

Calls one function of this file with a JSON object as its arguments and prints what it returns as the last line.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.saes.made_store import write_store
from benchmarks.saes.sae_training_systems import Task, build
from sae_train.activations.sampler import ShuffledBatches
from sae_train.activations.store import ActivationStore
from sae_train.quality.evaluate import used_blocks
from sae_train.quality.metrics import fvu
from sae_train.rng import torch_rng

HELD_OUT_ROWS = 8192
BLOCK_ROWS = 16_384
N_DIRECTIONS, N_ON, N_SHARED = 4096, 24, 40  # of the synthetic activations, see `synthetic`


def machine(peers_path: str | None) -> dict[str, Any]:
    """Return date, cores and versions, the peers' too."""
    versions = {name: version(name) for name in ("torch", "numpy", "sae-lens")} | {"Python": platform.python_version()}
    for found in distributions(path=[peers_path] if peers_path else []):
        if found.metadata["Name"] in ("dictionary-learning", "eai-sparsify", "dictionary_learning"):
            versions[found.metadata["Name"]] = found.version
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
        flags = next(line for line in lines if line.startswith("flags")).split()
    except (OSError, StopIteration, PackageNotFoundError):
        names, flags = {platform.processor()}, []
    low = [flag for flag in ("avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if flag in flags]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": os.cpu_count(),
        "cpu": ", ".join(names),
        "flags": low,
        "versions": versions,
    }


def synthetic(path: str, d_in: int, rows: int) -> dict[str, Any]:
    """Write a store of activations with structure: what SAEs look for, on top of what they do not.

    Each row: a common mean, 40 shared directions with Gaussian weights that fall off (low rank), 24 of 4,096 unit
    directions with weights above zero (sparse; how often each is used falls off as a power law), noise.
    """
    draw = torch_rng("benchmark.training.activations", 0)
    shared = torch.randn(N_SHARED, d_in, generator=draw) / d_in**0.5
    directions = F.normalize(torch.randn(N_DIRECTIONS, d_in, generator=draw), dim=1)
    mean = torch.randn(d_in, generator=draw)
    often = 1 / torch.arange(10, 10 + N_DIRECTIONS).float()
    fall = 8 / torch.arange(1, N_SHARED + 1).float().sqrt()

    def blocks() -> Iterator[Tensor]:
        for start in range(0, rows, BLOCK_ROWS):
            n = min(BLOCK_ROWS, rows - start)
            which = torch.multinomial(often, n * N_ON, replacement=True, generator=draw).view(n, N_ON)
            strength = 2 + 4 * torch.rand(n, N_ON, generator=draw)
            sparse = F.embedding_bag(which, directions, per_sample_weights=strength, mode="sum")
            low_rank = (torch.randn(n, N_SHARED, generator=draw) * fall) @ shared
            yield mean + low_rank + sparse + 0.15 * torch.randn(n, d_in, generator=draw)

    write_store(Path(path), blocks(), rows=rows, d_in=d_in)
    return {"bytes": Path(path).stat().st_size}


def batches(task: Task, store: ActivationStore) -> Iterator[Tensor]:
    """Yield the batches that every system is trained on."""
    config = task.config()
    use = ~store.holdout_rows(config.frac_holdout, config.seed)
    feed = ShuffledBatches(
        store, task.hook_point, use, batch_size=task.batch, seed=0, buffer_mb=config.buffer_mb
    )  # fmt: skip
    return itertools.islice(feed.from_batch(0), task.steps)


def available(system: str, **task: Any) -> dict[str, Any]:
    """Return why a system cannot be compared, or nothing."""
    small = Task(**task)
    with ActivationStore(Path(small.path)) as store:
        try:
            trainer, _ = build(system, small, store)
            trainer.step(next(batches(small, store)))
        except (ImportError, AttributeError, TypeError, RuntimeError) as error:
            return {"reason": f"{type(error).__name__}: {error}"[:300]}
    return {"reason": None}


def speed(system: str, warmup: int, **task: Any) -> dict[str, Any]:
    """Time training steps on batches that are in memory already."""
    spec = Task(**task)
    with ActivationStore(Path(spec.path)) as store:
        rows = list(batches(spec, store))
        trainer, before_mb = build(system, spec, store)
        times = []
        for acts in rows:
            started = time.perf_counter()
            trainer.step(acts)
            times.append(time.perf_counter() - started)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"step_s": times[warmup:], "peak_mb": peak_mb, "before_mb": before_mb, "notes": trainer.notes}


def quality(system: str, **task: Any) -> dict[str, Any]:
    """Train for a while; return FVU on held-out rows by the workbench's definition."""
    spec = Task(**task)
    with ActivationStore(Path(spec.path)) as store:
        trainer, _ = build(system, spec, store)
        started = time.perf_counter()
        for acts in batches(spec, store):
            trainer.step(acts)
        took = time.perf_counter() - started
        held_out = store.holdout_rows(spec.config().frac_holdout, spec.config().seed)
        acts = torch.cat(list(used_blocks(store, spec.hook_point, held_out)))[:HELD_OUT_ROWS]
        with torch.no_grad():
            recon = torch.cat([trainer.reconstruct(part).float() for part in acts.split(2048)])
    return {"fvu": float(fvu(acts, recon)), "tokens": spec.steps * spec.batch, "held_out": len(acts), "seconds": took}


def scaling(repeats: int, **task: Any) -> dict[str, Any]:
    """Time our steps and the bare float32 encoder product in turn."""
    spec = Task(**task)
    with ActivationStore(Path(spec.path)) as store:
        rows = list(batches(spec, store))
        trainer, _ = build("ours", spec, store)
        weights = F.normalize(torch.randn(spec.d_sae, rows[0].shape[1]), dim=1).T
        out = torch.empty(spec.batch, spec.d_sae)
        found: dict[str, list[float]] = {"step_s": [], "product_s": []}
        for number in range(repeats):
            for name, work in (
                ("step_s", lambda n=number: trainer.step(rows[n % len(rows)])),
                ("product_s", lambda n=number: torch.mm(rows[n % len(rows)], weights, out=out)),
            ):
                gc.collect()
                started = time.perf_counter()
                work()
                found[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in found.items()} | {"notes": trainer.notes}


def main() -> None:
    """Run one measurement; print it as the last line, with torch's number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="Function of this file.")
    parser.add_argument("arguments", help="Its arguments, a JSON object.")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = globals()[args.name](**json.loads(args.arguments)) | {"threads": torch.get_num_threads()}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
