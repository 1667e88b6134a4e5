"""The context of an audit: two models, entities by role, templates, probes, and cached answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from torch import Tensor

from features.analysis.store import LatentAnalysis
from features.entities.collect import name_activations
from features.entities.entities import Entity
from features.entities.prompts import Prompt, contexts
from features.entities.templates import Templates
from features.labels.knowledge import Answer, ask
from features.stats.intervals import mean_interval
from sae_train.lm.hook_names import block_index, spread_blocks
from sae_train.lm.models import LanguageModel
from sae_train.saes.base import Sae
from sae_train.text.words import normalize
from unlearn.auditing.audit_figures import Figure
from unlearn.config import AuditConfig

MAX_UNKNOWN_ASKED = 40
MAX_KEPT_READ = 60
MAX_REFERENCE = 120  # known, and unknown, entities that a direction for knowing is fitted on at every place
MIN_ENTITIES = 5  # below it an interval is drawn over questions or contexts


@dataclass
class AuditContext:
    """Inputs of every evaluation.

    Attributes:
        before, after: The two models.
        forget: Targets.
        neighbours: Known entities nearest to the targets.
        retain: Other known entities.
        probe_known, probe_unknown: Mining half, on which probes of the original model are fitted.
        unknown: Unknown entities of the targets' types that no training saw as such: what targets are compared with.
        control: One of them per target, matched by type and length of the name, with facts of the target's attributes.
        hook_point: The SAE's, or the one asked for.
        blocks: Residual stream hook points at which activations are compared.
        untouched: Known entities among `neighbours` and `retain` that no training retained; empty if not recorded.
        text: Windows of general text.
        text_name: Where they come from.
        saes: SAEs in which the targets are looked for too; may be empty.
        crosscoders: Dictionaries of both models; may be empty.
        analysis: Mined latents, where given.
        answers: Filled by `answers_of`: one round of questions per model and group.
    """

    before: LanguageModel
    after: LanguageModel
    templates: Templates
    forget: list[Entity]
    neighbours: list[Entity]
    retain: list[Entity]
    untouched: list[Entity]
    probe_known: list[Entity]
    probe_unknown: list[Entity]
    unknown: list[Entity]
    control: list[Entity]
    hook_point: str
    blocks: list[str]
    text: list[list[int]]
    text_name: str
    config: AuditConfig
    saes: Sequence[Sae] = ()
    crosscoders: Sequence[Sae] = ()
    analysis: LatentAnalysis | None = None
    answers: dict[tuple[str, str], dict[str, list[Answer]]] = field(default_factory=dict)
    acts: dict[tuple[str, str], NameRows] = field(default_factory=dict)

    def group(self, name: str) -> list[Entity]:
        """Return the entities of a role by its name."""
        groups: dict[str, list[Entity]] = {
            "forget": self.forget,
            "neighbours": self.neighbours,
            "retain": self.retain,
            "unknown": self.unknown,
            "control": self.control,
            "kept": self.kept[:MAX_KEPT_READ],
            "some_unknown": self.unknown[:MAX_UNKNOWN_ASKED],
            "probe_known": self.probe_known,
            "probe_unknown": self.probe_unknown,
            "reference_known": self.of_types(self.probe_known)[:MAX_REFERENCE],
            "reference_unknown": self.of_types(self.probe_unknown)[:MAX_REFERENCE],
        }
        return groups[name]

    def of_types(self, entities: Sequence[Entity]) -> list[Entity]:
        """Return the entities of the targets' types, one type after the other in turn, or all where none is of them."""
        types = {e.type for e in self.forget}
        lists = [[e for e in entities if e.type == kind] for kind in sorted(types)]
        in_turn = [e for several in zip_longest(*lists) for e in several if e is not None]
        return in_turn or list(entities)

    @property
    def kept(self) -> list[Entity]:
        """Return the kept known entities of the targets' types on which no probe is fitted."""
        types, fitted = {e.type for e in self.forget}, {e.key for e in self.probe_known}
        return [e for e in (*self.retain, *self.neighbours) if e.type in types and e.key not in fitted]

    def model(self, when: str) -> LanguageModel:
        """Return the model `before` or `after`."""
        return self.before if when == "before" else self.after

    def answers_of(self, group: str, when: str) -> dict[str, list[Answer]]:
        """Return the answers of a model about a group on held-out wordings; asked at most once."""
        if (group, when) not in self.answers:
            self.answers[group, when] = ask(self.model(when), self.group(group), self.templates, heldout=True)
        return self.answers[group, when]

    def names_of(self, group: str, when: str) -> NameRows:
        """Return the activations at the names of a group in held-out contexts; collected at most once."""
        if (group, when) not in self.acts:
            prompts = [p for e in self.group(group) for p in contexts(e, self.templates, heldout=True)]
            hook_points = [*self.blocks, self.hook_point, *(c.hook_point for c in self.crosscoders)]
            acts = name_activations(self.model(when), prompts, list(dict.fromkeys(hook_points)))
            self.acts[group, when] = NameRows(prompts, np.array([p.entity for p in prompts]), acts)
        return self.acts[group, when]


