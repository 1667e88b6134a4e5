"""What the tests of failures share: commands, their words, results and how they go on. Registered by conftest.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

# Command -> the files that are its result, and whether it can be continued.
RESULTS = {
    "cache-activations": (("out",), True),
    "label-entities": (("out",), True),
    "find-entity-latents": (("out", "out.json", "out.html", "out_figures"), False),
    "unlearn": (("out",), True),
    "audit": (("out",), False),
    "world": (("out",), True),
    "features": (("out",), False),
}
# Stops at random moments, of either signal; a run of `audit` takes longest.
STOPS = {
    "cache-activations": 10,
    "label-entities": 10,
    "find-entity-latents": 5,
    "unlearn": 8,
    "audit": 4,
    "world": 8,
    "features": 5,
}
FULL_DISKS = {"cache-activations": 10, "label-entities": 8, "unlearn": 6}
# One method that takes steps of a second process as well.
PAIRED = ("--method", "idk", "--steps", 6, "--save-every", 2, "--batch-size", 4, "--warmup-steps", 1, "--device", "cpu")


class Failing:
    """The commands, on a corner of the embedded world; each with the result of a run that nothing stopped.

    Attributes:
        paired: Words of an `unlearn` that two processes share.
    """

    paired = [str(word) for word in PAIRED]

    def __init__(self, wb, wb_files, planting: list[object], folder: Path) -> None:
        self._wb, self._files, self._planting, self._folder = wb, wb_files, planting, folder
        self._undisturbed: dict[str, object] = {}

    def words(self, command: str, out: Path) -> list[str]:
        """Return the words of a command with another output."""
        files = self._files
        own = {"world": self._planting, "features": [files.sae, "--activations", files.acts, "--out", None]}
        found = [command, *(own.get(command) or files.commands[command])]
        found[found.index("--out") + 1] = out
        return [str(word) for word in found]

    def result(self, command: str, out: Path) -> object:
        """Return what must be the same however often the command was stopped."""
        if command == "cache-activations":
            return _rows(out)
        if command == "label-entities":
            return out.read_bytes()
        if command == "find-entity-latents":
            found = json.loads(out.with_suffix(".json").read_text())
            return {k: v for k, v in found.items() if k in ("known", "unknown")}
        if command == "audit":
            found = json.loads((out / "audit.json").read_text())
            return [found["verdict"], found["forget"], found["attacks"]]
        if command == "features":
            pages = [out / "index.html", *sorted((out / "data").iterdir())]
            return {p.name: p.read_bytes() for p in pages}
        folders = [out] if command == "unlearn" else [out / "model", out / "twin"]
        return [(folder / "model.safetensors").read_bytes() for folder in folders]

    def expected(self, command: str) -> object:
        """Return the result of a run that nothing stopped; it runs once."""
        if command not in self._undisturbed:
            out = self._folder / command / "out"
            out.parent.mkdir()
            done = self._wb(*self.words(command, out))
            assert done.code == 0, done.err
            self._undisturbed[command] = self.result(command, out)
        return self._undisturbed[command]

    def again(self, command: str, out: Path) -> list[str]:
        """Return the words with which a command that was stopped goes on; nothing that it left counts as finished."""
        from sae_train.run.runs import partial_path, run_folder

        left = {p.name for p in out.parent.iterdir()}
        assert "out" not in left, "it counts as finished"
        has_left = bool({partial_path(out).name, run_folder(out).name} & left)
        return [*self.words(command, out), *(["--resume"] if RESULTS[command][1] and has_left else [])]

    def check_whole(self, command: str, out: Path) -> None:
        """Assert that the result is that of a run that nothing stopped, and that nothing else is left."""
        assert self.result(command, out) == self.expected(command)
        assert {p.name for p in out.parent.iterdir()} == {*RESULTS[command][0]}

    def check_continued(self, command: str, out: Path) -> None:
        """Assert that nothing counts as finished, and that the command comes to its end now."""
        from sae_train.run.locks import lock_file

        assert not lock_file(out).exists()
        done = self._wb(*self.again(command, out))
        assert done.code == 0, done.err
        self.check_whole(command, out)


def _rows(store: Path) -> dict[str, bytes]:
    """Return what a reader gets from an activation store."""
    from sae_train.activations import layout
    from sae_train.activations.store import ActivationStore

    with ActivationStore(store) as found:
        rows = {name: found.rows(name, slice(0, found.n_rows)).numpy().tobytes() for name in found.hook_points}
        return rows | {name: found.row_field(name).tobytes() for name in layout.ROW_FIELDS}


@pytest.fixture(scope="session")
def failing(wb, wb_files, tiny_gpt2_dir, general_documents, small_planting, tmp_path_factory) -> Failing:
    """Every command that the failure table has a row for."""
    folder = tmp_path_factory.mktemp("undisturbed")
    text = folder / "general.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in general_documents), encoding="utf-8")
    names = {"n_entities": "entities", "n_facts": "facts"}
    settings = [(f"--{names.get(k, k)}".replace("_", "-"), v) for k, v in small_planting.items()]
    planting = ["--base", tiny_gpt2_dir, "--text", text, "--device", "cpu", "--out", None]
    return Failing(wb, wb_files, [*planting, *(part for pair in settings for part in pair)], folder)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a `failing_command` with every command of the table."""
    if "failing_command" in metafunc.fixturenames:
        metafunc.parametrize("failing_command", RESULTS)


@pytest.fixture(scope="session")
def failure_table() -> SimpleNamespace:
    """Commands, and how many moments each is tried at, as docs/reference/failures.md has them."""
    return SimpleNamespace(results=RESULTS, stops=STOPS, full_disks=FULL_DISKS)
