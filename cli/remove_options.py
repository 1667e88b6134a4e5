"""The options that only `wb remove` has: the name's surroundings, sizes, and every setting of removal and audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cli import options
from cli.entity_source import EntitySource, entities_format_option
from cli.unlearn_options import param_option
from features.config import KnowledgeRule
from sae_train.fields import described
from unlearn.config import AuditConfig, UnlearnConfig
from unlearn.request.config import RemoveConfig
from unlearn.settings.registry import read_params

NOT_OF_REMOVAL = ("method", "settings", "seed")  # the first has another default here, the others are no options
NOT_OF_PLAN = ("ledger", "reference", "overwrite")  # where results go; a plan has none
SIZES, THRESHOLDS, REMOVAL, AUDIT = (
    tuple(name for name in described(kind) if name not in left_out)
    for kind, left_out in (
        (RemoveConfig, ("seed",)),
        (KnowledgeRule, ("name",)),
        (UnlearnConfig, NOT_OF_REMOVAL),
        (AuditConfig, ("seed",)),
    )
)

people_options = options.option_list(
    click.option(
        "--entities", type=EntitySource(), help="Who there is: as for wb label-entities. Without: the model says."
    ),
    entities_format_option,
    options.file_option("--templates", "prompt templates (JSON)", world="templates", required=False),
    click.option(
        "--kind",
        metavar="KIND",
        help="What the name is: person, place, organisation, work, a type of --templates; the model says by default.",
    ),
    click.option(
        "--others",
        type=options.ExistingFile("names to keep"),
        help="Names to keep beside those that the model names: one a line (.txt), or entities.",
    ),
    options.config_options(
        KnowledgeRule,
        names={"name": "--rule"},
        depends={"name": "paraphrases where everybody has facts, else self-consistent"},
    ),
)
place_options = options.option_list(
    click.option(
        "--work",
        type=click.Path(path_type=Path, file_okay=False),
        help="Stations that requests about other names of the same model share; by default work in --out.",
    ),
    click.option(
        "--ledger",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Ledger to enter the removal in; by default one in --out.",
    ),
    click.option(
        "--reference", default="", metavar="TEXT", help="What the request is called elsewhere, for the ledger."
    ),
    click.option("--plan", is_flag=True, help="Print stations with estimated seconds, memory and disk; do nothing."),
)
remove_options = options.option_list(
    people_options,
    place_options,
    options.config_options(RemoveConfig, without=("seed",)),
    options.config_options(UnlearnConfig, without=NOT_OF_REMOVAL),
    param_option,
    options.config_options(
        AuditConfig, without=("seed",), names={"attack_steps": "--attack-step", "attack_lrs": "--attack-lr"}
    ),
)


def grouped(given: dict[str, Any]) -> dict[str, Any]:
    """Return what `remove` takes: sizes, rule, removal and audit each together, without what nobody gave.

    A method may have other defaults than the ones shown, and a rule is chosen by what the entities bring.
    """
    source = click.get_current_context().get_parameter_source
    said = {name for name in given if source(name) is not ParameterSource.DEFAULT}
    sizes = {name: given.pop(name) for name in SIZES}
    words, rule = given.pop("param"), given.pop("name")
    parts = {
        part: {name: value for name in names if (value := given.pop(name)) is not None and name in said}
        for part, names in (("labelling", THRESHOLDS), ("unlearning", REMOVAL), ("auditing", AUDIT))
    }
    parts["unlearning"] |= read_params(sizes["method"], words)
    config = RemoveConfig(**sizes, seed=given.pop("seed"))
    return {**given, **parts, "rule": rule, "config": config}
