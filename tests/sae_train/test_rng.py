"""Random streams: the table, that it gives the numbers results on disk were made with, and that nobody goes past it."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import sae_train.rng
from sae_train.errors import ConfigError
from sae_train.rng import SALTS, SHARED_SALTS, TORCH_SALTS, rng, seed_torch, torch_global_rng, torch_rng

ROOT = Path(__file__).parents[2]
PACKAGES = ("sae_train", "features", "unlearn", "cli", "benchmarks")
MAKERS = {"default_rng", "Generator", "RandomState", "SeedSequence", "manual_seed", "seed"}
STREAMS = {"rng": SALTS, "torch_rng": TORCH_SALTS, "torch_global_rng": TORCH_SALTS, "seed_torch": TORCH_SALTS}


@pytest.mark.parametrize("name", SALTS)
def test_a_stream_is_its_salt_and_its_keys(name):
    salt = [] if SALTS[name] is None else [SALTS[name]]
    expected = np.random.default_rng([*salt, 7, 3]).integers(2**62, size=4)
    assert rng(name, 7, 3).integers(2**62, size=4).tolist() == expected.tolist()
    assert rng(name, 7, 4).integers(2**62, size=4).tolist() != expected.tolist()


@pytest.mark.parametrize("name", TORCH_SALTS)
def test_a_torch_stream_is_its_salt_and_its_seed(name):
    expected = torch.rand(4, generator=torch.Generator().manual_seed(TORCH_SALTS[name] ^ 7))
    assert torch.equal(torch.rand(4, generator=torch_rng(name, 7)), expected)
    assert not torch.equal(torch.rand(4, generator=torch_rng(name, 8)), expected)


def test_global_torch_streams_are_the_same_and_are_restored():
    expected = torch.rand(4, generator=torch_rng("adapter.weights", 7))
    before = torch.random.get_rng_state()
    with torch_global_rng("adapter.weights", 7, []):
        assert torch.equal(torch.rand(4), expected)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        seed_torch("adapter.weights", 7)
        assert torch.equal(torch.rand(4), expected)


def test_salts_are_shared_only_where_they_always_were():
    counts = Counter(salt for salt in SALTS.values() if salt is not None)
    assert {salt for salt, n in counts.items() if n > 1} == SHARED_SALTS
    assert all(counts[salt] == 2 for salt in SHARED_SALTS)
    named = Counter(salt for salt in TORCH_SALTS.values() if salt)
    assert set(named.values()) <= {1}


# Results on disk were made with these; a stream may be added, none may change.
@pytest.mark.parametrize(
    ("name", "salt"),
    [("redirect.batch", 0xCC), ("selection.halves", 0xE417), ("bootstrap.documents", 0xB007), ("store.heldout", 0x5AE)],
)
def test_salts_stay(name, salt):
    assert SALTS[name] == salt


def test_no_stream_of_an_unknown_name():
    with pytest.raises(AssertionError, match=r"redirect\.bach"):
        rng("redirect.bach", 0)
    for draw in (torch_rng, seed_torch):
        with pytest.raises(AssertionError, match="no random stream"):
            draw("redirect.batch", 0)


def calls(text: str) -> list[tuple[str, ast.Call]]:
    """Return every call in a program, with the last part of what is called."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [(n.func.attr if isinstance(n.func, ast.Attribute) else getattr(n.func, "id", ""), n) for n in found]


def made_elsewhere(text: str) -> list[str]:
    """Return the calls that make or seed a generator, as `line: name`; Python's own `random` is not concerned."""
    return [f"{node.lineno}: {name}" for name, node in calls(text) if name in MAKERS]


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(found) > 200
    return [path for path in found if path != Path(sae_train.rng.__file__)]


def test_generators_are_made_in_one_module():
    found = {str(p.relative_to(ROOT)): made_elsewhere(p.read_text()) for p in sources()}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    ["np.random.default_rng([0xE4, seed])", "default_rng(1)", "torch.Generator('cpu')", "torch.manual_seed(0)"],
)
def test_a_generator_made_elsewhere_is_noticed(line):
    assert made_elsewhere(f"def late():\n    return {line}\n")
    assert not made_elsewhere("def late(generator: np.random.Generator):\n    return rng('redirect.batch', 0)\n")


@pytest.mark.parametrize(
    "draw", [lambda seed: rng("redirect.batch", 0, seed), lambda seed: torch_rng("rmu.direction", seed)]
)
def test_a_seed_below_zero_is_refused_as_a_setting(draw):
    assert draw(0) is not None
    with pytest.raises(ConfigError, match="seed is out of range"):
        draw(-1)


def test_every_name_is_used_and_every_use_is_named():
    used: dict[str, set[str]] = {"SALTS": set(), "TORCH_SALTS": set()}
    for path in sources():
        for function, node in calls(path.read_text()):
            if function in STREAMS:
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}: {node.lineno}: a stream's name is written out"
                assert name.value in STREAMS[function], f"{path}:{node.lineno}: {name.value}"
                used["SALTS" if function == "rng" else "TORCH_SALTS"].add(name.value)
    assert used == {"SALTS": set(SALTS), "TORCH_SALTS": set(TORCH_SALTS)}
