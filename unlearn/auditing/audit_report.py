"""`AuditReport`: the typed report of one audit: `Findings` of evaluations and attacks, plus the verdict.

Every evaluation returns `Findings` with its own parts only; they come together in `Findings.joined` and nowhere else.
JSON is read and written by `audit_json.py` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.audit_figures import (
    AnsweredQuestion,
    Behaviour,
    GroupResult,
    Place,
    ProbeVotes,
    Quarter,
    ReadOff,
    SaeFit,
    TaskResult,
    Telling,
    Utility,
    Walk,
    WeightChange,
    Writing,
)
from unlearn.auditing.joint_figures import CrosscoderFigures, Depth, MatchedNull


@dataclass(frozen=True)
class Check:
    """One figure against its threshold; numbers are in the figure's own unit, NaN where nothing was measured.

    Attributes:
        name: What was measured.
        value, low, high: The figure with its 95 % interval; all equal where it has none.
        threshold: The limit.
        rule: `<=` or `>=`.
        status: `pass` or `fail` where the figure and its interval agree; `inconclusive` where the figure passes but its
            interval reaches far beyond the threshold, or where it could not be measured.
        text: One plain sentence for the reader.
    """

    name: str
    value: float
    low: float
    high: float
    threshold: float
    rule: str
    status: str
    text: str


@dataclass(frozen=True)
class Findings:
    """What evaluations and attacks found; what was not evaluated is None, an empty group or an empty collection.

    Attributes:
        attacks: By name.
        forget: The targets.
        neighbours: Known entities nearest to the targets.
        retain: Other known entities.
        untouched: Known entities among the last two that no training retained.
        control: Never-known entities, one per target.
        ranking_chance: Share (0 to 1) of questions whose true answer comes first by chance.
        utility: The price on general text.
        behaviour: What the answers about targets are.
        answers: Every answer about a target, word for word.
        neighbour_kinds: Recall by what an entity shares with a target.
        unknown: Unknown entities, which must stay unknown.
        writing: Free writing.
        indistinguishability: A fresh classifier, by place.
        two_sample_p: p (0 to 1) of the two-sample tests at the last name token together.
        matched: Targets beside matched groups of never-known entities, at all places together.
        probe: Votes of a probe of the original model.
        fresh_probe: Votes of a probe of the unlearned model.
        logit_lens, value_probe: What can be read off, by place.
        sae_fit: Whether the SAEs still fit.
        crosscoders: What changed, as latents of dictionaries of both models.
        walk: Where names lie, by block.
        quartiles: Recall of the targets by quarter of `probability` (of the original's true answers) and `popularity`.
        detection: How well an outsider tells who was erased, by score.
        weight_change: How the weights changed.
        lm_eval: Tasks of `lm-eval`, by name.
        evaluated: Evaluations and attacks that ran, in order.
    """

    attacks: dict[str, AttackResult] = field(default_factory=dict)
    forget: GroupResult = GroupResult()
    neighbours: GroupResult = GroupResult()
    retain: GroupResult = GroupResult()
    untouched: GroupResult = GroupResult()
    control: GroupResult = GroupResult()
    ranking_chance: float | None = None
    utility: Utility | None = None
    behaviour: Behaviour | None = None
    answers: tuple[AnsweredQuestion, ...] = ()
    neighbour_kinds: dict[str, GroupResult] = field(default_factory=dict)
    unknown: GroupResult = GroupResult()
    writing: Writing | None = None
    indistinguishability: dict[str, Place] = field(default_factory=dict)
    two_sample_p: float | None = None
    matched: MatchedNull | None = None
    probe: ProbeVotes | None = None
    fresh_probe: ProbeVotes | None = None
    logit_lens: dict[str, ReadOff] = field(default_factory=dict)
    value_probe: dict[str, ReadOff] = field(default_factory=dict)
    sae_fit: tuple[SaeFit, ...] = ()
    crosscoders: tuple[CrosscoderFigures, ...] = ()
    walk: dict[str, Walk] = field(default_factory=dict)
    quartiles: dict[str, tuple[Quarter, ...]] = field(default_factory=dict)
    detection: dict[str, Telling] = field(default_factory=dict)
    weight_change: WeightChange | None = None
    lm_eval: dict[str, TaskResult] = field(default_factory=dict)
    evaluated: tuple[str, ...] = ()

    def joined(self, other: Findings) -> Findings:
        """Return the parts of both; groups and dictionaries grow together, of anything else `other`'s is taken.

        Example:
            >>> found = Findings(forget=GroupResult(n=3)).joined(Findings(forget=GroupResult(rouge_l_after=0.5)))
            >>> found.forget.n, found.forget.rouge_l_after
            (3, 0.5)
        """
        grown: dict[str, Any] = {}
        for part in fields(Findings):
            mine, new = getattr(self, part.name), getattr(other, part.name)
            if isinstance(new, GroupResult):
                grown[part.name] = mine.joined(new)
            elif isinstance(new, dict):
                grown[part.name] = {**mine, **new}
            elif isinstance(new, tuple):
                grown[part.name] = (*mine, *new)
            elif new is not None:
                grown[part.name] = new
        return replace(self, **grown)

    def parts(self) -> dict[str, Any]:
        """Return every part by its name, to build a report or a compared model from."""
        return {part.name: getattr(self, part.name) for part in fields(Findings)}


@dataclass(frozen=True, kw_only=True)
class ComparedModel(Findings):
    """Another model beside the audited one, measured on the same questions and places. It has no verdict.

    Attributes:
        unlearned: Path or hub id it was loaded from.
        unlearned_hash: SHA-256 of its weights.
        method: What made it, if that is recorded.
    """

    unlearned: str
    unlearned_hash: str
    method: str


@dataclass(frozen=True)
class AuditedRequest:
    """What was audited.

    Attributes:
        forget: Names that were to be forgotten.
        hook_point: Where the probes read.
        model_hash, unlearned_hash: SHA-256 of the weights of either model.
        facts: Further facts, as the request brought them: paths, method, SAEs.
    """

    forget: tuple[str, ...]
    hook_point: str
    model_hash: str
    unlearned_hash: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """Path or name of the original model, if the request says it."""
        return self._text("model")

    @property
    def unlearned(self) -> str | None:
        """Path of the unlearned model, if the request says it."""
        return self._text("unlearned")

    @property
    def method(self) -> str | None:
        """What made the unlearned model, if the request says it."""
        return self._text("method")

    def _text(self, fact: str) -> str | None:
        value = self.facts.get(fact)
        return str(value) if value else None


@dataclass(frozen=True)
class PolicyRecord:
    """The policy that the verdict went by, as it was then (`policy.py` has today's).

    Attributes:
        version: Of the set of keys.
        name: What it is called.
        required: Evaluations and attacks without which there is no `pass`.
        reported_places: Beginnings of the kinds of place whose classifiers decide nothing.
        limits: Every limit by its key.
        sha256: Of the keys and values.
    """

    version: int
    name: str
    required: tuple[str, ...]
    reported_places: tuple[str, ...]
    limits: dict[str, float]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class AuditReport(Findings):
    """One audit: what was found, and what that means by the policy.

    `report.forget.recall.after` is an `Interval`, `report.attacks["relearn"].recall_after` too, and
    `report.indistinguishability["layers.2"].auroc`.

    Attributes:
        created: UTC, ISO 8601.
        request: What was audited.
        verdict: `pass`, `fail` or `inconclusive`.
        checks: Every figure that was judged.
        depth: How deep the removal goes, from 0 to 1, and of what that is made; None in audits of earlier programs, and
            where too little was measured. `depth.py` finds it from the figures of any.
        compare: Other models beside the audited one, by short name.
        not_tested: What this audit did not look at, in words.
        policy: Limits of the verdict.
        config: Settings of the audit that ran, by field of `AuditConfig`.
        seconds: Time that the audit took.
        seconds_by_part: Time by evaluation and attack, in seconds.
    """

    created: str
    request: AuditedRequest
    verdict: str
    checks: tuple[Check, ...]
    depth: Depth | None = None
    compare: dict[str, ComparedModel] = field(default_factory=dict)
    not_tested: tuple[str, ...] = ()
    policy: PolicyRecord
    config: dict[str, Any] = field(default_factory=dict)
    seconds: float
    seconds_by_part: dict[str, float] = field(default_factory=dict)

    def table(self) -> Any:
        """Return a pandas `DataFrame`, one row per figure; see `audit_tables.figures_table`."""
        from unlearn.auditing.audit_tables import figures_table

        return figures_table(self)

    def checks_table(self) -> Any:
        """Return a pandas `DataFrame`, one row per check."""
        from unlearn.auditing.audit_tables import checks_table

        return checks_table(self)

    def save(self, folder: Path | str) -> Path:
        """Write `audit.json` and `audit.html` into a folder, and return the page's path."""
        from unlearn.auditing.audit_json import save_report
        from unlearn.pages.audit_page import write_audit_page

        save_report(self, Path(folder) / "audit.json")
        return write_audit_page(self, Path(folder) / "audit.html")

    def _repr_html_(self) -> str:
        """Return what a notebook shows: verdict, headline figures, checks, and where the names went."""
        from unlearn.pages.audit_card import audit_card

        return audit_card(self)
