"""Frozen configs of unlearning and audit. Defaults live here only (limits: `policy.py`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sae_train.config import require

TRAIN_CHOICES = ("full", "down_proj")
BLOCK_CHOICES = ("all", "from-hook", "hook")
POSITION_CHOICES = ("last-name-token", "from-name-on")


@dataclass(frozen=True)
class UnlearnConfig:
    """How a model is made to forget.

    Attributes:
        method: Name in the registry of methods.
        steps: Optimizer steps.
        lr: AdamW's step size at its highest.
        batch_size: Target prompts in a step; as many unknown ones and text windows, twice as many known ones.
        latent_weight: Weight of the selected latents' pre-activations (redirect).
        block_weight: Weight of the distance to the paired unknown entity (redirect).
        output_weight: Weight of the next-token distribution behind the name (redirect).
        retain_weight: Weight of everything that has to stay as it is.
        blocks: Blocks that are redirected: `all`, `from-hook` (the SAE's and later ones) or `hook` (the SAE's only).
        positions: Tokens that are redirected: `last-name-token`, or `from-name-on` (it and all behind it).
        sae_error: At the SAE's hook point aim at the unknown entity's activation itself, reconstruction plus SAE error;
            False aims at the decoded reconstruction alone. With True only the latent term depends on the SAE.
        train: Parameters that may change: `full` (all but the embedding) or `down_proj` (MLP output matrices).
        hook_point: SAE's hook point to use; None takes the best one in the latents file.
        retain_share: Share of the other known entities used for retention; the rest is never trained on.
        warmup_steps: Steps of linear warm-up.
        max_loss_increase: Relative rise of the retained text's loss that counts as collapse.
        save_every: Steps between checkpoints.
        seed: Draws pairs, splits and batches.
    """

    method: str = "redirect"
    steps: int = 300
    lr: float = 1e-3
    batch_size: int = 16
    latent_weight: float = 0.1
    block_weight: float = 3.0
    output_weight: float = 1.0
    retain_weight: float = 4.0
    blocks: str = "all"
    positions: str = "from-name-on"
    sae_error: bool = True
    train: str = "full"
    hook_point: str | None = None
    retain_share: float = 0.75
    warmup_steps: int = 20
    max_loss_increase: float = 0.25
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.steps >= 1, "--steps", self.steps, ">= 1")
        require(self.lr > 0, "--lr", self.lr, "> 0")
        require(self.batch_size >= 1, "--batch-size", self.batch_size, ">= 1")
        for name in ("latent_weight", "block_weight", "output_weight", "retain_weight", "max_loss_increase"):
            require(getattr(self, name) >= 0, f"--{name.replace('_', '-')}", getattr(self, name), ">= 0")
        require(self.warmup_steps >= 0, "--warmup-steps", self.warmup_steps, ">= 0")
        require(self.blocks in BLOCK_CHOICES, "--blocks", self.blocks, ", ".join(BLOCK_CHOICES))
        require(self.positions in POSITION_CHOICES, "--positions", self.positions, ", ".join(POSITION_CHOICES))
        require(self.train in TRAIN_CHOICES, "--train", self.train, ", ".join(TRAIN_CHOICES))
        require(0 < self.retain_share <= 1, "--retain-share", self.retain_share, "0 < share <= 1")
        require(self.save_every >= 1, "--save-every", self.save_every, ">= 1")


@dataclass(frozen=True)
class AuditConfig:
    """How an audit samples.

    Attributes:
        n_neighbours: Neighbours per target, nearest first.
        max_retain: Other known entities asked; None asks all.
        n_candidates: Candidates among which a true answer is ranked, itself included.
        max_blocks: Blocks at which activations are compared, spread over the whole model.
        control_draws: Draws of never-known groups for the control range.
        permutations: Of the two-sample test.
        n_samples: Answers drawn at temperature one per question; 0 draws none.
        max_attacked: Targets, and never-known entities, that are attacked.
        max_wordings: Held-out wordings of an attribute that are asked under attack.
        attack_steps: Optimizer steps after which relearning is measured; the last is that of fine-tuning too.
        attack_lrs: Step sizes of relearning; fine-tuning takes the middle one.
        skip: Evaluations and attacks left out.
        seed: Draws everything.
    """

    n_neighbours: int = 10
    max_retain: int | None = None
    n_candidates: int = 20
    max_blocks: int = 6
    control_draws: int = 10
    permutations: int = 999
    n_samples: int = 5
    max_attacked: int = 20
    max_wordings: int = 1
    attack_steps: tuple[int, ...] = (10, 30, 60)
    attack_lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.n_neighbours >= 0, "--n-neighbours", self.n_neighbours, ">= 0")
        require(self.max_retain is None or self.max_retain >= 1, "--max-retain", self.max_retain, ">= 1")
        require(self.n_candidates >= 2, "--n-candidates", self.n_candidates, ">= 2")
        for name in ("max_blocks", "max_attacked", "max_wordings", "permutations"):
            require(getattr(self, name) >= 1, f"--{name.replace('_', '-')}", getattr(self, name), ">= 1")
        for name in ("control_draws", "n_samples"):
            require(getattr(self, name) >= 0, f"--{name.replace('_', '-')}", getattr(self, name), ">= 0")
        require(
            bool(self.attack_steps) and min(self.attack_steps) >= 1, "--attack-steps", self.attack_steps, "each >= 1"
        )
        require(bool(self.attack_lrs) and min(self.attack_lrs) > 0, "--attack-lrs", self.attack_lrs, "each > 0")

    def quick(self) -> AuditConfig:
        """Return a cheaper config: fewer draws, one relearning run, no samples, fewer targets under attack."""
        return replace(
            self,
            control_draws=min(self.control_draws, 5),
            permutations=199,
            n_samples=0,
            max_blocks=min(self.max_blocks, 4),
            max_attacked=min(self.max_attacked, 8),
            attack_steps=(30,),
            attack_lrs=(self.attack_lrs[len(self.attack_lrs) // 2],),
        )
