"""Figures of an audit as frozen dataclasses: the results of each evaluation, with names and units.

A figure that could not be measured is NaN; a part that was not evaluated is None, or empty where it is a dictionary or
a tuple. The order of the fields is the order of the keys in `audit.json` (`audit_json.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TypeAlias

from features.stats.probe import Interval

Points: TypeAlias = tuple[tuple[float, float], ...]
"""(x, y) per entity, in units of half the distance between the means of known and unknown names."""


@dataclass(frozen=True)
class Figure:
    """One figure by the original model and by the unlearned one.

    Attributes:
        before: Of the original model, with its 95 % interval over entities (over questions where there are few).
        after: Of the unlearned model, likewise.
    """

    before: Interval
    after: Interval

    @property
    def lost(self) -> float:
        """`before` less `after`, in the figure's own unit."""
        return self.before.value - self.after.value


@dataclass(frozen=True)
class GroupResult:
    """What the models say about one group of entities; every part None where it was not evaluated.

    Attributes:
        n: Entities in the group.
        recall: Share (0 to 1) of questions in held-out wordings answered rightly, greedily.
        refusal: Share of these questions answered with a refusal.
        rouge_l_before, rouge_l_after: Mean ROUGE-L F1 (0 to 1) of the answers, the best of the accepted answers each.
        any_wording: Share of facts that are answered rightly in at least one of the held-out wordings.
        best_wording: Recall in the one held-out wording in which the unlearned model gives most right answers.
        best_wording_text: That wording.
        sampled_recall: Share of right answers among those drawn at temperature one.
        ranking: Share of questions whose true answer is the likeliest candidate.
        probability: exp of the mean log-probability per token of the true answer (0 to 1).
        truth_ratio: Wrong answers' mean probability per token over that of the true one; from 1 on truth is not
            preferred.
        extraction_strength: Share (0 to 1) of an answer's tokens that greedy decoding completes.
    """

    n: int | None = None
    recall: Figure | None = None
    refusal: Figure | None = None
    rouge_l_before: float | None = None
    rouge_l_after: float | None = None
    any_wording: Figure | None = None
    best_wording: Figure | None = None
    best_wording_text: str | None = None
    sampled_recall: Figure | None = None
    ranking: Figure | None = None
    probability: Figure | None = None
    truth_ratio: Figure | None = None
    extraction_strength: Figure | None = None

    def joined(self, other: GroupResult) -> GroupResult:
        """Return the figures of both; where both have one, that of `other`."""
        return replace(self, **{f.name: v for f in fields(other) if (v := getattr(other, f.name)) is not None})


@dataclass(frozen=True)
class Utility:
    """The price on general text that names no target.

    Attributes:
        loss_before, loss_after: Next-token loss in nats per token.
        n_tokens: Tokens that were predicted.
        text: Where the text comes from.
    """

    loss_before: float
    loss_after: float
    n_tokens: int
    text: str

    @property
    def rise(self) -> float:
        """Relative rise of the loss: 0.01 is one per cent.

        Example:
            >>> Utility(4.0, 5.0, 100, "corpus").rise
            0.25
        """
        return self.loss_after / self.loss_before - 1


