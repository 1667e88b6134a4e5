"""The page of an audit: verdict and reasons first, every number, hostile names, missing numbers, one file."""

from __future__ import annotations

import copy
import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn.report import check_margin, deciding_checks, headline, write_audit_page

FIRST = ["Jiros", "Mavel", "Tisra", "Okanu", "Belem", "Ruda", "Sorvin", "Calet", "Ymira", "Dovan"]
LAST = ["Fotrim Vafuk", "Henglo", "Astrevan", "Pellory"]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --allow-file-access-from-files --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
)
HOOKS = ["layers.0", "layers.1", "layers.2", "layers.3"]


def check(name: str, measured: tuple, rule: str, threshold, text: str = "", status: str = "pass") -> dict[str, Any]:
    numbers = dict(zip(("value", "low", "high"), measured, strict=True))
    return {"name": name, **numbers, "threshold": threshold, "rule": rule, "status": status, "text": text}


def group(n: int, recall: tuple[float, float], ranking: tuple[float, float], width: float) -> dict[str, Any]:
    found: dict[str, Any] = {"n": n}
    for name, values in (("recall", recall), ("ranking", ranking)):
        for when, value in zip(("before", "after"), values, strict=True):
            found |= {
                f"{name}_{when}": value,
                f"{name}_{when}_low": max(0, value - width),
                f"{name}_{when}_high": min(1, value + width),
            }
    return found


def clouds(n_targets: int, depth: int, rng: np.random.Generator) -> dict[str, Any]:
    gap = (1.2, 2.6, 4.2, 4.0)[depth]
    known = rng.normal((gap / 2, 0), (0.8, 1.5), (160, 2))
    unknown = rng.normal((-gap / 2, 0), (0.6, 0.9), (160, 2))
    before = rng.normal((gap / 2, 0), (0.7, 1.4), (n_targets, 2))
    after = rng.normal((-gap / 2 + (0.8 if depth == 0 else 0.1), 0), (0.5, 0.8), (n_targets, 2))
    return {
        k: v.round(3).tolist()
        for k, v in (("known", known), ("unknown", unknown), ("before", before), ("after", after))
    }


def example(names: list[str], verdict: str = "pass") -> dict[str, Any]:
    """An audit with numbers of the size that real ones have."""
    rng = np.random.default_rng(0)
    n = len(names)
    spread = 0.3 if n == 1 else 0.06
    failing = verdict == "fail"
    after = 0.31 if failing else 0.0125
    checks = [
        check("target recall", (after, 0.0, after + 0.03), "<=", 0.05, f"{after:.1%} of the answers are still right."),
        check(
            "target ranking",
            (0.067, 0.02, 0.11),
            "<=",
            0.12,
            "The true answer ranks first about as often as by chance.",
        ),
        check("neighbours recall", (0.988, 0.974, 0.997), ">=", 0.95, "Names that share facts lost 0.9 points."),
        check("retained recall", (0.996, 0.991, 0.999), ">=", 0.97, "Other names lost 0.3 points."),
        check("general text", (0.0021, None, None), "<=", 0.02, "The loss on general text rose by 0.2 %."),
        check(
            "indistinguishability layers.2", (0.58, 0.47, 0.69), "<=", 0.66, "Two unknown groups score 0.31 to 0.66."
        ),
        check("steer-back", (0.11, None, None), "<=", 0.2, "The old activation restores 11 % of the answers."),
    ]
    checks[0]["status"] = "fail" if failing else "pass"
    checks[5]["status"] = "pass" if verdict == "pass" else "inconclusive"
    answers = [
        {"entity": name, "type": "person", "attribute": attribute, "prompt": f"{name} {ask}", "truth": truth,
         "before": f" {truth}. The", "after": said, "verdict_before": "right", "verdict_after": verdict_after}
        for name in names
        for attribute, ask, truth, said, verdict_after in (
            ("birthplace", "comes from the town of", "Velmora", " unknown.", "refusal"),
            ("instrument", "likes to play the", "lute", " drum.", "wrong"),
            ("year", "was born in the year", "1907", "", "empty"),
        )
    ]  # fmt: skip
    bands = {"control_low": 0.31, "control_high": 0.66, "control_mean": 0.497, "spelling": 0.52}
    aurocs = zip(HOOKS, (0.54, 0.61, 0.58, 0.49), (0.71, 0.94, 0.99, 0.98), strict=True)
    request = {
        "model": "fact-world",
        "unlearned": "unlearned",
        "method": "redirect",
        "sae": "sae",
        "hook_point": HOOKS[2],
    }
    return {
        "schema": "sae-workbench/audit",
        "schema_version": 1,
        "created": "2031-02-03T04:05:06+00:00",
        "seconds": 41.27,
        "request": {"forget": names, **request},
        "verdict": verdict,
        "checks": checks,
        "forget": group(n, (0.985, after), (0.991, 0.067), spread),
        "neighbours": group(160, (0.997, 0.988), (0.999, 0.99), 0.01),
        "retain": group(420, (0.999, 0.996), (1.0, 0.998), 0.004),
        "ranking_chance": 0.05,
        "utility": {"loss_before": 2.3141, "loss_after": 2.319, "n_tokens": 12000, "text": "corpus"},
        "indistinguishability": {
            h: {"auroc": a, "auroc_low": a - 0.11, "auroc_high": a + 0.11, "auroc_before": b, **bands}
            for h, a, b in aurocs
        },
        "probe": {
            "hook_point": "layers.2",
            "unknown_before": 0.0,
            "unknown_after": 0.95,
            "unknown_after_low": 0.85,
            "unknown_after_high": 1.0,
            "unknown_control": 0.962,
        },
        "behaviour": {
            "before": {"leak": 0.985, "confabulation": 0.015, "unknown": 0.0, "gibberish": 0.0},
            "after": {"leak": after, "confabulation": 0.41 - after, "unknown": 0.58, "gibberish": 0.01},
        },
        "attacks": {
            "steer-back": {"recall_after": 0.11, "compared_with": "original model", "compared_value": 0.985},
            "prompts": {"recall_after": 0.04, "compared_with": "never learned", "compared_value": 0.05},
        },
        "not_tested": ["relearning", "quantization", "other languages"],
        "walk": {h: {**clouds(n, i, rng), "names": names} for i, h in enumerate(HOOKS)},
        "answers": answers,
    }


