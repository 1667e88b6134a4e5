"""Settings of the methods that edit weights without a loop, redirection apart."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from sae_train.fields import Field, config_class
from unlearn.settings.base import MethodSettings


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