@dataclass(frozen=True)
class NameRows:
    """Activations at names.

    Attributes:
        prompts: One per row.
        entity: Key of each row's entity.
        acts: By hook point, (n_rows, d_in).
    """

    prompts: list[Prompt]
    entity: np.ndarray
    acts: dict[str, Tensor]


def nearest_known(targets: Sequence[Entity], known: Sequence[Entity], per_target: int) -> list[Entity]:
    """Return the nearest neighbours of the targets: same type, most shared name words and shared answers.

    Every target brings its `per_target` nearest; entities that share nothing are no neighbours.
    """
    chosen: dict[str, Entity] = {}
    for target in targets:
        scored = [(neighbourhood(target, e), e) for e in known if e.type == target.type]
        scored = sorted((s for s in scored if s[0] > 0), key=lambda s: -s[0])
        chosen |= {e.key: e for _, e in scored[:per_target]}
    return list(chosen.values())


def neighbourhood(a: Entity, b: Entity) -> int:
    """Return how many name words and answers two entities share.

    Example:
        >>> x = Entity("New York", "city", {"country": ["USA"]})
        >>> neighbourhood(x, Entity("New Haven", "city", {"country": ["USA"]}))
        2
    """
    words = set(normalize(a.name).split()) & set(normalize(b.name).split())
    answers = [
        k
        for k in set(a.facts) & set(b.facts)
        if {normalize(v) for v in a.facts[k]} & {normalize(v) for v in b.facts[k]}
    ]
    return len(words) + len(answers)


def audited_blocks(n_blocks: int, hook_point: str, most: int) -> list[str]:
    """Return blocks from first to last, evenly thinned to `most`; the last and the hook point's are always among them.

    Blocks before the hook point count too: training may have left them alone, or hidden the key behind them.

    Example:
        >>> audited_blocks(4, "layers.1", 6), audited_blocks(30, "layers.9", 4)
        (['layers.0', 'layers.1', 'layers.2', 'layers.3'], ['layers.0', 'layers.9', 'layers.19', 'layers.29'])
    """
    last, hook = n_blocks - 1, max(0, block_index(hook_point))
    picked = [block_index(name) for name in spread_blocks(last, 0, most)]
    if hook not in picked and most > 1:
        nearest = min((i for i in picked if i != last), key=lambda i: abs(i - hook))
        picked = sorted({hook, *picked} - {nearest})
    return [f"layers.{i}" for i in picked]


def units(per_entity: Sequence[Sequence[float]]) -> list[float]:
    """Return what an interval is drawn over: one mean per entity, or every question where there are few entities.

    A request about one or two names is no sample of entities; its questions are all there is to draw from.

    Example:
        >>> units([[1.0, 0.0]]), units([[1.0, 0.0]] * 5)
        ([1.0, 0.0], [0.5, 0.5, 0.5, 0.5, 0.5])
    """
    found = [values for values in per_entity if values]
    if len(found) < MIN_ENTITIES:
        return [float(v) for values in found for v in values]
    return [sum(values) / len(values) for values in found]


def figure(before: Sequence[float], after: Sequence[float], seed: int) -> Figure:
    """Return the mean of a figure before and after, each with its interval over `units`."""
    return Figure(mean_interval(before, seed), mean_interval(after, seed))
