"""The front door of the floor: labels and latents from objects and from paths, with and without files, as tables."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click import Command

import features
from cli.group import load_command
from features import (
    Labels,
    collect_names,
    find_entity_latents,
    inspect_file,
    label_entities,
    load_entities,
    load_templates,
    plant,
)
from features.config import GateConfig, KnowledgeRule, SelectionRule, SteeringConfig
from features.entities.templates import Templates
from features.factworld import build_world, shipped_world
from features.factworld.planting.config import PlantConfig
from sae_train.errors import ConfigError, EntityError, FileFormatError, OutputExistsError
from sae_train.run.progress import silent

SMALL_GATE = GateConfig(n_entities=4, n_questions=1)


# ------------------------------------------------------------------------------------------------ the door itself
@pytest.mark.parametrize("name", features.__all__)
def test_every_exported_name_is_there(name):
    assert getattr(features, name).__name__ == name
    assert name in dir(features)


def test_the_door_is_light_and_leaves_modules_alone():
    code = (
        "import sys, features; assert 'torch' not in sys.modules; "
        "from features.pages import plots; print(plots.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "features.pages.plots"), done.stderr
    with pytest.raises(AttributeError, match="nothing"):
        _ = features.nothing


# ------------------------------------------------------------------------------------------------ labels
@pytest.fixture(scope="module")
def few(world_entities):
    """Three people with facts and three that the corpus never names, and two cities."""
    people = [e for s in ("facts", "never") for e in [w for w in world_entities if w.seen == s][:3]]
    return people + [e for e in world_entities if e.type == "city"][:2]


@pytest.fixture(scope="module")
def labels(world_lm, few, world_templates):
    return label_entities(world_lm, few, templates=world_templates, progress=silent)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def files(few, world_templates, tmp_path_factory):
    """The same entities and templates as files."""
    here, t = tmp_path_factory.mktemp("front"), world_templates
    Labels(tuple(few)).save(here / "entities.jsonl")
    form = {
        kind: {
            "mention": t.mention[kind],
            **{a: {"ask": texts, "heldout": t.heldout[kind][a]} for a, texts in t.ask[kind].items()},
        }
        for kind in t.ask
    }
    (here / "templates.json").write_text(json.dumps(form), encoding="utf-8")
    return here


def test_labels_know_what_they_were_made_with(labels, few, world_templates):
    assert [e.key for e in labels] == [e.key for e in few]
    assert labels.templates is world_templates
    assert labels.rule == KnowledgeRule() and labels.lm_name and labels.path is None
    assert labels.counts == {"known": 5, "unknown": 3, "between": 0}
    assert labels.n_questions == sum(len(texts) for e in labels for texts in e.answers.values()) > 0
    part = labels[:2]
    assert isinstance(part, Labels) and part.templates is world_templates and len(part) == 2
    assert labels[0] in labels and labels[-1] == labels.entities[-1]


def test_objects_leave_nothing_on_the_disk(world_lm, few, world_templates, labels, empty):
    again = label_entities(world_lm, few, templates=world_templates, progress=silent)
    assert again == labels
    assert list(empty.iterdir()) == []


def test_paths_and_objects_give_the_same_labels(world_lm, files, labels, empty):
    given = {"templates": str(files / "templates.json"), "out": "labels.jsonl", "progress": silent}
    read = label_entities(str(shipped_world()), str(files / "entities.jsonl"), device="cpu", **given)
    assert read.entities == labels.entities and read.path == Path("labels.jsonl")
    assert [p.name for p in empty.iterdir()] == ["labels.jsonl"]
    assert labels.save(empty / "own.jsonl").read_bytes() == Path("labels.jsonl").read_bytes()
    loaded = Labels.load("labels.jsonl", templates=files / "templates.json")
    assert loaded.entities == labels.entities and loaded.templates == labels.templates and loaded.rule is None
    with pytest.raises(OutputExistsError):
        labels.save("own.jsonl")
    with pytest.raises(OutputExistsError):
        label_entities(world_lm, files / "entities.jsonl", **given)
    with pytest.raises(OutputExistsError, match="finished"):
        label_entities(world_lm, files / "entities.jsonl", resume=True, **given)
    assert label_entities(world_lm, files / "entities.jsonl", overwrite=True, **given).counts == labels.counts


def test_a_world_goes_by_its_name():
    assert load_entities("fact-world") == load_entities(shipped_world() / "entities.jsonl")
    assert load_templates("fact-world") == load_templates(str(shipped_world() / "templates.json"))


def test_another_rule_needs_no_model(labels):
    all_of_it = labels.relabel(min_known_attributes=1, min_frac_right=0.9)
    assert all_of_it.rule == KnowledgeRule(min_known_attributes=1, min_frac_right=0.9)
    assert all_of_it.templates is labels.templates and labels.rule == KnowledgeRule(), "the first ones stay"
    assert labels.relabel(labels.rule).entities == labels.entities
    with pytest.raises(ConfigError, match="samples|sampled"):
        labels.relabel("ferrando")
    with pytest.raises(ConfigError, match="no answers"):
        Labels(tuple(replace(e, answers={}) for e in labels)).relabel()


def test_labels_as_table_statistics_and_html(labels):
    table = labels.table()
    assert list(table["label"]) == [e.label for e in labels]
    assert table.loc[table["label"] == "known", "frac_right"].min() > 0.5
    assert table.loc[table["label"] == "unknown", "frac_right"].max() == 0
    assert int(table["n_answers"].sum()) == labels.n_questions
    assert labels.stats().rows[0].known == labels.counts["known"]
    shown = replace(labels, lm_name="<b>bold</b>")._repr_html_()
    assert "&lt;b&gt;bold" in shown and "<b>" not in shown and "<td>person</td>" in shown
    assert len(Labels(()).table()) == 0 and "label" in Labels(()).table().columns


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_known": 2}, "min_known_attributes"),
        ({"rule": KnowledgeRule(), "min_known_attributes": 1}, "either"),
        ({"rule": "ferando"}, "ferrando"),
        ({"rule": "ferrando", "samples": 0}, "10"),
        ({"chat": "maybe"}, "auto"),
        ({"duplicates": "merged"}, "merge"),
        ({"resume": True}, "out"),
        ({"temperature": 0.0}, "> 0"),
        ({"seed": -1}, ">= 0"),
    ],
)
def test_settings_that_make_no_sense(world_lm, few, world_templates, empty, settings, said):
    with pytest.raises(ConfigError) as caught:
        label_entities(world_lm, few, templates=world_templates, progress=silent, **settings)
    assert said in str(caught.value.expected)
    assert list(empty.iterdir()) == []


def test_an_entity_twice_is_settled_for_objects_too(world_lm, few, world_templates):
    twice = [*few[:2], few[0]]
    with pytest.raises(EntityError, match="entity 0 .* entity 2"):
        label_entities(world_lm, twice, templates=world_templates, progress=silent)
    found = label_entities(world_lm, twice, templates=world_templates, duplicates="first", progress=silent)
    assert [e.key for e in found] == [e.key for e in few[:2]]


# ------------------------------------------------------------------------------------------------ latents
@pytest.fixture(scope="module")
def all_labels(world_labels, world_templates):
    return Labels(tuple(world_labels), world_templates)


@pytest.fixture(scope="module")
def found(world_lm, world_sae, all_labels):
    """Found in objects, without a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.stats.probe.N_BOOTSTRAP", 50)  # what is tested here is no interval
        return find_entity_latents(world_lm, world_sae, all_labels, gate=SMALL_GATE, progress=silent)


