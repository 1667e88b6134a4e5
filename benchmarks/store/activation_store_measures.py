"""What benchmarks/store/activation_store.py times, each in a process of its own.

    python -m benchmarks.store.activation_store_measures NAME ARGUMENTS

Calls one function of this file with a JSON object as its arguments and prints what it returns as the last line. A file of
its own because the parent must not hold torch: a process' peak memory (ru_maxrss) counts what the process it was forked
from held.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.store.activation_store import content, datasets_of, differences, interleaved
from sae_train import train_sae
from sae_train.activations.sampler import ShuffledBatches
from sae_train.activations.store import ActivationStore
from sae_train.config import CacheConfig, SaeTrainConfig
from sae_train.errors import WorkbenchError
from sae_train.rng import rng, seed_torch
from sae_train.run.progress import silent
from sae_train.text.token_plan import PlanWriter, TokenPlan, Window
from sae_train.text.windows import SORT_WINDOWS

D_IN, VOCAB, CTX_LEN = 576, 32_768, 512  # of the stand-in model whose activations are random rows of its embedding
BATCH_WINDOWS, BATCH_ROWS, BUFFER_MB, READ_BYTES = 32, 4096, 256, 16 * 2**20


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes; what earlier work left to be written is written first."""
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine() -> dict[str, Any]:
    """Return date, cores and versions."""
    versions = {name: version(name) for name in ("torch", "transformers", "h5py", "sae-lens", "datasets")}
    versions |= {"Python": platform.python_version(), "HDF5": h5py.version.hdf5_version}
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", "cores": os.cpu_count(), "versions": versions}


def language_model(spec: str, dtype: str = "float32") -> tuple[Any, tuple[str, str]]:
    """Load a model and choose its two hook points."""
    from sae_train.lm.models import load_lm

    lm = load_lm(spec, device="cpu", dtype=dtype)
    return lm, ("layers.6", "layers.9") if lm.n_blocks > 9 else ("layers.1", "layers.2")


def caching(model: str, text: str, out: str, rows: int, repeats: int) -> dict[str, Any]:
    """Time write_store against the forward passes it consists of, at two hook points."""
    from sae_train.activations.writing.writer import write_store
    from sae_train.lm.hooks import capture
    from sae_train.lm.models import weights_hash
    from sae_train.text.tokens import load_documents
    from sae_train.text.windows import plan_windows

    lm, hooks = language_model(model)
    plan = plan_windows(load_documents(text), lm.tokenizer, ctx_len=128, max_rows=rows)
    config, path = CacheConfig(hook_points=hooks, max_tokens=rows, batch_size=BATCH_WINDOWS), Path(out) / "caching.h5"
    batches: list[tuple[Any, Any]] = []  # the very batches the writer runs, seen in a first, unmeasured pass
    handle = lm.model.register_forward_pre_hook(
        lambda _module, _args, kw: batches.append((kw["input_ids"], kw["attention_mask"])), with_kwargs=True
    )
    write_store(lm, plan, config, path, provenance={})
    handle.remove()
    runs = {
        "write": lambda: seconds(lambda: write_store(lm, plan, config, path, provenance={})),
        "forward": lambda: seconds(lambda: [capture(lm, ids, mask, hooks) for ids, mask in batches]),
        "hash": lambda: seconds(lambda: weights_hash(lm.model)),
    }
    found = interleaved(repeats, runs)
    path.unlink()
    n_places = sum(ids.numel() for ids, _ in batches)
    return {"seconds": found, "hooks": hooks, "n_tokens": len(plan.tokens), "n_rows": plan.n_rows, "n_places": n_places}


