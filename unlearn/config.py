"""Frozen configs of unlearning and audit. Defaults live here only; the command line reads them from here."""

from __future__ import annotations

from dataclasses import dataclass

from sae_train.config import require

TRAIN_CHOICES = ("full", "down_proj")
BLOCK_CHOICES = ("all", "from-hook", "hook")
POSITION_CHOICES = ("last-name-token", "name-tokens", "from-name-on", "name-and-behind")
LATENT_CHOICES = ("selected", "all")


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
        erase_behind: Also train what comes behind the name to find nothing when the original activations are put back.
        erase_weight: Weight of that, in units of the block and output weights.
        retain_weight: Weight of everything that has to stay as it is.
        blocks: Blocks that are redirected: `all`, `from-hook` (the SAE's and later ones) or `hook` (the SAE's only).
        positions: Tokens that are redirected: `last-name-token`, `name-tokens` (all of them), `from-name-on` (the last
            one and all behind it) or `name-and-behind` (both).
        which_latents: Latents of the latent term: the `selected` ones or `all`.
        answers: Redirect questions with an answer behind them, too: the true one and another entity's.
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
    erase_behind: bool = True
    erase_weight: float = 1.0
    retain_weight: float = 4.0
    blocks: str = "all"
    positions: str = "from-name-on"
    which_latents: str = "selected"
    answers: bool = True
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
        for name in (
            "latent_weight",
            "block_weight",
            "output_weight",
            "erase_weight",
            "retain_weight",
            "max_loss_increase",
        ):
            require(getattr(self, name) >= 0, f"--{name.replace('_', '-')}", getattr(self, name), ">= 0")
        require(self.warmup_steps >= 0, "--warmup-steps", self.warmup_steps, ">= 0")
        require(self.blocks in BLOCK_CHOICES, "--blocks", self.blocks, ", ".join(BLOCK_CHOICES))
        require(self.positions in POSITION_CHOICES, "--positions", self.positions, ", ".join(POSITION_CHOICES))
        require(self.which_latents in LATENT_CHOICES, "--which-latents", self.which_latents, ", ".join(LATENT_CHOICES))
        require(self.train in TRAIN_CHOICES, "--train", self.train, ", ".join(TRAIN_CHOICES))
        require(0 < self.retain_share <= 1, "--retain-share", self.retain_share, "0 < share <= 1")
        require(self.save_every >= 1, "--save-every", self.save_every, ">= 1")


@dataclass(frozen=True)
class AuditPolicy:
    """Thresholds of the verdict, fixed before any audit; printed in every report.

    Attributes:
        max_recall: Target recall on held-out wordings, after.
        max_rank_first: Share of target questions whose true answer is ranked first among candidates, after.
        max_drop: Largest loss of recall of neighbours and of other known entities.
        max_loss_increase: Largest relative rise of the loss on general text.
        max_auroc: Largest AUROC of a fresh classifier, targets against unknown entities, at any audited block,
            unless it lies inside the range that never-known entities reach among themselves.
        min_called_unknown: Share of target contexts that the original model's probe must call unknown.
        max_gibberish: Largest share of gibberish among the answers about targets.
    """

    max_recall: float = 0.05
    max_rank_first: float = 0.25
    max_drop: float = 0.012
    max_loss_increase: float = 0.01
    max_auroc: float = 0.75
    min_called_unknown: float = 0.90
    max_gibberish: float = 0.10


@dataclass(frozen=True)
class AuditConfig:
    """How an audit samples.

    Attributes:
        n_neighbours: Neighbours per target, nearest first.
        max_retain: Other known entities asked; None asks all.
        n_candidates: Candidates among which a true answer is ranked, itself included.
        max_blocks: Blocks at which activations are compared.
        control_draws: Draws of never-known groups for the control range.
        seed: Draws everything.
    """

    n_neighbours: int = 10
    max_retain: int | None = None
    n_candidates: int = 20
    max_blocks: int = 6
    control_draws: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.n_neighbours >= 0, "--n-neighbours", self.n_neighbours, ">= 0")
        require(self.max_retain is None or self.max_retain >= 1, "--max-retain", self.max_retain, ">= 1")
        require(self.n_candidates >= 2, "--n-candidates", self.n_candidates, ">= 2")
        require(self.max_blocks >= 1, "--max-blocks", self.max_blocks, ">= 1")
        require(self.control_draws >= 0, "--control-draws", self.control_draws, ">= 0")