def content(path: Path) -> dict[str, object]:
    """Return every dataset and attribute of a file but when it was made."""
    out: dict[str, object] = {}

    def add(name: str, item: h5py.HLObject) -> None:
        out.update({f"{name}@{k}": str(v) for k, v in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            out[name] = item[()].tolist() if item.dtype == object else item[()].tobytes()

    with h5py.File(path) as file:
        out.update({f"@{k}": str(v) for k, v in file.attrs.items() if k not in ("created", "attributes_sha256")})
        file.visititems(add)
    return out


def test_an_analysis_knows_its_sources_and_leaves_nothing(found, world_sae, all_labels, world_templates):
    assert found.sources.saes == [world_sae]
    assert found.sources.labels is all_labels and found.sources.templates is world_templates
    assert found.gate is not None and found.gate.config == SMALL_GATE and found.steering == []
    assert replace(found, sources=None).sources is None
    assert "sources" not in repr(replace(found, hook_points=[], evidence=[], gate=None))


def test_paths_and_objects_give_the_same_latents(found, world_lm, world_sae, all_labels, files, empty, monkeypatch):
    monkeypatch.setattr("features.stats.probe.N_BOOTSTRAP", 50)
    found.save("object.h5")
    all_labels.save("labels.jsonl")
    paths = {"templates": str(files / "templates.json"), "out": "path.h5", "names_out": "names.h5"}
    given = {**paths, "gate": SMALL_GATE, "progress": silent}
    read = find_entity_latents(world_lm, str(world_sae.folder), "labels.jsonl", **given)
    assert content(empty / "path.h5") == content(empty / "object.h5")
    assert read.sources.templates == all_labels.templates
    beside = {f"path{end}" for end in (".h5", ".json", ".html", "_figures")}
    assert {p.name for p in empty.glob("path*")} == beside
    with pytest.raises(OutputExistsError):
        find_entity_latents(world_lm, world_sae, all_labels, out="path.h5", progress=silent)
    with pytest.raises(OutputExistsError):
        found.save("path.h5")
    with pytest.raises(FileFormatError):
        found.save("latents.json")


def test_names_that_were_read_before_need_no_model(found, world_lm, world_sae, all_labels, empty, monkeypatch):
    monkeypatch.setattr("features.stats.probe.N_BOOTSTRAP", 50)
    names = collect_names(world_lm, all_labels, world_sae.hook_point, out="names.h5", progress=silent)
    again = find_entity_latents(None, [world_sae], names="names.h5", progress=silent)
    assert again.gate is None and again.evidence == [] and again.sources.labels is None
    np.testing.assert_array_equal(again.hook_points[0].q_value, found.hook_points[0].q_value)
    assert again.selected_rows("unknown") == found.selected_rows("unknown")
    for settings, said in (({"position": "all"}, "position"), ({"names_out": "n.h5"}, "names_out")):
        with pytest.raises(ConfigError, match=said):
            find_entity_latents(None, world_sae, names=names, progress=silent, **settings)
    with pytest.raises(ConfigError, match="gate"):
        find_entity_latents(None, world_sae, names=names, gate=SMALL_GATE, progress=silent)
    assert [p.name for p in empty.iterdir()] == ["names.h5"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tops": 3}, "top"),
        ({"rule": SelectionRule(), "top": 3}, "either"),
        ({"seed": -1}, ">= 0"),
        ({"labels": None}, "labels"),
        ({"labels": "bare"}, "templates"),
        ({"lm": None}, "lm"),
        ({"saes": []}, "one or more"),
    ],
)
def test_latents_of_too_little(world_lm, world_sae, all_labels, settings, said):
    given = {"lm": world_lm, "saes": world_sae, "labels": all_labels, "progress": silent, **settings}
    if given["labels"] == "bare":
        given["labels"] = Labels(all_labels.entities)
    with pytest.raises(ConfigError) as caught:
        find_entity_latents(**given)
    assert said in str(caught.value.expected)
    assert "--" not in str(caught.value), "the library names parameters, no flags"


def test_latents_as_table_and_html(found):
    table = found.table()
    rows = [*found.selected_rows("known"), *found.selected_rows("unknown")]
    assert rows and list(table["latent"]) == [r["latent"] for r in rows]
    assert list(table["direction"].unique()) == [d for d in ("known", "unknown") if found.selected_rows(d)]
    np.testing.assert_array_equal(table["separation"], [r["separation"] for r in rows])
    shown = found._repr_html_()
    assert shown.count("<svg") == 1 and "http" not in shown and f"<td>{rows[0]['latent']}</td>" in shown
    named = [replace(h, hook_point="<i>") for h in found.hook_points]
    assert "<i>" not in replace(found, hook_points=named)._repr_html_()
    nothing = replace(found, hook_points=[replace(h, selected={"known": [], "unknown": []}) for h in found.hook_points])
    assert len(nothing.table()) == 0 and {"direction", "latent"} <= set(nothing.table().columns)
    assert "No latent tells" in nothing._repr_html_()


def test_an_inspection_shows_itself(world_store):
    seen = inspect_file(str(world_store), verify=True)
    assert not seen.has_problems and seen.summary()["counts"] == seen.counts
    assert set(seen.table()["name"]) == {d["name"] for d in seen.datasets}
    assert "<td>sound</td>" in seen._repr_html_()
    assert "damaged: acts" in replace(seen, damaged=["acts"])._repr_html_()


# ------------------------------------------------------------------------------------------------ the command line
def defaults_of(command: Command) -> dict[str, object]:
    """Return what a command is given where nobody says anything; the empty tuple is None."""
    given = command.make_context("wb", [], resilient_parsing=True).params
    return {name: None if value == () else value for name, value in given.items()}


@pytest.mark.parametrize(
    ("name", "function", "called", "configs"),
    [
        (
            "label-entities",
            label_entities,
            {"name": "rule", "lm_dtype": "dtype"},
            {"": KnowledgeRule},
        ),
        (
            "find-entity-latents",
            find_entity_latents,
            {"lm_dtype": "dtype", "acts": "names", "acts_out": "names_out", "activations": "store"},
            {"": SelectionRule, "gate_": GateConfig, "steering_": SteeringConfig},
        ),
        ("inspect", inspect_file, {"model": "tokenizer"}, {}),
        ("world", (build_world, plant), {"documents": "n_documents"}, {"": PlantConfig}),
    ],
)
def test_defaults_are_those_of_the_command_line(name, function, called, configs):
    functions = function if isinstance(function, tuple) else (function,)
    own = {k: p.default for f in functions for k, p in inspect.signature(f).parameters.items()}
    kept = {f"{prefix}{f.name}": f.default for prefix, kind in configs.items() for f in fields(kind)}
    needed = {"saes", "entities", "templates", "file", "out", "model", "labels", "as_json", "config_path", "stats"}
    needed |= {"base", "text"}
    compared = 0
    for option, default in defaults_of(load_command(name)).items():
        parameter = called.get(option, option)
        if option in needed and own.get(parameter, None) in (None, inspect.Parameter.empty):
            continue  # an input, or about what is printed
        expected = own[parameter] if parameter in own else kept[option]
        assert (expected or None) == (default or None), option
        compared += 1
    assert compared >= 3


def test_templates_are_read_or_taken(world_templates):
    assert isinstance(Labels.of([], world_templates).templates, Templates)
    assert Labels.of(Labels(()), "fact-world").templates == load_templates("fact-world")