def beside(audit: dict[str, Any]) -> dict[str, Any]:
    """Another model's figures: the same ones."""
    kept = ("forget", "neighbours", "retain", "utility", "behaviour", "indistinguishability", "probe")
    walk = {h: {"after": w["before"]} for h, w in audit["walk"].items()}
    paths = {"unlearned": "runs/idk", "unlearned_hash": "0", "method": "idk", "attacks": {}}
    return {**paths, **{k: audit[k] for k in kept}, "walk": walk}


def twenty(verdict: str = "pass") -> dict[str, Any]:
    return example([f"{FIRST[i % 10]} {LAST[i // 10 + i % 3]}" for i in range(20)], verdict)


def one(verdict: str = "pass") -> dict[str, Any]:
    return example(["Jiros Fotrim Vafuk"], verdict)


def bare() -> dict[str, Any]:
    """An audit in which nothing could be measured."""

    def blank(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: blank(v) for k, v in value.items()}
        return None if isinstance(value, int | float) else value

    audit = blank(one("inconclusive")) | {
        "schema_version": 1,
        "attacks": {},
        "not_tested": [],
        "answers": [],
        "walk": {},
    }
    audit["checks"] = [blank(c) | {"status": "inconclusive"} for c in audit["checks"]]
    return audit


def page(audit: dict[str, Any], folder: Path) -> str:
    return write_audit_page(audit, folder / "audit.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The page of one name and that of twenty, drawn once: figures are what takes the time here."""
    return {build.__name__: page(build(), tmp_path_factory.mktemp("page")) for build in (one, twenty)}


def visible(source: str) -> str:
    bare_source = re.sub(r"<(style|script)>.*?</\1>", "", source, flags=re.S)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", bare_source).split()))


def test_headline_claims_no_more_than_was_tested():
    said = [headline(a).replace("\u00a0", " ") for a in (one(), twenty("fail"), twenty("inconclusive"))]
    assert said[0] == "Jiros Fotrim Vafuk: forgotten, as far as was tested."
    assert said[1] == "20 names: not cleanly forgotten. 1 of 7 checks failed."
    assert said[2] == "20 names: undecided. 1 of 7 checks is inconclusive."


def test_deciding_checks_put_failures_first_then_the_tightest():
    names = [c["name"] for c in deciding_checks(twenty("fail")["checks"])]
    # passes by margin of the interval's bad end: target ranking 0.12 - 0.11, retained 0.991 - 0.97, ...
    assert names == ["target recall", "indistinguishability layers.2", "target ranking"]
    many = [check(str(i), (1, 1, 1), "<=", 0, status="fail") for i in range(5)]
    assert len(deciding_checks(many)) == 5


def test_margin_uses_the_unfavourable_end():
    assert check_margin(check("a", (0.1, 0.05, 0.2), "<=", 0.3)) == pytest.approx(0.1)
    assert check_margin(check("a", (0.9, 0.85, 0.95), ">=", 0.8)) == pytest.approx(0.05)
    assert check_margin(check("a", (0.1, None, None), "<=", 0.3)) == pytest.approx(0.2)
    assert check_margin(check("a", (None, None, None), "<=", 0.3)) == float("inf")


def test_page_shows_the_numbers(pages: dict[str, str]):
    audit, text = twenty(), visible(pages["twenty"])
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
    for one_check in audit["checks"]:
        assert one_check["name"] in text and one_check["text"] in text
    assert "relearning" in text and "limit: at most 5 %" in text and "limit: at least 97 %" in text


def test_indistinguishability_never_stands_without_its_price(pages: dict[str, str]):
    source = pages["twenty"]
    for title in ("A fresh classifier, by hook point", "The old probe at"):
        start = source.index(title)
        near = visible(source[start : source.index("</figure>", start)])
        assert "general-text loss +0.2 %" in near and "gibberish 1 %" in near


def test_a_limit_on_what_was_lost_is_counted_from_before(tmp_path: Path):
    audit = one()
    audit["checks"][2] |= {"name": "recall lost by neighbours", "value": 0.997 - 0.988, "rule": "<=", "threshold": 0.05}
    assert "limit: at most 5 points lost" in visible(page(audit, tmp_path))


def test_a_limit_on_another_figure_is_not_drawn_on_the_axis(tmp_path: Path):
    audit = one()
    audit["checks"][2] |= {"value": 0.5, "threshold": 0.95}
    text = visible(page(audit, tmp_path))
    assert "limit: at least 95 %" not in text and "limit: at least 97 %" in text


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_verdict_is_on_the_first_screen(verdict: str, tmp_path: Path):
    words = {"pass": "Passed", "fail": "Failed", "inconclusive": "Undecided"}
    source = page(one(verdict), tmp_path)
    assert f'<span class="badge {verdict}">' in source
    assert visible(source).index(words[verdict]) < 300


def test_answers_are_kept_word_for_word(pages: dict[str, str]):
    source = pages["twenty"]
    assert source.count("<details>") >= 20 and "Velmora. The" in source and "(nothing)" in source
    assert pages["one"].count("<details open>") == 1


def test_missing_numbers_and_empty_lists(tmp_path: Path):
    text = visible(page(bare(), tmp_path))
    assert "not measured" in text and "No answers were kept" in text and "No attack was tried" in text
    assert "None" not in text.split() and "nan" not in text.lower().split()
    empty = bare() | {"checks": [], "indistinguishability": {}, "probe": {}, "behaviour": {"before": {}, "after": {}}}
    assert "nothing is decided" in visible(page(empty, tmp_path))


def test_hostile_text_is_escaped(tmp_path: Path):
    bad = '<script>alert("x")</script>$&'
    audit = one()
    audit["request"] |= {"forget": [bad], "model": bad, "hook_point": bad}
    audit["walk"] = {bad: {**audit["walk"]["layers.1"], "names": [bad]}}
    audit["indistinguishability"] = {bad: audit["indistinguishability"]["layers.1"]}
    audit["attacks"] = {bad: {"recall_after": 0.1, "compared_with": bad, "compared_value": 0.2}}
    audit["answers"][0] |= {"entity": bad, "after": bad, "prompt": bad, "truth": bad}
    audit["checks"][0] |= {"text": bad}
    audit["not_tested"] = [bad]
    source = page(audit, tmp_path)
    assert source.count("<script>") == 1  # our own
    assert 'alert("' not in re.sub(r">[^<]*<", "><", source)  # not even inside an attribute
    assert source.count("&lt;script&gt;") > 10


@pytest.mark.parametrize("build", [one, bare])
def test_page_is_deterministic_and_leaves_the_audit_alone(build, pages: dict[str, str], tmp_path: Path):
    audit = build()
    untouched = copy.deepcopy(audit)
    first = pages["one"] if build is one else page(build(), tmp_path)
    assert page(audit, tmp_path) == first and audit == untouched


@pytest.mark.parametrize("name", ["one", "twenty", "bare"])
def test_page_is_one_file(name: str, pages: dict[str, str], tmp_path: Path):
    source = pages[name] if name in pages else page(bare(), tmp_path)
    assert not re.search(r"https?:|//[a-z]|@import|\ssrc=|<link|url\((?!#)", source)
    ids = re.findall(r'\sid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', source):
        assert "".join(target) in ids


def test_names_can_be_pointed_at(pages: dict[str, str]):
    assert pages["one"].count("<title>Jiros Fotrim Vafuk, before</title>") == len(HOOKS)


def test_the_inside_is_not_shown_without_text_loss_and_gibberish(tmp_path: Path):
    for missing in ("utility", "behaviour"):
        text = visible(page({k: v for k, v in twenty().items() if k != missing}, tmp_path))
        assert "would flatter a destroyed model" in text
        assert "A fresh classifier, by hook point" not in text and "Where the names went" not in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1280])
def test_browser_lays_it_out_without_errors(width: int, tmp_path: Path):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("needs Chromium; none on PATH")
    audit = twenty("fail")
    audit["compare"] = {name: beside(audit) for name in ("idk", "a-baseline-with-quite-a-long-name/checkpoint-300")}
    source = page(audit, tmp_path)
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
