"""Page of the bench of known truth: docs/results/audit_detector.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.audit.detector_cells import APART, FORGOTTEN, NOT, Cell, of_truth
from benchmarks.audit.detector_scores import (
    DEPTH,
    Errors,
    catches,
    depth_score,
    left_out_errors,
    roc,
    scores_of,
    verdict_errors,
    without_damage,
)
from sae_train.intervals import Interval

WORDS, SCORES = "## What this shows\n\n", "\n\n## Errors"


def page(by_policy: Mapping[str, Sequence[Cell]], intro: str, old: str = "") -> str:
    """Render everything that the cells say.

    Args:
        by_policy: The finished cells as each policy judges them; the last one's verdicts are shown model by model.
        intro: What was run.
        old: The page so far, whose words written by hand stay.
    """
    shown, cells = list(by_policy.items())[-1]
    return "\n".join(
        [
            "# The audit as a detector",
            "",
            intro.strip(),
            "",
            f"{len(cells)} models, {len({c.seed for c in cells})} worlds. Checks and single verdicts: policy {shown}.",
            "",
            WORDS + (old.partition(WORDS)[2].partition(SCORES)[0].strip() or "(to be written)"),
            "",
            SCORES.strip(),
            "",
            *_errors(cells, by_policy),
            "",
            "## Each check alone, and the depth",
            "",
            *_rocs(cells),
            "",
            "## The models",
            "",
            *_models(cells),
            "",
            "## Which check catches which",
            "",
            *_catches(cells),
            "",
        ]
    )


def _errors(cells: Sequence[Cell], by_policy: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Return the table of errors of the verdicts, which may leave a model open, and of a limit on the depth."""
    rows = {f"verdict, policy {name}": verdict_errors(judged) for name, judged in by_policy.items()}
    rows["the last one, damage to others left out"] = verdict_errors([without_damage(c) for c in cells])
    rows["depth, by the limit that the other worlds give"] = left_out_errors(cells, depth_score)
    head = ["| decided by | false passes | false fails | cheats that pass |", "|---|---|---|---|"]
    return [*head, *(f"| {name} | {_row(e)} |" for name, e in rows.items())]


def _row(found: Errors) -> str:
    return " | ".join(_interval(i) for i in (found.false_passes, found.false_fails, found.cheats))


def _interval(found: Interval) -> str:
    """Return a figure with its interval; a dash where there is none."""
    return "–" if not math.isfinite(found.value) else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _rocs(cells: Sequence[Cell]) -> list[str]:
    """Return the table of AUROCs, best first, the depth on top."""
    rows = [roc(cells, name, score) for name, score in scores_of(cells).items()]
    rows.sort(key=lambda r: (r.name != DEPTH, -r.auc.value if math.isfinite(r.auc.value) else 1.0))
    head = ["| score | AUROC | worst world alone | forgotten | not |", "|---|---|---|---|---|"]
    return [
        *head,
        *(
            f"| {r.name} | {_interval(r.auc)} | {'–' if math.isnan(r.worst_seed) else f'{r.worst_seed:.3f}'} | "
            f"{r.n_forgotten} | {r.n_not} |"
            for r in rows
        ),
    ]


def _models(cells: Sequence[Cell]) -> list[str]:
    """Return a row per model: truth, verdicts, depth, and what longer lessons bring back."""
    head = [
        "| model | truth (models) | pass | inconclusive | fail | depth, mean | longer lessons bring back |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for family, name in sorted({(c.family, c.name) for c in cells}):
        own = [c for c in cells if (c.family, c.name) == (family, name)]
        truths = ", ".join(f"{t} ({n})" for t in (FORGOTTEN, NOT, APART) if (n := len(of_truth(own, t))))
        verdicts = Counter(c.report.verdict for c in own)
        counts = " | ".join(str(verdicts[v]) for v in ("pass", "inconclusive", "fail"))
        depths = [d for c in own if math.isfinite(d := depth_score(c))]
        back = [c.evidence.target for c in own if c.evidence is not None]
        rows.append(f"| {family}: {name} | {truths} | {counts} | {_mean(depths)} | {_mean(back)} |")
    return [*head, *rows]


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "–"


def _catches(cells: Sequence[Cell]) -> list[str]:
    """Return, for every cheat and near miss, the checks that it did not pass."""
    rows = ["| model | checks not passed (models) |", "|---|---|"]
    for name, checks in catches(cells).items():
        rows.append(f"| {name} | {', '.join(f'{k} ({n})' for k, n in checks.most_common()) or 'none'} |")
    return rows
