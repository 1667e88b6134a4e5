"""Activations at names for `wb find-entity-latents`: read from the model, or from a file of an earlier run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from features.entities import Entity, load_entities
from features.name_acts import NameData, collect_names, load_names, save_names
from features.prompts import Templates, contexts, load_templates
from features.selection import split_entities
from sae_train.lm.hooks import check_hook_point
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.progress import shown
from sae_train.runs import claim_output
from sae_train.saes.base import Sae


class Asked(NamedTuple):
    """The model and what can be asked of it; `wb find-entity-latents --acts FILE` does without.

    Attributes:
        lm: The language model.
        subjects: Labelled entities.
        texts: Templates.
    """

    lm: LanguageModel
    subjects: list[Entity]
    texts: Templates


def load_asked(
    model: str | None, labels: Path | None, templates: Path | None, acts: Path | None, *, device: str, dtype: str
) -> Asked | None:
    """Load model, labels and templates; None where there is a file of activations and not all of them are given.

    Raises:
        click.UsageError: One is missing and there is no such file.
    """
    given = {"--model": model, "--labels": labels, "--templates": templates}
    missing = [name for name, value in given.items() if value is None]
    if missing and acts is None:
        raise click.UsageError(f"Missing option {', '.join(missing)}; only --acts FILE does without.")
    if model is None or labels is None or templates is None:
        return None
    subjects, texts = load_entities(labels, need_labels=True), load_templates(templates)
    return Asked(load_lm(model, device=device, dtype=dtype), subjects, texts)


def names_of(
    asked: Asked | None,
    acts: Path | None,
    acts_out: Path | None,
    saes: Sequence[Sae],
    *,
    position: str | None,
    seed: int,
) -> NameData:
    """Return the activations at names, and write them to `--acts-out` if asked; the file is replaced.

    Raises:
        click.UsageError: What only reading decides is given together with a file that was read already.
    """
    if acts is not None:
        for name, value in (("--position", position), ("--acts-out", acts_out)):
            if value is not None:
                raise click.UsageError(f"{name} says how names are read; --acts has them read already.")
        return load_names(acts)
    assert asked is not None, "without a file there is a model"
    lm, subjects, texts = asked
    hook_points = [check_hook_point(lm.model, s.hook_point, model_name=lm.name) for s in saes]
    labelled = [e for e in subjects if e.label in ("known", "unknown")]
    split_entities(labelled, seed)  # too few are refused before the model reads anything
    with shown("reading names", sum(len(contexts(e, texts)) for e in labelled)) as advance:
        data = collect_names(
            lm, subjects, texts, list(dict.fromkeys(hook_points)), position=position or "last", advance=advance
        )
    if acts_out is not None:
        save_names(data, acts_out)
    return data


def claim_outputs(out: Path, acts_out: Path | None, *, overwrite: bool) -> None:
    """Refuse outputs that are there already."""
    claim_output(out, overwrite=overwrite)
    if acts_out is not None:
        claim_output(acts_out, overwrite=overwrite)
