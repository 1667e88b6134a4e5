"""Do SAEs find the directions that activations are made of? The workbench beside SAELens, on SAELens' synthetic model.

    python -m benchmarks.saes.sae_recovery --out RUN [--docs docs/results/sae_recovery.md] [--seeds 0 1 2] [--archs topk …] [--d-in 128 --features 512] [--small]

`sae_lens.synthetic.SyntheticModel` with its own settings: features are unit vectors, on or off independently with Zipfian
probabilities, of size one, plus a constant vector of length one. Both trainers read the same stored rows in the same
batches. Scores are SAELens': `mean_correlation_coefficient` (decoder rows matched one to one with the true directions,
mean of |cosine|), and `eval_sae_on_synthetic_data` on fresh rows. What is in RUN/results.json is not measured again.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sae_lens import SAE, LoggingConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.synthetic import SyntheticModel, SyntheticModelConfig, eval_sae_on_synthetic_data
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.saes.made_store import HOOK_POINT, write_store
from benchmarks.saes.results_file import ResultsFile, options, today
from benchmarks.saes.sae_recovery_page import render
from benchmarks.saes.sae_variants_page import HEADING
from sae_train import train_sae
from sae_train.activations.sampler import ShuffledBatches
from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.rng import seed_torch
from sae_train.run.progress import silent

SAELENS_LR = 3e-4  # SAETrainerConfig's
EVAL_ROWS, EVAL_BATCH, BLOCK_ROWS = 50_000, 10_000, 16_384
ARCHS = ("topk", "batch-topk", "matryoshka", "jumprelu")


@dataclass(frozen=True)
class Sizes:
    """How much is trained: as many latents as there are features."""

    d_in: int = 128
    n_features: int = 512
    rows: int = 524_288
    batch: int = 1024
    steps: int = 2000


SMALL = Sizes(d_in=32, n_features=64, rows=16_384, batch=256, steps=60)


@dataclass(frozen=True)
class World:
    """One synthetic model and the rows drawn from it."""

    model: SyntheticModel
    path: Path
    k: int
    sizes: Sizes
    seed: int

    def config(self, arch: str) -> SaeTrainConfig:
        """Return the workbench's defaults at this size."""
        sizes = self.sizes
        return SaeTrainConfig(
            HOOK_POINT, arch=arch, k=self.k, d_sae=sizes.n_features, tokens=sizes.steps * sizes.batch, batch_size=sizes.batch, seed=self.seed
        )  # fmt: skip


def make_world(seed: int, sizes: Sizes, folder: Path) -> World:
    """Draw a synthetic model and its rows; k is the mean number of features that are on, rounded."""
    config = SyntheticModelConfig(num_features=sizes.n_features, hidden_dim=sizes.d_in, seed=seed)
    model = SyntheticModel(config)
    k = round(float(model.activation_generator.firing_probabilities.sum()))
    path = folder / f"rows-{seed}.h5"
    if not path.exists():
        seed_torch("benchmark.recovery.rows", 10_000 + seed)
        counts = (min(BLOCK_ROWS, sizes.rows - start) for start in range(0, sizes.rows, BLOCK_ROWS))
        blocks = (model.sample(n).float() for n in counts)
        write_store(path, blocks, rows=sizes.rows, d_in=sizes.d_in, dtype="float32")
    return World(model, path, k, sizes, seed)


def plan_of(folder: Path) -> dict[str, Any]:
    """Return scale and step size that the workbench chose."""
    return json.loads((folder / "run.json").read_text())["plan"]


def ours(world: World, arch: str, folder: Path) -> SAE[Any]:
    """Train with the workbench; return what SAELens reads from its folder."""
    sae = train_sae(world.path, out=folder, overwrite=True, config=world.config(arch), device="cpu", progress=silent)
    return sae.to_saelens()


def their_sae(world: World, arch: str) -> Any:
    """Return SAELens' SAE of the same architecture and size, its own settings else."""
    sizes, k = world.sizes, world.k
    size = {"d_in": sizes.d_in, "d_sae": sizes.n_features, "device": "cpu"}
    if arch == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(**size, k=k))
    if arch == "batch-topk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**size, k=float(k)))
    if arch == "matryoshka":
        widths = [round(share * sizes.n_features) for share in world.config(arch).matryoshka_prefixes]
        return MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(**size, k=float(k), matryoshka_widths=widths)
        )
    target = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": float(k)}
    return JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**size, **target, l0_warm_up_steps=sizes.steps // 20))


