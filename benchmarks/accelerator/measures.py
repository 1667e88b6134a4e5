"""Measurements on one device: agreement with the CPU, caching, training steps, peers, reading from disk."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.saes.made_store import HOOK_POINT, write_store
from benchmarks.saes.sae_training_systems import SYSTEMS, Task
from sae_train import load_lm, train_sae
from sae_train.activations.sampler import ShuffledBatches
from sae_train.activations.store import ActivationStore
from sae_train.activations.writing.writer import store_identity
from sae_train.activations.writing.writer import write_store as cache
from sae_train.config import CacheConfig, SaeTrainConfig
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng, seed_torch, torch_rng
from sae_train.run.progress import silent
from sae_train.saes import ARCHS
from sae_train.text.windows import TokenPlan
from sae_train.training.state import prepare
from sae_train.training.step import train_step

N_DIRECTIONS, N_ON = 4096, 24  # of the made-up activations
MADE_ROWS = 8192  # at a time
PEERS = ("saelens", "dictionary_learning", "sparsify")
ROUNDS, CALLS = 5, 4  # a time is the median of rounds of some calls each: between those nothing waits for the device
MIB = 2**20

Found = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large and how long; by default for a GPU.

    Attributes:
        widths: d_in of the steps, of reading, and (the first) of the language model.
        latents: d_sae of the steps.
        ks: k of the steps.
        batch: Rows of a step.
        rows: Rows of the store that steps and reading take them from.
        most_s: Seconds after which a measurement that repeats something stops repeating.
        lm_blocks: Blocks of the language model; 26 of width 2,304 are about Gemma 2 2B.
        lm_windows, ctx_len: Windows that it reads, and their length.
        parity: Width, latents, k, rows of a batch and steps of the runs that are compared with the CPU.
    """

    widths: tuple[int, ...] = (2304, 4096)
    latents: tuple[int, ...] = (16_384, 65_536, 131_072)
    ks: tuple[int, ...] = (32, 128)
    batch: int = 4096
    rows: int = 49_152
    most_s: float = 4.0
    lm_blocks: int = 26
    lm_windows: int = 512
    ctx_len: int = 128
    parity: tuple[int, int, int, int, int] = (256, 2048, 16, 512, 20)


SMALL = Sizes(
    (32,), (64, 128), (4, 8), batch=128, rows=2048, most_s=0.05, lm_blocks=2, lm_windows=16, ctx_len=32,
    parity=(32, 64, 4, 64, 5),
)  # fmt: skip