def saelens(model: str, text: str, out: str, rows: int, repeats: int) -> dict[str, Any]:
    """Time SAELens' CacheActivationsRunner and the workbench from text to file, models loaded, at one hook point."""
    from datasets import Dataset, disable_progress_bars
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

    from sae_train.activations.writing.writer import write_store
    from sae_train.lm.models import save_lm
    from sae_train.text.tokens import load_documents
    from sae_train.text.windows import plan_windows

    disable_progress_bars()
    lm, (_, hook) = language_model(model)
    half = language_model(model, dtype="bfloat16")[0]
    folder, theirs, path = Path(out) / "model", Path(out) / "saelens", Path(out) / "ours.h5"
    save_lm(lm, folder)
    documents = list(load_documents(text))
    paragraphs = Dataset.from_dict({"text": [d.text for d in documents]})

    def run_theirs(dtype: str) -> dict[str, float]:
        shutil.rmtree(theirs, ignore_errors=True)
        config = CacheActivationsRunnerConfig(
            dataset_path="local", model_name=str(folder), model_class_name="AutoModelForCausalLM", hook_name=f"model.{hook}",
            d_in=lm.d_model, model_batch_size=BATCH_WINDOWS, training_tokens=rows, context_size=128, device="cpu",
            new_cached_activations_path=str(theirs), model_from_pretrained_kwargs={"dtype": dtype},
            buffer_size_gb=(rows * lm.d_model * 4 + 1) / 1e9,  # it stores whole buffers: the default is 2 GB
        )  # fmt: skip
        runner = CacheActivationsRunner(config, override_dataset=paragraphs)
        stored: list[Any] = []
        took = seconds(lambda: stored.append(runner.run()))
        n_bytes = sum(p.stat().st_size for p in theirs.rglob("*") if p.is_file())
        return {"seconds": took, "rows": len(stored[0]) * 128, "bytes": n_bytes}

    def run_ours(dtype: str, packing: str = "documents", lm: Any = lm) -> dict[str, float]:
        def work() -> None:
            plan = plan_windows(documents, lm.tokenizer, ctx_len=128, max_rows=rows, packing=packing)
            config = CacheConfig((hook,), max_tokens=rows, packing=packing, batch_size=BATCH_WINDOWS, dtype=dtype)
            stored.append(write_store(lm, plan, config, path, provenance={}).n_rows)

        path.unlink(missing_ok=True)
        stored: list[int] = []
        return {"seconds": seconds(work), "rows": stored[0], "bytes": path.stat().st_size}

    run_ours("float32")  # warms up
    runs: dict[str, Callable[[], dict[str, float]]] = {
        "saelens": lambda: run_theirs("float32"),
        "saelens-half": lambda: run_theirs("bfloat16"),
        "float32": lambda: run_ours("float32"),
        "packed": lambda: run_ours("float32", "packed"),
        "bfloat16": lambda: run_ours("bfloat16"),
        "half": lambda: run_ours("bfloat16", "packed", half),
    }
    found = interleaved(repeats, runs)
    path.unlink()
    shutil.rmtree(theirs)
    shutil.rmtree(folder)
    return {"runs": found, "hook": hook}


def scale(path: str, rows: list[int], repeats: int) -> dict[str, Any]:
    """Time the writer at several sizes with a model whose activations cost nothing; the last store stays."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=D_IN, num_hidden_layers=1, num_attention_heads=9, num_key_value_heads=9, intermediate_size=64,
        vocab_size=VOCAB, max_position_embeddings=CTX_LEN, initializer_range=1.0, tie_word_embeddings=True,
    )  # fmt: skip
    seed_torch("benchmark.store.weights", 0)
    lm = replace(language_model("fact-world")[0], model=LlamaForCausalLM(config).requires_grad_(False).eval())
    if len(rows) > 1:
        write_random(lm, Path(path), min(rows))  # warms up
    return {"runs": interleaved(repeats, {str(n): lambda n=n: write_random(lm, Path(path), n) for n in rows})}


def random_windows(rows: int, seed: int) -> Iterator[Window]:
    """Yield windows of random tokens that give so many rows; documents of four windows, first tokens left out."""
    draw, n_windows = rng("benchmark.store.tokens", seed), -(-rows // (CTX_LEN - 1))
    for number in range(n_windows):
        n = min(CTX_LEN, rows + n_windows - number * CTX_LEN)
        first = number % 4 * CTX_LEN
        yield Window(
            tokens=draw.integers(3, VOCAB, n, dtype=np.int32),
            keep=np.arange(n) > 0,
            position=np.arange(first, first + n, dtype=np.int32),
            doc_id=np.full(n, number // 4, np.int32),
            from_entity=False,
            n_special=1,
        )


def random_plan(rows: int, folder: Path | None) -> TokenPlan:
    """Return the plan of random windows, on disk where a folder is given."""
    writer = PlanWriter(folder)
    windows = random_windows(rows, rows)
    while block := list(itertools.islice(windows, SORT_WINDOWS)):
        writer.add(block)
    return writer.plan(n_special=writer.n_special, n_prefix=1)


def write_random(lm: Any, path: Path, rows: int) -> dict[str, float]:
    """Write a store of random rows with the workbench's writer."""
    from sae_train.activations.writing.writer import write_store

    plan = random_plan(rows, path.parent)
    config = CacheConfig(hook_points=("embed",), ctx_len=CTX_LEN, max_tokens=rows)
    path.unlink(missing_ok=True)
    took = seconds(lambda: write_store(lm, plan, config, path, provenance={"model": "stand-in", "text": "random"}))
    return {"seconds": took, "bytes": path.stat().st_size}


