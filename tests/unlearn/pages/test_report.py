"""The page of an audit: verdict and reasons first, every number, hostile names, missing numbers, one file."""

from __future__ import annotations

import copy
import html
import re
import shutil
import subprocess
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from unlearn.auditing.audit_figures import AnswerShares, Behaviour, Walk
from unlearn.auditing.audit_report import AuditReport, Check, ComparedModel, Findings
from unlearn.pages.audit_page import check_margin, deciding_checks, headline, write_audit_page

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --allow-file-access-from-files --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
)
HOOKS = ["layers.0", "layers.1", "layers.2", "layers.3"]
NAN = float("nan")


def check(name: str, measured: tuple[float, float, float], rule: str, threshold: float, status: str = "pass") -> Check:
    return Check(name, *measured, threshold, rule, status, "")


def beside(report: AuditReport) -> ComparedModel:
    """Another model's figures: the same ones."""
    walk = {h: Walk(after=w.before) for h, w in report.walk.items()}
    found = replace(Findings(**report.parts()), walk=walk, attacks={}, answers=(), evaluated=())
    return ComparedModel(**found.parts(), unlearned="runs/idk", unlearned_hash="0", method="idk")


def blank(value: Any) -> Any:
    """Return the same with NaN in the place of every measured number."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: blank(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, dict):
        return {k: blank(v) for k, v in value.items()}
    return NAN if isinstance(value, float) else value


def bare(report: AuditReport) -> AuditReport:
    """An audit in which nothing could be measured."""
    checks = tuple(replace(blank(c), status="inconclusive") for c in report.checks)
    found = blank(replace(report, verdict="inconclusive", attacks={}, not_tested=(), answers=(), walk={}))
    return replace(found, checks=checks)


def page(report: AuditReport, folder: Path) -> str:
    return write_audit_page(report, folder / "audit.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, one_name, twenty_names) -> dict[str, str]:
    """The page of one name and that of twenty, drawn once: figures are what takes the time here."""
    reports = {"one": one_name(), "twenty": twenty_names()}
    return {name: page(report, tmp_path_factory.mktemp("page")) for name, report in reports.items()}


def visible(source: str) -> str:
    bare_source = re.sub(r"<(style|script)>.*?</\1>", "", source, flags=re.S)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", bare_source).split()))


def test_headline_claims_no_more_than_was_tested(one_name, twenty_names):
    reports = (one_name(), twenty_names("fail"), twenty_names("inconclusive"))
    said = [headline(report).replace("\u00a0", " ") for report in reports]
    assert said[0] == "Jiros Fotrim Vafuk: forgotten, as far as was tested."
    assert said[1] == "20 names: not cleanly forgotten. 1 of 7 checks failed."
    assert said[2] == "20 names: undecided. 1 of 7 checks is inconclusive."


def test_deciding_checks_put_failures_first_then_the_tightest(twenty_names):
    names = [c.name for c in deciding_checks(twenty_names("fail").checks)]
    # passes by margin of the interval's bad end: ranking 0.12 - 0.11, general text 0.02 - 0.0021, ...
    assert names == ["target recall", "AUROC at layers.2", "true answer ranked first"]
    many = [check(str(i), (1.0, 1.0, 1.0), "<=", 0.0, status="fail") for i in range(5)]
    assert len(deciding_checks(many)) == 5


def test_margin_uses_the_unfavourable_end():
    assert check_margin(check("a", (0.1, 0.05, 0.2), "<=", 0.3)) == pytest.approx(0.1)
    assert check_margin(check("a", (0.9, 0.85, 0.95), ">=", 0.8)) == pytest.approx(0.05)
    assert check_margin(check("a", (0.1, NAN, NAN), "<=", 0.3)) == pytest.approx(0.2)
    assert check_margin(check("a", (NAN, NAN, NAN), "<=", 0.3)) == float("inf")


def test_page_shows_the_numbers(pages: dict[str, str], twenty_names):
    report, text = twenty_names(), visible(pages["twenty"])
    assert "inside the control range, not merely near 0.5: 4 of 4 hook points." in text
    for number in (
        "98.5 %",
        "1.2 %",
        "6.7 %",
        "98.8 %",
        "99.6 %",
        "+0.2 %",
        "2.314 → 2.319",
        "12,000 tokens",
        "0.580",
        "0.470",
        "95 %",
        "96.2 %",
        "41.3 s",
    ):
        assert number in text, number
    for one_check in report.checks:
        assert one_check.name in text and one_check.text in text
    assert "relearning" in text and "limit: at most 5 %" in text and "limit: at most 5 points lost" in text


def test_indistinguishability_never_stands_without_its_price(pages: dict[str, str]):
    source = pages["twenty"]
    for title in ("A fresh classifier, by hook point", "The old probe at"):
        start = source.index(title)
        near = visible(source[start : source.index("</figure>", start)])
        assert "general-text loss +0.2 %" in near and "gibberish 1 %" in near


def test_a_limit_on_the_figure_itself_is_drawn_where_it_is(one_name, tmp_path: Path):
    report = one_name()
    near = check("recall lost by neighbours", (0.988, 0.97, 1.0), ">=", 0.95)
    assert "limit: at least 95 %" in visible(page(replace(report, checks=(near,)), tmp_path))


def test_a_limit_on_another_figure_is_not_drawn_on_the_axis(one_name, tmp_path: Path):
    report = one_name()
    checks = [replace(c, value=0.5, threshold=0.95) if "neighbours" in c.name else c for c in report.checks]
    text = visible(page(replace(report, checks=tuple(checks)), tmp_path))
    assert text.count("points lost") == 1, "that of the other known names"
    assert "limit: at most 95 %" not in text


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_verdict_is_on_the_first_screen(verdict: str, one_name, tmp_path: Path):
    words = {"pass": "Passed", "fail": "Failed", "inconclusive": "Undecided"}
    source = page(one_name(verdict), tmp_path)
    assert f'<span class="badge {verdict}">' in source
    assert visible(source).index(words[verdict]) < 300


def test_answers_are_kept_word_for_word(pages: dict[str, str]):
    source = pages["twenty"]
    assert source.count("<details>") >= 20 and "Velmora. The" in source and "(nothing)" in source
    assert pages["one"].count("<details open>") == 1


def test_missing_numbers_and_empty_lists(one_name, tmp_path: Path):
    report = bare(one_name())
    text = visible(page(report, tmp_path))
    assert "not measured" in text and "No answers were kept" in text and "No attack was tried" in text
    assert "None" not in text.split() and "nan" not in text.lower().split()
    nothing = AnswerShares(NAN, NAN, NAN, NAN, NAN, NAN)
    empty = replace(report, checks=(), indistinguishability={}, probe=None, behaviour=Behaviour(nothing, nothing))
    assert "nothing is decided" in visible(page(empty, tmp_path))


def test_hostile_text_is_escaped(one_name, tmp_path: Path):
    bad = '<script>alert("x")</script>$&'
    report = one_name()
    answer, first = report.answers[0], report.checks[0]
    attack = replace(report.attacks["prompts"], compared_with=bad)
    report = replace(
        report,
        request=replace(report.request, forget=(bad,), hook_point=bad, facts={**report.request.facts, "model": bad}),
        walk={bad: replace(report.walk["layers.1"], names=(bad,))},
        indistinguishability={bad: report.indistinguishability["layers.1"]},
        attacks={bad: attack},
        answers=(replace(answer, entity=bad, after=bad, prompt=bad, truth=bad), *report.answers[1:]),
        checks=(replace(first, text=bad), *report.checks[1:]),
        not_tested=(bad,),
    )
    source = page(report, tmp_path)
    assert source.count("<script>") == 1  # our own
    assert 'alert("' not in re.sub(r">[^<]*<", "><", source)  # not even inside an attribute
    assert source.count("&lt;script&gt;") > 10


@pytest.mark.parametrize("is_bare", [False, True])
def test_page_is_deterministic_and_leaves_the_report_alone(is_bare, one_name, pages: dict[str, str], tmp_path: Path):
    report = bare(one_name()) if is_bare else one_name()
    untouched = copy.deepcopy(report)
    first = page(bare(one_name()), tmp_path) if is_bare else pages["one"]
    assert page(report, tmp_path) == first and repr(report) == repr(untouched)


@pytest.mark.parametrize("name", ["one", "twenty", "bare"])
def test_page_is_one_file(name: str, pages: dict[str, str], one_name, tmp_path: Path):
    source = pages[name] if name in pages else page(bare(one_name()), tmp_path)
    assert not re.search(r"https?:|//[a-z]|@import|\ssrc=|<link|url\((?!#)", source)
    ids = re.findall(r'\sid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', source):
        assert "".join(target) in ids


def test_names_can_be_pointed_at(pages: dict[str, str]):
    assert pages["one"].count("<title>Jiros Fotrim Vafuk, before</title>") == len(HOOKS)


def test_a_page_without_attacks_says_so(twenty_names, tmp_path: Path):
    text = visible(page(replace(twenty_names(), attacks={}), tmp_path))
    assert "No attack was tried on this model." in text and "Answers about the targets" in text


def test_the_inside_is_not_shown_without_text_loss_and_gibberish(twenty_names, tmp_path: Path):
    for missing in ("utility", "behaviour"):
        text = visible(page(replace(twenty_names(), **{missing: None}), tmp_path))
        assert "would flatter a destroyed model" in text
        assert "A fresh classifier, by hook point" not in text and "Where the names went" not in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1280])
def test_browser_lays_it_out_without_errors(width: int, twenty_names, tmp_path: Path):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("needs Chromium; none on PATH")
    report = twenty_names("fail")
    others = {name: beside(report) for name in ("idk", "a-baseline-with-quite-a-long-name/checkpoint-300")}
    source = page(replace(report, compare=others), tmp_path)
    probe = "<script>document.title = [innerWidth, document.documentElement.scrollWidth].join(' ');</script>"
    (tmp_path / "measured.html").write_text(source.replace("</body>", probe + "</body>"), encoding="utf-8")
    # A headless window is at least 500 wide, so a frame sets the width.
    frame = f'<iframe id="f" width="{width}" src="measured.html" style="border:0"></iframe>'
    watch = "<script>f.onload = () => document.title = f.contentDocument.title</script>"
    (tmp_path / "frame.html").write_text(frame + watch, encoding="utf-8")
    command = [browser, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    inner, scroll = map(int, re.findall(r"<title>(\d+) (\d+)</title>", done.stdout)[0])
    assert inner == width and scroll <= width
    assert "CONSOLE" not in done.stderr


# ------------------------------------------------------------------------------------------------- in a notebook
def test_a_notebook_shows_verdict_figures_checks_and_the_walk(twenty_names):
    report = twenty_names("fail")
    source = report._repr_html_()
    text = visible(source).replace("\u00a0", " ")
    assert "Failed 20 names: not cleanly forgotten. 1 of 7 checks failed." in text
    assert "Target recall 98.5 % (92.5 % – 100 %) 31 % (25 % – 37 %)" in text
    assert all(c.name in text for c in report.checks)
    assert source.count("<svg") == 1 and "layers.3" in source
    own = '<table style="background:none;color:inherit">'  # a dark notebook paints tables, not the card around them
    assert source.count("<table") == source.count(own) == 2
    assert source.count("<tr") == source.count('<tr style="background:none">') > 7
    assert not re.search(r"https?:|//[a-z]|@import|\ssrc=|<link|<script|url\((?!#)", source), "nothing from elsewhere"
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", source))
    assert used and all(f"--{name}:#" in source for name in used)


def test_a_notebook_shows_no_walk_without_its_price_and_escapes_names(one_name):
    report = one_name()
    assert "<svg" not in replace(report, utility=None)._repr_html_()
    bad = replace(report, request=replace(report.request, forget=("<b>&",)))
    assert "<b>&" not in bad._repr_html_() and "&lt;b&gt;&amp;" in bad._repr_html_()
