"""Settings of redirection: the fine-tune, and its closed form."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from sae_train.fields import Field, config_class
from unlearn.settings.base import MethodSettings


@config_class
class RedirectSettings(MethodSettings):
    """Redirection: every block's activations move to those of a paired unknown entity. `methods/redirect.py`.

    The attacker of the guard lives for `guard_steps` batches, a step at each; then it begins anew
    (`unlearn/losses/relearn_guard.py`). With `sae_error` only the latent term depends on the SAE.
    """

    latent_weight: Annotated[
        float,
        Field(ge=0, description="Weight of the distance of the latents' pre-activations from the unknown entity's."),
    ] = 0.1
    block_weight: Annotated[
        float, Field(ge=0, description="Weight of the distance of the blocks' activations from the unknown entity's.")
    ] = 3.0
    output_weight: Annotated[
        float, Field(ge=0, description="Weight of the KL of the next-token distribution from the unknown entity's.")
    ] = 1.0
    erase_behind: Annotated[
        bool,
        Field(
            description="Train the later blocks to find nothing when the original activations are put back in an "
            "earlier one."
        ),
    ] = True
    erase_weight: Annotated[
        float,
        Field(
            ge=0,
            description="Weight of the loss with original activations put back, on top of block and output weight.",
        ),
    ] = 1.0
    erase_at: Annotated[
        Literal["name-tokens", "all-tokens"],
        Field(
            description="Tokens at which original activations are put back while training; at all tokens nothing "
            "written behind the name hides what later blocks hold."
        ),
    ] = "all-tokens"
    erase_spread: Annotated[
        float,
        Field(
            ge=0,
            description="Largest share by which an original activation that is put back is over- or undershot, drawn "
            "for every prompt.",
        ),
    ] = 0.0
    guard_weight: Annotated[
        float, Field(ge=0, description="Weight of the guard against relearning; 0 leaves it out.")
    ] = 1.0
    guard_every: Annotated[
        int, Field(ge=1, description="Batches from one look of the guard to the next, which weighs as much more.")
    ] = 1
    guard_rate: Annotated[
        float, Field(gt=0, description="AdamW's step size of the attacker that the guard imagines.")
    ] = 1e-3
    guard_steps: Annotated[
        int, Field(ge=1, description="Batches that the guard's attacker goes along for before it begins anew.")
    ] = 40
    guard_lessons: Annotated[int, Field(ge=1, description="Facts that the guard's attacker is taught in a step.")] = 16
    guard_questions: Annotated[
        int, Field(ge=1, description="Questions about untaught facts that the guard asks in a step.")
    ] = 24
    shift_weight: Annotated[
        float,
        Field(
            ge=0,
            description="Weight of what all targets of a batch are off by together at every block; 0 leaves it out.",
        ),
    ] = 20.0
    blocks: Annotated[
        Literal["all", "from-hook", "hook"],
        Field(
            description="Blocks that are redirected: all, those from the SAE's hook point on, or the hook point alone."
        ),
    ] = "all"
    positions: Annotated[
        Literal["last-name-token", "name-tokens", "from-name-on", "name-and-behind"],
        Field(
            description="Tokens that are redirected: the last of the name, the whole name, the last and all behind "
            "it, or name and behind."
        ),
    ] = "name-and-behind"
    aim: Annotated[
        Literal["made-up", "matched", "sampled", "mean"],
        Field(
            description="Whose activations are aimed at: those of a name made up of pieces of unknown names, of the "
            "matched partner, of an unknown entity sampled for every prompt, or the mean over several."
        ),
    ] = "made-up"
    which_latents: Annotated[
        Literal["selected", "all"],
        Field(description="Latents whose pre-activations are moved: the selected ones or all."),
    ] = "selected"
    answers: Annotated[
        bool,
        Field(description="Redirect questions with an answer behind them, too: the true one and another entity's."),
    ] = True
    sae_error: Annotated[
        bool,
        Field(
            description="Aim at the unknown entity's activation itself, SAE error included, in the place of its "
            "reconstruction."
        ),
    ] = True
    init: Annotated[
        Literal["none", "closed-form"],
        Field(description="What the steps start from: the model as it is (none), or its solution in closed form."),
    ] = "none"

    @property
    def aims_at_made_up(self) -> bool:
        """Tell whether it does."""
        return self.aim == "made-up"

    @property
    def edits_weights(self) -> bool:
        """Tell whether it starts from the closed form."""
        return self.init != "none"

    @property
    def is_solved(self) -> bool:
        """Tell the same."""
        return self.edits_weights


# Named, so that a method may have defaults of its own.
EntityWeight = Annotated[
    float, Field(ge=0, description="Weight of the keys of retained and unknown entities, where general text has 1.")
]
NearWeight = Annotated[
    float, Field(ge=0, description="Weight of retained entities that share an answer with a target.")
]
TextWindows = Annotated[int, Field(ge=1, description="Windows of general text for the second moment of the keys.")]


@config_class
class KeptSettings(MethodSettings):
    """What a weight edit leaves alone, and how it weighs. `unlearn/problem/kept.py`."""

    entity_weight: EntityWeight = 1.0
    near_weight: NearWeight = 1.0
    text_windows: TextWindows = 120
    max_entities: Annotated[
        int,
        Field(
            ge=2,
            description="Most retained entities for the second moment of the keys, thinned out evenly; half as many "
            "unknown ones and half as many that share an answer.",
        ),
    ] = 80


@config_class
class ClosedFormSettings(KeptSettings):
    """Redirection in closed form: output matrices of a few blocks are solved for. `methods/redirect_closed_form.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 1, "train": "down_proj"}
    last_block: Annotated[
        int | None,
        Field(
            ge=0,
            description="Last block whose matrices change, behind which the residual stream is to be the unknown "
            "entity's; by default the one a good quarter of the way up.",
        ),
    ] = None
    n_blocks: Annotated[int, Field(ge=1, description="Blocks whose matrices change, the last one included.")] = 4
    positions: Annotated[
        Literal["last-name-token", "name-tokens"],
        Field(description="Name tokens that are redirected: the last one or all."),
    ] = "name-tokens"
    ridge: Annotated[float, Field(ge=0, description="Weight of the change of the keys that are to be left alone.")] = (
        20.0
    )
    frac_null: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Share of their second moment that the keys to be left alone may hold in a direction that is "
            "used (AlphaEdit); 0 uses all directions.",
        ),
    ] = 0.0

    @property
    def edits_weights(self) -> bool:
        """Tell that it does."""
        return True

    @property
    def is_solved(self) -> bool:
        """Tell that it does."""
        return True


@config_class
class NaturalSettings(KeptSettings):
    """Redirection by natural gradients: few steps, as long as a metric allows. `methods/redirect_natural.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 1, "kl_budget": 0.01}
    entity_weight: EntityWeight = 4.0
    near_weight: NearWeight = 2.0
    text_windows: TextWindows = 60
    n_steps: Annotated[int, Field(ge=1, description="Steps; their length rises over the first five, then falls.")] = 18
    n_prompts: Annotated[int, Field(ge=1, description="Prompts about targets in a step.")] = 32
    n_retained: Annotated[int, Field(ge=0, description="Prompts about retained and unknown entities in a step.")] = 64
    frac_unknown: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the retained prompts about unknown entities: nothing new is to be said of one.",
        ),
    ] = 0.5
    frac_put_back: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Share of the prompts about targets in which the original activations are put back behind a "
            "block, to erase what later blocks hold; also the weight of their loss.",
        ),
    ] = 0.4
    length: Annotated[
        float,
        Field(gt=0, description="Length of all steps together, where KL is half its square, nats^1/2."),
    ] = 0.16
    momentum: Annotated[float, Field(ge=0, lt=1, description="Share of the step before in each step.")] = 0.7
    retained_weight: Annotated[
        float, Field(ge=0, description="Weight of what retained entities' answers lose, in the loss.")
    ] = 8.0
    n_measured: Annotated[int, Field(ge=1, description="Sequences of each group that the metric is measured on.")] = 400
    damping: Annotated[
        float, Field(gt=0, description="Part of a second moment's mean added to its diagonal, of the inputs.")
    ] = 0.0003
    output_damping: Annotated[
        float,
        Field(
            gt=0, description="Part of a second moment's mean added to its diagonal, of the gradients of the outputs."
        ),
    ] = 0.1

    @property
    def edits_weights(self) -> bool:
        """Tell that it does."""
        return True
