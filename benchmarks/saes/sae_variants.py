"""What does a variant of a loss change? Each beside the present one, on planted directions, three seeds.

    python -m benchmarks.saes.sae_variants --out RUN [--docs docs/results/sae_recovery.md] [--seeds 0 1 2] [--only jumprelu] [--small]

300 unit directions in 64 dimensions, on with Zipfian probabilities (exponent 0.7, 8 on in the mean), of size 1 to 2, 512
latents, 800 steps of 256 rows. The world `zipf` is that; `dense` has three more directions, on in half of the rows; in
`family` every direction but the first 60 is on only where its parent, one of these, is. L1 coefficients of `relu` are
those at which L0 is k, or twice that, in the mean over two seeds that are not reported. What is in RUN/results.json is
not measured again.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from torch import Tensor

from benchmarks.saes.made_store import HOOK_POINT, write_store
from benchmarks.saes.results_file import ResultsFile, options
from benchmarks.saes.sae_variants_page import with_variants
from sae_train import cache_activations, train_sae
from sae_train.activations.store import ActivationStore
from sae_train.quality.evaluate import firing_rate
from sae_train.rng import rng
from sae_train.run.progress import silent
from sae_train.saes.losses import p_annealing

N_DENSE, P_DENSE, N_PARENTS = 3, 0.5, 60
COSINE = 0.9  # from which a direction counts as found
RATE = 0.2  # above which a latent is one that fires often: twice the default limit
SIZES: dict[str, int] = {
    "d_in": 64,
    "features": 300,
    "on": 8,
    "latents": 512,
    "rows": 100_000,
    "batch": 256,
    "steps": 800,
}
SMALL = SIZES | {"features": 80, "on": 4, "latents": 96, "d_in": 32, "rows": 6_000, "steps": 40}
REMEDIES: dict[str, dict[str, Any]] = {
    "": {},
    "AuxK": {"jumprelu_revival": "auxk"},
    "pre-activations": {"jumprelu_revival": "pre-acts"},
}
POWERS: dict[str, dict[str, Any]] = {
    "L1": {},
    "p to 0.5": {"relu_p_end": 0.5},
    "p to 0.2": {"relu_p_end": 0.2},
    "p to 0.2, eps 0": {"relu_p_end": 0.2, "epsilon": 0.0},
}
MATCH_SEEDS = (100, 101)  # on which L1 coefficients are chosen; none of them is reported
MOST_L1 = 16.0
FACT_WORLD: dict[str, Any] = {"k": 8, "expansion": 4, "batch_size": 512, "tokens": 400_000}
# World, architecture, what is changed, settings. The first of each group is the present loss.
VARIANTS: list[tuple[str, str, str, dict[str, Any]]] = [
    *[
        ("zipf", "jumprelu", f"window {width:g}{', ' * bool(remedy)}{remedy}", {"jumprelu_bandwidth": width, **settings})
        for width in (0.05, 1.0)
        for remedy, settings in REMEDIES.items()
    ],
    *[("fact-world", "jumprelu", f"window {width:g}", {"jumprelu_bandwidth": width}) for width in (0.05, 1.0)],
    *[
        ("dense", arch, name, {"frequency_coefficient": weight})
        for arch in ("batch-topk", "jumprelu")
        for name, weight in (("no penalty", 0.0), ("frequency penalty 0.1", 0.1))
    ],
    ("family", "batch-topk", "no prefixes", {}),
    ("family", "matryoshka", "equal weights", {}),
    ("family", "matryoshka", "weights 1 2 4 8 16", {"matryoshka_weights": (1.0, 2.0, 4.0, 8.0, 16.0)}),
    *[
        (world, "relu", f"{name} (L0 near {level:g} k)", {"level": level, **settings})
        for world, level in (("zipf", 1), ("zipf", 2), ("fact-world", 1))
        for name, settings in POWERS.items()
        if world == "zipf" or "epsilon" not in settings
    ],
]  # fmt: skip


def probabilities(sizes: dict[str, int]) -> np.ndarray:
    """Return how often each direction is on: Zipf, exponent 0.7, as many in the mean as `on`."""
    p = np.arange(1, sizes["features"] + 1) ** -0.7
    return np.minimum(p * sizes["on"] / p.sum(), 0.9)


class Rows(NamedTuple):
    """Planted rows and their truth.

    Attributes:
        rows: What SAEs are trained on.
        directions: Those that are to be found, of length one: the dense ones are not among them.
        on: In which rows each of them is on.
    """

    rows: Float[Tensor, "row d_in"]
    directions: Float[Tensor, "n d_in"]
    on: Bool[np.ndarray, "row n"]


def planted(world: str, seed: int, sizes: dict[str, int]) -> Rows:
    """Return the rows of a planted world."""
    draw = rng("benchmark.variants.rows", seed)
    n, n_rows = sizes["features"], sizes["rows"]
    directions = draw.standard_normal((n + N_DENSE, sizes["d_in"])).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    p = probabilities(sizes)
    on = draw.random((n_rows, n), dtype=np.float32) < p
    if world == "family":
        n_parents = min(N_PARENTS, n // 4)
        parents = draw.integers(0, n_parents, n - n_parents)
        # As often as before, but only where the parent is: the most often that goes together.
        child = draw.random((n_rows, n - n_parents), dtype=np.float32) < np.minimum(p[n_parents:] / p[parents], 1)
        on[:, n_parents:] = child & on[:, parents]
    size = 1 + draw.random((n_rows, n), dtype=np.float32)
    rows = (on * size) @ directions[:n]
    if world == "dense":
        dense = draw.random((n_rows, N_DENSE), dtype=np.float32) < P_DENSE
        rows += (dense * (1 + draw.random((n_rows, N_DENSE), dtype=np.float32))) @ directions[n:]
    return Rows(torch.from_numpy(rows), torch.from_numpy(directions[:n]), on)


def measure(
    out: Path, world: str, arch: str, settings: dict[str, Any], seed: int, sizes: dict[str, int]
) -> dict[str, float]:
    """Train one SAE; return FVU, L0, dead latents, directions found, latents that fire often, seconds."""
    path, directions, size = out / f"{world}-{seed}.h5", None, FACT_WORLD
    hook_point = "layers.2"
    if world != "fact-world":
        hook_point = HOOK_POINT
        rows, directions, _ = planted(world, seed, sizes)
        size = {
            "k": sizes["on"],
            "d_sae": sizes["latents"],
            "batch_size": sizes["batch"],
            "tokens": sizes["batch"] * sizes["steps"],
            "lr": 3e-3,
        }
        if not path.exists():
            write_store(path, rows.split(16_384), rows=len(rows), d_in=sizes["d_in"], dtype="float32")
    elif not path.exists():
        cache_activations("fact-world", "fact-world", [hook_point], out=path, max_tokens=40_000, progress=silent)
    started, given = time.monotonic(), {k: v for k, v in settings.items() if k != "epsilon"}
    with epsilon_of(settings):
        sae = train_sae(path, hook_point, arch=arch, seed=seed, **size, **given, device="cpu", progress=silent)
    seconds = time.monotonic() - started
    with ActivationStore(path) as store:
        rate = firing_rate(sae, store, hook_point, store.holdout_rows(0.05, seed), max_rows=5_000)
    found = {"fvu": sae.metrics["fvu"], "l0": sae.metrics["l0"], "dead": float((rate == 0).float().mean())}
    often = {"often": int((rate > RATE).sum()), "highest": float(rate.max()), "seconds": seconds}
    if directions is None:
        return {**found, **often}
    best = (directions @ sae.W_dec.T).amax(dim=1)
    return {**found, "recovered": float((best > COSINE).float().mean()), "cosine": float(best.mean()), **often}


@contextmanager
def epsilon_of(settings: dict[str, Any]) -> Iterator[None]:
    """Anneal with another epsilon than the product's where the settings name one."""
    own, p_annealing.EPSILON = p_annealing.EPSILON, settings.get("epsilon", p_annealing.EPSILON)
    try:
        yield
    finally:
        p_annealing.EPSILON = own