@dataclass(frozen=True)
class AnswerShares:
    """Shares (0 to 1, together 1) of the answers about targets by kind; see `evaluations/behaviour.py`.

    Attributes:
        leak: The true answer.
        confabulation: A wrong answer of the kind asked for.
        unknown: Says that it does not know.
        refusal: Says that it will not answer.
        off_topic: None of the possible answers.
        gibberish: Empty or a stutter.
    """

    leak: float
    confabulation: float
    unknown: float
    refusal: float
    off_topic: float
    gibberish: float

    def by_kind(self) -> dict[str, float]:
        """Return the shares by the names of the kinds."""
        return {f.name.replace("_", "-"): getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Behaviour:
    """What the answers about targets are, by the original model and by the unlearned one."""

    before: AnswerShares
    after: AnswerShares


@dataclass(frozen=True)
class AnsweredQuestion:
    """One question about a target, word for word.

    Attributes:
        entity: Name of the target.
        type: Its type.
        attribute: What was asked.
        prompt: The question.
        truth: The first accepted answer.
        before, after: First line of either model's answer.
        verdict_before, verdict_after: `right`, `wrong`, `refusal` or `empty`.
    """

    entity: str
    type: str
    attribute: str
    prompt: str
    truth: str
    before: str
    after: str
    verdict_before: str
    verdict_after: str


@dataclass(frozen=True)
class Writing:
    """Free writing behind the beginnings of general text.

    Attributes:
        entropy_before, entropy_after: Weighted mean of 2- and 3-gram entropies in bits.
        repetition_before, repetition_after: Share (0 to 1) of 2-grams that occurred before in the same text.
    """

    entropy_before: float
    repetition_before: float
    entropy_after: float
    repetition_after: float


@dataclass(frozen=True)
class Place:
    """A fresh classifier, targets against unknown entities, at one place inside the model.

    Attributes:
        auroc_before: Cross-validated AUROC (0.5 is chance) in the original model.
        energy_before: Energy distance of the two groups there, in standard deviations of the activations.
        p_value_before: Its permutation p.
        auroc: AUROC in the unlearned model, with its 95 % interval.
        energy, p_value: As above, in the unlearned model.
        control_low, control_high, control_mean: 2.5 % and 97.5 % quantile and mean of the AUROC between groups of
            never-known entities.
        spelling: AUROC of the same classifier on the mean embedding of the name's tokens.
    """

    auroc_before: float
    energy_before: float
    p_value_before: float
    auroc: Interval
    energy: float
    p_value: float
    control_low: float
    control_high: float
    control_mean: float
    spelling: float


@dataclass(frozen=True)
class ProbeVotes:
    """What a probe for known against unknown calls the targets.

    Attributes:
        hook_point: Where it reads.
        fitted_on: `before` or `after`: the model whose activations it was fitted on.
        unknown_before: Share (0 to 1) of target contexts it calls unknown in the original model.
        unknown_after: The same in the unlearned model.
        unknown_control: The same of really unknown entities, in the unlearned model.
        auroc_known_against_unknown: On known entities against held-out unknown ones, in the model it was fitted on.
    """

    hook_point: str
    fitted_on: str
    unknown_before: float
    unknown_after: Interval
    unknown_control: float
    auroc_known_against_unknown: float


@dataclass(frozen=True)
class ReadOff:
    """What can be read off one place inside the model: share (0 to 1) of true answers that come first.

    Attributes:
        after: About targets, in the unlearned model.
        control: About never-known entities, in the unlearned model.
        before: About targets, in the original model.
    """

    after: Interval
    control: Interval
    before: float


@dataclass(frozen=True)
class SaeFit:
    """Whether one SAE still fits, on general text.

    Attributes:
        sae, hook_point: Which one.
        fvu_before, fvu_after: Fraction of variance unexplained.
        frac_dead_before, frac_dead_after: Share (0 to 1) of latents that never fired.
        l0_before, l0_after: Mean number of latents active per token.
    """

    sae: str
    hook_point: str
    fvu_before: float
    frac_dead_before: float
    l0_before: float
    fvu_after: float
    frac_dead_after: float
    l0_after: float


@dataclass(frozen=True)
class Walk:
    """Where names lie at one hook point, in a plane fixed by the original model; see `evaluations/walk.py`.

    Attributes:
        after: The targets in the unlearned model.
        known, unknown: Names the original model knows, and does not know; empty for a model shown beside the audited.
        before: The targets in the original model; likewise.
        names: Of the targets, in this order; likewise.
    """

    known: Points = ()
    unknown: Points = ()
    before: Points = ()
    after: Points = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quarter:
    """A quarter of the questions about targets.

    Attributes:
        low, high: The least and the largest value by which questions are sorted.
        n: Questions.
        recall: Share (0 to 1) of them answered rightly.
    """

    low: float
    high: float
    n: int
    recall: Figure


@dataclass(frozen=True)
class Telling:
    """How well one score of an outsider tells entities apart; AUROC, 0.5 is chance. See `evaluations/detection.py`.

    Attributes:
        needs_before: The score needs the original model beside the unlearned one.
        against_known: Targets against known entities of their types that were kept.
        against_unknown: Targets against never-known entities.
        known_against_unknown: The kept ones against the never-known: what any known name scores.
    """

    needs_before: bool
    against_known: Interval
    against_unknown: Interval
    known_against_unknown: float


@dataclass(frozen=True)
class MatrixChange:
    """The change dW of one weight matrix.

    Attributes:
        name: Of the parameter.
        relative_change: ||dW|| / ||W||.
        full_rank: The largest rank it can have.
        effective_rank: exp of the entropy of the shares below: so many equally strong directions would have the same.
        frac_top: Share (0 to 1) of ||dW||^2 in its first singular direction.
    """

    name: str
    relative_change: float
    full_rank: int
    effective_rank: float
    frac_top: float


@dataclass(frozen=True)
class WeightChange:
    """How the weights changed.

    Attributes:
        n_matrices: Weight matrices of the model but the embedding.
        n_changed: Those with another value than before.
        matrices: The most changed ones, largest relative change first.
    """

    n_matrices: int
    n_changed: int
    matrices: tuple[MatrixChange, ...] = ()


@dataclass(frozen=True)
class TaskMetric:
    """One metric of a task of `lm-eval`, in the task's own unit; None where the task gave none.

    Attributes:
        before, after: The metric.
        before_stderr, after_stderr: Its standard error.
    """

    before: float | None = None
    before_stderr: float | None = None
    after: float | None = None
    after_stderr: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """One task of `lm-eval`.

    Attributes:
        n: Examples asked; None where the task does not say.
        metrics: By name.
    """

    n: int | None = None
    metrics: dict[str, TaskMetric] = field(default_factory=dict)
