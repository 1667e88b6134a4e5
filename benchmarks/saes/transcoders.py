r"""TopK transcoders of an MLP beside sparsify's: variance left after equal tokens, and a step beside the encoder product.

    pip install --no-deps --target PEERS eai-sparsify natsort schedulefree
    wb cache-activations --model MODEL --text TEXT --hook-point layers.9.mlp:in --hook-point layers.9.mlp --out mlp.h5
    python -m benchmarks.saes.transcoders --activations mlp.h5 --hook-point layers.9.mlp:in --target-hook-point layers.9.mlp \
        --out RUN [--peers-path PEERS] [--seeds 0 1 2] [--docs docs/results/transcoders.md]

Both get the same batches, input and output each scaled to a mean norm of sqrt(d), the same number of latents, k and
warm-up, and each the best of the same three step sizes (1, 3 and 10 times our default), chosen with a seed that is not
reported: after so few tokens one step size alone would say little. Everything else is their own. FVU is the workbench's, of the MLP's output on held-out documents. SAELens and
dictionary_learning train no transcoders, and none of the three trains crosscoders, so that ours have no peer here. Figures
go to RUN/results.json as they come; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.saes.sae_absorption_page import interval
from benchmarks.saes.sae_training_measures import HELD_OUT_ROWS, machine
from benchmarks.saes.sae_training_page import met, table
from benchmarks.saes.sae_training_systems import System
from sae_train.activations.joined import joined_rows
from sae_train.activations.sampler import ShuffledBatches
from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.quality.evaluate import used_blocks
from sae_train.quality.metrics import fvu
from sae_train.rng import seed_torch
from sae_train.run.notes import note
from sae_train.run.runs import write_json
from sae_train.text_files import read_json
from sae_train.training.state import prepare
from sae_train.training.step import lr_factor, train_step

STEP_BAR, FVU_BAR = 1.3, 0.005
CHOOSING_SEED = 100
LR_FACTORS = (1.0, 3.0, 10.0)  # times our default step size
WARMUP_STEPS = 20
SHOWS = "## What this shows"
REPEATS, BATCHES_IN_MEMORY = 15, 3


@dataclass(frozen=True)
class Task:
    """One transcoder to be trained, with a multiple of our default step size."""

    rows: ActivationStore
    config: SaeTrainConfig
    factor: float = 1.0

    @property
    def trained_on(self) -> Any:
        """Return which rows are not held out."""
        return ~self.rows.holdout_rows(self.config.frac_holdout, self.config.rows_seed)

    def batches(self) -> Iterator[Tensor]:
        """Yield the batches, (batch, d_in + d_out)."""
        c = self.config
        feed = ShuffledBatches(
            self.rows, c.hook_point, self.trained_on, batch_size=c.batch_size, seed=c.seed, buffer_mb=c.buffer_mb
        )
        return itertools.islice(feed.from_batch(0), (c.tokens or 0) // c.batch_size)


def ours(task: Task) -> System:
    """Return the workbench's."""
    state, plan = prepare(task.rows, task.config, task.trained_on, torch.device("cpu"))
    plan = replace(plan, lr=plan.lr * task.factor)
    return System(
        lambda rows: train_step(state, rows, task.config, plan),
        lambda rows: state.sae(state.sae.input_of(rows) * plan.scale) / plan.scale,
    )


