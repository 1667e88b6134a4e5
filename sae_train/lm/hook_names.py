"""Names of hook points, the same for every architecture; no language model is needed to read them.

`embed` (what enters block 0), `layers.N` (the residual stream after block N), `layers.N.mlp` and `layers.N.self_attn`
(what the two add to it), `layers.N.mlp:in` (what the MLP reads, behind the norm where there is one). SAELens' names
(`blocks.12.hook_resid_post`, `hook_mlp_out`, `hook_attn_out`, `mlp.hook_in`) mean the same and are accepted.
"""

from __future__ import annotations

import re

_SAELENS = {"hook_resid_post": "", "hook_mlp_out": ".mlp", "hook_attn_out": ".self_attn", "mlp.hook_in": ".mlp:in"}


def canonical_hook_point(name: str) -> str:
    """Translate SAELens' names and leave ours alone.

    Example:
        >>> canonical_hook_point("blocks.3.hook_resid_post"), canonical_hook_point("layers.3.mlp")
        ('layers.3', 'layers.3.mlp')
    """
    found = re.fullmatch(r"blocks\.(\d+)\.([\w.]+)", name)
    if found and found[2] == "hook_resid_pre":  # what enters a block is what left the one before
        return f"layers.{int(found[1]) - 1}" if int(found[1]) else "embed"
    if found and found[2] in _SAELENS:
        return f"layers.{found[1]}{_SAELENS[found[2]]}"
    return name


def saelens_name(hook_point: str) -> str:
    """Translate our name into SAELens'.

    Example:
        >>> saelens_name("layers.3"), saelens_name("embed")
        ('blocks.3.hook_resid_post', 'blocks.0.hook_resid_pre')
    """
    if hook_point == "embed":
        return "blocks.0.hook_resid_pre"
    _, index, *rest = hook_point.split(".")
    suffix = f".{rest[0]}" if rest else ""
    return f"blocks.{index}." + next(k for k, v in _SAELENS.items() if v == suffix)


def folder_name(hook_point: str) -> str:
    """Return a hook point as part of a folder's name: a colon means something else in paths on Windows.

    Example:
        >>> folder_name("layers.3.mlp:in")
        'layers.3.mlp-in'
    """
    return hook_point.replace(":", "-")


def block_index(hook_point: str) -> int:
    """Return the block a hook point belongs to; `embed` is -1.

    Example:
        >>> block_index("layers.12.mlp"), block_index("embed")
        (12, -1)
    """
    return -1 if hook_point == "embed" else int(hook_point.split(".")[1])


def spread_blocks(start: int, end: int, most: int) -> list[str]:
    """Return at most `most` blocks from `start` to `end`, evenly spread, first to last; of a single one, `start`.

    Example:
        >>> spread_blocks(0, 29, 4), spread_blocks(29, 0, 1)
        (['layers.0', 'layers.10', 'layers.19', 'layers.29'], ['layers.29'])
    """
    n_picked = min(most, abs(end - start) + 1)
    step = (end - start) / (n_picked - 1) if n_picked > 1 else 0
    return [f"layers.{i}" for i in sorted({round(start + n * step) for n in range(n_picked)})]
