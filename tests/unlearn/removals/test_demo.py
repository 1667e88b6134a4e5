"""The demo: what differs from the commands' own defaults."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from features.entities.entities import load_entities
from features.entities.templates import load_templates
from features.labels.labels import Labels
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import silent
from unlearn.removals import demo


def test_some_wordings_label_and_all_are_known_afterwards(monkeypatch, tmp_path):
    asked = []

    def label(lm, entities, *, templates, out, progress):
        asked.append(templates)
        return Labels(tuple(entities), templates)

    monkeypatch.setattr(demo, "label_entities", label)
    templates, entities = load_templates("fact-world"), load_entities("fact-world")[:3]
    labels = demo._labelled(
        object.__new__(LanguageModel), entities, templates, tmp_path, demo.DemoConfig(every_wording=3), silent
    )
    assert labels.templates == templates
    assert asked[0].ask["person"]["job"] == templates.ask["person"]["job"][::3] != templates.ask["person"]["job"]
    assert asked[0].heldout == templates.heldout


class UnlearningBegins(Exception):
    pass


def test_the_page_of_the_latents_is_named_before_unlearning_begins(monkeypatch, tmp_path, caplog):
    def mined(*_: object, out: Path, **__: object) -> None:
        out.with_suffix(".html").write_text("a page", encoding="utf-8")

    def begun(*_: object, **__: object) -> None:
        raise UnlearningBegins

    for name in ("_labelled", "_cached", "_trained", "load_lm"):
        monkeypatch.setattr(demo, name, lambda *_, **__: SimpleNamespace(n_blocks=4))
    monkeypatch.setattr(demo, "world_corpus", lambda seed: [])
    monkeypatch.setattr(demo, "choose_targets", lambda *_: [])
    monkeypatch.setattr(demo, "find_entity_latents", mined)
    monkeypatch.setattr(demo, "unlearn", begun)
    with caplog.at_level("INFO"), pytest.raises(UnlearningBegins):
        demo.run_demo(tmp_path / "demo", progress=silent)
    (said,) = [r.getMessage() for r in caplog.records if "can be looked at" in r.getMessage()]
    assert Path(said.split(": ", 1)[1]).read_text(encoding="utf-8") == "a page"