def sparsify(task: Task) -> System:
    """Return sparsify's SparseCoder as its trainer uses it for `transcode`; that trainer wants a language model."""
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    config = task.config
    state, plan = prepare(task.rows, config, task.trained_on, torch.device("cpu"))
    sample = next(task.batches())
    x, y = state.sae.input_of(sample), state.sae.target_of(sample)
    scale_in = x.shape[1] ** 0.5 / float(x.norm(dim=1).mean())
    seed_torch("benchmark.systems.weights", config.seed)
    settings = SparseCoderConfig(num_latents=config.d_sae or 0, k=config.k, transcode=True, skip_connection=config.skip)
    coder = SparseCoder(x.shape[1], settings, dtype=torch.float32)
    coder.b_dec.data = y.mean(0) * plan.scale
    coder.encoder.bias.data = -(x.mean(0) * scale_in) @ coder.encoder.weight.data.T  # as its trainer begins
    optimizer, done = torch.optim.Adam(coder.parameters(), lr=plan.lr), itertools.count()

    def step(rows: Tensor) -> None:
        x, y = state.sae.input_of(rows) * scale_in, state.sae.target_of(rows) * plan.scale
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * task.factor * lr_factor(next(done), config, plan.n_steps)
        coder(x, y).fvu.backward()  # a transcoder's decoder begins at zero there, and its rows keep their lengths
        optimizer.step()
        optimizer.zero_grad()

    return System(step, lambda rows: coder(state.sae.input_of(rows) * scale_in).sae_out / plan.scale)


SYSTEMS = {"ours": ours, "sparsify": sparsify}


def quality(task: Task, name: str) -> float:
    """Train one; return the FVU of the output on held-out rows."""
    system = SYSTEMS[name](task)
    for rows in task.batches():
        system.step(rows)
    place = task.config.hook_point
    held_out = torch.cat(list(used_blocks(task.rows, place, ~task.trained_on)))[:HELD_OUT_ROWS]
    d_in = task.rows.first.d_in(place)  # type: ignore[attr-defined]
    with torch.no_grad():
        recon = torch.cat([system.reconstruct(part) for part in held_out.split(2048)])
    return float(fvu(held_out[:, d_in:], recon))


def best_factor(task: Task, name: str) -> float:
    """Return the step size, in multiples of our default, with the least FVU under a seed that is not reported."""
    other = replace(task.config, seed=CHOOSING_SEED)
    tried = {factor: quality(replace(task, config=other, factor=factor), name) for factor in LR_FACTORS}
    note(f"{name}: {', '.join(f'{value:.4f} at {factor:g} times the step size' for factor, value in tried.items())}")
    return min(tried, key=lambda factor: tried[factor])


def speed(task: Task) -> dict[str, float]:
    """Return medians of our step and of the bare float32 encoder product, timed in turn, in seconds."""
    rows, system = list(itertools.islice(task.batches(), BATCHES_IN_MEMORY)), ours(task)
    d_in = task.rows.first.d_in(task.config.hook_point)  # type: ignore[attr-defined]
    inputs = [part[:, :d_in].contiguous() for part in rows]
    weights = torch.nn.functional.normalize(torch.randn(task.config.d_sae or 0, d_in), dim=1).T
    out = torch.empty(len(rows[0]), weights.shape[1])
    took: dict[str, list[float]] = {"step_s": [], "product_s": []}
    for number in range(REPEATS):
        works = (lambda n: system.step(rows[n]), lambda n: torch.mm(inputs[n], weights, out=out))
        for name, work in zip(took, works, strict=True):
            gc.collect()
            started = time.perf_counter()
            work(number % len(rows))
            took[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in took.items()}


def page(found: dict[str, Any], intro: str) -> str:
    """Render everything."""
    about, rows = found["machine"], []
    for kind in dict.fromkeys(key.split("/")[0] for key in found["fvu"]):
        own = {name: [v for k, v in found["fvu"].items() if k.startswith(f"{kind}/{name}/")] for name in SYSTEMS}
        cells = [interval(values, 4) for values in own.values()]
        best = statistics.mean(own["sparsify"]) if own["sparsify"] else math.nan
        used = " / ".join(f"{found['factor'].get(f'{kind}/{name}', math.nan):g}" for name in SYSTEMS)
        rows.append((kind, *cells, used, met(statistics.mean(own["ours"]), best + FVU_BAR, at_most=True)))
    steps = [
        (k, f"{s['threads']}", f"{1e3 * s['step_s']:.0f}", f"{1e3 * s['product_s']:.0f}", f"{(r := s['step_s'] / s['product_s']):.2f}", met(r, STEP_BAR, at_most=True))
        for k, s in found["speed"].items()
    ]  # fmt: skip
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# Transcoders, measured",
        "",
        intro.strip(),
        "",
        f"{about['date']}, {about['cores']} cores of {about['cpu']} ({' '.join(about['flags'])}), {versions}. {found['what']}.",
        "",
        "## Variance of the output left on held-out rows, mean over seeds with 95 % interval",
        *table(
            f"| kind | {' | '.join(SYSTEMS)} | step size, times our default | ours at most sparsify's + {FVU_BAR} |",
            rows,
        ),
        "## A step beside the float32 encoder product",
        *table(f"| kind | threads | step, ms | product, ms | ratio | <= {STEP_BAR} |", steps),
    ]
    return "\n".join(lines).rstrip() + "\n"


