"""An audit is attributes: nobody but `audit_json.py` looks a part of it up by the keys of the file."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("sae_train", "features", "unlearn", "cli", "benchmarks", "docs")
READER = ROOT / "unlearn" / "auditing" / "audit_json.py"
# Dictionaries of a report: their names are those of entities, places, attacks ..., not keys of the layout.
COLLECTIONS = (
    "attacks", "neighbour_kinds", "indistinguishability", "logit_lens", "value_probe", "walk", "lm_eval", "metrics",
    "compare", "config", "seconds_by_part",
)  # fmt: skip
FLAT = ("_before", "_after", "_low", "_high", "_value")  # ends of keys that figures and intervals are laid out in
REPORTS = ("report", "audit", "finding")  # what something is called that is an audit
# The demo's summary has some keys of the same name; it is another dictionary.
SUMMARY = {("cli/output/demo_table.py", key) for key in ("recall_before", "recall_after", "ranking_after")}


def layout_keys(value: Any, *, is_collection: bool = False) -> Iterator[str]:
    """Yield every key of the layout, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not is_collection:
                yield key
            yield from layout_keys(item, is_collection=key in COLLECTIONS and not is_collection)
    elif isinstance(value, list):
        for item in value:
            yield from layout_keys(item)


KEYS = set(layout_keys(json.loads(Path(__file__).with_name("audit_v2.json").read_text(encoding="utf-8"))))
FIELDS = {
    node.target.id
    for file in ("audit_figures.py", "attack_results.py", "audit_report.py")
    for node in ast.walk(ast.parse((ROOT / "unlearn" / "auditing" / file).read_text(encoding="utf-8")))
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
}
ONLY_IN_THE_FILE = {key for key in KEYS - FIELDS if key.endswith(FLAT)}
"""No attribute is called that, so that a look-up by it reads a flat dictionary, whatever that is called."""


def look_ups(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield line, source of what is looked into, and key of every look-up by a constant text."""
    for node in ast.walk(tree):
        base, key = None, None
        if isinstance(node, ast.Subscript):
            base, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in ("get", "pop", "setdefault"):
                base, key = node.func.value, node.args[0]
        if base is not None and isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield node.lineno, ast.unparse(base), key.value


def into_an_audit(source: str) -> list[tuple[int, str, str]]:
    """Return the look-ups into an audit: by a key only its file has, or by any of its keys into what is called so."""
    return [
        found
        for found in look_ups(ast.parse(source))
        if found[2] in ONLY_IN_THE_FILE or (found[2] in KEYS and any(name in found[1].lower() for name in REPORTS))
    ]


def test_nobody_looks_into_an_audit_by_its_keys():
    found = []
    for path in (p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py")) if p != READER):
        name = path.relative_to(ROOT).as_posix()
        hits = into_an_audit(path.read_text(encoding="utf-8"))
        found += [f"{name}:{line} {base}[{key!r}]" for line, base, key in hits if (name, key) not in SUMMARY]
    assert not found


def test_the_keys_are_those_of_the_file():
    assert {
        "recall_after",
        "ranking_after_low",
        "auroc_low",
        "compared_value",
        "unknown_after_high",
    } <= ONLY_IN_THE_FILE
    assert {"verdict", "checks", "forget", "indistinguishability", "recall_before", "threshold"} <= KEYS
    assert not {"layers.2", "relearn", "damaged", "hellaswag", "max_retain"} & KEYS, "names, not keys"


@pytest.mark.parametrize(
    "source",
    [
        'found["recall_after"]',
        'x.get("forget", {}).get("ranking_after", 0.0)',
        '[b["auroc_low"] for b in blocks]',
        'report["verdict"]',
        'audits[0]["checks"]',
        'self.report.get("forget")',
        'reports["untouched"]["behaviour"]',
    ],
)
def test_a_look_up_is_found(source):
    """Positive control: without it the test above could not fail."""
    assert into_an_audit(source)


@pytest.mark.parametrize(
    "source", ['report.attacks["relearn"].recall_after', 'row["name"]', 'report.indistinguishability["layers.2"].auroc']
)
def test_attributes_and_other_dictionaries_are_not(source):
    assert not into_an_audit(source)
