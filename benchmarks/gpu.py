"""What does a GPU do here? One command, eight minutes on one H100, nothing needed beside the package.

    python -m benchmarks.gpu --out RUN [--docs docs/results/gpu.md] [--device cuda] [--minutes 8] [--peers-path PEERS]
    python -m benchmarks.gpu --out RUN --device cpu --small          the same in half a minute, to see that it runs

Measured are: agreement of short runs with the CPU; caching (a Llama of random weights) against its bare forward passes; a
training step against the encoder's product in bfloat16, with its memory; the peers that can be imported; reading shuffled
rows from disk to the device. Everything is written to RUN/results.json as soon as it is measured, and RUN/gpu.md is its
table. The command given again goes on with what is missing, was left out or failed; nothing is begun once the minutes are
over. What fails is said, and the rest goes on: the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.accelerator.measures import SMALL, Bench, Found, Sizes
from benchmarks.accelerator.page import render
from sae_train.run.runs import resolve_device, write_json, write_text
from sae_train.text_files import read_json


def machine(device: torch.device) -> dict[str, Any]:
    """Return what was measured on, and when."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"Python": platform.python_version(), **{n: version(n) for n in ("torch", "transformers", "sae-lens")}}
    shown = {"name": name, "cores": os.cpu_count(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "versions": versions}
    return {"device": str(device), **shown}


def measured(name: str, measure: Callable[[], Found]) -> Found:
    """Return a figure, or why there is none: a peer that is not there, a size that does not fit, a fault."""
    try:
        return measure()
    except (ImportError, torch.OutOfMemoryError) as error:
        return {"left_out": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
    except Exception as error:  # noqa: BLE001  a GPU is there for minutes only: one fault must not take the rest with it
        sys.stderr.write(f"{name} failed\n{traceback.format_exc()}")
        reason = (str(error).splitlines() or [""])[0][:120]
        return {"left_out": f"failed: {type(error).__name__}: {reason}", "failed": True}


def main(words: list[str] | None = None) -> int:
    """Measure what is missing, as long as there is time, and write the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="Page to write; by default RUN/gpu.md.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="After which no measurement is begun.")
    parser.add_argument("--peers-path", help="Folder that dictionary_learning and sparsify are imported from.")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args(words)
    began, device, sizes = time.monotonic(), resolve_device(args.device), SMALL if args.small else Sizes()
    args.out.mkdir(parents=True, exist_ok=True)
    path, page = args.out / "results.json", args.docs or args.out / "gpu.md"
    fresh = {"machine": machine(device), "small": args.small, "batch": sizes.batch, "cells": {}, "missing": []}
    results = read_json(path) if path.exists() else fresh
    if (results["small"], results["machine"]["device"]) != (args.small, str(device)):
        parser.error(f"{path} was begun with other sizes or on another device: take another --out")
    cells, done = Bench(args.out, device, sizes, args.peers_path).cells(), results["cells"]

    def keep() -> None:
        results["missing"] = [name for name in cells if name not in done]
        write_json(path, results)
        write_text(page, render(results))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of peers
        for name, measure in cells.items():
            if "left_out" in done.get(name, {"left_out": ""}) and time.monotonic() - began < 60 * args.minutes:
                done[name] = measured(name, measure)
                sys.stderr.write(f"{time.monotonic() - began:6.1f} s  {name}  {done[name]}\n")
                keep()
    keep()
    return int(any(found.get("failed", False) for found in done.values()))


if __name__ == "__main__":
    sys.exit(main())
