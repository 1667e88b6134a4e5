"""The page of an analysis: what it says, what it escapes, what it never loads, and that a browser lays it out."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.analysis.causal_results import Gate, HookPointGate, SteeringCurve
from features.analysis.evidence import LatentEvidence, Snippet
from features.analysis.store import HookPointAnalysis, LatentAnalysis
from features.config import GateConfig
from features.pages import plots
from features.pages.latents_page import figure_text, finding, heldout_frequency, listed, write_latents_page
from features.stats.separation import Separation
from sae_train.intervals import Interval

TYPES = ["person", "city", "film", "ship"]
NAN = float("nan")


def half(
    rng: np.random.Generator, d_sae: int, n_types: int, planted: dict[int, tuple[float, float]], shrink: float
) -> Separation:
    """Scores of a dictionary in which most latents tell nothing and the planted ones tell one class."""
    base = np.random.default_rng(9).beta(0.35, 2.2, size=d_sae)
    freq = np.clip(base + rng.normal(0, 0.035, (2, n_types, d_sae)), 0, 1)
    for latent, (known, unknown) in planted.items():
        middle = (known + unknown) / 2
        for side, level in enumerate((known, unknown)):
            freq[side, :, latent] = np.clip(middle + shrink * (level - middle) + rng.normal(0, 0.04, n_types), 0, 1)
    score = (freq[0] - freq[1]).mean(0)
    return Separation(
        freq=freq,
        score=score,
        low=score - 0.07,
        high=score + 0.07,
        maxmin_known=(freq[0] - freq[1]).min(0),
        maxmin_unknown=(freq[1] - freq[0]).min(0),
        auroc=np.clip(0.5 + score / 2, 0, 1),
        p_value=np.exp(-90 * np.abs(score)),
    )


def hook_point(
    name: str, selected: dict[str, list[int]], planted, *, types: int, d_sae: int = 256, seed: int = 0
) -> HookPointAnalysis:
    rng = np.random.default_rng(seed)
    mining = half(rng, d_sae, types, planted, 1.0)
    found = any(selected.values())
    return HookPointAnalysis(
        hook_point=name,
        sae="sae-" + name,
        sae_hash="3f9c1e00aa55",
        mining=mining,
        heldout=half(np.random.default_rng(seed + 100), d_sae, types, planted, 0.9),
        q_value=np.minimum(1, mining.p_value * 20),
        general_rate=rng.beta(1, 60, d_sae),
        mean_active=rng.gamma(3, 0.5, (2, d_sae)),
        pre_act_mean=np.zeros((2, d_sae)),
        pre_act_std=np.ones((2, d_sae)),
        W_dec=np.zeros((d_sae, 4)),
        selected=selected,
        probe=Interval(0.981, 0.962, 0.994),
        score=Interval(0.913, 0.874, 0.947) if found else Interval(NAN, NAN, NAN),
        fvu_at_names=0.213,
    )


def example(hooks: list[HookPointAnalysis], types: list[str] = TYPES, n: int = 96, **attrs) -> LatentAnalysis:
    labels = ["known" if i % 2 else "unknown" for i in range(n)]
    rule = {"top": 5, "max_q": 0.05, "min_separation": 0.2, "max_general_rate": 0.02}
    return LatentAnalysis(
        hook_points=hooks,
        entity_keys=[f"name {i}" for i in range(n)],
        entity_labels=labels,
        entity_types=[types[(i // 2) % len(types)] for i in range(n)],
        held_out=np.arange(n) % 4 < 2,
        types=types,
        attrs={"model": "fact-world", "model_hash": "9b1c77", "seed": 0, "rule": rule, **attrs},
    )


PLANTED = {17: (0.07, 0.93), 101: (0.12, 0.71), 40: (0.66, 0.09), 5: (0.1, 0.55)}


def full() -> LatentAnalysis:
    return example(
        [
            hook_point("layers.1", {"known": [], "unknown": [101]}, {101: (0.2, 0.6)}, types=4, seed=1),
            hook_point("layers.2", {"known": [40], "unknown": [17, 101, 5]}, PLANTED, types=4, seed=2),
            hook_point("layers.3", {"known": [], "unknown": []}, {}, types=4, seed=3),
        ]
    )


def checked() -> LatentAnalysis:
    """The full analysis with everything that later steps add."""
    rng = np.random.default_rng(5)
    analysis = full()
    config = GateConfig(n_entities=30)
    recall = {n: rng.integers(0, 5, 30) / 4 for n in ("reconstruction", "selected", "random", "latents", "error")}
    recall |= {"mean difference": np.ones(30), "residual": np.zeros(30), "last residual": np.full(30, 0.5)}
    hooks = [HookPointGate(h.hook_point, h.sae, np.ones(30), recall, config) for h in analysis.hook_points]
    blocks = [HookPointGate(f"layers.{i}", None, np.ones(30), recall, config) for i in range(4)]
    strengths, shares = np.array([0.0, 1.0, 10.0]), np.full((3, 4, 30), 0.25)
    curves = [
        SteeringCurve(
            "layers.2", "sae-layers.2", "unknown", kind, [17] * (kind == "selected"), strengths, shares, strengths
        )
        for kind in ("selected", "random")
    ]
    snippet = Snippet([" The", " city", " of", " <b>Niger</b>"], [0.0, 0.5, 0.0, 4.0], 3)
    evidence = [LatentEvidence("layers.2", "sae-layers.2", 17, [snippet], [" unknown", "\n"], [" Kenya"])]
    finding = {"direction": "unknown", "best_maxmin": 0.8, "p_value": 0.005, "n_shuffles": 50}
    second = replace(
        analysis.hook_points[1],
        null=rng.random((2, 50)) / 4,
        tables={"controls": [{"name": "random latents", "auroc": 0.61, "low": 0.5, "high": 0.7, "n_readings": 3}]},
    )
    return replace(
        analysis,
        hook_points=[analysis.hook_points[0], second, analysis.hook_points[2]],
        tables={"finding": [finding]},
        gate=Gate(hooks, blocks, [f"city:{i}" for i in range(30)], ["city:x"] * 30, 120, config),
        steering=curves,
        evidence=evidence,
    )


def single() -> LatentAnalysis:
    return example([hook_point("layers.2", {"known": [], "unknown": [17]}, {17: (0.07, 0.93)}, types=4)])


def empty() -> LatentAnalysis:
    return example([hook_point("layers.2", {"known": [], "unknown": []}, {}, types=4)])


def page(analysis: LatentAnalysis, folder: Path) -> str:
    return write_latents_page(analysis, folder / "latents.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pages of some analyses, drawn once: figures are what takes the time here."""
    return {b.__name__: page(b(), tmp_path_factory.mktemp("page")) for b in (full, checked, single, empty)}


