"""Method-specific settings: one frozen config class per method, in one registry. Imports no torch.

A method's class also says where it departs from the defaults that all methods share (`shared`). What it does with
its settings stands in `unlearn/methods/`, in the file of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal

from sae_train.errors import ConfigError, nearest_first
from sae_train.fields import Field, config_class, read_field
from sae_train.renamed import current_name

LR_WIDTH = 96  # of the model that the methods' step sizes were chosen on


@config_class
class MethodSettings:
    """What the settings of every method have in common.

    Attributes:
        shared: Defaults of `UnlearnConfig` that are others for this method.
        lr: Step size of a model `LR_WIDTH` wide where none is given.
    """

    shared: ClassVar[dict[str, Any]] = {}
    lr: ClassVar[float] = 3e-3

    @property
    def edits_weights(self) -> bool:
        """Tell whether the method writes weights itself, which an adapter does not allow."""
        return False

    @property
    def is_solved(self) -> bool:
        """Tell whether it solves for MLP output matrices, which have to write straight into the residual stream."""
        return False

    @property
    def needs_budget(self) -> bool:
        """Tell whether nothing but a KL budget says how far the method goes."""
        return False


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
        Literal["matched", "sampled", "mean"],
        Field(
            description="Whose activations are aimed at: the target's matched partner's, those of an unknown entity "
            "sampled for every prompt, or the mean over several."
        ),
    ] = "matched"
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
    def edits_weights(self) -> bool:
        """Tell whether it starts from the closed form."""
        return self.init != "none"

    @property
    def is_solved(self) -> bool:
        """Tell the same."""
        return self.edits_weights


@config_class
class GaSettings(MethodSettings):
    """Gradient ascent. `methods/ga.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 20, "retain_weight": 0.0, "warmup_steps": 5}
    lr: ClassVar[float] = 1e-4


@config_class
class GradDiffSettings(MethodSettings):
    """Gradient difference. `methods/graddiff.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 100, "retain_weight": 4.0}
    lr: ClassVar[float] = 1e-4


@config_class
class NpoSettings(MethodSettings):
    """Negative preference optimisation. `methods/npo.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    beta: Annotated[float, Field(gt=0, description="Inverse temperature of NPO; near 0 it is gradient ascent.")] = 0.1


@config_class
class NpoSamSettings(MethodSettings):
    """NPO with sharpness-aware minimisation. `methods/npo_sam.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 1e-3
    beta: Annotated[float, Field(gt=0, description="Inverse temperature of NPO; near 0 it is gradient ascent.")] = 0.5
    rho: Annotated[
        float, Field(gt=0, description="Length of the step toward the answers at whose end the loss is taken.")
    ] = 0.01


@config_class
class JensUnSettings(MethodSettings):
    """JensUn. `methods/jensun.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4


@config_class
class UndialSettings(MethodSettings):
    """UNDIAL. `methods/undial.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    strength: Annotated[
        float, Field(gt=0, description="How far below the original the logit of an answer's token is to be.")
    ] = 10.0


@config_class
class SimNpoSettings(MethodSettings):
    """NPO without a reference. `methods/simnpo.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    beta: Annotated[float, Field(gt=0, description="Inverse temperature of the log-probability per token.")] = 2.5
    gamma: Annotated[float, Field(description="Margin in nats below which an answer counts as unlikely.")] = 0.0


@config_class
class IdkSettings(MethodSettings):
    """Reject-tuning. `methods/idk.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4


@config_class
class LayeredSettings(MethodSettings):
    """Layered unlearning. `methods/layered.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 240, "retain_weight": 4.0}
    lr: ClassVar[float] = 1e-3
    beta: Annotated[float, Field(gt=0, description="Inverse temperature of NPO; near 0 it is gradient ascent.")] = 0.1
    n_folds: Annotated[
        int, Field(ge=1, description="Parts of the facts, one more of which is unlearned at each stage; 1 is NPO.")
    ] = 3


@config_class
class RmuSettings(MethodSettings):
    """RMU. `methods/rmu.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    coefficient: Annotated[
        float, Field(gt=0, description="Length of the random activation aimed at, in mean norms of the activations.")
    ] = 1.0


@config_class
class LunarSettings(MethodSettings):
    """LUNAR. `methods/lunar.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0, "train": "down_proj"}
    lr: ClassVar[float] = 1e-3


