"""The activation store measured: caching, reading, kills, scale, single-bit flips.

    python -m benchmarks.store.activation_store --model SmolLM2.gguf --data DATA --out RUN [--docs docs/results/activation_store.md]
        [--parts caching reading kills scale flips] [--threads 2] [--small]

DATA holds `wikitext2_valid.txt.gz`; RUN needs 6 GB. Whatever is timed runs in a process of its own, all with the same number
of threads (`activation_store_measures.py`); what is compared alternates within one run. Figures go to RUN/results.json, and
finished parts are not repeated. --small tries every part at a size that proves nothing, also with `--model fact-world`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.store.activation_store_page import PARTS, render

MEASURES = "benchmarks.store.activation_store_measures"
NOT_COMPARED = frozenset({"created", "attributes_sha256"})  # the time, and the seal over attributes with the time in it
FLIPS_PER_PROCESS, FLIP_TIMEOUT_S = 20, 300


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    repeats: int = 3
    cached_rows: int = 49_152  # twelve batches of 32 windows of 128 tokens; SAELens stores whole batches only
    store_rows: int = 3_600_000  # 4.1 GB
    train_steps: int = 30
    kills: int = 25
    kill_rows: int = 60_000
    scale_rows: tuple[int, ...] = (50_000, 100_000, 200_000, 500_000, 1_000_000)
    flips: int = 200


SMALL = Sizes(2, 4096, 30_000, 3, 3, 20_000, (5_000, 10_000, 20_000), 6)


def interleaved(repeats: int, runs: dict[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Run everything `repeats` times in turn, beginning with another one each time."""
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for number in range(repeats):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(runs[name]())
    return found