def visible(source: str) -> str:
    """The text of a page without its styles and scripts."""
    bare = re.sub(r"<(style|script)>.*?</\1>", "", source, flags=re.S)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", bare).split()))


def test_finding_names_counts_and_places():
    said = [finding(build()).replace("\u00a0", " ") for build in (single, full, empty)]
    assert said[0] == "1 latent tells unknown names at layers.2; none tells known ones."
    assert said[1] == "4 latents tell unknown names at layers.2 and layers.1; 1 latent tells known names at layers.2."
    assert said[2] == "No latent tells known names from unknown ones."


def test_page_shows_the_numbers(pages: dict[str, str]):
    analysis, text = full(), visible(pages["full"])
    assert "0.913 95 % interval 0.874 to 0.947; layers.1, the best of 3 hook points" in text
    assert "0.981 [0.962, 0.994]" in text
    assert "768" in text and "48 known, 48 unknown; 48 held out" in text
    for direction in ("known", "unknown"):
        for row in analysis.selected_rows(direction):
            for field in (
                "separation",
                "heldout_separation",
                "maxmin",
                "auroc",
                "mean_active",
            ):
                assert figure_text(row[field]) in text
    row = analysis.selected_rows("unknown")[0]
    assert f"[{row['heldout_low']:.2f}, {row['heldout_high']:.2f}]" in text
    assert "q ≤ 0.05" in text and "9b1c77" in text and "3f9c1e00aa55" in text


def test_frequencies_weigh_every_held_out_name_once():
    """Types of unequal size: the share over all names is not the mean of the types' shares."""
    analysis = example([hook_point("h", {"known": [], "unknown": []}, {}, types=2, d_sae=1)], types=["a", "b"], n=8)
    analysis.entity_types[:] = ["a", "a", "b", "b", "b", "b", "a", "a"]  # held out: rows 0, 1, 4, 5
    analysis.entity_types[4] = "a"
    analysis.hook_points[0].heldout.freq[:] = [[[1.0], [0.5]], [[0.2], [np.nan]]]
    # known rows 1 (a), 5 (b) -> (1 + 0.5) / 2; unknown rows 0, 4 (a, a) -> 0.2, the empty cell does not count
    assert heldout_frequency(analysis, analysis.hook_points[0]).ravel() == pytest.approx([0.75, 0.2])


def test_empty_lists_are_said_plainly(pages: dict[str, str]):
    source = pages["empty"]
    assert "No latent passed the rule" in source
    assert "none was selected" in source
    assert "nan" not in visible(source).lower().split()
    assert "None" not in visible(source)


def test_hostile_names_are_escaped(tmp_path: Path):
    bad = '<script>alert("x")</script>$&'
    analysis = example([hook_point(bad, {"known": [40], "unknown": [17]}, PLANTED, types=1)], types=[bad], model=bad)
    source = page(analysis, tmp_path)
    assert source.count("<script>") == 1  # our own
    assert "&lt;script&gt;" in source and "alert(&#34;x" in source


