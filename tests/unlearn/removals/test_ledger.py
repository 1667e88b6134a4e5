"""The ledger: a chain in which every changed byte is found, and rollbacks that lead back to the model before."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sae_train.errors import BusyError, FileFormatError, InputError, MissingFileError, SchemaError
from unlearn.auditing.audit_json import save_report
from unlearn.config import configure
from unlearn.removals.ledger import Ledger
from unlearn.removals.ledger_entries import START
from unlearn.removals.record import RemovalRecord
from unlearn.settings.redirection import ClosedFormSettings

BASE = "a" * 64


@pytest.fixture
def removal(tmp_path, one_name):
    """Return a function that writes the folder of an unlearned model and its audit."""

    def write(name: str, base: str = BASE, *, of: str = "base-model"):
        folder, audit = tmp_path / name, tmp_path / f"{name}-audit"
        (folder / "deep").mkdir(parents=True)
        audit.mkdir()
        digest = (name * 64)[:64]
        record = {
            "config": {"method": "redirect", "steps": 3},
            "inputs": {"model": of, "model_hash": base, "forget": [f"city:{name}"]},
            "model_hash": digest,
        }
        (folder / "unlearning.json").write_text(json.dumps(record))
        (folder / "model.safetensors").write_bytes(name.encode() * 40)
        (folder / "deep" / "tokenizer.json").write_text("{}")
        report = one_name("pass")
        save_report(replace(report, request=replace(report.request, unlearned_hash=digest)), audit / "audit.json")
        return folder, audit, digest

    return write


@pytest.fixture
def chain(tmp_path, removal):
    """Two removals, the second made from the model of the first."""
    ledger = tmp_path / "removals.jsonl"
    first, audit, digest = removal("b")
    Ledger(ledger).add(first, audit=audit, reference="request 1")
    second, _, _ = removal("c", digest, of=str(first))
    Ledger(ledger).add(second)
    return ledger, first, second


def test_a_chain_says_what_happened(chain):
    ledger, first, second = chain
    one, two = Ledger(ledger).entries()
    assert (one.previous, two.previous) == (START, one.hash)
    assert (one.targets, one.request["reference"], one.audit.verdict) == (["city:b"], "request 1", "pass")
    assert two.audit is None and two.config["method"] == "redirect"
    assert Ledger(ledger).newest_model() == str(second)
    assert (Ledger(ledger).base_of(one), Ledger(ledger).base_of(two)) == ("base-model", str(first))
    assert Ledger(ledger).verify(head=two.hash) == []


def test_every_changed_byte_of_the_ledger_is_found(chain):
    ledger, _, _ = chain
    whole = ledger.read_bytes()
    step = 7  # every seventh byte: all fields are hit, in a second
    for place in range(0, len(whole), step):
        ledger.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert Ledger(ledger).verify(), f"byte {place}: {whole[place - 20 : place + 20]!r}"
    ledger.write_bytes(whole)
    assert Ledger(ledger).verify() == []


@pytest.mark.parametrize(
    "name", ["model.safetensors", "unlearning.json", "deep/tokenizer.json", "../b-audit/audit.json"]
)
def test_every_changed_file_is_found(chain, name):
    ledger, first, _ = chain
    path = (first / name).resolve()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [c for c in Ledger(ledger).verify() if "was changed" in c and path.name in c]
    path.unlink()
    assert [c for c in Ledger(ledger).verify() if "is not there" in c and path.name in c]


def test_an_added_file_is_found(chain):
    ledger, first, _ = chain
    (first / "adapter_model.safetensors").write_bytes(b"x")
    assert ["was added" in c for c in Ledger(ledger).verify()] == [True]


def test_a_shortened_chain_is_found_by_its_head_only(chain):
    ledger, _, _ = chain
    head = Ledger(ledger).entries()[-1].hash
    ledger.write_text(ledger.read_text().splitlines(keepends=True)[0])
    assert Ledger(ledger).verify() == []
    assert "entries are missing" in Ledger(ledger).verify(head=head)[0]


def test_a_middle_entry_cannot_be_taken_out(chain, removal):
    ledger, _, second = chain
    third, _, _ = removal("d", Ledger(ledger).entries()[-1].model["hash"], of=str(second))
    Ledger(ledger).add(third)
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text(lines[0] + lines[2])
    assert "does not continue the chain" in Ledger(ledger).verify()[0]


def test_ledger_and_models_can_be_moved_together(chain, tmp_path):
    ledger, first, _ = chain
    here = tmp_path / "elsewhere"
    here.mkdir()
    for path in list(tmp_path.iterdir()):
        if path != here:
            path.rename(here / path.name)
    moved = here / ledger.name
    assert Ledger(moved).verify() == []
    assert Ledger(moved).newest_model() == str(here / "c")


def test_a_rollback_leads_to_the_model_before(chain):
    ledger, first, _ = chain
    before = Ledger(ledger).entries()
    with pytest.raises(InputError, match="cannot be rolled back"):
        Ledger(ledger)._roll_back(0, base_hash=BASE)  # the second removal was built on it
    with pytest.raises(InputError, match="not what it was"):
        Ledger(ledger)._roll_back(1, base_hash="f" * 64)
    assert Ledger(ledger).entries() == before
    Ledger(ledger)._roll_back(1, base_hash=before[0].model["hash"])
    assert [e.index for e in Ledger(ledger).removals()] == [0]
    assert Ledger(ledger).newest_model() == str(first)
    Ledger(ledger)._roll_back(0, base_hash=BASE)
    assert Ledger(ledger).newest_model() is None
    assert Ledger(ledger).verify() == []


def test_a_removal_has_to_build_on_the_newest(chain, removal):
    ledger, first, second = chain
    beside, _, _ = removal("d", of="base-model")
    with pytest.raises(InputError, match="does not build on the newest") as caught:
        Ledger(ledger).add(beside)
    assert str(second) in str(caught.value)
    with pytest.raises(InputError, match="in the ledger already"):
        Ledger(ledger).add(second)
    assert len(Ledger(ledger).entries()) == 2


def test_an_audit_of_another_model_is_refused(tmp_path, removal):
    folder, _, _ = removal("b")
    _, other, _ = removal("c")
    ledger = tmp_path / "removals.jsonl"
    with pytest.raises(InputError, match="another model"):
        Ledger(ledger).add(folder, audit=other)
    with pytest.raises(FileFormatError):
        Ledger(ledger).add(folder, audit=folder / "deep" / "tokenizer.json")
    assert not ledger.exists()


def test_what_is_no_unlearned_model_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="not an unlearned model"):
        Ledger(tmp_path / "l.jsonl").add(tmp_path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{}\n", SchemaError),
        ("no json\n", FileFormatError),
        ('{"schema":"sae-workbench/ledger","schema_version":2}\n', SchemaError),
        ('{"schema":"sae-workbench/ledger"', FileFormatError),
    ],
)
def test_other_files_are_refused(tmp_path, text, error):
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with pytest.raises(error):
        Ledger(path).entries()


def test_one_writer_at_a_time(chain, removal, monkeypatch):
    from filelock import FileLock

    import unlearn.removals.ledger as module

    ledger, _, second = chain
    third, _, _ = removal("d", Ledger(ledger).entries()[-1].model["hash"], of=str(second))
    monkeypatch.setattr(module, "_LOCK_WAIT_S", 0.05)
    with FileLock(ledger.with_name(ledger.name + ".lock")), pytest.raises(BusyError):
        Ledger(ledger).add(third)
    Ledger(ledger).add(third)


def test_a_record_of_an_earlier_version_is_read_by_the_names_of_now(tmp_path, removal):
    folder, _, _ = removal("b")
    record = json.loads((folder / "unlearning.json").read_text())
    record["config"] |= {"retain_share": 0.5, "settings": {"null_share": 0.1, "ridge": 1e-3}}
    (folder / "unlearning.json").write_text(json.dumps(record))
    config = dict(RemovalRecord.read(folder).values["config"])
    assert config["frac_retain"] == 0.5 and config["settings"] == {"frac_null": 0.1, "ridge": 1e-3}
    fields = {k: v for k, v in config.items() if k not in ("method", "settings")} | config["settings"]
    assert configure("redirect-closed-form", **fields).settings == ClosedFormSettings(frac_null=0.1, ridge=1e-3)
    assert Ledger(tmp_path / "removals.jsonl").add(folder).config == config


# ------------------------------------------------------------------------------------------------ the command
def test_the_command_from_add_to_rollback(wb, tmp_path, removal, world_lm):
    from sae_train.lm.models import weights_hash

    folder, audit, _ = removal("b", weights_hash(world_lm.model), of="fact-world")
    at = ("--ledger", tmp_path / "removals.jsonl", "--json")
    added = json.loads(wb("ledger", "add", *at, "--unlearned", folder, "--audit", audit).out)
    assert (added["entry"], added["forget"]) == (0, ["city:b"])
    verified = wb("ledger", "verify", *at, "--head", added["hash"])
    assert (verified.code, json.loads(verified.out)["head"]) == (0, added["hash"])
    shown = json.loads(wb("ledger", "show", *at).out)
    assert shown["newest_model"] == str(folder) and len(shown["entries"]) == 1
    assert "rolled back" not in wb("ledger", "show", *at[:2]).out
    (folder / "model.safetensors").write_bytes(b"changed")
    broken = wb("ledger", "verify", *at)
    assert broken.code == 2 and "model.safetensors' was changed" in broken.err
    back = wb("ledger", "rollback", *at, "--entry", 0)
    assert back.code == 0 and json.loads(back.out)["model"] == "fact-world"
    assert "removal, rolled back" in wb("ledger", "show", *at[:2]).out
    again = wb("ledger", "rollback", *at, "--entry", 0)
    assert again.code == 2 and "cannot be rolled back" in again.err


def test_no_ledger_is_said(wb, tmp_path):
    done = wb("ledger", "verify", "--ledger", tmp_path / "none.jsonl")
    assert done.code == 2 and "none.jsonl" in done.err
