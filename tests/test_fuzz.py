"""Files and options that nobody meant: each is refused by a typed error, or read to what it says; nothing is written.

Hypothesis makes the inputs, the same ones in every run. A file is one that is right, with something in it replaced: a
value by one of another kind, a byte, a length. What is read although it was changed has to come back the same when it
is written and read again.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cli.group import COMMANDS, load_command
from features.analysis.store import load_analysis
from features.entities.entities import load_entities, save_entities
from features.entities.formats.registry import import_entities
from features.entities.templates import load_templates, save_templates
from features.inspection.inspection import inspect_file
from sae_train.activations.store import ActivationStore
from sae_train.errors import InputError
from sae_train.lm.models import load_lm
from sae_train.run.checkpoints import CHECKPOINT, load_checkpoint
from sae_train.saes.interop import load_sae, save_sae
from sae_train.saes.topk import TopKSae
from sae_train.storage import h5
from sae_train.text.tokens import load_documents
from unlearn.auditing.audit_json import load_report
from unlearn.auditing.policy import DEFAULT_POLICY, load_policy
from unlearn.removals.ledger_entries import entry_hash, next_entry, read_entries
from unlearn.removals.record import RECORD, RemovalRecord

torch.set_num_threads(1)
STABLE: dict[str, Any] = {"derandomize": True, "deadline": None, "database": None}
HUGE, DEEP, HALF = "@HUGE@", "@DEEP@", "@HALF@"  # what no JSON writer writes; put in as text
RAW = {f'"{HUGE}"': "9" * 5000, f'"{DEEP}"': "[" * 20_000 + "]" * 20_000, HALF: "\\ud800"}
ODD: list[Any] = [None, True, False, 0, -1, 1.5, 10**400, 2**63, math.nan, math.inf, "", " ", "\n", "\0", "\u2028"]
ODD += [
    HUGE,
    DEEP,
    HALF,
    "x" * 3000,
    [],
    [[]],
    {},
    {"": None},
    ["x", 3],
    "{name}",
    "{name}{name}",
    "{",
    "東京",
    "known",
]
ODD += ["\u202eabc", "e\u0301", [None], {"a": ["b"]}, "1e999", "../../up", "C:\\x"]


def fuzz(n: int, made: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check `n` different inputs."""
    seen: dict[str, Any] = {}

    # Only drawn here: what a check leaves on the disk must not depend on how often hypothesis tries an input again.
    @settings(max_examples=n * 3, phases=[Phase.generate], suppress_health_check=[*HealthCheck], **STABLE)
    @given(made)
    def draw(value: Any) -> None:
        seen.setdefault(repr(value), value)

    draw()
    assert len(seen) >= n, f"{len(seen)} of {n} are different"
    for shown, value in list(seen.items())[:n]:
        try:
            check(value)
        except Exception as error:
            error.add_note(f"the input: {shown[:2000]}")
            raise


@contextmanager
def refused_or_read(folder: Path) -> Iterator[None]:
    """The block works, or ends in one of our errors that says what it got; nothing appears in the folder."""
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    try:
        yield
    except InputError as error:
        assert error.exit_code == 2 and "got:" in str(error), error
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