def test_letters_that_matplotlib_lacks_do_not_warn(tmp_path: Path):
    analysis = example([hook_point("層.2", {"known": [], "unknown": [17]}, PLANTED, types=1)], types=["城市"])
    assert "城市" in page(analysis, tmp_path)


def test_page_shows_the_checks(pages: dict[str, str]):
    analysis, source = checked(), pages["checked"]
    text = visible(source)
    assert analysis.gate is not None and not analysis.gate.passes
    assert "The gate is not passed at any hook point" in text and "the SAE error holds the rest" in text
    assert "shuffled 50 times" in text and "p = 0.005" in text
    assert "random latents 0.610 0.500 0.700 3" in text
    assert "<b>Niger" not in source and "<b>Niger</b>" in text, "tokens are escaped"
    assert 'href="#latent-layers-2-17"' in source and 'id="latent-layers-2-17"' in source
    assert "1 unknown latent up at known names" in text and "⏎" in text
    assert "It was not run" in visible(pages["full"])


def test_figures_lie_beside_the_page_where_wanted(tmp_path: Path):
    write_latents_page(single(), tmp_path / "latents.html", with_figures=True)
    names = {p.name for p in (tmp_path / "latents_figures").iterdir()}
    assert names == {
        f"{k}.{s}" for k in ("frequency", "shrinkage", "hook-points", "types-unknown-0-17") for s in ("png", "svg")
    }
    assert (tmp_path / "latents_figures" / "frequency.png").read_bytes()[1:4] == b"PNG"
    page(empty(), tmp_path / "plain")
    assert not (tmp_path / "plain" / "latents_figures").exists()


@pytest.mark.parametrize("build", [checked, empty])
def test_page_is_deterministic_and_whole(build, pages: dict[str, str], tmp_path: Path):
    assert page(build(), tmp_path) == pages[build.__name__]
    assert [p.name for p in tmp_path.iterdir()] == ["latents.html"], "nothing half-written, nothing beside it"


@pytest.mark.parametrize("name", ["full", "checked", "single", "empty"])
def test_page_is_one_file(name: str, pages: dict[str, str]):
    source = pages[name]
    assert not re.search(r"https?:|//[a-z]|@import|\ssrc=|<link|url\((?!#)", source)
    ids = re.findall(r'\sid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', source):
        assert "".join(target) in ids


def test_figures_use_the_pages_colours(pages: dict[str, str]):
    svg = "".join(re.findall(r"<svg.*?</svg>", pages["full"], flags=re.S))
    assert not re.search(r"#[0-9a-f]{6}\b(?!-)", svg)
    assert svg.count('role="img"') == svg.count("<svg") == 7


def test_percent_is_honest_at_the_ends():
    assert [plots.percent(v).replace("\u00a0", " ") for v in (0, 0.0001, 0.123, 0.9999, 1, -0.0001)] == [
        "0 %",
        "<0.1 %",
        "12.3 %",
        ">99.9 %",
        "100 %",
        "0 %",
    ]
    assert plots.percent(NAN) == "–"


def test_a_wide_dictionary_does_not_make_a_heavy_page():
    rng = np.random.default_rng(0)
    known, unknown = rng.random((2, 60_000))
    svg = plots.frequency_scatter(known, unknown, [])
    assert 2000 < svg.count("<use") < 3100  # 51 x 51 places and the ticks


def test_listed():
    assert [listed(names) for names in ([], ["a"], ["a", "b"])] == ["", "a", "a and b"]


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("needs Chromium; none on PATH")
    return found


FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --allow-file-access-from-files --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
)


def rendered(path: Path, folder: Path, width: int) -> tuple[str, str]:
    """Return the DOM of a frame that holds the page, its title the measured widths, and what the browser logged."""
    browser = chromium()
    sizes = "innerWidth, document.documentElement.scrollWidth, performance.getEntriesByType('resource').length"
    probe = f"<script>document.title = [{sizes}].join(' ');</script>"
    source = path.read_text(encoding="utf-8").replace("</body>", probe + "</body>")
    (folder / "measured.html").write_text(source, encoding="utf-8")
    # A headless window is at least 500 wide, so a frame sets the width.
    frame = f'<iframe id="f" width="{width}" src="measured.html" style="border:0"></iframe>'
    watch = "<script>f.onload = () => document.title = f.contentDocument.title</script>"
    (folder / "frame.html").write_text(frame + watch, encoding="utf-8")
    command = [browser, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1280])
def test_browser_lays_it_out_without_errors(width: int, tmp_path: Path):
    path = write_latents_page(checked(), tmp_path / "latents.html")
    dom, log = rendered(path, tmp_path, width)
    inner, scroll, n_requests = map(int, re.findall(r"<title>(\d+) (\d+) (\d+)</title>", dom)[0])
    assert inner == width and scroll <= width
    assert n_requests == 0, "nothing is loaded"
    assert "CONSOLE" not in log
