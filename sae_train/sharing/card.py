"""The card of a published SAE: what it reads, how good it is, what it was trained on, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

FIGURES = {  # of metrics.json, in the order of the table
    "fvu": "Fraction of variance unexplained",
    "l0": "Active latents a token (L0)",
    "frac_dead": "Latents that never fired",
    "ce_recovered": "Loss recovered when spliced in",
    "trained_tokens": "Tokens trained on",
}


def card_of(
    repo_id: str,
    cfg: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    path_in_repo: str,
    data: str = "",
    licence: str = "",
) -> str:
    """Return a model card in the hub's form: a head in YAML, then Markdown.

    Args:
        repo_id: `owner/name`.
        cfg: `cfg.json` of the SAE folder.
        metrics: `metrics.json` beside it; figures that are not in it are left out.
        path_in_repo: Folder in the repository.
        data: What it was trained on, in words.
        licence: An identifier that the hub knows, such as `apache-2.0`.
    """
    metadata = cfg["metadata"]
    model = str(metadata.get("model_name") or "")
    architecture = metadata.get("workbench_arch", cfg["architecture"])
    named: dict[str, Any] = {"license": licence} if licence else {}
    if "/" in model:  # a hub id; a built-in model has no page there
        named["base_model"] = model
    head = ModelCardData(library_name="saelens", tags=["sparse-autoencoder", "interpretability"], **named)
    of_model = f" of {model}" if model else ""
    lines = [
        f"# Sparse autoencoder at {metadata['hook_point']}{of_model}",
        "",
        f"Architecture `{architecture}`, {cfg['d_sae']:,} latents over {cfg['d_in']:,} dimensions.",
        *([f"Trained on {data}."] if data else []),
        "",
        *_table(metrics),
        "## Use",
        "",
        *_use(repo_id, path_in_repo),
    ]
    return str(ModelCard(f"---\n{head.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"))


def _table(metrics: Mapping[str, Any]) -> list[str]:
    """Return the figures that there are, with their intervals."""
    rows = []
    for key, name in FIGURES.items():
        if metrics.get(key) is None:
            continue
        value, low, high = (metrics.get(k) for k in (key, f"{key}_low", f"{key}_high"))
        interval = "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
        rows.append(
            f"| {name} | {value:,}{interval} |" if isinstance(value, int) else f"| {name} | {value:.4g}{interval} |"
        )
    if not rows:
        return []
    return [
        "On documents held out of training, with 95 % intervals over documents:",
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
    ]


def _use(repo_id: str, path_in_repo: str) -> list[str]:
    """Return how to load it, with SAELens and with the workbench."""
    return [
        "With [SAELens](https://github.com/jbloomAus/SAELens):",
        "",
        "```python",
        "from sae_lens import SAE",
        "",
        f'sae = SAE.from_pretrained("{repo_id}", "{path_in_repo}")',
        "```",
        "",
        "With the SAE workbench:",
        "",
        "```sh",
        f"wb import-sae {repo_id}:{path_in_repo} --out sae",
        "```",
    ]
