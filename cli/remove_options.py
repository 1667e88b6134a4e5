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

NOT_OF_REMOVAL = ("method", "settings", "seed")  # the first has another default here, the others are no options
RULES = described(KnowledgeRule)
SIZES, REMOVAL, AUDIT = (
    tuple(name for name in described(kind) if name not in left_out)
    for kind, left_out in ((RemoveConfig, ("seed",)), (UnlearnConfig, NOT_OF_REMOVAL), (AuditConfig, ("seed",)))
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
        help="What the name is, as person, place, organisation, work; by default what the model takes it for.",
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
    """Return what `remove` takes: sizes, removal and audit each together, the rule whole; leave out what nobody gave.

    A method may have other defaults than the ones shown, and a rule is chosen by what the entities bring.
    """
    from unlearn.settings.registry import read_params

    source = click.get_current_context().get_parameter_source
    said = {name for name in given if source(name) is not ParameterSource.DEFAULT}
    sizes = {name: given.pop(name) for name in SIZES}
    removal = {name: value for name in REMOVAL if (value := given.pop(name)) is not None and name in said}
    audit = {name: value for name in AUDIT if (value := given.pop(name)) is not None and name in said}
    thresholds = {name: given.pop(name) for name in RULES if name != "name"}
    rule = given.pop("name")
    given["rule"] = KnowledgeRule(rule, **thresholds) if rule is not None else None
    changed = sorted(set(thresholds) & said)
    if rule is None and changed:
        from unlearn.request.inputs import refuse_thresholds

        refuse_thresholds(changed)
    params = read_params(sizes["method"], given.pop("param"))
    return {
        **given,
        "config": RemoveConfig(**sizes, seed=given.pop("seed")),
        "unlearning": {**removal, **params},
        "auditing": audit,
    }
