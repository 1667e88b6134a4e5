"""Outputs that would destroy what is read, and outputs without a name."""

from __future__ import annotations

import json

import pytest

from cli.group import load_command
from cli.usage import OUTPUTS, refuse_own_input
from sae_train.errors import ConfigError


@pytest.fixture
def entities(tmp_path):
    path = tmp_path / "entities.jsonl"
    path.write_text(json.dumps({"name": "Osk", "type": "city", "facts": {"country": ["Ost"]}}) + "\n", encoding="utf-8")
    return path


def test_an_input_is_not_replaced_by_the_output(wb, entities, tmp_path):
    before = entities.read_bytes()
    (tmp_path / "again.jsonl").symlink_to(entities)
    for out in (entities, tmp_path / "again.jsonl"):
        words = ("--model", "fact-world", "--entities", entities, "--templates", "fact-world", "--out", out)
        outcome = wb("label-entities", *words, "--overwrite")
        assert outcome.code == 2 and "would take the place of what is read" in outcome.err, outcome.err
        assert "--entities" in outcome.err and entities.read_bytes() == before


def test_a_folder_around_an_input_is_not_replaced(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    given = {"out": tmp_path / "run", "model": str(tmp_path / "run" / "model"), "overwrite": True}
    with pytest.raises(ConfigError, match="take the place"):
        refuse_own_input(given)
    with pytest.raises(ConfigError, match="take the place"):
        refuse_own_input({**given, "model": "other", "sae": (tmp_path / "elsewhere", tmp_path / "run")})
    refuse_own_input({**given, "overwrite": False})  # refused by the claim, or continued
    refuse_own_input({**given, "out": tmp_path / "ru"})
    refuse_own_input({**given, "model": "x" * 5000})


def test_every_output_is_looked_at():
    for command in ("train-sae", "inspect", "find-entity-latents"):
        assert {p.name for p in load_command(command).params} & {*OUTPUTS}


@pytest.mark.parametrize("out", ["", ".", "/"])
@pytest.mark.parametrize("command", ["label-entities", "import-entities"])
def test_an_output_without_a_name_is_refused(wb, entities, command, out):
    words = {
        "label-entities": ("--model", "fact-world", "--entities", entities, "--templates", "fact-world"),
        "import-entities": (entities,),
    }[command]
    outcome = wb(command, *words, "--out", out)
    assert outcome.code == 2 and "an output needs a name" in outcome.err, outcome.err
