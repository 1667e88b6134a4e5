"""The notebook view of an audit: verdict, headline figures, checks and the walk, as one piece of HTML.

Nothing is loaded from elsewhere: the figure is inside, and styles stand on the elements, since a notebook has its own.
"""

from __future__ import annotations

from markupsafe import Markup

from features.pages import plots as colours
from features.pages.latents_page import environment
from unlearn.auditing.audit_report import AuditReport
from unlearn.pages import plots
from unlearn.pages.audit_page import STATUS_MARKS, TEMPLATES, VERDICT_WORDS, headline, headlines
from unlearn.pages.compare_page import has_price

TONES = {"pass": colours.KNOWN, "fail": colours.TARGET, "inconclusive": colours.UNKNOWN}
VARIABLES = {
    "ink": colours.INK,
    "muted": colours.MUTED,
    "line": colours.LINE,
    "faint": colours.FAINT,
    "card": colours.CARD,
    "known": colours.KNOWN,
    "unknown": colours.UNKNOWN,
    "target": colours.TARGET,
}


def audit_card(report: AuditReport) -> str:
    """Return a compact view of a report; the walk is that of the last block, and is left out where it has no price."""
    svg = None
    if report.walk and has_price(report):
        block, panel = list(report.walk.items())[-1]
        svg = Markup(plots.walk("card-walk", block, panel))
    values = {
        "headline": headline(report),
        "word": VERDICT_WORDS[report.verdict],
        "mark": STATUS_MARKS[report.verdict],
        "marks": STATUS_MARKS,
        "tones": TONES,
        "verdict": report.verdict,
        "figures": headlines(report),
        "utility": report.utility,
        "checks": report.checks,
        "walk": svg,
        "variables": VARIABLES,
    }
    return environment(TEMPLATES).get_template("audit_card.html.j2").render(values)