def matched_l1(out: Path, world: str, arch: str, settings: dict[str, Any], sizes: dict[str, int]) -> float:
    """Return the L1 coefficient whose L0, the mean over seeds that are not reported, is `level` k."""
    rest = {k: v for k, v in settings.items() if k != "level"}
    wanted = settings["level"] * (FACT_WORLD["k"] if world == "fact-world" else sizes["on"])

    @cache
    def excess(log_l1: float) -> float:
        own = rest | {"l1_coefficient": math.exp(log_l1)}
        l0 = mean(measure(out, world, arch, own, seed, sizes)["l0"] for seed in MATCH_SEEDS)
        return math.log(max(l0, 0.01) / wanted)

    high = math.log(2.0)
    while excess(high) > 0:
        if high > math.log(MOST_L1):
            return MOST_L1  # the few steps of --small do not come down that far
        high += math.log(2.0)
    found: Any = brentq(excess, high - math.log(4.0), high, xtol=0.01)
    return round(math.exp(found), 3)


def main() -> None:
    """Train what is not there yet and, if asked, write the page's part."""
    parser = options(__doc__)
    parser.add_argument("--only", help="Architecture.")
    args = parser.parse_args()
    sizes = SMALL if args.small else SIZES
    results = ResultsFile(parser, args.out, sizes)
    for seed, (world, arch, name, settings) in itertools.product(args.seeds, VARIANTS):
        key = f"{world}/{arch}/{name}/{seed}"
        if key not in results.runs and args.only in (None, arch):
            given, chosen = settings, results.found.setdefault("l1", {})
            if "level" in settings:
                variant = f"{world}/{arch}/{name}"
                if variant not in chosen:
                    chosen[variant] = matched_l1(args.out, world, arch, settings, sizes)
                given = {k: v for k, v in settings.items() if k != "level"} | {"l1_coefficient": chosen[variant]}
            results.keep({key: measure(args.out, world, arch, given, seed, sizes)})
    if args.docs is not None:
        args.docs.write_text(with_variants(args.docs.read_text(encoding="utf-8"), results.found), encoding="utf-8")


if __name__ == "__main__":
    main()
