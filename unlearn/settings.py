"""The settings that only one method has: one frozen dataclass each, all in one registry. Imports no torch.

A method's class also says where it departs from the defaults that all methods share (`shared`). What it does with
its settings stands in `unlearn/methods/`, in the file of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from sae_train.config import require
from sae_train.errors import ConfigError, nearest_first

BLOCK_CHOICES = ("all", "from-hook", "hook")
POSITION_CHOICES = ("last-name-token", "name-tokens", "from-name-on", "name-and-behind")
NAME_CHOICES = ("last-name-token", "name-tokens")
ERASE_CHOICES = ("name-tokens", "all-tokens")
LATENT_CHOICES = ("selected", "all")
AIM_CHOICES = ("matched", "sampled", "mean")
INIT_CHOICES = ("none", "closed-form")
LR_WIDTH = 96  # of the model that the methods' step sizes were chosen on


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class RedirectSettings(MethodSettings):
    """Redirection: every block's activations move to those of a paired unknown entity. `methods/redirect.py`.

    Attributes:
        latent_weight: Weight of the selected latents' pre-activations.
        block_weight: Weight of the distance to the paired unknown entity.
        output_weight: Weight of the next-token distribution behind the name.
        blocks: Blocks that are redirected: `all`, `from-hook` (the SAE's and later ones) or `hook` (the SAE's only).
        erase_behind: Also train what comes behind the name to find nothing when the original activations are put back.
        erase_weight: Weight of that, on top of the block and output weights.
        erase_at: Tokens at which the original activations are put back: `name-tokens`, or `all-tokens`; then nothing
            that the earlier blocks wrote behind the name can hide what the later ones hold.
        erase_spread: How far beside the original activation is looked, too: each prompt's is put back by a share drawn
            between 1 - spread and 1 + spread of the way from the model's own.
        guard_weight: Weight of the guard against relearning (`unlearn/relearn_guard.py`); 0 leaves it out.
        guard_every: Batches from one look of the guard to the next, which weighs as much more.
        guard_rate: AdamW's step size of the attacker that it imagines.
        guard_steps: Batches that this attacker goes along for, a step at each; then it begins anew.
        guard_lessons: Lessons that this attacker is given in a step.
        guard_questions: Questions about other facts that the model is asked then.
        shift_weight: Weight of what all targets of a batch are off by together, at every block; 0 leaves it out.
        positions: Tokens that are redirected: `last-name-token`, `name-tokens` (all of them), `from-name-on` (the last
            one and all behind it) or `name-and-behind` (both).
        aim: Whose activations are aimed at: those of the target's `matched` partner, of an unknown entity `sampled` for
            every prompt, or the `mean` over several (`unlearn/pairs.py`). The guard keeps to the partner.
        which_latents: Latents of the latent term: the `selected` ones or `all`.
        answers: Redirect questions with an answer behind them, too: the true one and another entity's.
        init: `closed-form` solves for a few blocks first (`redirect-closed-form`), `none` starts from the model.
        sae_error: At the SAE's hook point aim at the unknown entity's activation itself, reconstruction plus SAE error;
            False aims at the decoded reconstruction alone. With True only the latent term depends on the SAE.
    """

    latent_weight: float = 0.1
    block_weight: float = 3.0
    output_weight: float = 1.0
    erase_behind: bool = True
    erase_weight: float = 1.0
    erase_at: str = "all-tokens"
    erase_spread: float = 0.0
    guard_weight: float = 1.0
    guard_every: int = 1
    guard_rate: float = 1e-3
    guard_steps: int = 40
    guard_lessons: int = 16
    guard_questions: int = 24
    shift_weight: float = 20.0
    blocks: str = "all"
    positions: str = "name-and-behind"
    aim: str = "matched"
    which_latents: str = "selected"
    answers: bool = True
    sae_error: bool = True
    init: str = "none"

    @property
    def edits_weights(self) -> bool:
        """Tell whether it starts from the closed form."""
        return self.init != "none"

    def __post_init__(self) -> None:
        _not_negative(
            self,
            "latent_weight",
            "block_weight",
            "output_weight",
            "erase_weight",
            "erase_spread",
            "guard_weight",
            "shift_weight",
        )
        require(self.guard_rate > 0, "--guard-rate", self.guard_rate, "> 0")
        for name in ("guard_every", "guard_steps", "guard_lessons", "guard_questions"):
            require(getattr(self, name) >= 1, f"--param {name}", getattr(self, name), ">= 1")
        require(self.which_latents in LATENT_CHOICES, "--which-latents", self.which_latents, ", ".join(LATENT_CHOICES))
        require(self.aim in AIM_CHOICES, "--param aim", self.aim, ", ".join(AIM_CHOICES))
        require(self.erase_at in ERASE_CHOICES, "--erase-at", self.erase_at, ", ".join(ERASE_CHOICES))
        require(self.init in INIT_CHOICES, "--init", self.init, ", ".join(INIT_CHOICES))
        require(self.blocks in BLOCK_CHOICES, "--blocks", self.blocks, ", ".join(BLOCK_CHOICES))
        require(self.positions in POSITION_CHOICES, "--positions", self.positions, ", ".join(POSITION_CHOICES))


@dataclass(frozen=True)
class GaSettings(MethodSettings):
    """Gradient ascent. `methods/ga.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 20, "retain_weight": 0.0, "warmup_steps": 5}
    lr: ClassVar[float] = 1e-4


@dataclass(frozen=True)
class GradDiffSettings(MethodSettings):
    """Gradient difference. `methods/graddiff.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 100, "retain_weight": 4.0}
    lr: ClassVar[float] = 1e-4


