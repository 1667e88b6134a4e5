"""Which options of a command go together; wrong combinations are refused before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sae_train.errors import ConfigError

if TYPE_CHECKING:
    from sae_train.activations.several import StoreSource
    from sae_train.text.tokens import Document

OUTPUTS = ("out", "html", "acts_out")
COMPUTED_ROWS = ("ctx_len", "max_tokens", "packing", "dtype")  # fields of CacheConfig where no store is written


def check_labelling(given: dict[str, Any], out: Path | None, stats: bool) -> None:
    """Refuse a call that names neither entities to ask about nor answers to read.

    Raises:
        ConfigError: Something is missing, or two ways are mixed.
    """
    needed = {"--model": given["model"], "--entities": given["entities"], "--templates": given["templates"]}
    if given["labels"] is None:
        missing = [name for name, value in {**needed, "--out": out}.items() if value is None]
        if given["entities"] is not None and given["entities_format"] != "own":
            missing = [name for name in missing if name != "--templates"]  # the files of other benchmarks bring them
        if missing:
            raise ConfigError(
                f"missing option {', '.join(missing)}",
                got="neither these nor --labels",
                expected="--model, --entities, --templates and --out to ask, or --labels for answers given before",
            )
        return
    mixed = [name for name, value in needed.items() if value is not None]
    if mixed or (out is None and not stats):
        raise ConfigError(
            "--labels reads answers given before; nobody is asked",
            got=", ".join(mixed) or "neither --out nor --stats",
            expected="--labels with --out (the rule applied again), --stats, or both",
        )


def check_name_reading(
    model: str | None,
    labels: Path | None,
    templates: Path | None,
    acts: Path | None,
    acts_out: Path | None,
    position: str | None,
) -> None:
    """Refuse a call that neither says whose names are read nor where they have been read already.

    Raises:
        click.UsageError: Something is missing, or two ways are mixed.
    """
    asked = {"--model": model, "--labels": labels, "--templates": templates}
    missing = [name for name, value in asked.items() if value is None]
    if missing and acts is None:
        raise click.UsageError(f"Missing option {', '.join(missing)}; only --acts FILE does without.")
    for name, value in (("--position", position), ("--acts-out", acts_out)):
        if value is not None and acts is not None:
            raise click.UsageError(f"{name} says how names are read; --acts has them read already.")


def check_world(base: str | None, text: str | None) -> None:
    """Refuse options of planting without a base, those of building beside one, and a base without a text.

    Raises:
        ConfigError: Two ways are mixed, or something is missing.
    """
    context = click.get_current_context()
    of_both = {"out", "seed", "overwrite", "as_json", "config_path", "base"}
    flags = {p.name: p.opts[0] for p in context.command.params if isinstance(p, click.Option)}
    wrong = {"documents"} if base is not None else {*flags} - of_both - {"documents"}
    mixed = [
        f for n, f in flags.items() if n in wrong and context.get_parameter_source(n) is not ParameterSource.DEFAULT
    ]
    if mixed:
        raise ConfigError(
            "a world is built without a base, or planted in one",
            got=f"{', '.join(mixed)} {'without' if base is None else 'with'} --base",
            expected="--base with --text and the options of planting, or --documents without --base",
        )
    if base is not None and text is None:
        raise ConfigError("missing option --text", got="--base without --text", expected="general text beside the base")


def check_evaluation(model: str | None, text: str | None, probes: Sequence[str]) -> None:
    """Refuse a text or probes without a model, a model that nothing is done with, and probes that there are not.

    Raises:
        ConfigError: So it is.
    """
    if (model is None) and (text is not None or probes):
        given = f"--text {text}" if text is not None else f"--probes {probes[0]}"
        raise ConfigError("a text and probes need a model", got=f"{given}, no --model", expected="--model beside them")
    if model is not None and text is None and not probes:
        got = f"--model {model}, neither --text nor --probes"
        raise ConfigError("nothing is done with the model", got=got, expected="--text for CE recovered, or --probes")
    if probes:
        from features.probing.sae_probes import chosen_datasets

        chosen_datasets(probes)


def mixed_in(
    entities: Path | str | None, templates: Path | None, entities_format: str, *, frac_entity_rows: float, seed: int
) -> list[Document]:
    """Return the entity contexts of `--entities` and `--templates`, in the order drawn by the seed.

    Raises:
        ConfigError: One of the two, or the share of rows, is missing.
    """
    if (frac_entity_rows > 0) != (entities is not None) or (entities is None) > (templates is None):
        raise ConfigError(
            "entity contexts need all three of --entities, --templates, --frac-entity-rows",
            got=f"--entities {entities}, --templates {templates}, --frac-entity-rows {frac_entity_rows}",
            expected="all of them, or none",
        )
    if entities is None:
        return []
    from features.entities.opening import open_entities
    from features.entities.prompts import entity_documents

    return entity_documents(*open_entities(entities, templates, format=entities_format), seed=seed)


def store_source(given: tuple[Path | str, ...]) -> Path | str | list[Path | str] | None:
    """Return what `--activations` named: one store, several, or none."""
    return (given[0] if len(given) == 1 else list(given)) if given else None


def rows_of(given: dict[str, Any], device: str) -> StoreSource:
    """Take the options of `rows_options` but --other out of what was given; return the store, or what computes one.

    Raises:
        ConfigError: Neither a store nor model and text are given, or both are.
    """
    named = {f"--{name}": given.pop(name) for name in ("activations", "model", "text")}
    how = {name: given.pop(name) for name in (*COMPUTED_ROWS, "lm_dtype")}
    named["--activations"] = store_source(named["--activations"])
    store, model, text = named.values()
    if store is not None and model is None and text is None:
        return store
    if store is not None or model is None or text is None:
        raise ConfigError(
            "rows come from one place",
            got=", ".join(name for name, value in named.items() if value is not None) or "neither store nor model",
            expected="--activations, or --model and --text",
        )
    from sae_train import computed_activations

    target = given["target_hook_point"]
    places = (*given["hook_points"], *([target] if target else []))
    return computed_activations(model, text, tuple(dict.fromkeys(places)), device=device, **how)


def refuse_own_input(given: Mapping[str, object]) -> None:
    """Refuse, where outputs may be replaced, one that is an input or lies around one: that would destroy what is read.

    Args:
        given: The parameters of a command; those that name something on the disk are inputs.

    Raises:
        ConfigError: An output is an input.
    """
    outputs = [name for name in OUTPUTS if isinstance(given.get(name), Path)]
    inputs = {name: value for name, value in given.items() if name not in (*OUTPUTS, "config_path")}
    for out in outputs if given.get("overwrite") else ():
        goal = os.path.realpath(Path(str(given[out])))
        for name, values in inputs.items():
            for value in values if isinstance(values, tuple | list) else (values,):
                if not isinstance(value, str | Path) or not os.path.exists(value):
                    continue
                if Path(os.path.realpath(value)).is_relative_to(goal):
                    raise ConfigError(
                        f"the output would take the place of what is read: '{given[out]}'",
                        got=f"{value} (`{name}`)",
                        field=out,
                        expected="another path",
                    )
