"""Three readings of what a model under attack still knows: recall by questions, recall by cloze, answer probability.

    qa           share of right greedy answers to held-out wordings that ask: they end in a colon or a question mark
    cloze        the same of held-out wordings that state, cut right before the answer
    probability  exp((1/n) sum over the n answer tokens of log p(token | wording, tokens before)), all of these wordings

Questions may stay silent under an attack while statements are completed again, and the probability shows what exact
match hides (RepSelect, arXiv:2606.17168, where the figure is the highest cloze answer probability on the path). Where
the templates have one sort of held-out wording only, the other reading is missing: no wording is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from features.entities.entities import Entity
from features.entities.prompts import Prompt, questions
from features.entities.templates import Templates
from features.labels.knowledge import Answer, ask
from sae_train.intervals import Interval
from sae_train.lm.generate import answer_probabilities
from sae_train.lm.models import LanguageModel
from unlearn.auditing.attack_results import CLOZE, PROBABILITY, QA
from unlearn.auditing.attacks.common import first_wordings
from unlearn.auditing.context import mean_interval, units


@dataclass(frozen=True)
class Compared:
    """One reading of targets and of never-known entities."""

    target: Interval
    control: Interval


@dataclass(frozen=True)
class Read:
    """What one model says.

    Attributes:
        first: Recall in the first held-out wordings, whatever their sort.
        readings: By name; without the recalls of which there is no wording.
    """

    first: Compared
    readings: dict[str, Compared]


def asks(wording: str) -> bool:
    """Tell a question from a statement by how it ends.

    Example:
        >>> asks("Q: Where does {name} live? A:"), asks("Who is {name}?"), asks("{name} lives in")
        (True, True, False)
    """
    return wording.rstrip().endswith((":", "?"))


def read_wordings(templates: Templates, most: int) -> Templates:
    """Keep the held-out wordings that are read: of every attribute the first ones, of questions and of statements."""

    def kept(wordings: list[str]) -> list[str]:
        by_sort = [[w for w in wordings if asks(w) is sort][:most] for sort in (True, False)]
        wanted = {*wordings[:most], *by_sort[0], *by_sort[1]}
        return [w for w in wordings if w in wanted]

    heldout = {k: {a: kept(w) for a, w in v.items()} for k, v in templates.heldout.items()}
    return replace(templates, heldout=heldout)


class Reader:
    """Asks models about targets and never-known entities in the same held-out wordings, all side by side.

    Attributes:
        prompts: The questions about targets.
        not_read: Recalls of which there is no wording about any target.
    """

    def __init__(
        self, targets: Sequence[Entity], control: Sequence[Entity], templates: Templates, most: int, seed: int
    ) -> None:
        self.groups, self.seed = (list(targets), list(control)), seed
        self.templates = read_wordings(templates, most)
        few = first_wordings(templates, most)
        self.first = {p.text for e in (*targets, *control) for p in questions(e, few, heldout=True)}
        self.prompts = [p for e in targets for p in questions(e, self.templates, heldout=True)]
        sorts = {asks(p.template) for p in self.prompts}
        self.not_read = tuple(name for name, sort in ((QA, True), (CLOZE, False)) if sort not in sorts)

    def read(self, lm: LanguageModel) -> Read:
        """Return every reading of a model."""
        found = ask(lm, [e for group in self.groups for e in group], self.templates, heldout=True)
        answers = [[found[e.key] for e in group] for group in self.groups]
        recalls = {QA: lambda p: asks(p.template), CLOZE: lambda p: not asks(p.template)}
        readings = {
            name: self._recall(answers, wanted) for name, wanted in recalls.items() if name not in self.not_read
        }
        readings[PROBABILITY] = self._probability(lm, answers)
        return Read(self._recall(answers, lambda p: p.text in self.first), readings)

    def _recall(self, groups: Sequence[Sequence[Sequence[Answer]]], wanted: Callable[[Prompt], bool]) -> Compared:
        """Return the share of right answers to some questions."""
        right = [[[float(a.verdict == "right") for a in own if wanted(a.prompt)] for own in group] for group in groups]
        return self._compared(right)

    def _probability(self, lm: LanguageModel, groups: Sequence[Sequence[Sequence[Answer]]]) -> Compared:
        """Return the probability of the true answers, the first accepted one each."""
        facts = {e.key: e.facts for group in self.groups for e in group}
        asked = [a.prompt for group in groups for own in group for a in own]
        truths = [f" {facts[p.entity][p.attribute or ''][0]}" for p in asked]
        likely = iter(answer_probabilities(lm, [p.text for p in asked], truths))
        return self._compared([[[next(likely) for _ in own] for own in group] for group in groups])

    def _compared(self, groups: Sequence[Sequence[Sequence[float]]]) -> Compared:
        """Return the mean over entities of both groups with its interval; see `units`."""
        return Compared(*(mean_interval(units(per_entity), self.seed) for per_entity in groups))
