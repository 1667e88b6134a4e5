"""Results of attacks, as frozen dataclasses: recall of targets and of never-known entities, by setting."""

from __future__ import annotations

from dataclasses import dataclass, field

from features.stats.probe import Interval

CONTROL = "never-known entities"
QA, CLOZE, PROBABILITY = "qa", "cloze", "probability"
READINGS = {QA: "questions", CLOZE: "cloze", PROBABILITY: "answer probability"}
"""Readings of an attack by training, in words; see `attacks/readings.py`."""


@dataclass(frozen=True)
class AttackSetting:
    """One setting of an attack; recall is the share (0 to 1) of right answers.

    Attributes:
        name: Which one.
        target: Recall of the targets under it.
        control: Recall of never-known entities under it.
        before: Recall of the targets by the original model on the same questions; NaN where that was not asked.
    """

    name: str
    target: Interval
    control: Interval
    before: float


@dataclass(frozen=True)
class Reading:
    """One reading (0 to 1) at one point of an attack's path.

    Attributes:
        target: Of the targets.
        control: Of never-known entities.
    """

    target: float
    control: float


@dataclass(frozen=True)
class CurvePoint:
    """What is answered at one point of an attack's path.

    Attributes:
        lr: AdamW's step size; 0 before any lesson.
        step: Optimizer steps taken.
        target, control: Recall (0 to 1) of targets and of never-known entities in the first held-out wordings.
        readings: By name, see `READINGS`; empty in audits of earlier programs.
    """

    lr: float
    step: int
    target: float
    control: float
    readings: dict[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Highest:
    """The highest value (0 to 1) of one reading on the whole path, no lesson included.

    Attributes:
        target: Of the targets, with its interval there.
        target_lr, target_step: Where that was: the earliest such point.
        control: Of never-known entities, wherever theirs is.
        control_lr, control_step: Where that was.
        before: Of the targets in the original model.
    """

    target: Interval
    target_lr: float
    target_step: int
    control: Interval
    control_lr: float
    control_step: int
    before: float


@dataclass(frozen=True)
class Relearning:
    """What lessons bring back that did not tell it.

    Attributes:
        split: What was parted into taught and asked: `facts` or `targets`; `entities`, where others were taught.
        n_taught, n_asked: Facts that were taught (of targets, or of the others), facts of targets that were asked.
        curve: Recall and readings over steps and step sizes.
        highest: The maximum of each reading over the curve; empty in audits of earlier programs.
        not_read: Readings without a held-out wording of their sort.
    """

    split: str
    n_taught: int
    n_asked: int
    curve: tuple[CurvePoint, ...]
    highest: dict[str, Highest] = field(default_factory=dict)
    not_read: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttackResult:
    """What one attack brought back.

    Attributes:
        worst: The setting where the targets lie most above the control's interval; the attack is judged by it.
        settings: All settings.
        compared_with: What `worst.control` is.
        text: Name of the text that was trained on, for an attack by training on text.
        without: Recall (0 to 1) of the targets without the attack, where it was taken beside it.
        not_asked: Forms of question that could not be asked about these targets.
        relearning: What an attack by lessons has beside.
    """

    worst: AttackSetting
    settings: tuple[AttackSetting, ...]
    compared_with: str = CONTROL
    text: str | None = None
    without: float | None = None
    not_asked: tuple[str, ...] | None = None
    relearning: Relearning | None = None

    @property
    def recall_after(self) -> Interval:
        """Recall of the targets under the worst setting."""
        return self.worst.target

    @property
    def compared(self) -> Interval:
        """Recall of what the targets are compared with, under the worst setting."""
        return self.worst.control
