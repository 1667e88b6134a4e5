"""Gradient difference: gradient ascent on answers about the targets, retention on everything else.

    loss = mean log p(answer | question) per token + retain_weight * retain

Source: Liu et al. 2022, "Continual Learning and Private Unlearning" (arXiv:2203.12817); the name is TOFU's (Maini et
al. 2024, arXiv:2401.06121). The retention there is the loss on a retain set; here it is the one that all methods share.
"""

from __future__ import annotations

from unlearn.methods.ga import GradientAscent


class GradientDifference(GradientAscent):
    """Ascent with retention; only its defaults differ from `ga`."""
