"""Results of attacks, as frozen dataclasses: recall of targets and of never-known entities, by setting."""

from __future__ import annotations

from dataclasses import dataclass

from features.stats.probe import Interval

CONTROL = "never-known entities"


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
class CurvePoint:
    """Recall of the facts that were not taught, at one point of relearning.

    Attributes:
        lr: AdamW's step size; 0 before any lesson.
        step: Optimizer steps taken.
        target, control: Recall (0 to 1) of targets and of never-known entities.
    """

    lr: float
    step: int
    target: float
    control: float


@dataclass(frozen=True)
class Relearning:
    """How lessons about some facts bring back the others.

    Attributes:
        split: What was parted into taught and asked: `facts` or `targets`.
        n_taught, n_asked: Facts of targets that were taught and asked.
        curve: Recall over steps and step sizes.
    """

    split: str
    n_taught: int
    n_asked: int
    curve: tuple[CurvePoint, ...]


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
        relearning: What relearning has beside.
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
