"""What the settings of every unlearning method have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from sae_train.fields import config_class

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
    def aims_at_made_up(self) -> bool:
        """Tell whether targets are aimed at made-up names, and not at labelled unknown entities."""
        return False

    @property
    def needs_budget(self) -> bool:
        """Tell whether nothing but a KL budget says how far the method goes."""
        return False
