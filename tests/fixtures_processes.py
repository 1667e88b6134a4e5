"""Commands in processes of their own, which are there at once, and moments at which something happens to them.

Children are forked from one server that has imported what commands need. Registered by conftest.py.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# `wb WORDS` in a child, which cannot import tests: it runs this file. A signal comes at a moment, 0 is never.
WB = """
import os, runpy, sys, torch
os.environ.update(environment)
torch.set_num_threads(1)
with open(log, "a") as stream:
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
from cli.main import main
with runpy.run_path(fixtures)["Moments"](moment, lambda: os.kill(os.getpid(), number)) as moments:
    code = main(words)
if count_to:
    open(count_to, "w").write(str(moments.passed))
sys.exit(code)
"""
PRELOADED = (
    "cli.main",
    "cli.cmd_train_sae",
    "cli.output.render",
    "features.labels.labelling",
    "features.mining.latent_search",
    "pytest",
    "sae_train.run.processes",
    "sae_train.training.jobs",
    "unlearn.auditing.audit",
)


class Moments:
    """Moments of a command: it asks for space, its loops report a step, it flushes a file, it puts one in its place.

    Every run has the same ones.

    Args:
        at: At which of them something happens, counted from 1.
        happens: What.

    Attributes:
        passed: How many there were so far.
    """

    def __init__(self, at: int, happens: Callable[[], object]) -> None:
        self.at, self.happens, self.passed = at, happens, 0
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Moments:
        """Watch."""
        from features.labels import knowledge
        from sae_train.run import progress

        for module, name in ((shutil, "disk_usage"), (os, "fsync"), (os, "replace")):
            self._patch.setattr(module, name, self._passing(getattr(module, name), first=name == "replace"))
        self._patch.setattr(knowledge, "ASK_BLOCK", 64)  # else all is asked in one step
        self._patch.setattr(progress.Lines, "__call__", self._passing(progress.Lines.__call__, first=True))
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave everything as it was."""
        self._patch.undo()

    def _passing(self, call: Callable[..., Any], *, first: bool) -> Callable[..., Any]:
        """Return a call with a moment before or behind it."""

        def passing(*args, **settings):
            if first:
                self._pass()
            found = call(*args, **settings)
            if not first:
                self._pass()
            return found

        return passing

    def _pass(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            self.happens()


@pytest.fixture(scope="session")
def moments() -> type[Moments]:
    """The moments of a command that runs in this process."""
    return Moments


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Return a function that starts `wb WORDS` in a process of its own; its `log` is what all of them said."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    log = tmp_path_factory.mktemp("log") / "wb.txt"

    def run(*words: object, moment: int = 0, signal: int = 0, count_to: Path | str = "", **environment: object):
        """Start it; a signal comes at a moment; how many there were is written to `count_to`."""
        values = {
            "words": [str(word) for word in words],
            "environment": {name: str(value) for name, value in environment.items()},
            "log": str(log),
            "fixtures": __file__,
            "moment": moment,
            "number": int(signal),
            "count_to": str(count_to),
        }
        child = context.Process(target=exec, args=(WB, values))
        child.start()
        return child

    run.log = log
    return run