# ----------------------------------------------------------------------------------------------------------------- JSON
def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in places(one, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON value with another one at a place; the special value `...` takes the place away."""
    if not path:
        return None if new is ... else new
    copied = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is ...:
        del copied[path[0]]
    elif len(path) == 1 and isinstance(new, tuple):  # a key by another name
        copied = {new[0] if k == path[0] else k: v for k, v in copied.items()} if isinstance(copied, dict) else copied
    else:
        copied[path[0]] = put(copied[path[0]], path[1:], new)
    return copied


def changed(right: Any) -> st.SearchStrategy[Any]:
    """Return the strategy of a JSON value with one or two places changed."""

    def twice(value: Any) -> st.SearchStrategy[Any]:
        return st.one_of(st.just(value), once(value))

    def once(value: Any) -> st.SearchStrategy[Any]:
        odd = st.sampled_from([*ODD, ..., ("",), (HALF,), ("label",)])
        return st.builds(lambda path, new: put(value, path, new), st.sampled_from(places(value)), odd)

    return once(right).flatmap(twice)


def text_of(value: Any) -> str:
    """Return JSON with what no writer writes put in."""
    text = json.dumps(value)
    for mark, raw in RAW.items():
        text = text.replace(mark, raw)
    return text


ENTITY = {
    "name": "Osk",
    "type": "city",
    "aliases": ["Oska"],
    "facts": {"country": ["Kenya", "KE"], "river": "Ost"},
    "label": "known",
    "answers": {"country": ["Kenya", "Peru"]},
    "samples": {"country": [["Kenya"], ["Peru"]]},
    "popularity": 3.5,
    "name_tokens": 2,
    "seen": "facts",
    "agreed": {
        "country": {
            "answer": "Kenya",
            "frac_greedy": 1.0,
            "frac_sampled": 1.0,
            "frac_made_up_greedy": 0.0,
            "frac_made_up_sampled": 0.0,
        }
    },
    "given_facts": {"country": ["Kenya"]},
}
TEMPLATES = {
    "city": {
        "mention": ["The city of {name}"],
        "country": {"ask": ["{name} is in"], "heldout": ["The country of {name} is"]},
        "languages": {"de": {"country": ["{name} liegt in"]}},
    },
    "city:Osk": {"country": {"ask": ["Where is {name}?"]}},
}


def test_entities_and_labels(tmp_path):
    path, again = tmp_path / "e.jsonl", tmp_path / "again.jsonl"
    again.touch()

    def check(value: Any) -> None:
        path.write_text(text_of(value) + "\n", encoding="utf-8")
        found = None
        with refused_or_read(tmp_path):
            found = load_entities(path)
            load_entities(path, need_labels=True)
        if found is not None:
            save_entities(found, again)
            assert load_entities(again) == found

    fuzz(90, changed(ENTITY), check)


def test_templates(tmp_path):
    path, again = tmp_path / "t.json", tmp_path / "again.json"
    again.touch()

    def check(value: Any) -> None:
        path.write_text(text_of(value), encoding="utf-8")
        found = None
        with refused_or_read(tmp_path):
            found = load_templates(path)
        if found is not None:
            save_templates(found, again)
            assert load_templates(again) == found

    fuzz(60, changed(TEMPLATES), check)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".txt", ".txt.gz", ".csv", ".tsv"])
def test_bytes_of_any_encoding(suffix, tmp_path):
    """What is read is Unicode text, in every reader of text."""
    import gzip

    line = {".csv": "name,type,country,popularity\nOsk,city,Kenya;KE,3\n", ".tsv": "name\ttype\nOsk\tcity\n"}
    right = line.get(suffix, json.dumps({"name": "Osk", "type": "city", "text": "São Tomé 東京"}) + "\n")
    codings = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252", "shift_jis", "gb18030", "utf-7")
    encoded = [right.encode(c, "replace") for c in codings]
    odd = [
        b"",
        b"\xff",
        b"\x80",
        b"\0",
        b"\r",
        b'"',
        b'""',
        b",",
        b"\t",
        b";",
        b"\xed\xa0\x80",
        b"\x1f\x8b",
        b"\xef\xbb\xbf",
    ]
    odd += [b"name", b"facts", b"9" * 5000, b"[" * 20_000, "\u2028é".encode(), b"{", b"}", b"x" * 140_000]

    def at(data: bytes, place: int, new: bytes, cut: int) -> bytes:
        place %= len(data) + 1
        return data[:place] + new + data[place + cut :]

    made = st.builds(at, st.sampled_from(encoded), st.integers(0, 200), st.sampled_from(odd), st.integers(0, 3))
    path = tmp_path / f"a{suffix}"

    def check(data: bytes) -> None:
        packed = gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data
        path.write_bytes(packed[: len(packed) - len(data) % 7] if suffix.endswith(".gz") else packed)
        for read in (load_documents, load_entities, lambda p: import_entities(p, format="auto").entities):
            with refused_or_read(tmp_path):
                for one in read(str(path) if read is load_documents else path):
                    (one.text if hasattr(one, "text") else one.name).encode()

    fuzz(40, made, check)


def test_columns_of_a_parquet_file(tmp_path):
    import pyarrow
    import pyarrow.parquet

    cells = [None, b"\xff", "x", "", 3, 2.5, [1], {"a": 1}, True, "a\0b", b"ok"]
    names = st.lists(st.sampled_from(["text", "name", "type", ""]), min_size=1, max_size=3)
    value = st.sampled_from(cells)
    path = tmp_path / "a.parquet"

    def check(made: tuple[list[str], Any, Any, int | None]) -> None:
        columns, one, other, cut = made
        try:
            array = pyarrow.array([one, other])
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            array = pyarrow.array([one, one])
        stream = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays([array] * len(columns), names=columns), stream)
        data = bytearray(stream.getvalue())
        if cut is not None:  # in the file's foot, where its layout is written
            data[-8 - cut % 150] ^= 0x55
        path.write_bytes(bytes(data))
        with refused_or_read(tmp_path):
            assert all(isinstance(d.text, str) for d in load_documents(str(path)))

    fuzz(50, st.tuples(names, value, value, st.one_of(st.none(), st.integers(0, 150))), check)


# -------------------------------------------------------------------------------------------------- folders and records
def _record() -> dict[str, Any]:
    return {
        "run_id": "r",
        "config": {"method": "redirect"},
        "inputs": {"forget": ["city:Osk"], "partners": ["city:Lim"], "retain": ["city:Ost"], "original": "m"}
        | {"original_hash": "h", "earlier": [], "earlier_partners": []},
        "result": {"hook_point": "layers.1"},
        "chain": [{"retain": ["city:A"], "original": "m", "original_hash": "h"}],
        "model_hash": "h",
    }


def test_records_of_removals(tmp_path):
    def check(value: Any) -> None:
        (tmp_path / RECORD).write_text(text_of(value), encoding="utf-8")
        with refused_or_read(tmp_path):
            found = RemovalRecord.read(tmp_path)
            assert isinstance(found.removed, dict) and isinstance(found.method, str)

    fuzz(60, changed(_record()), check)


def test_ledgers(tmp_path):
    """Lines whose hash is right, whatever they say."""
    mark = {"file": "audit.json", "sha256": "0", "verdict": "pass"}
    values = {
        "action": "removal",
        "request": {"forget": ["Osk"]},
        "model": {},
        "inputs": {},
        "config": {},
        "audit": mark,
    }
    right = {**json.loads(next_entry([], values).line()), "time": "2026-01-01T00:00:00+00:00"}
    path = tmp_path / "l.jsonl"

    def check(value: Any) -> None:
        try:
            whole = {**value, "hash": entry_hash(value)} if isinstance(value, dict) else value
            line = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        except ValueError:
            line = text_of(value)
        path.write_text(line.replace(HALF, "\\ud800") + "\n", encoding="utf-8")
        with refused_or_read(tmp_path):
            assert [e.targets for e in read_entries(path)]

    fuzz(50, changed(right), check)


def test_audits_and_policies(tmp_path):
    here = Path(__file__).parent
    right = json.loads((here / "unlearn" / "auditing" / "audit_v2.json").read_text(encoding="utf-8"))
    lines = DEFAULT_POLICY.read_text(encoding="utf-8").splitlines()
    report, policy = tmp_path / "audit.json", tmp_path / "p.toml"

    def check_report(value: Any) -> None:
        report.write_text(text_of(value), encoding="utf-8")
        with refused_or_read(tmp_path):
            load_report(report)

    words = ["1979-05-27", "[[1]]", "{}", "9" * 5000, "nan", "true", '"x"', "-1", "[" * 5000 + "]" * 5000, ""]

    def check_policy(made: tuple[int, str]) -> None:
        changed_lines = list(lines)
        key = changed_lines[made[0]].split("=")[0]
        changed_lines[made[0]] = f"{key}= {made[1]}"
        policy.write_text("\n".join(changed_lines), encoding="utf-8")
        with refused_or_read(tmp_path):
            load_policy(policy)

    fuzz(40, changed(right), check_report)
    fuzz(30, st.tuples(st.integers(0, len(lines) - 1), st.sampled_from(words)), check_policy)


def test_sae_folders(tmp_path):
    folder = tmp_path / "sae"
    sae = TopKSae(4, 8, k=2)
    cfg = save_sae(sae, folder, hook_point="layers.1", metadata={"model_name": "m"})
    whole = (folder / "cfg.json").read_text(encoding="utf-8")
    head = json.loads((folder / "sae_weights.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}")
    data = (folder / "sae_weights.safetensors").read_bytes()
    body = data[8 + struct.unpack("<Q", data[:8])[0] :]

    def check_config(value: Any) -> None:
        (folder / "cfg.json").write_text(text_of(value), encoding="utf-8")
        with refused_or_read(tmp_path):
            assert load_sae(folder).W_dec.shape == (8, 4)

    def check_head(value: Any) -> None:
        raw = text_of(value).encode()
        (folder / "sae_weights.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + body)
        with refused_or_read(tmp_path):
            assert load_sae(folder).W_dec.shape == (8, 4)

    fuzz(60, changed(json.loads(json.dumps(cfg))), check_config)
    (folder / "cfg.json").write_text(whole, encoding="utf-8")
    fuzz(40, changed(head), check_head)


def test_checkpoints(tmp_path):
    tensors = {"w": torch.zeros(2)}
    identities = st.dictionaries(
        st.sampled_from(["step", "config", "inputs"]), st.sampled_from(["1", "x", "{}", "[", ""])
    )
    lengths = st.integers(0, 80)

    def check(made: tuple[dict[str, str], int]) -> None:
        save_file(tensors, tmp_path / CHECKPOINT, metadata=made[0])
        data = (tmp_path / CHECKPOINT).read_bytes()
        (tmp_path / CHECKPOINT).write_bytes(data[: len(data) - made[1]])
        with refused_or_read(tmp_path):
            load_checkpoint(tmp_path, {"config": "{}"})

    fuzz(30, st.tuples(identities, lengths), check)


# ---------------------------------------------------------------------------------------------- HDF5, GGUF, models
@pytest.mark.slow
def test_hdf5_files_that_are_sealed_and_still_not_ours(make_store, tmp_path):
    """Attributes and datasets are changed and sealed anew: the checksum is right, what it vouches for is not."""
    source = make_store(torch.ones(40, 4))
    right, path = tmp_path / "right.h5", tmp_path / "acts.h5"
    shutil.copy(source, right)
    with h5py.File(right) as file:
        names: list[str] = []
        file.visit(names.append)
        keys = [k for k in file.attrs if k != h5.SEAL]
    odd = st.sampled_from(
        [None, 3, -1, 2.5, "x", "", "[1", "[]", "{}", "null", 2**62, b"\xff", ["layers.0", "layers.7"]]
    )

    def check(made: tuple[str, str, Any]) -> None:
        key, name, value = made
        shutil.copy(right, path)
        with h5py.File(path, "r+") as file:
            if value is None:
                del file[name]
            elif key in file.attrs:
                del file.attrs[key]
                if value != "":
                    h5.set_attrs(file, {key: value})
            h5.seal(file)
        for read in (ActivationStore, inspect_file, load_analysis):
            with refused_or_read(tmp_path):
                read(path)

    fuzz(60, st.tuples(st.sampled_from(keys), st.sampled_from(names), odd), check)


@pytest.mark.slow
def test_gguf_heads(gguf_file, tmp_path, monkeypatch):
    """Eight bytes of the head (counts, lengths, kinds) are others."""
    monkeypatch.setenv("WB_CACHE", str(tmp_path / "cache"))
    right, path = gguf_file.read_bytes(), tmp_path / "m.gguf"
    counts = [0, 1, 2**16, 2**31, 2**63, 2**64 - 1]

    def check(made: tuple[int, int, int]) -> None:
        at, new, keep = made
        path.write_bytes(right[:at] + struct.pack("<Q", new)[:keep] + right[at + keep :])
        try:
            load_lm(str(path), device="cpu")
        except InputError as error:
            assert "got:" in str(error)
        assert {p.name for p in tmp_path.iterdir()} <= {"m.gguf", "cache"}
        assert not list((tmp_path / "cache").glob("*.partial"))

    fuzz(16, st.tuples(st.integers(0, 400), st.sampled_from(counts), st.sampled_from([1, 4, 8])), check)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_model_folders(name, tiny_llama_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    whole = json.loads((folder / name).read_text(encoding="utf-8"))
    if name == "tokenizer.json":
        whole["model"]["merges"], whole["model"]["vocab"] = whole["model"]["merges"][:3], whole["model"]["vocab"]
    short = {k: v for k, v in whole.items()} if isinstance(whole, dict) else whole

    def check(value: Any) -> None:
        (folder / name).write_text(text_of(value), encoding="utf-8")
        with refused_or_read(tmp_path):
            load_lm(str(folder), device="cpu")

    if name == "tokenizer.json":  # the vocabulary is 320 places of one kind
        kept = {**short, "model": {**short["model"], "vocab": dict(list(short["model"]["vocab"].items())[:2])}}
        fuzz(12, changed(kept), check)
    else:
        fuzz(12, changed(short), check)


# -------------------------------------------------------------------------------------------------------------- options
WORDS = [
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "9" * 30,
    "9" * 5000,
    "1.5",
    "true",
    "é",
    "a" * 300,
    "../..",
]
WORDS += [
    "\udcff",
    "1e3",
    "0x10",
    "１",
    "none",
    "{}",
    "1,2",
    ",",
    "=",
    "x=y",
    "lr=",
    "null_share=1",
    "a\nb",
    "\u202e",
    "%s",
]
TOML = [
    "1979-05-27",
    "12:30:00",
    "[]",
    "[[1]]",
    "{ a = 1 }",
    "true",
    "2.5",
    "-1",
    "9" * 400,
    "9" * 5000,
    '"\\u0000"',
    '"é"',
    "nan",
]
TOML += ["'a'", "[1, 'x']", "0x7f", "1e400", "99999999999999999999", '""', "[true]", "inf"]


def _base_words(command: str, folder: Path) -> list[str]:
    """Return words of a command that cannot come to its end: its model, file or output is not usable."""
    junk = folder / "junk"
    words = {
        "cache-activations": ["--model", "nowhere", "--text", "fact-world", "--hook-point", "layers.0"],
        "train-sae": ["--activations", junk, "--hook-point", "layers.0"],
        "eval-sae": ["--sae", folder, "--activations", junk],
        "import-sae": [junk],
        "push": [folder, "someone/saes"],
        "compare-saes": [folder, folder],
        "import-entities": [junk],
        "label-entities": ["--model", "nowhere", "--entities", "fact-world", "--templates", "fact-world"],
        "find-entity-latents": ["--model", "nowhere", "--sae", folder, "--labels", junk, "--templates", "fact-world"],
        "unlearn": ["--model", "nowhere", "--sae", folder, "--latents", junk, "--labels", junk]
        + ["--templates", "fact-world", "--text", "fact-world", "--forget", "Osk"],
        "audit": ["--model", "nowhere", "--unlearned", "nowhere", "--labels", junk]
        + ["--templates", "fact-world", "--forget", "Osk"],
        "inspect": [junk],
    }.get(command, [])
    out = [] if command in ("eval-sae", "compare-saes", "inspect", "push") else ["--out", folder]
    return [command, *map(str, words), *map(str, out)]


FUZZED = [c for c in COMMANDS if c not in ("cache", "ledger", "doctor")]


def _options(command: str) -> list[str]:
    """Return the options of a command that take a value."""
    found = [p for p in load_command(command).params if hasattr(p, "is_flag") and not p.is_flag]
    return sorted(p.opts[0] for p in found if p.opts[0] not in ("--config", "--cache", "--wandb"))


@pytest.mark.slow
@pytest.mark.parametrize("command", FUZZED)
def test_values_of_options(command, wb, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "junk").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    options = [o for o in _options(command) if o != "--out"]

    def check(made: tuple[str, str]) -> None:
        option, word = made
        with refused_or_read(tmp_path):
            done = wb(*_base_words(command, folder), option, word)
            assert done.code == 2 and done.err.count("\nError: ") <= 1 and "Traceback" not in done.err, done.err

    if options:
        fuzz(25, st.tuples(st.sampled_from(options), st.sampled_from(WORDS)), check)


@pytest.mark.slow
@pytest.mark.parametrize("command", FUZZED)
def test_values_in_a_configuration(command, wb, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "junk").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    path = tmp_path / "c.toml"
    flags = [p for p in load_command(command).params if getattr(p, "is_flag", False) and p.opts[0] != "--help"]
    options = [*_options(command), *(p.opts[0] for p in flags if p.name != "overwrite")]

    def check(made: tuple[str, str]) -> None:
        option, value = made
        path.write_text(f"{option.removeprefix('--')} = {value}\n", encoding="utf-8")
        words = _base_words(command, folder)
        if option in words and option != "--out":
            del words[words.index(option) : words.index(option) + 2]
        with refused_or_read(tmp_path):
            done = wb(*words, "--config", path)
            assert done.code == 2 and done.err.count("\nError: ") <= 1 and "Traceback" not in done.err, done.err

    fuzz(25, st.tuples(st.sampled_from(options), st.sampled_from(TOML)), check)


@pytest.mark.parametrize("out", ["x" * 300, "x" * 240, "é" * 120, "junk/inside", "a/" + "b" * 300 + "/c"])
def test_names_of_outputs_that_no_disk_takes(out, wb, tmp_path):
    (tmp_path / "junk").write_text("a file")
    before = sorted(tmp_path.iterdir())
    done = wb(
        "label-entities",
        "--model",
        "nowhere",
        "--entities",
        "fact-world",
        "--templates",
        "fact-world",
        "--out",
        tmp_path / out,
    )
    assert done.code == 2 and "nowhere" not in done.err and "Traceback" not in done.err, done.err
    assert sorted(tmp_path.iterdir()) == before
