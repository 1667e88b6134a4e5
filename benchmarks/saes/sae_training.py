"""Training TopK SAEs: the workbench beside SAELens, dictionary_learning and sparsify, on the same activations.

    pip install --no-deps --target PEERS dictionary-learning eai-sparsify natsort schedulefree
    python -m benchmarks.saes.sae_training --out RUN --peers-path PEERS [--activations FILE --hook-point H] [--docs docs/results/sae_training.md]
        [--parts speed quality scaling] [--threads 2] [--rounds 3] [--small]

Without --activations, a store of synthetic ones is written to RUN. Whatever is timed runs in a process of its own
(`sae_training_measures.py`), what is compared in turn. A peer that cannot be imported is left out, with its reason.
Figures go to RUN/results.json as they come; what is there is not measured again. --small shows that all of it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.saes.sae_training_page import render

MEASURES = "benchmarks.saes.sae_training_measures"
NAMES = ("ours", "ours-batch-topk", "saelens", "saelens-bf16", "saelens-sparse", "dictionary_learning", "sparsify")
PARTS = ("speed", "quality", "scaling")
K, WARMUP_STEPS = 32, 2
NEVER_DEAD = 10_000_000  # tokens: the peers' own default; in a few steps nobody's latents die


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int = 262_144
    cells: tuple[tuple[int, int], ...] = ((8, 2048), (16, 2048), (8, 4096), (16, 4096))  # expansion, batch
    steps: int = 6
    quality_cells: tuple[tuple[int, int], ...] = ((8, 2048), (16, 2048))
    quality_tokens: int = 245_760
    scaling: tuple[tuple[int, int], ...] = (
        *((n, 32) for n in (2048, 4096, 8192, 16_384, 32_768, 65_536)),
        *((n, k) for n in (8192, 32_768) for k in (16, 64)),
    )
    repeats: int = 15


SMALL = Sizes(8192, ((2, 512),), 3, ((2, 512),), 4096, ((512, 16), (1024, 32)), 3)


class Bench:
    """Runs measurements in processes of their own and keeps what they return."""

    def __init__(self, args: argparse.Namespace, sizes: Sizes) -> None:
        self.args, self.sizes = args, sizes
        self.path = args.out / "results.json"
        self.store = str((args.activations or args.out / "synthetic.h5").resolve())
        self.results: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def child(self, name: str, **arguments: object) -> dict[str, Any]:
        """Measure in a process of its own."""
        sys.stderr.write(f"{datetime.now():%H:%M:%S} {name} {arguments}\n")
        command = [sys.executable, "-m", MEASURES, name, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} {arguments} failed:\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["threads"] == self.args.threads, found
        return found

    def task(self, d_sae: int, batch: int, steps: int, k: int = K) -> dict[str, Any]:
        """Return what is trained, as the measurements take it."""
        where = {"path": self.store, "hook_point": self.args.hook_point, "peers_path": self.args.peers_path}
        return {**where, "d_sae": d_sae, "k": k, "batch": batch, "steps": steps}

    def keep(self) -> None:
        """Write the results so far."""
        self.path.write_text(json.dumps(self.results, indent=1), encoding="utf-8")

    def systems(self) -> list[str]:
        """Return which systems can be compared; say why the others cannot."""
        if "left_out" not in self.results:
            tiny = self.task(256, 256, 10)
            self.results["left_out"] = {n: self.child("available", system=n, **tiny)["reason"] for n in NAMES}
            self.keep()
        for name, why in self.results["left_out"].items():
            if why:
                sys.stderr.write(f"left out: {name}: {why}\n")
        return [name for name in self.args.systems if not self.results["left_out"][name]]

    def speed(self) -> None:
        """Time every system at every size, in turn, beginning with another one each round."""
        cells = self.results.setdefault("speed", {})
        for expansion, batch in self.sizes.cells:
            d_sae = expansion * self.args.d_in
            cell = cells.setdefault(
                f"d_sae {d_sae:,} ({expansion} d_in), k {K}, batch {batch:,}", {"batch": batch, "rounds": {}}
            )
            names = self.systems()
            for number in range(self.args.rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    runs = cell["rounds"].setdefault(name, [])
                    if len(runs) <= number:
                        task = self.task(d_sae, batch, self.sizes.steps + WARMUP_STEPS) | {
                            "dead_after_tokens": NEVER_DEAD
                        }
                        runs.append(self.child("speed", system=name, warmup=WARMUP_STEPS, **task))
                        self.keep()

    def quality(self) -> None:
        """Train every system for as many tokens."""
        cells = self.results.setdefault("quality", {})
        for expansion, batch in self.sizes.quality_cells:
            d_sae = expansion * self.args.d_in
            cell = cells.setdefault(f"d_sae {d_sae:,}, k {K}, batch {batch:,}", {})
            for name in self.systems():
                if name not in cell:
                    task = self.task(d_sae, batch, self.sizes.quality_tokens // batch)
                    cell[name] = self.child("quality", system=name, **task)
                    self.keep()

    def scaling(self) -> None:
        """Time our steps at more sizes."""
        found = self.results.setdefault("scaling", [])
        batch = self.sizes.cells[0][1]
        goals = [(expansion * self.args.d_in, K) for expansion in sorted({cell[0] for cell in self.sizes.cells})]
        both = [(d_sae, k, arch) for arch in ("topk", "batch-topk") for d_sae, k in [*goals, *self.sizes.scaling]]
        for d_sae, k, arch in both[len(found) :]:
            task = self.task(d_sae, batch, 3, k) | {"dead_after_tokens": NEVER_DEAD, "arch": arch}
            measured = self.child("scaling", repeats=self.sizes.repeats, **task)
            found.append({"d_sae": d_sae, "k": k, "batch": batch, **measured})
            self.keep()


def main() -> None:
    """Measure what is not there yet and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--activations", type=Path, help="A store; synthetic activations without it.")
    parser.add_argument("--hook-point", default="layers.0")
    parser.add_argument(
        "--d-in", type=int, default=640, help="Width: of the synthetic activations, or that of the store."
    )
    parser.add_argument("--peers-path", help="Folder in which dictionary_learning and sparsify are installed.")
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads), "WANDB_MODE": "disabled"}
    os.environ |= dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(args, SMALL if args.small else Sizes())
    name = f"{args.activations.name} at {args.hook_point}" if args.activations else "synthetic"
    setting = {"activations": name, "d_in": args.d_in, "small": args.small, "threads": args.threads}
    if bench.results.setdefault("setting", setting) != setting:
        parser.error(f"{bench.path} was begun with {bench.results['setting']}: take another --out")
    if args.activations is None and not Path(bench.store).exists():
        bench.child("synthetic", path=bench.store, d_in=args.d_in, rows=bench.sizes.rows)
    if "machine" not in bench.results:
        bench.results["machine"] = bench.child("machine", peers_path=args.peers_path)
    for part in args.parts:
        getattr(bench, part)()
    if args.docs is not None:
        old = args.docs.read_text(encoding="utf-8") if args.docs.exists() else ""
        words = (
            old.partition("## What this shows\n\n")[2].partition("\n\n## ")[0].partition("\n\nLeft out: ")[0].strip()
        )
        args.docs.write_text(render(bench.results, words or "(to be written)"), encoding="utf-8")


if __name__ == "__main__":
    main()
