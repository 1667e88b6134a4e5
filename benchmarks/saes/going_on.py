"""Does `--init` spare tokens? An SAE of one model goes on in a model near it, beside a start from nothing.

    python -m benchmarks.saes.going_on --out RUN [--archs topk jumprelu] [--noise 0.1] [--tokens 400000]

The model is the fact world's; the one near it has noise on every matrix, as large as a share of the spread of its numbers.
Prints a table: held-out FVU, L0 and dead latents at layers.2 of the second model. One seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from sae_train import cache_activations, load_lm, train_sae
from sae_train.lm.models import LanguageModel
from sae_train.rng import torch_rng
from sae_train.run.progress import silent

HOOK_POINT, STORE_ROWS = "layers.2", 40_000
SIZES: dict[str, Any] = {"k": 8, "expansion": 4, "batch_size": 512, "device": "cpu", "progress": silent}
STILL: dict[str, Any] = {"tokens": 1, "lr": 1e-12}  # one step that moves nothing


@torch.no_grad()
def disturb(lm: LanguageModel, noise: float) -> None:
    """Add noise to every matrix of a model."""
    generator = torch_rng("benchmark.calibration.noise", 0)
    for weight in lm.model.parameters():
        if weight.ndim > 1:
            weight.add_(noise * weight.std() * torch.randn(weight.shape, generator=generator))


def stores(folder: Path, noise: float) -> tuple[Path, Path]:
    """Write the activations of the model, and of the one near it, on the same text."""
    lm, paths = load_lm("fact-world", device="cpu"), (folder / "before.h5", folder / "after.h5")
    for path in paths:
        cache_activations(
            lm, "fact-world", HOOK_POINT, out=path, max_tokens=STORE_ROWS, overwrite=True, progress=silent
        ).close()
        disturb(lm, noise)  # after the second store it is not used any more
    return paths


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--archs", nargs="+", default=["topk", "jumprelu"])
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--tokens", type=int, default=400_000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    before, after = stores(args.out, args.noise)
    sys.stdout.write("| architecture | start | tokens | FVU | L0 | dead |\n|---|---|---|---|---|---|\n")
    for arch in args.archs:
        first = args.out / f"before-{arch}"
        train_sae(before, HOOK_POINT, out=first, overwrite=True, arch=arch, tokens=args.tokens, **SIZES)
        for start, settings in (
            ("drawn", {"tokens": args.tokens}),
            ("drawn", {"tokens": args.tokens // 10}),
            ("`--init`", {"tokens": args.tokens // 10, "init": str(first)}),
            ("`--init`", {**STILL, "init": str(first)}),
        ):
            found = train_sae(after, HOOK_POINT, arch=arch, **SIZES, **settings).metrics
            tokens = 0 if settings.get("lr") == STILL["lr"] else settings["tokens"]
            figures = f"{found['fvu']:.4f} | {found['l0']:.2f} | {found['frac_dead']:.3f}"
            sys.stdout.write(f"| {arch} | {start} | {tokens:,} | {figures} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