@dataclass(frozen=True)
class NpoSettings(MethodSettings):
    """Negative preference optimisation. `methods/npo.py`.

    Attributes:
        beta: Inverse temperature; 0 would be gradient ascent.
    """

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    beta: float = 0.1

    def __post_init__(self) -> None:
        require(self.beta > 0, "--param beta", self.beta, "> 0")


@dataclass(frozen=True)
class SimNpoSettings(MethodSettings):
    """NPO without a reference. `methods/simnpo.py`.

    Attributes:
        beta: Inverse temperature of the log-probability per token.
        gamma: Margin below which an answer counts as unlikely, nats.
    """

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    beta: float = 2.5
    gamma: float = 0.0

    def __post_init__(self) -> None:
        require(self.beta > 0, "--param beta", self.beta, "> 0")


@dataclass(frozen=True)
class IdkSettings(MethodSettings):
    """Reject-tuning. `methods/idk.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4


@dataclass(frozen=True)
class RmuSettings(MethodSettings):
    """RMU. `methods/rmu.py`.

    Attributes:
        coefficient: Length of the random aim, in mean norms of the activations.
    """

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        require(self.coefficient > 0, "--param coefficient", self.coefficient, "> 0")


@dataclass(frozen=True)
class LunarSettings(MethodSettings):
    """LUNAR. `methods/lunar.py`."""

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0, "train": "down_proj"}
    lr: ClassVar[float] = 1e-3


@dataclass(frozen=True)
class CrispSettings(MethodSettings):
    """CRISP. `methods/crisp.py`.

    Attributes:
        n_latents: Most latents that are pressed down.
        ratio: How many times as active on the targets as on retained entities a latent must be.
    """

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 5e-4
    n_latents: int = 10
    ratio: float = 3.0

    def __post_init__(self) -> None:
        require(self.n_latents >= 1, "--param n_latents", self.n_latents, ">= 1")
        require(self.ratio >= 1, "--param ratio", self.ratio, ">= 1")


@dataclass(frozen=True)
class MeanDifferenceSettings(MethodSettings):
    """Mean difference on the raw residual stream. `methods/mean_difference.py`.

    Attributes:
        scale: How many differences of means the activations are shifted by.
    """

    shared: ClassVar[dict[str, Any]] = {"steps": 150, "retain_weight": 4.0}
    lr: ClassVar[float] = 1e-3
    scale: float = 1.0

    def __post_init__(self) -> None:
        require(self.scale > 0, "--param scale", self.scale, "> 0")


@dataclass(frozen=True)
class ClosedFormSettings(MethodSettings):
    """Redirection in closed form: output matrices of a few blocks are solved for. `methods/redirect_closed_form.py`.

    Attributes:
        last_block: Block behind which the residual stream is to be the unknown entity's; None takes the one a good
            quarter of the way up.
        n_blocks: Blocks whose matrices change, the last one included.
        positions: Name tokens that are redirected: `last-name-token` or `name-tokens` (all of them).
        ridge: Weight of the change of the keys to be left alone.
        entity_weight: Weight of retained and unknown entities' keys; general text has 1.
        near_weight: Weight of those retained entities that share an answer with a target.
        null_share: With a share > 0, only directions in which the keys to be left alone hold at most that share
            of their second moment are used (AlphaEdit).
        text_windows: Windows of general text for the second moment.
        max_entities: Retained entities for it, thinned out evenly; half as many unknown ones, and half as many of those
            that share an answer.
    """

    shared: ClassVar[dict[str, Any]] = {"steps": 1, "train": "down_proj"}

    last_block: int | None = None
    n_blocks: int = 4
    positions: str = "name-tokens"
    ridge: float = 20.0
    entity_weight: float = 1.0
    near_weight: float = 1.0
    null_share: float = 0.0
    text_windows: int = 120
    max_entities: int = 80

    @property
    def edits_weights(self) -> bool:
        """Tell that it does."""
        return True

    def __post_init__(self) -> None:
        _not_negative(self, "ridge", "entity_weight", "near_weight")
        require(self.last_block is None or self.last_block >= 0, "--param last_block", self.last_block, ">= 0")
        require(self.n_blocks >= 1, "--param n_blocks", self.n_blocks, ">= 1")
        require(self.positions in NAME_CHOICES, "--param positions", self.positions, ", ".join(NAME_CHOICES))
        require(0 <= self.null_share < 1, "--param null_share", self.null_share, "0 <= share < 1")
        require(self.text_windows >= 1, "--param text_windows", self.text_windows, ">= 1")
        require(self.max_entities >= 2, "--param max_entities", self.max_entities, ">= 2")


METHOD_SETTINGS: dict[str, type[MethodSettings]] = {
    "redirect": RedirectSettings,
    "ga": GaSettings,
    "graddiff": GradDiffSettings,
    "npo": NpoSettings,
    "simnpo": SimNpoSettings,
    "idk": IdkSettings,
    "rmu": RmuSettings,
    "lunar": LunarSettings,
    "crisp": CrispSettings,
    "mean-difference": MeanDifferenceSettings,
    "redirect-closed-form": ClosedFormSettings,
}


def settings_of(method: str) -> type[MethodSettings]:
    """Return the settings class of a method.

    Raises:
        ConfigError: There is no such method; the nearest names are given.
    """
    if method not in METHOD_SETTINGS:
        raise ConfigError(
            f"no method '{method}'",
            got=f"{method} (--method)",
            expected=nearest_first(method, METHOD_SETTINGS, most=20),
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
    """Read `NAME=VALUE` words into values of the types that the method's settings have.

    Raises:
        ConfigError: No `=`, a setting the method does not have, or a value of another type.

    Example:
        >>> read_params("redirect", ["block-weight=2", "sae_error=false"])
        {'block_weight': 2.0, 'sae_error': False}
    """
    kinds = {f.name: str(f.type) for f in fields(settings_of(method))}
    found: dict[str, Any] = {}
    for word in params:
        name, sign, text = word.partition("=")
        key = name.strip().replace("-", "_")
        if not sign or key not in kinds:
            raise ConfigError(
                f"{method} has no setting '{name}'" if sign else f"not NAME=VALUE: '{word}'",
                got=f"{word} (--param)",
                expected=nearest_first(key, kinds) or "none: this method has no settings of its own",
            )
        found[key] = _parsed(text.strip(), kinds[key], word)
    return found


def _parsed(text: str, kind: str, word: str) -> Any:
    """Read one value; `none` is None where the field allows it."""
    if text.lower() == "none" and kind.endswith("| None"):
        return None
    readers = {"int": int, "float": float, "bool": _bool, "str": str}
    base = kind.removesuffix(" | None")
    try:
        return readers[base](text)
    except ValueError as error:
        raise ConfigError(
            f"cannot read '{word}'", got=f"{text} (--param)", expected=f"a value of type {kind}"
        ) from error


def _bool(text: str) -> bool:
    """Read a truth value.

    Raises:
        ValueError: It is neither.
    """
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def _not_negative(settings: MethodSettings, *names: str) -> None:
    """Refuse a negative setting, and NaN."""
    for name in names:
        require(getattr(settings, name) >= 0, f"--{name.replace('_', '-')}", getattr(settings, name), ">= 0")
