"""Frozen configs of unlearning and audit, with all defaults (limits of the verdict: `policy.py`)."""

from __future__ import annotations

from dataclasses import field, fields, replace
from typing import Annotated, Any, Literal

from sae_train.fields import Field, config_class, require
from unlearn.settings.base import LR_WIDTH, MethodSettings
from unlearn.settings.redirection import RedirectSettings
from unlearn.settings.registry import METHOD_SETTINGS, check_setting, settings_of


@config_class
class UnlearnConfig:
    """What all methods share; what only one has stands in its settings. Build it with `configure`."""

    method: Annotated[
        str, Field(description="Unlearning method.", json_schema_extra={"choices": [*METHOD_SETTINGS]})
    ] = "redirect"
    settings: Annotated[MethodSettings, Field(description="Settings that only this method has.")] = field(
        default_factory=RedirectSettings
    )
    steps: Annotated[int, Field(ge=1, description="Optimizer steps.")] = 280
    lr: Annotated[
        float | None,
        Field(
            gt=0, description="AdamW's step size at its highest; by default the method's own * 96 / the model's width."
        ),
    ] = None
    batch_size: Annotated[
        int,
        Field(
            ge=1,
            description="Target prompts in a step, beside as many unknown ones and text windows and twice as many "
            "known ones.",
        ),
    ] = 16
    retain_weight: Annotated[float, Field(ge=0, description="Weight of everything that has to stay as it is.")] = 12.0
    train: Annotated[
        Literal["full", "down_proj", "lora"],
        Field(
            description="Parameters that may change: all but the embedding (full), the MLPs' output matrices "
            "(down_proj), or an adapter (lora)."
        ),
    ] = "full"
    lora_rank: Annotated[int, Field(ge=1, description="Rank of the LoRA adapter on every linear layer.")] = 8
    lora_alpha: Annotated[
        int, Field(ge=1, description="Scale of the LoRA adapter: the product of its two matrices counts alpha / rank.")
    ] = 16
    merge: Annotated[bool, Field(description="Write an adapter merged into the whole model, not on its own.")] = False
    accumulate: Annotated[int, Field(ge=1, description="Batches whose gradients make one step, in every process.")] = 1
    autocast: Annotated[
        bool, Field(description="Compute in bfloat16 where that is safe; weights and optimizer stay float32.")
    ] = False
    checkpoint_activations: Annotated[
        bool,
        Field(
            description="Keep every block's input alone and compute its activations again in the backward pass: less "
            "memory for about one forward pass more (not with npo-sam, nor redirect's guard)."
        ),
    ] = False
    stop_early: Annotated[
        bool, Field(description="Stop when the targets pass on one training wording per attribute that is held apart.")
    ] = False
    check_every: Annotated[
        int,
        Field(ge=1, description="Steps between two looks at whether the targets pass or the KL budget is spent."),
    ] = 25
    kl_budget: Annotated[
        float | None,
        Field(
            gt=0,
            description="Damage allowed: KL(original || unlearned) on held-out general text, nats a token, up to which "
            "a method goes and no further; by default there is no limit.",
        ),
    ] = None
    hook_point: Annotated[
        str | None,
        Field(
            description="Hook point of the SAE to use; by default the one in the latents file that tells known from "
            "unknown best."
        ),
    ] = None
    frac_retain: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Share of the other known entities used for retention; the rest is never trained on.",
        ),
    ] = 0.75
    warmup_steps: Annotated[int, Field(ge=0, description="Steps in which the step size grows from zero.")] = 20
    max_loss_increase: Annotated[
        float, Field(ge=0, description="Relative rise of the retained text's loss that counts as a collapse.")
    ] = 0.25
    save_every: Annotated[
        int,
        Field(
            ge=1,
            description="Steps between checkpoints; more in several processes where a method carries something along.",
        ),
    ] = 50
    seed: Annotated[int, Field(ge=0, description="Seed of pairs, splits and batches.")] = 0

    def __post_init__(self) -> None:
        kind = settings_of(self.method)
        own = type(self.settings)
        require(own is kind, "settings", own.__name__, f"{kind.__name__}, those of {self.method}")
        can_train = self.train != "lora" or not self.settings.edits_weights
        require(can_train, "train", self.train, "full or down_proj, where the method writes weights itself")
        has_budget = self.kl_budget is not None or not self.settings.needs_budget
        require(has_budget, "kl_budget", self.kl_budget, f"a number > 0: nothing else says how far {self.method} goes")

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
    for name in own:
        check_setting(method, name, shared)
    values = {**kind.shared, **{k: v for k, v in given.items() if k in shared}}
    return UnlearnConfig(method=method, settings=kind(**own), **values)


@config_class
class AuditConfig:
    """How an audit samples."""

    n_neighbours: Annotated[int, Field(ge=0, description="Neighbours asked about per target, nearest first.")] = 10
    max_retain: Annotated[
        int | None, Field(ge=1, description="Most other known entities asked about; by default all.")
    ] = None
    n_candidates: Annotated[
        int, Field(ge=2, description="Candidates among which a true answer is ranked, itself included.")
    ] = 20
    max_blocks: Annotated[
        int, Field(ge=1, description="Most blocks at which activations are compared, spread over the whole model.")
    ] = 6
    control_draws: Annotated[int, Field(ge=0, description="Draws of never-known groups for the control range.")] = 10
    permutations: Annotated[int, Field(ge=1, description="Permutations of the two-sample test.")] = 999
    n_samples: Annotated[
        int, Field(ge=0, description="Answers drawn per question at temperature one; 0 draws none.")
    ] = 5
    leak_draws: Annotated[
        int,
        Field(ge=0, description="Answers drawn per question by the attack `sampling`; 0 draws none."),
    ] = 64
    max_attacked: Annotated[
        int, Field(ge=1, description="Most targets, and never-known entities, that are attacked.")
    ] = 20
    max_wordings: Annotated[
        int, Field(ge=1, description="Most held-out wordings of an attribute that are asked under attack.")
    ] = 1
    attack_steps: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(
            min_length=1,
            description="Optimizer steps after which relearning is measured; the last one is that of fine-tuning, too.",
        ),
    ] = (10, 30, 60)
    attack_lrs: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(min_length=1, description="Step size of relearning; fine-tuning takes the middle one, of two the first."),
    ] = (1e-4, 3e-4, 1e-3)
    attack_lessons: Annotated[
        int | None,
        Field(
            ge=1,
            description="Lessons in one step of relearning, and half as many windows of text in one of fine-tuning; by "
            "default 16, of a model with more than ten million trained parameters 8.",
        ),
    ] = None
    lm_eval: Annotated[
        tuple[str, ...],
        Field(description="Task of lm-eval to run before and after: a name, or the path of a task file (.yaml)."),
    ] = ()
    lm_eval_limit: Annotated[
        int | None, Field(ge=1, description="Most examples of each lm-eval task; by default all.")
    ] = None
    skip: Annotated[tuple[str, ...], Field(description="Evaluation or attack to leave out, by its name.")] = ()
    seed: Annotated[int, Field(ge=0, description="Seed of everything that the audit draws.")] = 0

    def quick(self) -> AuditConfig:
        """Return a cheaper config: fewer draws, one relearning run, no samples, fewer targets under attack."""
        return replace(
            self,
            control_draws=min(self.control_draws, 5),
            permutations=199,
            n_samples=0,
            leak_draws=min(self.leak_draws, 8),
            max_blocks=min(self.max_blocks, 4),
            max_attacked=min(self.max_attacked, 8),
            attack_steps=(30,),
            attack_lrs=(self.attack_lrs[len(self.attack_lrs) // 2],),
        )
