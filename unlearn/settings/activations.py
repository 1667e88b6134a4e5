"""Settings of the methods whose loss is on activations."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from sae_train.fields import Field, config_class
from unlearn.settings.base import MethodSettings


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
