"""Models of the bench of known truth: retrained, damaged, unlearned at three strengths, near misses, cheats."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.audit.audit_calibration import retrained, spoiled, trained_on
from benchmarks.audit.detector_cheats import CHEATS, cheat
from benchmarks.unlearning.settings import MEASURED_ANYWAY
from benchmarks.unlearning.worlds import World
from features.entities.entities import Entity
from features.factworld.corpus import world_corpus
from sae_train.lm.models import LanguageModel
from unlearn.auditing.attacks.common import with_matrices
from unlearn.auditing.attacks.quantize import SETTINGS, rounded
from unlearn.config import configure
from unlearn.settings.registry import METHOD_SETTINGS


@dataclass(frozen=True)
class Subject:
    """What models of a world are made of.

    Attributes:
        world: The world, with the labels of a request.
        seed: Of it.
        folder: Of the world.
        out: Where retrained models are kept.
        left_out: The entities that the retrained models were never told of.
        targets: Of the request.
    """

    world: World
    seed: int
    folder: Path
    out: Path
    left_out: Sequence[Entity]
    targets: Sequence[Entity]


@dataclass(frozen=True)
class Model:
    """A model that the bench audits.

    Attributes:
        family: See `detector_cells.Cell`.
        make: Makes it.
        needs_demo: It needs the SAEs and latents of `wb demo`.
        n_draws: Requests that it is audited on, where it does not depend on them.
    """

    family: str
    make: Callable[[Subject], LanguageModel]
    needs_demo: bool = False
    n_draws: int = 1


def never(subject: Subject) -> LanguageModel:
    """Return the world's model trained without every document that names a left-out entity."""
    return retrained(subject.seed, subject.folder, [e.name for e in subject.left_out], subject.out)


def half_taught(subject: Subject) -> LanguageModel:
    """Return the world's model trained without half of the facts of the left-out entities."""
    hidden = {e.name: _half_of(e) for e in subject.left_out}

    def tells(text: str) -> bool:
        return any(name in text and any(v in text for v in values) for name, values in hidden.items())

    texts = [d.text for d in world_corpus(subject.seed) if not tells(d.text)]
    return trained_on(texts, subject.seed, subject.folder, subject.out / f"half-{subject.seed}")


def _half_of(entity: Entity) -> list[str]:
    """Return the answers of half of an entity's attributes."""
    names = random.Random(f"half of {entity.key}").sample(sorted(entity.facts), len(entity.facts) // 2)
    return [answer for name in names for answer in entity.facts[name]]


def taught(times: int, subject: Subject) -> LanguageModel:
    """Return the world's model trained with the first few documents that name a left-out entity, each its own few."""
    counts = {e.name: 0 for e in subject.left_out}
    texts = []
    for document in world_corpus(subject.seed):
        named = [n for n in counts if n in document.text]
        for name in named:
            counts[name] += 1
        if all(counts[n] <= times for n in named):
            texts.append(document.text)
    return trained_on(texts, subject.seed, subject.folder, subject.out / f"taught-{times}-{subject.seed}")


def noisy(share: float, subject: Subject) -> LanguageModel:
    """Return the world's model with a little noise."""
    return spoiled(subject.world.lm, share, subject.seed)


def four_bits(subject: Subject) -> LanguageModel:
    """Return the world's model rounded to four bits."""
    bits, group = SETTINGS["int4"]
    return with_matrices(subject.world.lm, partial(rounded, bits=bits, group=group))


def removed(method: str, given: dict[str, Any], subject: Subject) -> LanguageModel:
    """Return the world's model after a removal; one that collapsed is audited too."""
    names = sorted(e.key for e in subject.targets)
    return subject.world.forget(names, configure(method, **MEASURED_ANYWAY, **given)).lm


def cheating(name: str, subject: Subject) -> LanguageModel:
    """Return the world's model after training against the audit."""
    return cheat(subject.world, subject.targets, CHEATS[name], seed=subject.seed)


# Weight edits have no steps: what says how far they go. Of redirection in closed form also its range, further below.
STRENGTHS: dict[str, list[dict[str, Any]]] = {
    "redirect-closed-form": [{"ridge": 200.0}, {"ridge": 20.0}, {"ridge": 2.0}],
    "redirect-natural": [{"n_steps": 4}, {"n_steps": 9}, {"n_steps": 18}],
    "repselect": [{"kl_budget": 0.003}, {"kl_budget": 0.01}, {"kl_budget": 0.03}],
    "pisces": [{"n_latents": 10}, {"n_latents": 30}, {"n_latents": 100}],
}
FRAC_OF_STEPS = (0.25, 0.5, 1.0)
NEAR_MISSES: dict[str, tuple[str, dict[str, Any]]] = {
    "redirect, no guard": ("redirect", {"guard_weight": 0.0}),
    "redirect, nothing erased": ("redirect", {"erase_behind": False}),
    "redirect, neither": ("redirect", {"guard_weight": 0.0, "erase_behind": False}),
    "redirect, half-way": ("redirect", {"steps": 140}),
    "redirect, a quarter": ("redirect", {"steps": 70}),
    "closed form, two blocks": ("redirect-closed-form", {"n_blocks": 2}),
    "closed form, one block": ("redirect-closed-form", {"n_blocks": 1}),
    "closed form, last name token": ("redirect-closed-form", {"positions": "last-name-token"}),
}


def strengths(method: str) -> list[dict[str, Any]]:
    """Return three strengths of a method, weakest first: shares of its steps, or what stands in `STRENGTHS`.

    Example:
        >>> strengths("npo")
        [{'steps': 38}, {'steps': 75}, {'steps': 150}]
    """
    if method in STRENGTHS:
        return STRENGTHS[method]
    steps = configure(method).steps
    return [{"steps": math.ceil(share * steps)} for share in FRAC_OF_STEPS]


def models() -> dict[str, Model]:
    """Return every model of one world by name, cheap and telling ones first: whoever runs a part has some of each."""
    found = {
        "never": Model("never", never, n_draws=6),
        "untouched": Model("untouched", lambda subject: subject.world.lm),
        "half taught": Model("half", half_taught, n_draws=2),
        "noise 0.05": Model("damaged", partial(noisy, 0.05)),
        "four bits": Model("damaged", four_bits),
        **{f"cheat: {name}": Model("cheat", partial(cheating, name)) for name in CHEATS},
    }
    for name, (method, given) in NEAR_MISSES.items():
        found[name] = Model("near miss", partial(removed, method, given), needs_demo=True)
    for index in reversed(range(3)):
        for method in METHOD_SETTINGS:
            given = strengths(method)[index]
            words = ", ".join(f"{k} {v}" for k, v in given.items())
            found[f"{method}, {words}"] = Model("method", partial(removed, method, given), needs_demo=True)
    for times in (1, 3, 10):
        found[f"taught {times} times"] = Model("half", partial(taught, times))
    return found


def with_labels(subject: Subject, targets: Sequence[Entity]) -> Subject:
    """Return the subject of another request: the other left-out entities are in nobody's labels."""
    keys, others = {e.key for e in targets}, {e.key for e in subject.left_out}
    visible = [e for e in subject.world.labels if e.key in keys or e.key not in others]
    return replace(subject, world=replace(subject.world, labels=visible), targets=targets)
