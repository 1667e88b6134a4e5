"""Memory of a caching run against the number of rows: the token plan made and gone through, and a store written of it.

    python -m benchmarks.store.plan_memory --out RUN [--plans 10000000 50000000 250000000] [--stores 10000000 50000000]

Every line is a process of its own. Windows are made up (512 random tokens); the model is a stand-in of eight dimensions
whose activations are rows of its embedding, so that a store takes 29 bytes a row, and a plan 13 bytes a token, in RUN
while they are needed. Figures go to standard output and to RUN/plan_memory.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_train.config import CacheConfig
from sae_train.rng import seed_torch
from sae_train.text.token_plan import ROW_FIELDS

D_IN = 8


def peak_mb() -> float:
    """Return the most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def plan(rows: int, folder: Path) -> dict[str, float]:
    """Plan so many rows on disk, then go through all of the plan: its hash, and the fields of its rows."""
    from benchmarks.store.activation_store_measures import random_plan
    from sae_train.activations.writing.writer import plan_hash

    before, started = peak_mb(), time.monotonic()
    made = random_plan(rows, folder)
    planned_s, planned_mb = time.monotonic() - started, peak_mb()
    plan_hash(made)
    n_values = sum(len(block) for name in ROW_FIELDS for block in made.row_blocks(name))
    assert n_values == 4 * rows, n_values
    seconds = {"plan_s": planned_s, "walk_s": time.monotonic() - started - planned_s}
    return {"before_mb": before, "planned_mb": planned_mb, "peak_mb": peak_mb(), **seconds}


def store(rows: int, folder: Path) -> dict[str, float]:
    """Plan so many rows and write a store of them; open it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.store.activation_store_measures import CTX_LEN, VOCAB, language_model, random_plan
    from sae_train.activations.store import ActivationStore
    from sae_train.activations.writing.writer import write_store

    config = LlamaConfig(
        hidden_size=D_IN, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, intermediate_size=8,
        vocab_size=VOCAB, max_position_embeddings=CTX_LEN, initializer_range=1.0, tie_word_embeddings=True,
    )  # fmt: skip
    seed_torch("benchmark.store.weights", 0)
    lm = replace(language_model("fact-world")[0], model=LlamaForCausalLM(config).requires_grad_(False).eval())
    path, before, started = folder / "plan_memory.h5", peak_mb(), time.monotonic()
    path.unlink(missing_ok=True)
    how = CacheConfig(hook_points=("embed",), ctx_len=CTX_LEN, max_tokens=rows, batch_size=64)
    write_store(lm, random_plan(rows, folder), how, path, provenance={"model": "stand-in", "text": "random"})
    seconds, size = time.monotonic() - started, path.stat().st_size
    with ActivationStore(path) as found:
        assert found.n_rows == rows
    path.unlink()
    return {"before_mb": before, "peak_mb": peak_mb(), "seconds": seconds, "bytes": size}


def main() -> None:
    """Measure each size in a process of its own, or one of them here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plans", type=int, nargs="*", default=[10_000_000, 50_000_000, 250_000_000])
    parser.add_argument("--stores", type=int, nargs="*", default=[10_000_000, 50_000_000])
    parser.add_argument("--one", choices=["plan", "store"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one:
        (rows,) = args.plans
        sys.stdout.write(json.dumps({"plan": plan, "store": store}[args.one](rows, args.out)) + "\n")
        return
    found: list[dict[str, Any]] = []
    for what, rows in [("plan", n) for n in args.plans] + [("store", n) for n in args.stores]:
        line = [sys.executable, "-m", "benchmarks.store.plan_memory", "--out", args.out, "--one", what, "--plans", rows]
        done = subprocess.run([str(word) for word in line], stdout=subprocess.PIPE, text=True, check=True)
        found.append({"what": what, "rows": rows, **json.loads(done.stdout.splitlines()[-1])})
        sys.stdout.write(f"{json.dumps(found[-1])}\n")
        sys.stdout.flush()
        (args.out / "plan_memory.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
