"""The documentation as a site: it builds strictly, loads nothing from elsewhere, and a fault ends the build."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>", flags=re.IGNORECASE)


# Without --quiet: that also silences the count of warnings, and --strict would let them pass.
def build(site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site), *options]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def load(path: str):
    """Import a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(path).stem}", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    found = {page.name: loaded[0] for page in pages if (loaded := LOADED.findall(page.read_text(encoding="utf-8")))}
    assert found == {}


def test_what_comes_from_elsewhere_would_be_seen():
    assert LOADED.search('<script src="https://unpkg.com/x"></script>')
    assert LOADED.search('<link rel="stylesheet" href="//fonts.example/css">')
    assert not LOADED.search('<a href="https://arxiv.org/abs/2406.04093">paper</a> <script src="assets/x.js">')


def test_notebook_outputs_take_the_dark_colours_of_our_pages():
    """Every colour that an output may bring is replaced on a dark page, by that of our own pages."""
    pages = (ROOT / "features/pages/templates/style.html.j2").read_text(encoding="utf-8")
    dark = dict(re.findall(r"--([\w-]+): (#\w+)", pages.split("prefers-color-scheme: dark", 1)[1].split("} }", 1)[0]))
    site = dict(re.findall(r"--([\w-]+): (#\w+) !important", (ROOT / "docs/site.css").read_text(encoding="utf-8")))
    assert site == {name: dark[name] for name in site}
    for notebook in sorted((ROOT / "docs/start").glob("*.ipynb")):
        brought = set(re.findall(r"--([a-z0-9-]+):#\w{6}", notebook.read_text(encoding="utf-8")))
        assert brought <= set(site), notebook.name


@pytest.mark.slow
def test_the_api_pages_hold_what_the_pages_name(site):
    for page in sorted((ROOT / "docs" / "reference" / "api").glob("*.md")):
        html = (site / "reference" / "api" / f"{page.stem}.html").read_text(encoding="utf-8")
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert f'id="{name}"' in html, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("[gone](no_such_page.md)", "no_such_page"),
        ("[gone](index.md#no-such-heading)", "no-such-heading"),
        ("::: sae_train.no_such_module", "no_such_module"),
        ('--8<-- "NO_SUCH_FILE.md"', "NO_SUCH_FILE"),
    ],
)
def test_a_fault_in_a_page_ends_the_build(tmp_path, fault, said):
    done = build_page(tmp_path, fault)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.slow
def test_every_docstring_can_be_read_into_the_reference(tmp_path):
    modules = sorted(p for floor in ("sae_train", "features", "unlearn") for p in (ROOT / floor).rglob("*.py"))
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in modules if p.stem != "__init__"]
    assert len(names) > 100
    done = build_page(tmp_path, "\n\n".join(f"::: {name}" for name in names))
    assert done.returncode == 0, done.stderr


def test_docstrings_of_the_house_are_read_in_google_style():
    style = load("docs/docstrings.py").in_google_style
    own = (
        "Add.\n\nArgs:\n    a, b: Numbers,\n        any.\n    c: One.\n\n"
        "Returns:\n    a, b: both.\n\nExample:\n    >>> 1"
    )
    assert style(own) == (
        "Add.\n\nArgs:\n    a: Numbers,\n        any.\n    b: Numbers,\n        any.\n    c: One.\n\n"
        "Returns:\n    a, b: both.\n\nExamples:\n    >>> 1"
    )


def build_page(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Build a site of one page with the settings of the documentation."""
    pages = folder / "docs"
    pages.mkdir()
    (pages / "index.md").write_text(f"# A page\n\n{text}\n", encoding="utf-8")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    own = re.sub(r"^nav:\n(?:  .*\n)+", "nav: [index.md]\n", settings, flags=re.MULTILINE)
    own = own.replace("docs_dir: docs\n", f"docs_dir: {pages}\n").replace("paths: [.]", f"paths: [{ROOT}]")
    own = own.replace("[docs/docstrings.py]", f"[{ROOT}/docs/docstrings.py]").replace("  - site.css\n", "  []\n")
    config = folder / "mkdocs.yml"
    config.write_text(own, encoding="utf-8")
    return build(folder / "site", "--config-file", str(config))
