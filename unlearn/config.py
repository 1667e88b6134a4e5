"""Frozen configs of unlearning and audit. Defaults live here only (limits: `policy.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from sae_train.config import require
from sae_train.errors import ConfigError, nearest_first
from unlearn.settings import LR_WIDTH, MethodSettings, RedirectSettings, setting_names, settings_of

TRAIN_CHOICES = ("full", "down_proj", "lora")


@dataclass(frozen=True)
class UnlearnConfig:
    """What all methods share; what only one has stands in its settings. Build it with `configure`.

    Attributes:
        method: Name in the registry of methods.
        settings: The method's own config, of the class that `METHOD_SETTINGS` names.
        steps: Optimizer steps.
        lr: AdamW's step size at its highest; None takes the method's own, which falls with the model's width.
        batch_size: Target prompts in a step; as many unknown ones and text windows, twice as many known ones.
        retain_weight: Weight of everything that has to stay as it is.
        train: Parameters that may change: `full` (all but the embedding), `down_proj` (MLP output matrices) or `lora`.
        lora_rank: Rank of the adapter on every linear layer.
        lora_alpha: Its scale: the change of a matrix is alpha / rank times the product of the adapter's two.
        merge: Write an adapter merged into the whole model, not on its own.
        accumulate: Batches whose gradients make one step, in every process.
        autocast: Compute in bfloat16 where that is safe; weights and optimizer stay float32.
        stop_early: Hold one training wording per attribute apart and stop as soon as the targets pass on it.
        check_every: Steps between two looks at it.
        hook_point: SAE's hook point to use; None takes the best one in the latents file.
        retain_share: Share of the other known entities used for retention; the rest is never trained on.
        warmup_steps: Steps of linear warm-up.
        max_loss_increase: Relative rise of the retained text's loss that counts as collapse.
        save_every: Steps between checkpoints; in several processes more, where a method carries something along.
        seed: Draws pairs, splits and batches.
    """

    method: str = "redirect"
    settings: MethodSettings = field(default_factory=RedirectSettings)
    steps: int = 280
    lr: float | None = None
    batch_size: int = 16
    retain_weight: float = 12.0
    train: str = "full"
    lora_rank: int = 8
    lora_alpha: int = 16
    merge: bool = False
    accumulate: int = 1
    autocast: bool = False
    stop_early: bool = False
    check_every: int = 25
    hook_point: str | None = None
    retain_share: float = 0.75
    warmup_steps: int = 20
    max_loss_increase: float = 0.25
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        kind = settings_of(self.method)
        assert type(self.settings) is kind, f"{type(self.settings).__name__} are not the settings of {self.method}"
        require(self.steps >= 1, "--steps", self.steps, ">= 1")
        require(self.lr is None or self.lr > 0, "--lr", self.lr, "> 0")
        require(self.batch_size >= 1, "--batch-size", self.batch_size, ">= 1")
        require(self.retain_weight >= 0, "--retain-weight", self.retain_weight, ">= 0")
        require(self.max_loss_increase >= 0, "--max-loss-increase", self.max_loss_increase, ">= 0")
        require(self.warmup_steps >= 0, "--warmup-steps", self.warmup_steps, ">= 0")
        require(self.train in TRAIN_CHOICES, "--train", self.train, ", ".join(TRAIN_CHOICES))
        for name in ("lora_rank", "accumulate", "check_every"):
            require(getattr(self, name) >= 1, f"--{name.replace('_', '-')}", getattr(self, name), ">= 1")
        require(self.lora_alpha >= 1, "--lora-alpha", self.lora_alpha, ">= 1")
        can_train = self.train != "lora" or not self.settings.edits_weights
        require(can_train, "--train", self.train, "full or down_proj, where weights are solved for in closed form")
        require(0 < self.retain_share <= 1, "--retain-share", self.retain_share, "0 < share <= 1")
        require(self.save_every >= 1, "--save-every", self.save_every, ">= 1")

    def step_size(self, width: int) -> float:
        """Return AdamW's step size at its highest: the one given, or the method's own times LR_WIDTH / width.

        Adam moves every weight by about its step size, so that what a matrix adds to the residual stream grows with the
        number of its inputs (the rule for hidden matrices of Yang et al. 2022, arXiv:2203.03466).

        Args:
            width: Of the residual stream.
        """
        return self.settings.lr * (LR_WIDTH / width) if self.lr is None else self.lr


def configure(method: str = UnlearnConfig.method, **given: Any) -> UnlearnConfig:
    """Build the config of a method: what is given, else the method's own defaults, else those all methods share.

    Args:
        method: Name in the registry.
        given: Fields of `UnlearnConfig` and of the method's settings, mixed.

    Raises:
        ConfigError: No such method, a field that neither has, or a value out of range.

    Example:
        >>> configure("redirect", steps=10, block_weight=1.0).settings.block_weight
        1.0
    """
    kind = settings_of(method)
    shared = {f.name for f in fields(UnlearnConfig)} - {"method", "settings"}
    own = {k: v for k, v in given.items() if k not in shared}
    names = setting_names(kind)
    for name in own:
        if name not in names:
            raise ConfigError(
                f"{method} has no setting '{name}'",
                got=f"{name} = {own[name]!r} (--param)",
                expected=nearest_first(name, names) or "none: this method has no settings of its own",
            )
    values = {**kind.shared, **{k: v for k, v in given.items() if k in shared}}
    return UnlearnConfig(method=method, settings=kind(**own), **values)


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
        lm_eval: Tasks of `lm-eval`: names or task files.
        lm_eval_limit: Examples of each of them; None takes all.
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
    lm_eval: tuple[str, ...] = ()
    lm_eval_limit: int | None = None
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.n_neighbours >= 0, "--n-neighbours", self.n_neighbours, ">= 0")
        require(self.max_retain is None or self.max_retain >= 1, "--max-retain", self.max_retain, ">= 1")
        require(self.n_candidates >= 2, "--n-candidates", self.n_candidates, ">= 2")
        for name in ("max_blocks", "max_attacked", "max_wordings", "permutations"):
            require(getattr(self, name) >= 1, f"--{name.replace('_', '-')}", getattr(self, name), ">= 1")
        limit = self.lm_eval_limit
        require(limit is None or limit >= 1, "--lm-eval-limit", limit, ">= 1")
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