def config_of(args: argparse.Namespace, d_sae: int, *, skip: bool, seed: int) -> SaeTrainConfig:
    """Return ours, which the peer follows where it can."""
    return SaeTrainConfig(
        hook_point=args.hook_point, target_hook_point=args.target_hook_point, arch="topk", skip=skip, seed=seed, k=args.k,
        d_sae=d_sae, batch_size=args.batch_size, tokens=args.tokens, lr_warmup_steps=WARMUP_STEPS,
    )  # fmt: skip


def measure(found: dict[str, Any], args: argparse.Namespace, store: ActivationStore) -> None:
    """Measure what is not there yet; keep every figure at once."""
    rows, d_sae = joined_rows(store, args.target_hook_point), args.expansion * store.d_in(args.hook_point)
    found["what"] = (
        f"{store.attrs['model']}, {args.hook_point} to {args.target_hook_point}, {d_sae:,} latents, k {args.k}, "
        f"batches of {args.batch_size:,}"
    )
    names = list(SYSTEMS) if args.peers_path else ["ours"]
    for kind, seed in itertools.product(args.kinds, args.seeds):
        task = Task(rows, config_of(args, d_sae, skip=kind == "skip", seed=seed))
        run = f"{kind}, {args.tokens:,} tokens"
        for name in names if "fvu" in args.parts else ():
            if (key := f"{run}/{name}/{seed}") not in found["fvu"]:
                if (which := f"{run}/{name}") not in found["factor"]:
                    found["factor"][which] = best_factor(task, name)
                found["fvu"][key] = quality(replace(task, factor=found["factor"][which]), name)
                note(f"{key} {found['fvu'][key]:.4f} with {found['factor'][which]:g} times the default step size")
                write_json(args.out / "results.json", found)
        if "speed" in args.parts and kind not in found["speed"]:
            found["speed"][kind] = speed(task) | {"threads": torch.get_num_threads()}
            note(f"{kind} {found['speed'][kind]}")
            write_json(args.out / "results.json", found)


def main() -> None:
    """Measure what is missing and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=Path, required=True)
    parser.add_argument("--hook-point", required=True)
    parser.add_argument("--target-hook-point", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers-path", help="Folder in which sparsify is installed; ours alone without it.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--expansion", type=int, default=8)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=200_000, help="Of a run; another number adds rows to the page.")
    parser.add_argument("--kinds", nargs="+", choices=("plain", "skip"), default=["plain", "skip"])
    parser.add_argument("--parts", nargs="+", choices=("fvu", "speed"), default=["fvu", "speed"])
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    if args.peers_path:
        sys.path.append(args.peers_path)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.json"
    found = read_json(path, expected="results") if path.exists() else {"factor": {}, "fvu": {}, "speed": {}}
    found["machine"] = machine(args.peers_path)
    with ActivationStore(args.activations) as store:
        measure(found, args, store)
    if args.docs is not None:
        intro = (__doc__ or "").replace("\n    pip", "\n\n    pip", 1)
        old = args.docs.read_text(encoding="utf-8") if args.docs.exists() else ""
        kept = old[old.index(SHOWS) :] if SHOWS in old else ""  # written by hand
        args.docs.write_text(f"{page(found, intro)}{kept and chr(10)}{kept}", encoding="utf-8")


if __name__ == "__main__":
    main()
