"""A grid of SAEs from repeated options: the product of hook points, k, widths and seeds, each with a name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.fields import from_mapping
from sae_train.lm.hook_names import folder_name


@dataclass(frozen=True)
class SaeJob:
    """One SAE to be trained, and the folder it goes to."""

    config: SaeTrainConfig
    out: Path


def sae_jobs(
    out: Path,
    *,
    hook_points: Sequence[str],
    k: Sequence[int],
    expansion: Sequence[int],
    seed: Sequence[int],
    d_sae: int | None = None,
    data_seed: int | None = None,
    **shared: object,
) -> list[SaeJob]:
    """Return every combination, hook point after hook point; one goes to `out` itself, several to folders in it.

    With several seeds and no `data_seed`, the first seed draws held-out documents and order for all: they are trained,
    and can be compared, on the same rows.

    Raises:
        ConfigError: A setting does not exist or is out of range, a value is given twice, or two widths meet `d_sae`.

    Example:
        >>> jobs = sae_jobs(Path("saes"), hook_points=["layers.1", "layers.2"], k=[16], expansion=[8], seed=[0, 1])
        >>> [str(job.out) for job in jobs][:3]
        ['saes/layers.1-seed0', 'saes/layers.1-seed1', 'saes/layers.2-seed0']
        >>> jobs[1].config.seed, jobs[1].config.rows_seed
        (1, 0)
    """
    several = {"hook_points": hook_points, "k": k, "expansion": expansion, "seed": seed}
    for name, values in several.items():
        if not values or len(set(values)) != len(values):
            raise ConfigError(
                "every SAE is trained once",
                got=", ".join(map(str, values)) or "none",
                field=name,
                expected="each once",
            )
    if d_sae is not None and len(expansion) > 1:
        got = f"{d_sae} (`d_sae`), {', '.join(map(str, expansion))} (`expansion`)"
        raise ConfigError("the number of latents is given twice", got=got, expected="`d_sae`, or several `expansion`")
    if shared.get("target_hook_point") and len(hook_points) > 1:
        raise ConfigError(
            "a transcoder reads one place",
            got=f"{', '.join(hook_points)} for one target",
            field="target_hook_point",
            expected="one `hook_point`",
        )
    rows_seed = seed[0] if len(seed) > 1 and data_seed is None else data_seed
    jobs = []
    for values in itertools.product(hook_points, k, expansion, seed):
        setting = dict(zip(("hook_point", "k", "expansion", "seed"), values, strict=True))
        config = from_mapping(SaeTrainConfig, {**setting, "d_sae": d_sae, "data_seed": rows_seed, **shared})
        parts = zip(("", "k", "x", "seed"), several.values(), values, strict=True)
        name = folder_name("-".join(f"{prefix}{value}" for prefix, tried, value in parts if len(tried) > 1))
        jobs.append(SaeJob(config, out / name if name else out))
    return jobs