# ---------------------------------------------------------------------------------------------------- what a file holds
def datasets_of(file: h5py.File) -> list[h5py.Dataset]:
    """Return every dataset of a file."""
    found: list[Any] = []
    file.visititems(lambda _name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def content(path: Path, ignore: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return every dataset (type, shape, hash of its values) and every attribute of an HDF5 file."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        items: list[Any] = [file]
        file.visititems(lambda _name, item: items.append(item))
        for item in items:
            for key in set(item.attrs) - ignore:
                value = np.asarray(item.attrs[key])
                found[f"{item.name}@{key}"] = [str(value.dtype), repr(value.tolist())]
            if isinstance(item, h5py.Dataset):
                values = np.asarray(item[()])
                raw = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
                found[str(item.name)] = [str(item.dtype), list(item.shape), hashlib.sha256(raw).hexdigest()]
    return found


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the keys that are not in both with the same value."""
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


def bytes_by_place(path: Path) -> dict[str, np.ndarray]:
    """Return file offsets: of everything, of the activations' chunks, of what lies outside all chunks."""
    size = path.stat().st_size
    acts, chunks = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    with h5py.File(path) as file:
        for data in datasets_of(file):
            for index in range(data.id.get_num_chunks() if data.chunks else 0):
                info = data.id.get_chunk_info(index)
                chunks[info.byte_offset : info.byte_offset + info.size] = True
                acts[info.byte_offset : info.byte_offset + info.size] = data.ndim == 2
    return {"anywhere": np.arange(size), "activations": np.flatnonzero(acts), "outside chunks": np.flatnonzero(~chunks)}


# --------------------------------------------------------------------------------- parts, run by a parent without torch
@dataclass(frozen=True)
class Bench:
    """Where to, how much, with how many threads; one method for each part."""

    model: str
    text: str
    out: Path
    sizes: Sizes
    threads: int

    def child(self, name: str, **arguments: object) -> dict[str, Any]:
        """Measure in a process of its own."""
        sys.stderr.write(f"{datetime.now():%H:%M:%S} {name} {arguments}, {self.threads} threads\n")
        command = [sys.executable, "-m", MEASURES, name, json.dumps(arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["threads"] == self.threads, found
        return found

    def caching(self) -> dict[str, Any]:
        """Compare the writer with the bare forward pass, and with SAELens."""
        inputs = {"model": self.model, "text": self.text, "out": str(self.out), "rows": self.sizes.cached_rows}
        return {name: self.child(name, **inputs, repeats=self.sizes.repeats) for name in ("caching", "saelens")}

    def reading(self) -> dict[str, Any]:
        """Read one large store in every way."""
        path = str(self.out / "reading.h5")
        written = self.child("scale", path=path, rows=[self.sizes.store_rows], repeats=1)["runs"]
        cold = {"plain": self.child("read_plain", path=path, decode=False, cold=True)}
        cold["batches"] = self.child("read_batches", path=path, cold=True)
        runs = {
            "plain": lambda: self.child("read_plain", path=path, decode=False),
            "decoded": lambda: self.child("read_plain", path=path, decode=True),
            "batches": lambda: self.child("read_batches", path=path),
            "train": lambda: self.child("train", path=path, out=str(self.out), steps=self.sizes.train_steps),
        }
        found = {"runs": interleaved(self.sizes.repeats, runs), "cold": cold, "written": written}
        Path(path).unlink()
        shutil.rmtree(self.out / "sae")
        return found

    def scale(self) -> dict[str, Any]:
        """Write stores of growing size."""
        path = self.out / "scale.h5"
        found = self.child("scale", path=str(path), rows=self.sizes.scale_rows, repeats=self.sizes.repeats)
        path.unlink()
        return found

    def kills(self) -> dict[str, Any]:
        """Kill `wb cache-activations` again and again, resume, and compare what comes out."""
        whole, path, draw = self.out / "whole.h5", self.out / "killed.h5", random.Random(0)
        whole.unlink(missing_ok=True)
        _, begin_s, end_s = self._cache(whole, "--overwrite")
        expected, trials = content(whole, NOT_COMPARED), []
        while len(trials) < self.sizes.kills:
            for leftover in self.out.glob("killed.h5*"):
                leftover.unlink()
            at_kill: list[int] = []
            code = self._cache(path, "--overwrite", draw.uniform(0, end_s - begin_s))[0]
            if path.exists():
                continue  # it was faster than the kill
            while code == -9:
                at_kill.append(rows_committed(path))
                again = len(at_kill) < 3 and draw.random() < 0.5
                code = self._cache(path, "--resume", draw.uniform(0.8 * begin_s, end_s) if again else None)[0]
            differs = differences(expected, content(path, NOT_COMPARED)) if code == 0 else [f"exit code {code}"]
            trials.append({"rows_at_kill": at_kill, "differs": differs})
            sys.stderr.write(f"{datetime.now():%H:%M:%S} kill {len(trials)}: {trials[-1]}\n")
        for leftover in (whole, *self.out.glob("killed.h5*")):
            leftover.unlink()
        return {"trials": trials, "n_rows": self.sizes.kill_rows, "begin_s": begin_s, "end_s": end_s}

    def _cache(self, path: Path, mode: str, kill_after_s: float | None = None) -> tuple[int, float, float]:
        """Run the command; return its exit code, when its file appeared and when it was complete, in seconds.

        The time to a kill counts from the file's appearance, so that the start of the interpreter does not matter; at a
        resume, where the file is there, from the start.
        """
        words = f"--batch-size 4 --ctx-len 64 --max-tokens {self.sizes.kill_rows} {mode}".split()
        started, begin_s, end_s, quiet = time.perf_counter(), 0.0, 0.0, subprocess.DEVNULL
        with subprocess.Popen([*fact_world_command(path), *words], stdout=quiet, stderr=quiet) as process:
            while process.poll() is None:
                passed = time.perf_counter() - started
                if not begin_s and path.with_name(path.name + ".partial").exists():
                    begin_s = max(passed, 1e-9)
                if not end_s and path.exists():
                    end_s = passed
                if kill_after_s is not None and begin_s and passed - begin_s >= kill_after_s:
                    process.kill()
                    break
                time.sleep(0.005)
        return process.returncode, begin_s, end_s or time.perf_counter() - started

    def flips(self) -> dict[str, Any]:
        """Flip bits anywhere, in the chunks of the activations, and outside all chunks."""
        path, draw = self.out / "flips.h5", random.Random(0)
        command = [*fact_world_command(path), "--max-tokens", "10000", "--overwrite"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        found = {}
        for name, offsets in bytes_by_place(path).items():
            flips = [(int(draw.choice(offsets)), draw.randrange(8)) for _ in range(self.sizes.flips)]
            found[name] = {"bytes": len(offsets), "flips": self._judged(path, flips)}
        path.unlink()
        path.with_name("flipped.h5").unlink(missing_ok=True)
        return found

    def _judged(self, path: Path, flips: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """Judge flips in guarded processes; the one that a process does not answer is `crashed` or `hung`."""
        found: list[dict[str, Any]] = []
        while len(found) < len(flips):
            part, end = flips[len(found) :][:FLIPS_PER_PROCESS], "crashed"
            sys.stderr.write(f"{datetime.now():%H:%M:%S} flips {len(found)} of {len(flips)}\n")
            command = [sys.executable, "-m", MEASURES, "judge_flips", json.dumps({"path": str(path), "flips": part})]
            with path.with_suffix(".log").open("w+") as log:
                try:
                    detail = f"exit code {subprocess.run(command, stdout=log, timeout=FLIP_TIMEOUT_S).returncode}"
                except subprocess.TimeoutExpired:
                    end = detail = "hung"
                log.seek(0)
                answered = [json.loads(line) for line in log if line.startswith('{"offset"')]
            assert end == "hung" or detail != "exit code 1", "the check itself failed: see above"
            if len(answered) < len(part):
                offset, bit = part[len(answered)]
                answered.append({"offset": offset, "bit": bit, "outcome": end, "detail": detail})
            found += answered
        path.with_suffix(".log").unlink()
        return found


def fact_world_command(path: Path) -> list[str]:
    """Return the command that caches the fact world at two hook points."""
    words = (
        "wb cache-activations --model fact-world --text fact-world --hook-point layers.1 --hook-point layers.2 --json"
    )
    return [*words.split(), "--out", str(path)]


def rows_committed(path: Path) -> int:
    """Return how many rows a store holds, finished or not."""
    partial = path.with_name(path.name + ".partial")
    with h5py.File(partial if partial.exists() else path) as file:
        return int(file.attrs["rows_committed"])


def main() -> None:
    """Measure what is not there yet and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads), "WANDB_MODE": "disabled"}
    os.environ |= dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.json"
    setting = {"model": Path(args.model).name, "small": args.small, "threads": args.threads}
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"setting": setting}
    if results["setting"] != setting:
        parser.error(f"{path} was begun with {results['setting']}: take another --out")
    text = str((args.data / "wikitext2_valid.txt.gz").resolve())
    bench = Bench(args.model, text, args.out.resolve(), SMALL if args.small else Sizes(), args.threads)
    for part in ["machine", *args.parts]:
        if part not in results:
            results[part] = bench.child("machine") if part == "machine" else getattr(bench, part)()
            path.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if args.docs is not None:
        old = args.docs.read_text(encoding="utf-8") if args.docs.exists() else ""
        _, _, words = old.partition("## What this shows\n\n")
        args.docs.write_text(
            render(results, words.partition("\n\n## ")[0].strip() or "(to be written)"), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
