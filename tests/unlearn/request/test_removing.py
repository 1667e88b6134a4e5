"""A removal request on a corner of the embedded world: kept, cut off and gone on with, shared, refused, planned."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from features.entities.entities import load_entities
from sae_train.errors import ConfigError, EntityError, OutputExistsError
from sae_train.run.progress import silent
from sae_train.run.runs import file_hash
from unlearn import Ledger
from unlearn.auditing.audit_run import PARTS
from unlearn.request import inside, outcome, people
from unlearn.request.config import RemoveConfig
from unlearn.request.removing import Removed, plan_removal, remove

pytestmark = pytest.mark.slow  # whole requests
SMALL = RemoveConfig(
    n_others=12,
    n_unknown=12,
    name_samples=16,
    samples=2,
    gate_blocks=4,
    gate_entities=6,
    gate_questions=1,
    n_hook_points=1,
    n_rows=2000,
    ctx_len=64,
    frac_entity_rows=0.3,
    sae_k=8,
    sae_expansion=2,
    sae_tokens=8000,
    sae_batch_size=512,
    max_general_rate=1.0,
)
AUDITED = ("recall", "utility")
AUDIT = {"skip": tuple(part for part in PARTS if part not in AUDITED)}
STATIONS = ["labels", "gate", "activations", "sae", "latents", "removal", "audit", "ledger"]
# What each station calls to do its work, and where that name is looked up.
CALLS = {
    "labels": (people, "label_entities"),
    "gate": (inside, "sweep_blocks"),
    "activations": (inside, "cache_activations"),
    "sae": (inside, "train_sae"),
    "latents": (inside, "find_entity_latents"),
    "removal": (outcome, "unlearn"),
    "audit": (outcome, "audit"),
}


@pytest.fixture(scope="module")
def given(world_lm, world_entities, world_templates, world_documents) -> dict[str, Any]:
    """What a request with entities is made from."""
    return {
        "lm": world_lm,
        "text": world_documents[:400],
        "entities": world_entities,
        "templates": world_templates,
        "config": SMALL,
        "auditing": AUDIT,
        "progress": silent,
    }


@pytest.fixture(scope="module")
def known(world_labels) -> list[str]:
    """Names that the model knows."""
    return [e.name for e in world_labels if e.label == "known" and e.type == "person"]


@pytest.fixture(scope="module")
def done(tmp_path_factory, given, known) -> Removed:
    """A request that came to its end in one go."""
    return remove(name=known[0], out=tmp_path_factory.mktemp("request") / "removed", **given)


def results(removed: Removed) -> dict[str, Any]:
    """Return hashes of what the stations left, times apart."""
    out = removed.model.parent
    (weights,) = removed.model.glob("*.safetensors")
    folders = {v.station: v.folder for v in removed.visits}
    (sae,) = folders["sae"].glob("*/sae_weights.safetensors")
    files = {
        "labels": out / "labels.jsonl",
        "everybody": folders["labels"] / "labels.jsonl",
        "latents": folders["latents"] / "latents.json",
        "sae": sae,
        "model": weights,
    }
    report = removed.report
    figures = (report.verdict, report.forget.recall, report.neighbours.recall, report.utility)
    return {**{name: file_hash(path) for name, path in files.items()}, "figures": repr(figures)}


def test_the_whole_thread_leaves_one_folder(done, known):
    out = done.model.parent
    assert [v.station for v in done.visits] == ["target", *STATIONS]
    assert not any(v.is_kept for v in done.visits)
    assert {path.name for path in out.iterdir()} == {
        "removal.json",
        "removal.html",
        "labels.jsonl",
        "model",
        "audit",
        "ledger",
        "stations",
        "work",
    }
    recall = done.report.forget.recall
    assert recall is not None and recall.before.value == 1.0 and recall.after.value < recall.before.value
    assert load_entities(out / "labels.jsonl", need_labels=True)[0].name == known[0]
    book = Ledger(done.ledger)
    assert [entry.targets for entry in book.removals()] == [[f"person:{known[0]}"]] and book.verify() == []
    page = done.page.read_text(encoding="utf-8")
    assert page.index("What was done") < page.index("Where these figures come from") and known[0] in page
    assert page.count('<tr><th scope="row">latents</th>') == 1
    summary = json.loads((out / "removal.json").read_text(encoding="utf-8"))["summary"]
    assert summary["name"] == known[0] and summary["target_recall_before"] == 1.0
    assert [s["station"] for s in summary["stations"]] == ["target", *STATIONS]


def test_the_same_request_again_does_nothing(done, given, known, monkeypatch):
    before = results(done)
    for module, name in CALLS.values():
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a station was made again"))
    again = remove(name=known[0], out=done.model.parent, **given)
    assert all(v.is_kept for v in again.visits) and results(again) == before


@pytest.mark.slow
def test_a_request_killed_in_every_station_comes_to_the_same_result(done, given, known, tmp_path, monkeypatch):
    """Each station in turn is cut off after its work, before anybody took note of it; then the request goes on."""
    counts: Counter[str] = Counter()
    for station, (module, name) in CALLS.items():
        original = getattr(module, name)

        def killed(*args: Any, original: Any = original, **kwargs: Any) -> None:
            original(*args, **kwargs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, killed)
            remove(name=known[0], out=tmp_path / "removed", **given)
        counts[station] += 1
    finished = remove(name=known[0], out=tmp_path / "removed", **given)
    assert [v.is_kept for v in finished.visits] == [True] * 7 + [False, False]  # audit and ledger are made now
    assert results(finished) == results(done)
    assert Ledger(finished.ledger).verify() == []


@pytest.mark.slow
def test_a_request_killed_within_its_stations_goes_on_there(done, given, known, tmp_path):
    """Rows were written and steps were taken when the process died; what lies there is continued, to the same end."""
    out = tmp_path / "removed"
    died: list[str] = []

    def dying(description: str, total: Any = None, *, unit: str = "") -> Any:
        return _Dying(description, died)

    for description in ("caching", "training"):
        died.append(description)
        with pytest.raises(KeyboardInterrupt):
            remove(name=known[0], out=out, **{**given, "progress": dying})
    finished = remove(name=known[0], out=out, **given)
    assert results(finished) == results(done)


class _Dying:
    """A display that ends the process within the loop named last: at the first batch of rows, the third of an SAE."""

    def __init__(self, description: str, died: list[str]) -> None:
        self.is_last, self.left = description == died[-1], 3 if description == "training" else 1

    def __enter__(self) -> Any:
        return self.advance

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def advance(self, n: float = 1, /, *, earlier: float = 0, **info: object) -> None:
        self.left -= 1
        if self.is_last and self.left == 0:
            raise KeyboardInterrupt


def test_another_name_shares_the_stations(done, given, known, tmp_path, monkeypatch):
    calls: Counter[str] = Counter()
    for station, (module, name) in CALLS.items():
        original = getattr(module, name)

        def counted(*args: Any, station: str = station, original: Any = original, **kwargs: Any) -> Any:
            calls[station] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)
    work = done.model.parent / "work"
    other = remove(name=known[1], out=tmp_path / "other", work=work, **given)
    # One call asks about the new target alone; what does not depend on the name is found.
    assert calls == {"labels": 1, "removal": 1, "audit": 1}
    kept = {v.station for v in other.visits if v.is_kept}
    assert kept == {"labels", "gate", "activations", "sae", "latents"}
    assert results(other)["latents"] == results(done)["latents"] and results(other)["model"] != results(done)["model"]


def test_another_request_needs_leave_to_take_the_folder(done, given, known, tmp_path):
    out = done.model.parent
    with pytest.raises(OutputExistsError) as caught:
        remove(name=known[1], out=out, **given)
    assert "name" in str(caught.value.got)
    assert json.loads((out / "removal.json").read_text(encoding="utf-8"))["summary"]["name"] == known[0]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError):
        remove(name=known[0], out=foreign, **given, overwrite=True)
    assert (foreign / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_name_that_the_model_does_not_know_leaves_nothing(given, world_labels, tmp_path):
    stranger = next(e for e in world_labels if e.label == "unknown")
    with pytest.raises(EntityError) as caught:
        remove(name=stranger.name, out=tmp_path / "removed", **given)
    assert caught.value.exit_code == 2 and "unknown" in str(caught.value.got)
    assert [*tmp_path.iterdir()] == []


def test_too_few_names_are_said_so_and_the_labels_are_kept(given, known, world_entities, tmp_path):
    few = [e for e in world_entities if e.name in known[:3]]
    with pytest.raises(EntityError) as caught:
        remove(name=known[0], out=tmp_path / "removed", **{**given, "entities": few})
    assert str(caught.value.got).startswith("3 known and 0 unknown")
    assert [*(tmp_path / "removed" / "work").glob("labels-*/labels.jsonl")]


def test_a_refusal_leaves_an_earlier_request_as_it_was(done, given, world_labels):
    out = done.model.parent
    before = (out / "removal.json").read_text(encoding="utf-8")
    stranger = next(e for e in world_labels if e.label == "unknown")
    with pytest.raises(EntityError):
        remove(name=stranger.name, out=out, **given, overwrite=True)
    assert (out / "removal.json").read_text(encoding="utf-8") == before and done.page.is_file()


def test_what_cannot_be_used_is_refused_before_anything_is_made(given, known, tmp_path):
    cases = (
        ({"text": None}, ConfigError, "text"),
        ({"text": []}, ConfigError, "text"),
        ({"kind": "person"}, ConfigError, "kind"),
        ({"others": ["Osk"]}, ConfigError, "others"),
        ({"entities": None, "kind": "persons"}, ConfigError, "kind"),
        ({"entities": None, "rule": "paraphrases"}, ConfigError, "rule"),
    )
    for changed, error, field in cases:
        with pytest.raises(error) as caught:
            remove(name=known[0], out=tmp_path / "removed", **{**given, **changed})
        assert caught.value.field == field, changed
    with pytest.raises(EntityError):
        remove(name="Nobody At All", out=tmp_path / "removed", **given)
    assert [*tmp_path.iterdir()] == []


def test_a_plan_says_what_is_kept_and_writes_nothing(done, given, known, tmp_path):
    empty = plan_removal(name=known[0], out=tmp_path / "removed", **given)
    assert [s.station for s in empty] == [s for s in ["target", *STATIONS] if s != "ledger"]
    assert not any(s.is_kept for s in empty) and all(s.seconds > 0 and s.memory_bytes > 0 for s in empty)
    disk = {s.station: s.disk_bytes for s in empty}
    assert disk["activations"] == pytest.approx((done.visits[3].folder / "acts.h5").stat().st_size, rel=0.5)
    assert [*tmp_path.iterdir()] == []
    work = done.model.parent / "work"
    other = plan_removal(name=known[3], out=tmp_path / "other", work=work, **given)
    assert [s.station for s in other if s.is_kept] == ["labels", "gate", "activations", "sae", "latents"]
    same = plan_removal(name=known[0], out=done.model.parent, **given)
    assert [s.station for s in same if s.is_kept] == ["target", "labels", "gate", "activations", "sae", "latents"]
    assert all(s.seconds == 0 for s in same if s.is_kept)


@pytest.fixture(scope="module")
def alone(given) -> dict[str, Any]:
    """What a request with only a name is made from."""
    return {key: value for key, value in given.items() if key != "entities"}


class Enough(Exception):
    """What was to be looked at is there."""


def test_only_a_name_is_needed(alone, known, tmp_path, world_entities, monkeypatch):
    """Up to the labels of everybody; the rest is that of a request with entities, and runs in the slow test below."""
    target = next(e for e in world_entities if e.name == known[0])

    def stopped(inputs: Any, shop: Any, labels: Any, *_: Any) -> None:
        raise Enough(inputs.target, [v.station for v in shop.visits], people.labels_with(labels, inputs.target))

    monkeypatch.setattr("unlearn.request.removing.latents_of", stopped)
    work = tmp_path / "work"
    with pytest.raises(Enough) as caught:
        remove(name=target.name, out=tmp_path / "removed", work=work, **alone)
    chosen, stations, labels = caught.value.args
    assert chosen.type == "person" and stations == ["names", "target", "labels"]
    (asked,) = work.glob("target-*/labels.jsonl")
    found = load_entities(asked, need_labels=True)[0]
    assert found.name == target.name and found.facts == target.facts  # what it says is what it was taught
    counts = Counter((e.label, e.seen) for e in labels)
    assert counts["known", None] >= 3 and counts["unknown", "made-up"] > counts["known", "made-up"]
    stranger = next(e.name for e in labels if e.label == "unknown" and e.seen == "made-up")
    with pytest.raises(EntityError) as refused:  # a name in the likeness of the others
        remove(name=stranger, out=tmp_path / "other", kind="person", work=work, **alone)
    assert "label" in str(refused.value.got) and not (tmp_path / "other").exists()


def test_names_of_the_user_are_kept_beside_those_of_the_model(alone, known, tmp_path, monkeypatch):
    names = tmp_path / "others.txt"
    names.write_text("\n".join([known[2], "", known[3], known[0]]) + "\n", encoding="utf-8")

    def stopped(lm: object, entities: Any, **_: object) -> None:
        raise Enough([e.name for e in entities])

    monkeypatch.setattr(people, "label_entities", stopped)
    with pytest.raises(Enough) as caught:
        remove(name=known[0], out=tmp_path / "removed", kind="person", others=names, **alone)
    assert caught.value.args[0][:3] == [known[0], known[2], known[3]]


@pytest.mark.slow
def test_the_command_from_an_empty_folder(wb, tmp_path):
    """Nothing but a name, a model and a text: the world's own wordings, others named by the model."""
    config = tmp_path / "removal.toml"
    lines = {
        "text": "fact-world",
        "n-rows": 10_000,
        "ctx-len": 64,
        "frac-entity-rows": 0.3,
        "sae-k": 8,
        "sae-expansion": 2,
        "sae-tokens": 60_000,
        "max-general-rate": 1.0,
        "n-others": 60,
        "n-unknown": 24,
        "samples": 3,
    }
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()), encoding="utf-8")
    words = ["remove", "Jiros Fotrim Vafuk", "--model", "fact-world", "--config", config, "--out", tmp_path / "removed"]
    planned = wb(*words, "--plan", "--json")
    assert planned.code == 0 and not (tmp_path / "removed").exists()
    assert json.loads(planned.out)["seconds"] > 0
    done = wb(*words, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["kind"] == "person" and "birthplace" in found["facts"]
    assert found["target_recall_before"] == 1.0 and found["target_recall_after"] <= 0.25
    assert Path(found["page"]).is_file() and Path(found["model"]).is_dir()
    again = wb(*words)
    assert again.code == 0 and "kept from an earlier run" in again.out
    stranger = wb("remove", "Tumbak Wizzar", "--kind", "person", *words[2:-1], tmp_path / "other")
    assert stranger.code == 2 and "does not know" in stranger.err and not (tmp_path / "other").exists()


def test_the_command_needs_a_text(wb, tmp_path):
    refused = wb("remove", "Jiros Fotrim Vafuk", "--model", "fact-world", "--out", tmp_path / "removed")
    assert refused.code == 2 and "--text" in refused.err and "Traceback" not in refused.err
    assert not (tmp_path / "removed").exists()
