"""How long does a browser of all latents take, and how much memory?

    python -m benchmarks.saes.browsing --out RUN [--latents 8192] [--rows 100000] [--d-in 576] [--k 32] [--model MODEL]

Activations and SAE (TopK) are made up: normally distributed rows, decoder rows in drawn directions. With a model of that
width its logit lens is read too; tokens stay numbers, since the text is made up. Threads are those that torch is given
(OMP_NUM_THREADS). Prints one JSON object: seconds on the clock and of the processor, peak memory, bytes of the page.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch

from benchmarks.saes.made_store import HOOK_POINT, write_store
from features import browse
from sae_train.rng import torch_rng
from sae_train.saes.topk import TopKSae

BLOCK_ROWS = 20_000


def main() -> None:
    """Make the input, browse, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in (("latents", 8192), ("rows", 100_000), ("d-in", 576), ("k", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    generator, path = torch_rng("benchmark.training.activations", 0), args.out / "acts.h5"
    sizes = [min(BLOCK_ROWS, args.rows - start) for start in range(0, args.rows, BLOCK_ROWS)]
    blocks = (torch.randn(n, args.d_in, generator=generator) for n in sizes)
    write_store(path, blocks, rows=args.rows, d_in=args.d_in, dtype="float16")
    sae = TopKSae(args.d_in, args.latents, k=args.k)
    sae.init_weights(torch.zeros(args.d_in), 0)
    sae.hook_point = HOOK_POINT
    began, clock = time.monotonic(), time.process_time()
    found = browse(sae, path, lm=args.model, out=args.out / "browser", overwrite=True)
    folder = args.out / "browser"
    figures = {
        **found.summary(),
        "seconds": time.monotonic() - began,
        "processor_seconds": time.process_time() - clock,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "page_bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
