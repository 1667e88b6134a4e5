"""The documentation is what the program says: generated parts, commands in the README, links."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import click
import pytest

from cli.group import COMMANDS, load_command

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]


def load(path: str):
    """Import a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(path).stem}", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate():
    return load("docs/generate.py")


def wb_lines(text: str) -> list[str]:
    """Return the lines of fenced blocks that call `wb`, prompts removed, continued lines joined."""
    fences = re.findall(r"```\w*\n(.*?)```", text.replace("\\\n", " "), flags=re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for fence in fences for line in fence.splitlines()]
    return [line for line in lines if line.startswith("wb ") and line.split()[1] in COMMANDS]


def check_words(line: str) -> None:
    """Assert that every option in a `wb` line is one of the command's."""
    words = shlex.split(line, comments=True)
    command = load_command(words[1])
    if isinstance(command, click.Group):
        command = command.commands[words[2]]
    known = {name for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
    unknown = {word.split("=")[0] for word in words[2:] if word.startswith("--")} - known - {"--help"}
    assert not unknown, f"{unknown} in: {line}"


def test_generated_parts_are_up_to_date(generate):
    outdated = [str(path.relative_to(ROOT)) for path in generate.outdated_pages()]
    assert not outdated, f"run: python docs/generate.py ({', '.join(outdated)})"


def test_figures_are_as_they_are_drawn(tmp_path, monkeypatch):
    figures = load("docs/figures.py")
    assert figures.outdated_figures() == {}, "run: python docs/figures.py"
    assert {p.stem for p in figures.IMAGES.glob("*.svg")} == set(figures.FIGURES)
    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    (tmp_path / "sae.svg").write_text("<svg/>", encoding="utf-8")
    assert {p.stem for p in figures.outdated_figures()} == set(figures.FIGURES)


def test_a_figure_says_what_it_shows_and_stays_on_its_panel():
    for name, draw in load("docs/figures.py").FIGURES.items():
        svg = ElementTree.fromstring(draw())
        width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
        assert svg.get("role") == "img" and len(svg.get("aria-label", "")) > 20, name
        words = " ".join(t.text or "" for t in svg.iter("{http://www.w3.org/2000/svg}text"))
        assert name == "walk" or "schematic" in words, name
        for part in svg.iter():
            x, y = float(part.get("x", 0)), float(part.get("y", 0))
            assert x + float(part.get("width", 0)) <= width and y + float(part.get("height", 0)) <= height, (name, x, y)
        for page in PAGES:
            for alt in re.findall(rf"!\[([^\]]*)\]\([^)]*{name}\.svg\)", (ROOT / page).read_text(encoding="utf-8")):
                assert alt == svg.get("aria-label"), page


def test_an_outdated_part_is_noticed(generate):
    assert (
        generate.rendered("a\n<!-- commands -->\nold\n<!-- /commands -->\nb")
        != "a\n<!-- commands -->\nold\n<!-- /commands -->\nb"
    )
    renewed = generate.rendered("a\n<!-- commands -->\nold\n<!-- /commands -->\nb")
    assert renewed.startswith("a\n<!-- commands -->\n| command ") and renewed.endswith("<!-- /commands -->\nb")
    assert generate.rendered(renewed) == renewed


def test_the_tree_has_every_module(generate):
    tree = generate.file_tree()
    for floor in generate.FLOORS:
        for module in (ROOT / floor).rglob("*.py"):
            name = module.parent.name + "/" if module.name == "__init__.py" else module.name
            assert re.search(rf"^ *{re.escape(name)} +\S", tree, flags=re.MULTILINE), module


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_a_page_exist(page):
    for line in wb_lines((ROOT / page).read_text(encoding="utf-8")):
        check_words(line)


def test_an_option_that_does_not_exist_is_noticed():
    (line,) = wb_lines("```sh\n$ wb train-sae \\\n  --no-such-option 3\n```")
    with pytest.raises(AssertionError, match="no-such-option"):
        check_words(line)


def test_examples_of_all_commands_are_their_own(generate):
    for name in COMMANDS:
        lines = generate.example_lines(load_command(name).epilog or "")
        assert any(line.startswith(f"wb {name} ") for line in lines), name
        for line in lines:
            if not line.startswith("printf "):  # an input that the example writes itself
                check_words(line)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("floor", ["sae_train", "features", "unlearn"])
def test_the_api_page_of_a_floor_has_what_it_exports(generate, floor):
    package = importlib.import_module(floor)
    page = (ROOT / "docs" / "reference" / "api" / f"{floor}.md").read_text(encoding="utf-8")
    assert [f"::: {generate.defined_at(package, name)}" for name in getattr(package, "__all__", ())] == [
        line for line in page.split(f"<!-- /api {floor} -->")[0].splitlines() if line.startswith("::: ")
    ]


def test_a_lazy_name_is_written_as_its_own_module_has_it(generate, monkeypatch):
    metrics = importlib.import_module("sae_train.quality.metrics")
    package = ModuleType("sae_train")
    package.__all__ = ["quality"]
    package.__getattr__ = {"quality": metrics.fvu}.__getitem__
    monkeypatch.setitem(sys.modules, "sae_train", package)
    assert generate.api_entries("sae_train").strip() == "::: sae_train.quality.metrics.fvu"


def test_a_name_from_elsewhere_is_not_of_the_api(generate):
    package = ModuleType("features")
    package.thing = Path
    with pytest.raises(AssertionError, match="pathlib"):
        generate.defined_at(package, "thing")


@pytest.mark.parametrize("mark", ["setup: demo", "setup: test", "session"])
def test_the_gate_finds_the_commands_of_the_readme(mark):
    commands = load(".ci/readme_commands.py").commands((ROOT / "README.md").read_text(encoding="utf-8"), mark)
    assert commands
    assert len(commands) == 1 or mark == "session"


def test_a_session_is_its_commands_without_their_output():
    page = "<!-- s -->\n```console\n$ wb a \\\n  --b\nfvu 0.3\n$ wb c\n```\n"
    assert load(".ci/readme_commands.py").commands(page, "s") == ["wb a   --b", "wb c"]


def test_what_a_method_has_to_have_is_what_the_loop_asks_for():
    """The page on adding a method names functions of the protocols that `unlearn()` looks for, and all of them."""
    from unlearn.finetuning.finetune import Objective, Preparing, WeightEdit

    page = (ROOT / "docs" / "reference" / "extending.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"- \*\*An unlearning method\*\*(.*?)\n- ", page, re.DOTALL)
    asked_for = {n for kind in (Objective, Preparing, WeightEdit) for n in vars(kind) if not n.startswith("_")}
    assert set(re.findall(r"`(\w+)\(", entry)) == asked_for == {"parts", "prepare", "edit"}
