"""The page of all latents in a browser: it is laid out, searched and read from disk, shard by shard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from features import browse
from features.pages import browser_page
from sae_train.run.progress import silent

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
)


@pytest.fixture
def page(planted, tmp_path, monkeypatch) -> Path:
    """The page of the planted store, two latents a shard."""
    monkeypatch.setattr(browser_page, "SHARD", 2)
    path, _, _, sae = planted()
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps([{"index": 3, "explanation": "</script><b>the third</b>"}]), encoding="utf-8")
    return browse(sae, path, answers=answers, out=tmp_path / "browser", progress=silent) and tmp_path / "browser"


def opened(page: Path, hash: str = "", script: str = "", *, width: int = 1200) -> str:
    """Return the DOM after a script has run in the page, opened from disk as a user opens it; no message was logged."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("needs Chromium; none on PATH")
    source = (page / "index.html").read_text(encoding="utf-8")
    later = f"<script>addEventListener('load', function () {{ {script} }});</script></body>"
    (page / "driven.html").write_text(source.replace("</body>", later), encoding="utf-8")
    where = (page / "driven.html").as_uri() + hash
    command = [browser, *FLAGS.split(), f"--window-size={width},900", f"--user-data-dir={page / 'profile'}", where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def listed(dom: str) -> list[int]:
    """Return the latents in the list."""
    return [int(n) for n in re.findall(r'<a href="#\d+" style="[^"]*"[^>]*><b>(\d+)</b>', dom)]


def typed(text: str) -> str:
    return (
        f"var f = document.getElementById('find'); f.value = {json.dumps(text)}; f.dispatchEvent(new Event('input'));"
    )


def test_the_data_are_scripts_that_hold_every_latent(page):
    shards = sorted((page / "data").glob("latents-*.js"))
    assert len(shards) == 4
    for number, path in enumerate(shards):
        text = path.read_text(encoding="ascii")
        head = f"browserShard({number},"
        assert text.startswith(head) and text.endswith(");\n")
        records = json.loads(text[len(head) : -3])
        assert len(records) == 2 and all(len(r) == 12 for r in records)
    index = json.loads((page / "data/index.js").read_text(encoding="ascii").removeprefix("browserIndex(")[:-3])
    assert len(index["fired"]) == index["n"] == 8 and index["tokens"][2 * 6] == 2 and index["tokens"][7 * 6] == -1
    html = (page / "index.html").read_text(encoding="utf-8")
    assert "http:" not in html.replace("http://www.w3.org", "") and "https:" not in html
    assert "7 of 8 latents" in html.replace("\u00a0", " ")


@pytest.mark.slow
def test_a_browser_lists_searches_and_shows_latents(page):
    first = opened(page)
    assert listed(first) == [0, 1, 2, 3, 4, 5, 6] and "1 that never fire left out" in first
    assert listed(opened(page, script=typed("3, 5-9"))) == [3, 5, 6, 7]
    assert listed(opened(page, script=typed('"#4"'))) == [4]
    assert listed(opened(page, script=typed("the third"))) == [3]
    assert listed(opened(page, script=typed("nothing like it"))) == []
    by = "var o = document.getElementById('order'); o.value = 'least'; o.dispatchEvent(new Event('change'));"
    assert listed(opened(page, script=by))[0] == 5


@pytest.mark.slow
def test_a_latent_is_read_from_its_shard(page):
    dom = opened(page, "#5")
    assert "<h2>Latent 5</h2>" in dom and "5 of 600 tokens" in dom and 'aria-current="true"><b>5</b>' in dom
    peaks = re.findall(r'class="tok peak"[^>]*>([^<]*)<', dom)
    assert len(peaks) == 10 and {p.strip() for p in peaks} == {"#5"}
    following = "document.querySelector('#latent .title button:last-child').click();"
    dom = opened(page, "#3", f"setTimeout(function () {{ {following} }}, 300);")
    assert "<h2>Latent 4</h2>" in dom
    dom = opened(page, "#3")
    assert "&lt;/script&gt;&lt;b&gt;the third&lt;/b&gt;</p>" in dom, "what others wrote is shown as text"
    assert "fires on none of the tokens" in opened(page, "#7")
    assert "Choose a latent" in opened(page, "#99")


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1280])  # a headless window is at least 500 wide
def test_nothing_is_wider_than_the_window(page, width):
    measured = "document.body.dataset.sizes = innerWidth + ' ' + document.documentElement.scrollWidth;"
    dom = opened(page, "#3", f"setTimeout(function () {{ {measured} }}, 300);", width=width)
    inner, scroll = map(int, re.findall(r'data-sizes="(\d+) (\d+)"', dom)[0])
    assert inner == width and scroll <= width and "<h2>Latent 3</h2>" in dom


@pytest.mark.slow
def test_a_missing_shard_is_said(page):
    (page / "data/latents-0002.js").unlink()
    assert "Cannot read data/latents-0002.js" in opened(page, "#4")
