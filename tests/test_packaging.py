"""The house rules a build or a reader relies on: packages, layers, versions, the wheel, sizes, words."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli.install_guard import PACKAGES, package_folder

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
OWN_TEXT = [
    *SOURCES,
    *sorted(ROOT.glob("tests/*.py")),
    *sorted(ROOT.glob("docs/**/*")),
    ROOT / "mkdocs.yml",
    *sorted(ROOT.glob("*.md")),
]
# Built from pieces, so that this file does not contain what it looks for.
FORBIDDEN = re.compile(
    "|".join(["/wo" + "rk/", "/tmp" + "/w/", "/ro" + "ot/", "py" + "pi\\.org", "TO" + "DO", "FIX" + "ME"])
)


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_four_packages_lie_side_by_side():
    assert {package_folder(name) for name in PACKAGES} == {ROOT / name for name in PACKAGES}


def test_each_package_is_typed():
    for name in PACKAGES:
        assert (ROOT / name / "py.typed").is_file()


def test_no_module_lies_where_it_would_shadow_another():
    assert list(ROOT.glob("*.py")) == []
    assert not (ROOT / "tests" / "__init__.py").exists()
    assert not [p for p in (ROOT / "cli").iterdir() if p.stem in PACKAGES]
    assert not [p for p in SOURCES if p.stem in sys.stdlib_module_names], "A005"


def test_versions_agree():
    version = pyproject()["project"]["version"]
    assert importlib.metadata.version("sae-workbench") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8") or "## [Unreleased]" in (
        ROOT / "CHANGELOG.md"
    ).read_text(encoding="utf-8")


def test_constraints_name_every_dependency_once():
    names = [line.split("==")[0] for line in constraint_lines()]
    assert names == sorted(set(names))
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["dev"], *extras["docs"]]
    own = {project["name"]}  # an extra that takes in another one
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in required} - own <= set(names)


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    for line in lines[1:]:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", line), line
    return lines[1:]


# ----------------------------------------------------------------------------------------------------- layers


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_dependencies_point_one_way():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("sae_train/extra.py", "def late():\n    from unlearn import anything\n"),
        ("features/extra.py", "import h5py\n"),
    ],
)
def test_an_import_against_the_rules_is_noticed(tmp_path, module, line):
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert lint_imports(tmp_path).returncode == 0
    (tmp_path / module).write_text(line, encoding="utf-8")
    assert lint_imports(tmp_path).returncode == 1


# ------------------------------------------------------------------------------------------------------ wheel


@pytest.fixture(scope="module")
def wheel_files() -> set[str]:
    """Paths the wheel would hold, as hatchling selects them."""
    from hatchling.builders.wheel import WheelBuilder

    return {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel_files):
    assert {Path(path).parts[0] for path in wheel_files} == set(PACKAGES)
    assert not [path for path in wheel_files if "__pycache__" in path or path.endswith(".partial")]


def test_the_wheel_holds_code_and_data(wheel_files):
    shipped = {p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file()}
    expected = {p.relative_to(ROOT).as_posix() for p in shipped if "__pycache__" not in p.parts}
    assert wheel_files == expected
    for name in PACKAGES:
        assert f"{name}/py.typed" in wheel_files


def test_the_script_points_at_a_function():
    module, _, function = pyproject()["project"]["scripts"]["wb"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


# ------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_LINES, f"{n_lines} lines: split it by idea"


def test_modules_say_what_they_are():
    silent = [str(p) for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert silent == []


def test_the_project_speaks_only_of_itself():
    found = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in OWN_TEXT
        if path.is_file() and path != Path(__file__)
        for match in FORBIDDEN.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_the_search_for_such_words_can_find_one():
    assert FORBIDDEN.search("see /wo" + "rk/notes")


def test_tests_that_share_what_is_slow_to_make_stay_in_one_process(request):
    """A group is part of a test's name under pytest-xdist; a pytest that it does not fit loses groups silently."""
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        pytest.skip("tests are not run in several processes")
    assert request.node.nodeid.endswith(f"@{request.node.path}"), request.node.nodeid


def test_a_lower_bound_that_cannot_be_had_is_named(tmp_path):
    bounds = [re.match(r"([\w.-]+)>=([\w.]+)", text) for text in pyproject()["project"]["dependencies"]]
    versions = {found[1]: f"{found[2]}.0" for found in bounds if found}
    line = [sys.executable, ROOT / ".ci" / "lowest_versions.py", tmp_path / "versions.txt"]
    for torch, code, said in ((versions["torch"], 0, ""), ("99.0", 1, "but 99.0 is the lowest")):
        lines = "".join(f"{name}=={version}\n" for name, version in {**versions, "torch": torch}.items())
        (tmp_path / "versions.txt").write_text(lines, encoding="utf-8")
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == code and said in done.stdout and bool(done.stdout) == bool(code), done
