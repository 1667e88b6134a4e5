"""Fixtures of planting: the smallest world there is, a general text, and a pair. Registered by conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

SMALL = {"n_entities": 20, "n_facts": 2, "leave_out": 4, "rounds": 1, "batch_docs": 32, "general_windows": 2}
SMALL |= {"ctx_len": 48, "warmup_steps": 2, "n_checked": 1, "lr": 1e-2}


@pytest.fixture(scope="session")
def small_planting() -> dict[str, object]:
    """Return settings of a world that is planted in a second; the tiny models learn nothing of it."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def general_documents() -> list[str]:
    """Return twenty short texts that name nobody."""
    return [
        f"On day {i} the street was quiet; a market, a bridge, nothing else is known of {i * i}." for i in range(20)
    ]


@pytest.fixture(scope="session")
def planted_pair(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2_dir: Path, general_documents):
    """Return a pair planted in the tiny GPT-2, with its folder. Read only."""
    from features import plant
    from sae_train.run.progress import silent

    out = tmp_path_factory.mktemp("planted") / "pair"
    return plant(tiny_gpt2_dir, text=general_documents, out=out, device="cpu", progress=silent, **SMALL)


@pytest.fixture(scope="session")
def stopping_after() -> Callable[[int], object]:
    """Return a function that gives a progress whose loops are interrupted after `n` steps, as by Ctrl-C."""

    def progress_of(n: int):
        @contextmanager
        def opened(description: str, total=None, *, unit: str = ""):
            done = 0

            def advance(count=1, /, *, earlier=0, **info):
                nonlocal done
                done += count
                if done >= n:
                    raise KeyboardInterrupt

            yield advance

        return opened

    return progress_of