class Bench:
    """The measurements on one device.

    Args:
        out: Where stores lie.
        device: Where things are computed.
        sizes: How large they are.
        peers_path: Folder that peers are imported from, if they are not installed.
    """

    def __init__(self, out: Path, device: torch.device, sizes: Sizes, peers_path: str | None = None) -> None:
        self.out, self.device, self.sizes, self.peers_path = out, device, sizes, peers_path

    def cells(self) -> dict[str, Callable[[], Found]]:
        """Return every measurement by name, the most wanted first."""
        sizes = self.sizes
        at = list(itertools.product(sizes.widths, sizes.latents, sizes.ks))
        first, second = at[0], (sizes.widths[0], sizes.latents[1], sizes.ks[0])
        found: dict[str, Callable[[], Found]] = {"parity/caching": self.parity_of_caching}
        found |= {f"parity/{arch}": partial(self.parity, arch) for arch in ARCHS}
        found["caching/bfloat16"] = partial(self.caching, "bfloat16")
        steps = {f"step/{_named(size)}/bfloat16 products": partial(self.step, *size, True) for size in at}
        peers = [
            {f"peer/{name}/{_named(size)}": partial(self.peer, name, *size) for name in PEERS}
            for size in (first, second)
        ]
        found |= dict(list(steps.items())[:2]) | peers[0]
        found |= {f"reading/{width}": partial(self.reading, width) for width in sizes.widths}
        found |= steps
        found[f"step/{_named(first)}/float32"] = partial(self.step, *first, False)
        found["caching/float32"] = partial(self.caching, "float32")
        return found | peers[1]

    def parity(self, arch: str) -> Found:
        """Train a few steps on the CPU and on the device: how far apart is what comes out?"""
        width, d_sae, k, batch, steps = self.sizes.parity
        size = {"k": k, "d_sae": d_sae, "batch_size": batch, "tokens": steps * batch, "arch": arch}
        config = SaeTrainConfig(HOOK_POINT, **size, search_dtype="float32", dead_after_tokens=2 * batch)
        ours, theirs = (
            train_sae(self.store(width), config=config, device=str(where), progress=silent)
            for where in (self.device, "cpu")
        )
        rows = [sae.W_dec.detach().float().cpu() for sae in (ours, theirs)]
        lowest = float(torch.nn.functional.cosine_similarity(*rows).min())
        return {"fvu": ours.metrics["fvu"], "fvu_cpu": theirs.metrics["fvu"], "lowest_cosine": lowest}

    def parity_of_caching(self) -> Found:
        """Run a small language model on the CPU and on the device: how far apart are the stored rows?"""
        width = min(256, self.sizes.widths[0])
        found = []
        for where in (torch.device("cpu"), self.device):
            lm, plan, config = language_model(where, "float32", width, n_blocks=2, n_windows=8, length=self.sizes.ctx_len)  # fmt: skip
            path = self.out / "parity.h5"
            path.unlink(missing_ok=True)
            cache(lm, plan, replace(config, dtype="float32"), path, provenance={"model": "random", "text": "random"})
            with ActivationStore(path) as store:
                found.append(store.rows(config.hook_points[0], slice(0, store.n_rows)))
        cpu, ours = found
        return {"n_rows": len(cpu), "relative_error": float((ours - cpu).norm() / cpu.norm())}

    def caching(self, dtype: str) -> Found:
        """Time the bare forward passes of a plan, then the writing of its store."""
        sizes = self.sizes
        self._forget_peak()
        lm, plan, config = language_model(
            self.device, dtype, sizes.widths[0], sizes.lm_blocks, sizes.lm_windows, sizes.ctx_len
        )
        at_once, windows = config.windows_per_batch, [plan.tokens[plan.window(w)] for w in range(plan.n_windows)]
        batches = [
            torch.from_numpy(np.stack(windows[first : first + at_once])).long().to(self.device)
            for first in range(0, plan.n_windows, at_once)
        ]

        def forward() -> None:
            for ids in batches:
                capture(lm, ids, None, config.hook_points)

        def write() -> None:
            path = self.out / "cached.h5"
            path.unlink(missing_ok=True)
            cache(lm, plan, config, path, provenance={"model": "random", "text": "random"})

        bare = self._seconds(forward, warm=1, calls=1)
        hashing = self._seconds(lambda: store_identity(lm, plan, config), warm=0, calls=1, rounds=1)
        # Once in a run, whatever its length: it would be most of this one.
        writing = max(self._seconds(write, warm=1, calls=1) - hashing, 0.0)
        n_tokens = len(plan.tokens)
        found = {"tokens_per_s": n_tokens / writing, "forward_tokens_per_s": n_tokens / bare}
        found |= {"times_forward": writing / bare, "hashing_s": hashing, "blocks": sizes.lm_blocks, "d_in": lm.d_model}
        return found | {"stored_mb_per_s": plan.n_rows * lm.d_model * 2 / writing / MIB, "peak_mb": self._peak_mb()}

    def step(self, width: int, d_sae: int, k: int, autocast: bool) -> Found:
        """Time a training step, and the product of its rows with the encoder in bfloat16."""
        size = {"k": k, "d_sae": d_sae, "batch_size": self.sizes.batch, "tokens": 1000 * self.sizes.batch}
        config = SaeTrainConfig(HOOK_POINT, **size, autocast=autocast)
        self._forget_peak()
        with ActivationStore(self.store(width)) as store:
            state, plan = prepare(store, config, ~store.holdout_rows(config.frac_holdout, 0), self.device)
        acts = self._rows(width)
        took = self._seconds(lambda: train_step(state, acts, config, plan))
        peak = self._peak_mb()
        weights, rows = state.sae.W_enc.detach().bfloat16(), acts.bfloat16()
        product = self._seconds(lambda: rows @ weights)
        found = {"ms": 1e3 * took, "product_ms": 1e3 * product, "times_product": took / product}
        return {**found, "search": state.sae.search_dtype, "rows_per_s": len(acts) / took, "peak_mb": peak}

    def peer(self, name: str, width: int, d_sae: int, k: int) -> Found:
        """Time the step of another library at the same size."""
        if self.peers_path is not None and self.peers_path not in sys.path:
            sys.path.append(self.peers_path)
        self._forget_peak()
        where = {"hook_point": HOOK_POINT, "device": str(self.device)}
        task = Task(str(self.store(width)), d_sae=d_sae, k=k, batch=self.sizes.batch, steps=1000, **where)
        acts = self._rows(width)
        with ActivationStore(task.path) as store:
            system = SYSTEMS[name](task, store, width**0.5 / float(acts.norm(dim=1).mean()), 1e-4)
        took = self._seconds(lambda: system.step(acts))
        return {"ms": 1e3 * took, "rows_per_s": len(acts) / took, "peak_mb": self._peak_mb()}

    def reading(self, width: int) -> Found:
        """Time an epoch of shuffled batches from disk to the device; the system has forgotten the file."""
        path, pinned = self.store(width), self.device.type == "cuda"
        settings = {"batch_size": self.sizes.batch, "seed": 0, "buffer_mb": 256, "pin_memory": pinned}
        with ActivationStore(path) as store:
            forgotten = forget_file(path)
            n_batches, started = store.n_rows // self.sizes.batch, time.perf_counter()
            feed = ShuffledBatches(store, HOOK_POINT, np.ones(store.n_rows, dtype=bool), **settings).from_batch(0)
            for batch in itertools.islice(feed, n_batches):
                batch.to(self.device, non_blocking=True)
            self._wait()
            took = time.perf_counter() - started
        n_rows = n_batches * self.sizes.batch
        return {"rows_per_s": n_rows / took, "mb_per_s": n_rows * width * 2 / took / MIB, "from_disk": forgotten}

    def store(self, width: int) -> Path:
        """Return a store of sparse sums of random directions, written where it is not there yet."""
        path = self.out / f"rows-{width}.h5"
        if not path.exists():
            generator = torch_rng("benchmark.training.activations", 0)
            n = min(N_DIRECTIONS, 4 * width)
            directions = torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=1)
            directions = directions.to(self.device)

            def block(n_rows: int) -> Tensor:
                at = torch.randint(n, (n_rows, N_ON), generator=generator)
                on = torch.zeros(n_rows, n).scatter_(1, at, 1 + torch.rand(n_rows, N_ON, generator=generator))
                rows = (on.to(self.device) @ directions).cpu()
                return rows + 0.1 * torch.randn(n_rows, width, generator=generator)

            n_rows = self.sizes.rows
            counts = (min(MADE_ROWS, n_rows - start) for start in range(0, n_rows, MADE_ROWS))
            write_store(path, map(block, counts), rows=n_rows, d_in=width)
        return path

    def _rows(self, width: int) -> Tensor:
        """Return a batch on the device."""
        with ActivationStore(self.store(width)) as store:
            return store.rows(HOOK_POINT, slice(0, self.sizes.batch)).to(self.device)

    def _wait(self) -> None:
        """Return once the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _seconds(self, work: Callable[[], object], *, warm: int = 3, calls: int = CALLS, rounds: int = ROUNDS) -> float:
        """Return the time of one call: the median of some rounds, of fewer where they take long."""
        for _ in range(warm):
            work()
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < rounds and (not times or time.perf_counter() - began < self.sizes.most_s):
            self._wait()
            started = time.perf_counter()
            for _ in range(calls):
                work()
            self._wait()
            times.append((time.perf_counter() - started) / calls)
        return float(np.median(times))

    def _forget_peak(self) -> None:
        """Give memory back and begin to watch for the most that is held."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak_mb(self) -> float | None:
        """Return the most memory of the device that was held since `_forget_peak`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / MIB if self.device.type == "cuda" else None


def _named(size: tuple[int, ...]) -> str:
    return "/".join(map(str, size))


def language_model(
    device: torch.device, dtype: str, width: int, n_blocks: int, n_windows: int, length: int
) -> tuple[LanguageModel, TokenPlan, CacheConfig]:
    """Return a Llama of random weights on a device, windows of random tokens, and what is stored of it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    small = load_lm("fact-world", device="cpu")
    heads, n_vocabulary = max(1, width // 128), max(small.n_tokens, 512)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=n_blocks, vocab_size=n_vocabulary,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=4096,
    )  # fmt: skip
    seed_torch("benchmark.store.weights", 0)
    # Small ones from the CPU's random numbers, the same everywhere; billions are drawn where they are used.
    drawn = device if n_blocks * width > 10_000 else torch.device("cpu")
    with drawn:
        model = LlamaForCausalLM(config)
    model = model.to(device, getattr(torch, dtype)).eval().requires_grad_(False)
    tokens = rng("benchmark.store.tokens", 0).integers(0, n_vocabulary, n_windows * length).astype(np.int32)
    position = np.tile(np.arange(length, dtype=np.int32), n_windows)
    plan = TokenPlan(
        tokens, np.arange(n_windows + 1) * length, np.repeat(np.arange(n_windows, dtype=np.int32), length),
        position > 0, position, np.zeros(n_windows, dtype=bool), np.arange(n_windows + 1) * (length - 1), n_windows, 1,
    )  # fmt: skip
    lm = replace(small, model=model, name="random Llama", device=device, stored=None)
    return lm, plan, CacheConfig((f"layers.{n_blocks - 1}",), ctx_len=length, batch_size=32)


def forget_file(path: Path) -> bool:
    """Ask the system to drop a file from its memory, so that it is read from disk; return whether it can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
    return True
