"""The path of an attack by lessons: a copy of the model taught at several step sizes, read at several steps.

What an attack gives is the maximum over its path: an attacker stops where it pays, and lessons that go on too long
teach something else. No lesson is the first point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sae_train.intervals import Interval
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import Advance, no_advance
from unlearn.auditing.attack_results import (
    PROBABILITY,
    READINGS,
    AttackResult,
    AttackSetting,
    CurvePoint,
    Highest,
    Reading,
    Relearning,
)
from unlearn.auditing.attacks.common import result
from unlearn.auditing.attacks.readings import Compared, Read, Reader
from unlearn.auditing.attacks.teacher import Lesson, Teacher
from unlearn.auditing.context import AuditContext
from unlearn.finetuning.finetune import SMALL, trainable_parameters

LESSONS = 16  # in a step
LESSONS_IF_LARGE = 8  # of a model with more than SMALL numbers to train, where a lesson costs a tenth of a second
Draw = Callable[[int], list[Lesson]]
"""step -> its lessons"""


@dataclass(frozen=True)
class PathConfig:
    """How a model is taught.

    Attributes:
        steps: Optimizer steps after which questions are asked; 0 is always asked.
        lrs: AdamW step sizes, each a run of its own.
        batch_size: Lessons in a step; where never-known entities are taught too, as many about them.
        max_targets: Targets that are attacked.
        max_wordings: Held-out wordings of an attribute that are asked, of either sort.
        seed: Parts the facts and draws the batches.
    """

    steps: tuple[int, ...] = (10, 30, 60)
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    batch_size: int = LESSONS
    max_targets: int = 20
    max_wordings: int = 2
    seed: int = 0


@dataclass(frozen=True)
class PathPoint:
    """What is answered after some steps at one step size.

    Attributes:
        lr, step: Which point; `lr` is 0 at step 0.
        target, control: Recall in the first held-out wordings.
        readings: By name; see `readings.py`.
    """

    lr: float
    step: int
    target: Interval
    control: Interval
    readings: dict[str, Compared]


@dataclass(frozen=True)
class Path:
    """What lessons brought back.

    Attributes:
        points: Step 0 first, then every run.
        split: What was parted into taught and asked: `facts`, `targets` or `entities`.
        n_taught: Facts that were taught, those of never-known entities apart.
        n_asked: Facts of targets that were asked.
        not_read: Readings without a held-out wording of their sort.
    """

    points: list[PathPoint]
    split: str
    n_taught: int
    n_asked: int
    not_read: tuple[str, ...] = ()

    @property
    def best(self) -> PathPoint:
        """The point where the targets answer most above the upper end of the control's interval."""
        return max(self.points, key=lambda p: p.target.value - p.control.high)


def path_config(context: AuditContext) -> PathConfig:
    """Return how an audit teaches the model after."""
    config = context.config
    return PathConfig(
        steps=config.attack_steps,
        lrs=config.attack_lrs,
        batch_size=lessons_per_step(context),
        max_targets=config.max_attacked,
        max_wordings=config.max_wordings,
        seed=config.seed,
    )


def lessons_per_step(context: AuditContext) -> int:
    """Return how many lessons a step has: as asked for, or by the number of parameters that are trained."""
    if context.config.attack_lessons is not None:
        return context.config.attack_lessons
    n_trained = sum(p.numel() for p in trainable_parameters(context.after.model, "full").values())
    return LESSONS if n_trained <= SMALL else LESSONS_IF_LARGE


def walk_path(
    lm: LanguageModel, draw: Draw, reader: Reader, config: PathConfig, *, advance: Advance = no_advance
) -> list[PathPoint]:
    """Teach copies of a model and read them on the way; the model itself is left as it is.

    Args:
        lm: The model after unlearning.
        draw: Returns the lessons of a step, the same at every step size.
        reader: Asks.
        config: Steps and step sizes.
        advance: Called with 1 after every optimizer step.
    """
    points = [_point(0.0, 0, reader.read(lm))]
    for lr in config.lrs:
        teacher = Teacher.of_copy(lm, lr)
        for step in range(1, max(config.steps) + 1):
            teacher.step(draw(step))
            advance(1)
            if step in config.steps:
                points.append(_point(lr, step, reader.read(teacher.lm)))
    return points


def _point(lr: float, step: int, read: Read) -> PathPoint:
    """Return a point of the path."""
    return PathPoint(lr, step, read.first.target, read.first.control, read.readings)


def path_result(path: Path, original: Read) -> AttackResult:
    """Return what an attack reports of its path; it is judged by the recalls, the probability is shown.

    Args:
        path: The path.
        original: What the original model says to the same questions.
    """
    settings = [
        AttackSetting(
            f"{_words(p)}, {READINGS[name]}", found.target, found.control, original.readings[name].target.value
        )
        for p in path.points
        for name, found in p.readings.items()
        if name != PROBABILITY
    ]
    curve = [
        CurvePoint(
            p.lr,
            p.step,
            p.target.value,
            p.control.value,
            {name: Reading(found.target.value, found.control.value) for name, found in p.readings.items()},
        )
        for p in path.points
    ]
    most = {name: highest(name, path.points, found.target.value) for name, found in original.readings.items()}
    lessons = Relearning(path.split, path.n_taught, path.n_asked, tuple(curve), most, path.not_read)
    return replace(result(settings), relearning=lessons)


def _words(point: PathPoint) -> str:
    """Say which point."""
    return f"{point.step} steps at {point.lr:g}" if point.step else "no lesson"


def highest(name: str, points: list[PathPoint], before: float) -> Highest:
    """Return the maximum of one reading over a path, targets and control each where theirs is."""
    target = max(points, key=lambda p: p.readings[name].target.value)
    control = max(points, key=lambda p: p.readings[name].control.value)
    return Highest(
        target.readings[name].target,
        target.lr,
        target.step,
        control.readings[name].control,
        control.lr,
        control.step,
        before,
    )