def forget_pages(path: str) -> None:
    """Ask the kernel to drop what it holds of a file in memory."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plain(path: str, decode: bool, cold: bool = False) -> dict[str, Any]:
    """Read the activations in file order with h5py alone, 16 MiB of whole chunks at a time."""
    if cold:
        forget_pages(path)
    with h5py.File(path) as file:
        data = next(d for d in datasets_of(file) if d.ndim == 2)
        step = data.chunks[0] * max(1, READ_BYTES // (data.chunks[0] * data.shape[1] * data.dtype.itemsize))

        def work() -> None:
            for start in range(0, len(data), step):
                block = data[start : start + step]
                if decode:
                    torch.from_numpy(block.view(np.int16)).view(torch.bfloat16).float()

        return {"rows_per_s": len(data) / seconds(work)}


def read_batches(path: str, cold: bool = False) -> dict[str, Any]:
    """Draw one epoch of shuffled batches."""
    if cold:
        forget_pages(path)
    baseline_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with ActivationStore(Path(path)) as store:
        use, n_batches = np.ones(store.n_rows, dtype=bool), store.n_rows // BATCH_ROWS
        sampler = ShuffledBatches(store, store.hook_points[0], use, batch_size=BATCH_ROWS, seed=0, buffer_mb=BUFFER_MB)
        drawn: list[int] = []
        took = seconds(lambda: drawn.extend(len(b) for b in itertools.islice(sampler.from_batch(0), n_batches)))
    assert drawn == [BATCH_ROWS] * n_batches
    return {"rows_per_s": sum(drawn) / took, "baseline_mb": baseline_mb}


def train(path: str, out: str, steps: int) -> dict[str, Any]:
    """Train a few steps, reading included; no latent may count as dead, which would only make the steps slower."""
    with ActivationStore(Path(path)) as store:
        config = SaeTrainConfig(
            hook_point=store.hook_points[0], k=32, d_sae=8 * D_IN, batch_size=BATCH_ROWS, tokens=steps * BATCH_ROWS,
            buffer_mb=BUFFER_MB, dead_after_tokens=10**9, save_every=10**6, frac_holdout=1 / (int(store.doc_id.max()) + 1),
        )  # fmt: skip
        sae = train_sae(store, config=config, out=Path(out) / "sae", overwrite=True, device="cpu", progress=silent)
    return {"rows_per_s": sae.metrics["tokens_per_s"]}


def judge_flips(path: str, flips: list[tuple[int, int]]) -> dict[str, Any]:
    """Flip one bit at a time; write a line of JSON for each: what the workbench said, and whether it was right."""
    original, copy, expected = Path(path).read_bytes(), Path(path).with_name("flipped.h5"), content(Path(path))
    for offset, bit in flips:
        changed = bytearray(original)
        changed[offset] ^= 1 << bit
        copy.write_bytes(changed)
        outcome, detail = judge(copy, expected)
        sys.stdout.write(json.dumps({"offset": offset, "bit": bit, "outcome": outcome, "detail": detail}) + "\n")
        sys.stdout.flush()
    return {}


def judge(path: Path, expected: dict[str, Any]) -> tuple[str, str]:
    """Return `detected`, `untyped` (an exception outside the error tree), `harmless` or `silent`, and a detail."""
    from features.inspection.inspection import inspect_file

    try:
        report = inspect_file(path, verify=True)
        if report.has_problems:
            return "detected", "inspect"
        with ActivationStore(path) as store:
            _ = [store.rows(name, slice(0, store.n_rows)) for name in store.hook_points]
            _ = [store.row_field(name) for name in ("token_id", "doc_id", "position", "from_entity")]
    except WorkbenchError as error:
        return "detected", type(error).__name__
    except Exception as error:  # noqa: BLE001  anything may come out of a damaged file; which is what is counted
        return "untyped", f"{type(error).__name__}: {str(error).replace(str(path), path.name)[:120]}"
    try:
        found = content(path)
    except Exception as error:  # noqa: BLE001  the workbench saw nothing wrong, and the file cannot be read
        return "silent", f"unreadable: {type(error).__name__}"
    differs = differences(expected, found)
    return ("silent", ", ".join(differs)[:200]) if differs else ("harmless", "")


def main() -> None:
    """Run one measurement; print it as the last line, with torch's threads, peak memory and what came from storage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="Function of this file.")
    parser.add_argument("arguments", help="Its arguments, a JSON object.")
    args = parser.parse_args()
    found = globals()[args.name](**json.loads(args.arguments))
    found |= {"threads": torch.get_num_threads(), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if Path("/proc/self/io").exists():
        found["disk_bytes"] = int(Path("/proc/self/io").read_text().split("read_bytes: ")[1].split()[0])
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