def batches(world: World, arch: str) -> Iterator[Tensor]:
    """Yield the batches that the workbench trains on."""
    config = world.config(arch)
    with ActivationStore(world.path) as store:
        use = ~store.holdout_rows(config.frac_holdout, config.seed)
        feed = ShuffledBatches(store, HOOK_POINT, use, batch_size=config.batch_size, seed=config.seed, buffer_mb=config.buffer_mb)  # fmt: skip
        yield from itertools.islice(feed.from_batch(0), world.sizes.steps)


def saelens(world: World, arch: str, folder: Path, *, scale: float, **settings: Any) -> SAE[Any]:
    """Train with SAELens' SAETrainer."""
    sizes = world.sizes
    seed_torch("benchmark.recovery.training", world.seed)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=sizes.steps * sizes.batch, train_batch_size_samples=sizes.batch, device="cpu",
            logger=LoggingConfig(log_to_wandb=False), **settings,
        ),
        their_sae(world, arch),
        iter(()),
    )  # fmt: skip
    for acts in batches(world, arch):
        trainer.maybe_reset_sparsity()
        trainer.step(acts * scale)
        trainer.n_training_steps += 1
    trainer.sae.save_inference_model(str(folder))
    return SAE.load_from_disk(str(folder), device="cpu")


def saelens_same(world: World, arch: str, folder: Path) -> tuple[SAE[Any], float]:
    """SAELens with the workbench's scale, step size, schedule and window after which a latent is dead."""
    plan, config = plan_of(folder.with_name(folder.name.replace("saelens", "ours"))), world.config(arch)
    scale, lr = float(plan["scale"]), float(plan["lr"])
    sae = saelens(
        world, arch, folder, scale=scale, lr=lr, lr_end=0.0, lr_warm_up_steps=config.lr_warmup_steps,
        lr_decay_steps=int(config.frac_lr_decay * world.sizes.steps), dead_feature_window=plan["dead_after_tokens"] // world.sizes.batch,
    )  # fmt: skip
    return sae, scale


def saelens_default(world: World, arch: str, folder: Path) -> tuple[SAE[Any], float]:
    """SAELens as its runner of synthetic models has it: rows as they are, constant step size."""
    return saelens(world, arch, folder, scale=1.0, lr=SAELENS_LR, lr_end=SAELENS_LR), 1.0


SYSTEMS: dict[str, Callable[[World, str, Path], tuple[SAE[Any], float]]] = {
    "ours": lambda *given: (ours(*given), 1.0),
    "saelens": saelens_same,
    "saelens-default-lr": saelens_default,
}


def score(world: World, sae: SAE[Any], scale: float) -> dict[str, float]:
    """Return SAELens' scores on rows that nobody trained on; `scale` is what the SAE wants its rows multiplied by."""
    seed_torch("benchmark.recovery.scores", 20_000 + world.seed)
    scaler = ActivationScaler(scaling_factor=scale)
    found = eval_sae_on_synthetic_data(
        sae, world.model.feature_dict, world.model.activation_generator, EVAL_ROWS, EVAL_BATCH, scaler
    )
    return {
        "mcc": found.mcc,
        "uniqueness": found.uniqueness,
        "f1": found.classification.f1_score,
        "explained_variance": found.explained_variance,
        "l0": found.sae_l0,
        "true_l0": found.true_l0,
        "dead": found.dead_latents,
    }


def main() -> None:
    """Train what is not there yet and, if asked, write the page."""
    parser = options(__doc__)
    parser.add_argument("--archs", nargs="+", choices=ARCHS, default=list(ARCHS))
    parser.add_argument("--d-in", type=int, default=Sizes.d_in)
    parser.add_argument("--features", type=int, default=Sizes.n_features, help="True directions, and latents.")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sizes = SMALL if args.small else Sizes(args.d_in, args.features)
    results = ResultsFile(parser, args.out, vars(sizes))
    results.found |= {"date": today(), "versions": {n: version(n) for n in ("torch", "sae-lens")}}
    for seed, arch, system in itertools.product(args.seeds, args.archs, SYSTEMS):
        key = f"{arch}/{system}/{seed}"
        if key not in results.runs:
            sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {key}\n")
            world = make_world(seed, sizes, args.out)
            found, scale = SYSTEMS[system](world, arch, args.out / f"{arch}-{system}-{seed}")
            results.keep({key: {"k": world.k, **score(world, found, scale)}})
    if args.docs is not None:
        old = args.docs.read_text(encoding="utf-8") if args.docs.exists() else ""
        words = old.partition("## What this shows\n\n")[2].partition("\n\n## ")[0].strip()
        _, heading, variants = old.partition(HEADING)  # another benchmark's part of the page, which stays
        kept = f"\n{heading}{variants}" if heading else ""
        args.docs.write_text(render(results.found, words or "(to be written)") + kept, encoding="utf-8")


if __name__ == "__main__":
    main()
