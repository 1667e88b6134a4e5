"""Settings of the methods whose loss is on the answers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from sae_train.fields import Field, config_class
from unlearn.settings.base import MethodSettings


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
