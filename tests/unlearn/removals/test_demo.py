"""The demo: what differs from the commands' own defaults."""

from __future__ import annotations

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