@config_class
class CrispSettings(MethodSettings):
    """CRISP. `methods/crisp.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    n_latents: Annotated[int, Field(ge=1, description="Most latents that are pressed down.")] = 10
    ratio: Annotated[
        float,
        Field(ge=1, description="How many times as active on the targets as on retained entities a latent must be."),
    ] = 3.0


@config_class
class MeanDifferenceSettings(MethodSettings):
    """Mean difference on the raw residual stream. `methods/mean_difference.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 1e-3
    scale: Annotated[float, Field(gt=0, description="Differences of means by which activations are shifted.")] = 1.0


@config_class
class ClosedFormSettings(MethodSettings):
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
    entity_weight: Annotated[
        float, Field(ge=0, description="Weight of the keys of retained and unknown entities, where general text has 1.")
    ] = 1.0
    near_weight: Annotated[
        float, Field(ge=0, description="Weight of retained entities that share an answer with a target.")
    ] = 1.0
    frac_null: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Share of their second moment that the keys to be left alone may hold in a direction that is "
            "used (AlphaEdit); 0 uses all directions.",
        ),
    ] = 0.0
    text_windows: Annotated[
        int, Field(ge=1, description="Windows of general text for the second moment of the keys.")
    ] = 120
    max_entities: Annotated[
        int,
        Field(
            ge=2,
            description="Most retained entities for the second moment of the keys, thinned out evenly; half as many "
            "unknown ones and half as many that share an answer.",
        ),
    ] = 80

    @property
    def edits_weights(self) -> bool:
        """Tell that it does."""
        return True

    @property
    def is_solved(self) -> bool:
        """Tell that it does."""
        return True


@config_class
class RepSelectSettings(MethodSettings):
    """RepSelect. `methods/repselect.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 1, "kl_budget": 0.01}
    frac_components: Annotated[
        float,
        Field(gt=0, le=1, description="Share of the gradient's singular components that are damped, the largest."),
    ] = 0.125
    lora_lr: Annotated[
        float | None,
        Field(
            ge=0,
            description="Step size at which an adapter learns the answers first; by default 96 / the model's width, 0 "
            "leaves the adapter out.",
        ),
    ] = None
    lora_epochs: Annotated[int, Field(ge=1, description="Passes over the answers in which it learns them.")] = 1

    @property
    def edits_weights(self) -> bool:
        """Tell that it does."""
        return True

    @property
    def needs_budget(self) -> bool:
        """Tell that it does: a gradient has a direction and no length."""
        return True


@config_class
class PiscesSettings(MethodSettings):
    """PISCES. `methods/pisces.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 1, "train": "down_proj"}
    n_latents: Annotated[int, Field(ge=1, description="Most latents that are taken out.")] = 30
    ratio: Annotated[
        float,
        Field(ge=1, description="How many times as active on the targets as on retained entities a latent must be."),
    ] = 1.5
    threshold: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of the strongest MLP vector's reading that a vector must pass to change."),
    ] = 0.2
    strength: Annotated[
        float,
        Field(ge=0, description="How far past zero a latent is turned over, in readings of the strongest MLP vector."),
    ] = 0.0
    n_blocks: Annotated[
        int | None,
        Field(ge=1, description="Number of blocks that change, ending at the SAE's; by default all up to there."),
    ] = None

    @property
    def edits_weights(self) -> bool:
        """Tell that it does."""
        return True

    @property
    def is_solved(self) -> bool:
        """Tell that it does."""
        return True


METHOD_SETTINGS: dict[str, type[MethodSettings]] = {
    "redirect": RedirectSettings,
    "ga": GaSettings,
    "graddiff": GradDiffSettings,
    "npo": NpoSettings,
    "npo-sam": NpoSamSettings,
    "simnpo": SimNpoSettings,
    "idk": IdkSettings,
    "layered": LayeredSettings,
    "jensun": JensUnSettings,
    "undial": UndialSettings,
    "rmu": RmuSettings,
    "lunar": LunarSettings,
    "crisp": CrispSettings,
    "mean-difference": MeanDifferenceSettings,
    "redirect-closed-form": ClosedFormSettings,
    "repselect": RepSelectSettings,
    "pisces": PiscesSettings,
}


def settings_of(method: str) -> type[MethodSettings]:
    """Return the settings class of a method.

    Raises:
        ConfigError: There is no such method; the nearest names are given.
    """
    if method not in METHOD_SETTINGS:
        raise ConfigError(
            f"no method '{method}'",
            got=method,
            expected=nearest_first(method, METHOD_SETTINGS, most=20),
            field="method",
        )
    return METHOD_SETTINGS[method]


def setting_names(kind: type[MethodSettings]) -> tuple[str, ...]:
    """Return the names of a method's own settings.

    Example:
        >>> setting_names(RedirectSettings)[:2]
        ('latent_weight', 'block_weight')
    """
    return tuple(f.name for f in fields(kind))


def read_params(method: str, params: Sequence[str]) -> dict[str, Any]:
    """Read `NAME=VALUE` words into checked values of the method's settings; their fields say type and range.

    Raises:
        ConfigError: No `=`, a setting the method does not have, or a value of another type or out of range.

    Example:
        >>> read_params("redirect", ["block-weight=2", "sae_error=false"])
        {'block_weight': 2.0, 'sae_error': False}
    """
    kind = settings_of(method)
    found: dict[str, Any] = {}
    for word in params:
        name, sign, text = word.partition("=")
        key = name.strip().replace("-", "_")
        if not sign:
            raise ConfigError(f"not NAME=VALUE: '{word}'", got=word, expected="NAME=VALUE", field="param")
        check_setting(method, key)
        found[key] = read_field(kind, key, text)
    return found


def check_setting(method: str, name: str, shared: Iterable[str] = ()) -> None:
    """Refuse a name that is no setting of the method.

    Args:
        method: Name in the registry.
        name: The setting.
        shared: Fields of all methods, one of which may be meant by a name of earlier versions.

    Raises:
        ConfigError: It is none; the nearest names are given.
    """
    names = setting_names(settings_of(method))
    if name not in names:
        expected = nearest_first(name, names) or "none: this method has no settings of its own"
        new = current_name(name, [*names, *shared])
        try_ = None if new is None else f"{new}, as it is called now"
        raise ConfigError(f"{method} has no setting '{name}'", got=name, expected=expected, try_=try_, field="param")
