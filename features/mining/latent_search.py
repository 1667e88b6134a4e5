"""The station that finds entity latents: collect activations at names, mine, check causally, write.

Activations at names can be read once and kept (`collect_names`); mining them needs no language model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.analysis.store import LatentAnalysis, Sources
from features.analysis.store_layout import check_name
from features.causal.checks import add_checks
from features.config import GateConfig, SelectionRule, SteeringConfig
from features.entities.entities import Entity
from features.entities.name_acts import NameData, load_names, read_names, save_names
from features.entities.opening import open_saes, open_store
from features.entities.prompts import check_types, contexts
from features.entities.templates import Templates
from features.labels.labels import Labels
from features.mining.mining import mine_names
from features.stats.selection import split_entities
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError
from sae_train.fields import config_of
from sae_train.lm.hooks import check_hook_point
from sae_train.lm.models import LanguageModel, as_lm
from sae_train.run.outputs import claimed
from sae_train.run.progress import Progress, shown
from sae_train.saes.base import Sae

LabelSource = Labels | Iterable[Entity] | str | Path


@dataclass(frozen=True)
class _Asked:
    """The model, the labelled entities and the templates."""

    lm: LanguageModel
    labels: Labels
    templates: Templates


def collect_names(
    lm: LanguageModel | str | Path,
    labels: LabelSource,
    hook_points: str | Sequence[str],
    *,
    templates: Templates | str | Path | None = None,
    position: str = "last",
    out: str | Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> NameData:
    """Read the activations at the names of all known and unknown entities, in every context of the templates.

    Args:
        lm: The model, or what `load_lm` takes.
        labels: Labelled entities, or their file.
        hook_points: Where the model is read.
        templates: What the names stand in; by default what the labels know.
        position: Which tokens: `last` of the name, `first`, `all` of them (a row each), or `end` of the prompt.
        out: Where the activations go, HDF5; None leaves nothing on the disk.
        device, dtype: Where and in what format a model that is loaded here computes.
        overwrite: Replace `out`.
        progress: Shows how far it is; by default whatever there is: terminal, notebook, log.

    Raises:
        EntityError: A type without templates.
        HookPointError: The model has no such hook point.
        ConfigError: There is no such position, or nobody says which templates.
    """
    with claimed(out, overwrite=overwrite):
        asked = _asked(as_lm(lm, device=device, dtype=dtype), Labels.of(labels, templates))
        names = [hook_points] if isinstance(hook_points, str) else hook_points
        data = _read(asked, names, position=position, progress=progress or shown)
        if out is not None:
            save_names(data, Path(out))
    return data


def find_entity_latents(
    lm: LanguageModel | str | Path | None,
    saes: Sae | str | Path | Sequence[Sae | str | Path],
    labels: LabelSource | None = None,
    *,
    templates: Templates | str | Path | None = None,
    store: ActivationStore | str | Path | None = None,
    out: str | Path | None = None,
    names: NameData | str | Path | None = None,
    names_out: str | Path | None = None,
    position: str | None = None,
    rule: SelectionRule | None = None,
    gate: GateConfig | bool | None = True,
    steering: SteeringConfig | bool | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
    progress: Progress | None = None,
    **fields: Any,
) -> LatentAnalysis:
    """Mine latents on one half of the labelled entities, report them on the other half, and check them causally.

    Args:
        lm: The model, or what `load_lm` takes; None where `names` were read before. Without it nothing is patched,
            steered or shown in context.
        saes: One or several, objects or folders.
        labels: Labelled entities, or their file.
        templates: What the names stand in, and the questions; by default what the labels know.
        store: Activations of running text, for the rate there, for contexts and for the loss under steering.
        out: Where the analysis goes, HDF5; a .json and a .html go beside it. None leaves nothing on the disk.
        names: Activations at names that were read before: what `collect_names` returned, or its file.
        names_out: Where the activations at names go, HDF5.
        position: Token that is read: `last` of the name (the default), `first`, `all` of them, or `end` of the prompt.
        rule: What is selected.
        gate: Patch the names of held-out known entities: True for `GateConfig(seed=seed)`, or a config.
        steering: Push the selected latents and ask again: True for `SteeringConfig(seed=seed)`, or a config.
        seed: Of split, shuffles, random sets and bootstraps.
        device, dtype: Where and in what format a model that is loaded here computes; SAEs go where the model is.
        overwrite: Replace `out` and `names_out`.
        progress: Shows how far it is; by default whatever there is: terminal, notebook, log.
        fields: Fields of `SelectionRule` (`top`, `max_q`, …), in the place of a whole rule.

    Returns:
        The analysis, whose `sources` are what it was made from.

    Raises:
        EntityError: Too few known or unknown entities, or a type without templates.
        HookPointError: An SAE reads where the model has no such hook point.
        ConfigError: Something that is needed is missing, or is said twice.
        OutputExistsError: An output is there already.
    """
    chosen = config_of(SelectionRule, rule, fields, name="rule")
    _check_names(names, names_out, position)
    opened = open_saes(saes, device=lm.device if isinstance(lm, LanguageModel) else device)
    show = progress or shown
    # An output that exists or cannot be written is refused before hours of work, not after.
    with _claimed(out, names_out, overwrite=overwrite), open_store(store) as text:
        asked = _asked_if_at_hand(lm, labels, templates, names, device=device, dtype=dtype)
        checks = _checks(gate, steering, seed, has_lm=asked is not None)
        data = _names(names, asked, opened, position=position, seed=seed, progress=show)
        if names_out is not None:
            save_names(data, Path(names_out))
        # The causal checks come after the selection, which they take as given and never change.
        analysis = mine_names(data, opened, chosen, store=text, seed=seed)
        if asked is not None:
            own = (asked.lm, opened, asked.labels, asked.templates)
            analysis = add_checks(*own, analysis, store=text, progress=show, **checks)
        sources = Sources(opened) if asked is None else Sources(opened, asked.labels, asked.templates)
        analysis = replace(analysis, sources=sources)
        if out is not None:
            analysis.save(out, overwrite=overwrite)
    return analysis


@contextmanager
def _claimed(out: str | Path | None, names_out: str | Path | None, *, overwrite: bool) -> Iterator[None]:
    """Hold both outputs.

    Raises:
        ConfigError: They are one path.
    """
    if out is not None:
        check_name(Path(out))
        if names_out is not None and Path(out).absolute() == Path(names_out).absolute():
            raise ConfigError(
                "two results cannot lie at one path", got=f"{out} (`out` and `names_out`)", expected="a path for each"
            )
    with claimed(out, overwrite=overwrite), claimed(names_out, overwrite=overwrite, field="names_out"):
        yield


def _checks(
    gate: GateConfig | bool | None, steering: SteeringConfig | bool | None, seed: int, *, has_lm: bool
) -> dict[str, Any]:
    """Return the configs of the causal checks; one that was asked for by its config cannot be left out silently."""
    found: dict[str, Any] = {}
    for name, kind, given in (("gate", GateConfig, gate), ("steering", SteeringConfig, steering)):
        if isinstance(given, kind) and not has_lm:
            raise ConfigError(
                f"{name} asks the model", got=f"{name} without all of these", expected="lm, labels and templates"
            )
        found[name] = given if isinstance(given, kind) else kind(seed=seed) if given else None
    return found


def _check_names(names: NameData | str | Path | None, names_out: str | Path | None, position: str | None) -> None:
    """Refuse options about reading names when `names`, already read, are given."""
    if names is None:
        return
    for name, value in (("position", position), ("names_out", names_out)):
        if value is not None:
            raise ConfigError(
                f"{name} says how names are read; those given have been read already",
                got=f"{value} ({name}) with names",
                expected=f"names, or {name}",
            )


def _asked_if_at_hand(
    lm: LanguageModel | str | Path | None,
    labels: LabelSource | None,
    templates: Templates | str | Path | None,
    names: NameData | str | Path | None,
    *,
    device: str,
    dtype: str,
) -> _Asked | None:
    """Return the model and what can be asked of it; None where names were read before and not all of it is given.

    Raises:
        ConfigError: Something is missing, and there are no names.
    """
    found = None if labels is None else Labels.of(labels, templates)
    missing = [name for name, value in (("lm", lm), ("labels", found)) if value is None]
    if found is not None and found.templates is None:
        missing.append("templates")
    if missing and names is None:
        raise ConfigError(
            "nobody says whose names are read",
            got=f"no {', no '.join(missing)}",
            expected="lm, labels and templates; or names that were read before",
        )
    if missing or lm is None or found is None:
        return None
    return _asked(as_lm(lm, device=device, dtype=dtype), found)


def _asked(lm: LanguageModel, labels: Labels) -> _Asked:
    """Put a model and labels together.

    Raises:
        ConfigError: Nobody says what the names stand in.
    """
    if labels.templates is None:
        raise ConfigError(
            "nobody says what the names stand in", got="labels that know no templates", expected="templates"
        )
    return _Asked(lm, labels, labels.templates)


def _names(
    names: NameData | str | Path | None,
    asked: _Asked | None,
    saes: Sequence[Sae],
    *,
    position: str | None,
    seed: int,
    progress: Progress,
) -> NameData:
    """Return activations at names: those given, or read now where the SAEs read."""
    if names is not None:
        return names if isinstance(names, NameData) else load_names(Path(names))
    assert asked is not None, "without names there is a model"
    labelled = [e for e in asked.labels if e.label in ("known", "unknown")]
    check_types(labelled, asked.templates)
    split_entities(labelled, seed)  # too few are refused before the model reads anything
    return _read(asked, [s.hook_point for s in saes], position=position or "last", progress=progress)


def _read(asked: _Asked, hook_points: Sequence[str], *, position: str, progress: Progress) -> NameData:
    """Read the names at hook points of the model, each once."""
    lm, templates = asked.lm, asked.templates
    places = list(dict.fromkeys(check_hook_point(lm.model, h, model_name=lm.name) for h in hook_points))
    labelled = [e for e in asked.labels if e.label in ("known", "unknown")]
    check_types(labelled, templates)
    count = sum(len(contexts(e, templates)) for e in labelled)
    with progress("reading names", count, unit="prompts") as advance:
        return read_names(lm, asked.labels, templates, places, position=position, advance=advance)
