"""The documentation as a site: it builds strictly, loads nothing from elsewhere, and a fault ends the build."""

from __future__ import annotations

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
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text(f"# A page\n\n{fault}\n", encoding="utf-8")
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {pages}\nnav: [index.md]\nextra_css: []\n", encoding="utf-8"
    )
    done = build(tmp_path / "site", "--config-file", str(config))
    assert done.returncode != 0
    assert said in done.stderr
