"""Which rule keeps a direction's list of latents empty, in words."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from features.config import SelectionRule


def failed_rule(
    maxmin: Float[np.ndarray, " n_latents"],
    q: Float[np.ndarray, " n_latents"],
    allowed: Bool[np.ndarray, " n_latents"],
    null_p: float,
    rule: SelectionRule,
) -> str:
    """Return which part of the rule no latent passes: each is looked for among those that pass the parts before.

    The order is: shuffles of the labels (for the whole list), separation, q, rate on running text. Fields of
    `SelectionRule` are named, so that one knows what to change.

    Args:
        maxmin: MaxMin separation of every latent of every SAE, mining half.
        q: Benjamini-Hochberg q.
        allowed: What the rule on running text leaves.
        null_p: Family-wise p of the best separation.
        rule: The rule.

    Example:
        >>> one = np.array([0.4]), np.array([0.2]), np.array([True])
        >>> failed_rule(*one, 0.01, SelectionRule(min_separation=0.5))
        'no latent separates by 0.5 or more (`min_separation`): the best by 0.4'
    """
    if null_p > rule.max_null_p:
        return f"its p against shuffled labels is {null_p:.2g}, above {rule.max_null_p:g} (`max_null_p`)"
    apart = maxmin >= rule.min_separation
    if not apart.any():
        return (
            f"no latent separates by {rule.min_separation:g} or more (`min_separation`): the best by {maxmin.max():.3g}"
        )
    n, least = int(apart.sum()), f"by {rule.min_separation:g} or more (`min_separation`)"
    said = f"{n} latent separates {least}" if n == 1 else f"{n} latents separate {least}"
    sure = apart & (q <= rule.max_q)
    if not sure.any():
        return f"{said}, but the smallest q among them is {q[apart].min():.2g}, above {rule.max_q:g} (`max_q`)"
    assert not (sure & allowed).any(), "some latent passes every rule"
    n = int(sure.sum())
    return (
        f"{n} latent{'s' if n > 1 else ''} would pass, but {'all fire' if n > 1 else 'it fires'} on more than "
        f"{rule.max_general_rate:.1%} of running text (`max_general_rate`)"
    )
