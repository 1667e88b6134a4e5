"""Labelled entities with their provenance: templates that were asked, the rule, the model's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from features.config import KnowledgeRule
from features.entities.entities import LABELS, Entity, load_entities, save_entities
from features.entities.opening import open_templates
from features.entities.prompts import by_type
from features.entities.templates import Templates
from features.labels.knowledge import records_of, relabel, rivals_of
from features.labels.label_stats import LabelStats, label_stats
from features.labels.rules import FERRANDO, PARAPHRASES, SELF_CONSISTENT
from sae_train.errors import ConfigError
from sae_train.fields import config_of
from sae_train.run.notebook import html_rows
from sae_train.run.outputs import claimed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Labels(Sequence[Entity]):
    """A sequence of labelled entities that cannot be changed.

    Attributes:
        entities: The entities, in the order in which they were asked about.
        templates: The templates that were asked; None if not recorded.
        rule: By which rule they were labelled; None for a file, which does not say.
        lm_name: Name of the model that was asked; None for a file.
        path: The file they were read from or written to; None where there is none.
    """

    entities: tuple[Entity, ...]
    templates: Templates | None = None
    rule: KnowledgeRule | None = None
    lm_name: str | None = None
    path: Path | None = None

    @classmethod
    def load(cls, path: str | Path, templates: Templates | str | Path | None = None) -> Labels:
        """Read a label file.

        Args:
            path: JSON lines, as `save` and `wb label-entities` write them.
            templates: What asked about these entities: an object, a file, or the name of a world.

        Raises:
            MissingFileError, FileFormatError, EntityError: It is not there, or no label file.
        """
        found = load_entities(Path(path), need_labels=True)
        asked = None if templates is None else open_templates(templates)
        return cls(tuple(found), asked, path=Path(path))

    @classmethod
    def of(
        cls, given: Labels | Iterable[Entity] | str | Path, templates: Templates | str | Path | None = None
    ) -> Labels:
        """Return labels of an object or a file; templates given here take the place of its own."""
        if isinstance(given, str | Path):
            return cls.load(given, templates)
        labels = given if isinstance(given, Labels) else cls(tuple(given))
        return labels if templates is None else replace(labels, templates=open_templates(templates))

    def __len__(self) -> int:
        return len(self.entities)

    @overload
    def __getitem__(self, index: int) -> Entity: ...
    @overload
    def __getitem__(self, index: slice) -> Labels: ...
    def __getitem__(self, index: int | slice) -> Entity | Labels:
        if isinstance(index, slice):
            return replace(self, entities=self.entities[index], path=None)
        return self.entities[index]

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of entities per label."""
        return {label: sum(e.label == label for e in self.entities) for label in LABELS}

    @property
    def n_questions(self) -> int:
        """Return the number of questions that were asked."""
        return sum(len(said) for e in self.entities for said in e.answers.values())

    def relabel(self, rule: str | KnowledgeRule | None = None, **fields: Any) -> Labels:
        """Apply a rule to the stored answers; the model is not asked again.

        Args:
            rule: A rule or its name; by default `self-consistent` for labels made by it, else `ferrando` where there
                are samples of everything, else `paraphrases`.
            fields: Fields of `KnowledgeRule`, in the place of a whole one.

        Raises:
            ConfigError: There are no answers, or the rule reads samples and there are none.
        """
        if not any(e.answers for e in self.entities):
            raise ConfigError("there are no answers to judge", got=f"{self.path or 'labels'}", expected="kept answers")
        has_samples = all(e.samples for e in self.entities if e.answers)
        is_own = rule is None and any(e.given_facts is not None for e in self.entities)  # judged by what it says itself
        chosen = choose_rule(SELF_CONSISTENT if is_own else rule, fields, has_samples=has_samples)
        return replace(self, entities=tuple(relabel(self.entities, chosen)), rule=chosen, path=None)

    def stats(self, seed: int = 0) -> LabelStats:
        """Count by type, length of the name and popularity, judge by another entity's facts, and show some answers."""
        return label_stats(self.entities, self.rule or KnowledgeRule(), seed=seed)

    def table(self) -> pd.DataFrame:
        """Return one row per entity: label, what is known of it, and the share of right answers (NaN: not asked)."""
        import pandas as pd

        rivals = rivals_of(self.entities)
        rows = []
        for entity in self.entities:
            records = records_of(entity, rivals).values()
            verdicts = [v for record in records for v in record.greedy]
            rows.append(
                {
                    "name": entity.name,
                    "type": entity.type,
                    "label": entity.label,
                    "n_answers": len(verdicts),
                    "frac_right": verdicts.count("right") / len(verdicts) if verdicts else float("nan"),
                    "name_tokens": entity.name_tokens,
                    "popularity": entity.popularity,
                }
            )
        names = ("name", "type", "label", "n_answers", "frac_right", "name_tokens", "popularity")
        return pd.DataFrame(rows, columns=list(names))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a label file, JSON lines, and return its path.

        Raises:
            OutputExistsError: It is there already.
        """
        with claimed(path, overwrite=overwrite):
            save_entities(self.entities, Path(path))
        return Path(path)

    def _repr_html_(self) -> str:
        """Return the counts by type, for notebooks."""
        groups = {**by_type(self.entities), "all": list(self.entities)}
        rows = [(kind, *(sum(e.label == label for e in own) for label in LABELS)) for kind, own in groups.items()]
        about = [f"{len(self)} entities", self.lm_name, self.rule and f"rule {self.rule.name}"]
        return html_rows("Labels: " + ", ".join(filter(None, about)), ("type", *LABELS), rows)


def choose_rule(rule: str | KnowledgeRule | None, fields: Mapping[str, Any], *, has_samples: bool) -> KnowledgeRule:
    """Return a rule that is given whole or by its fields; without a name `ferrando` for samples, else `paraphrases`."""
    if isinstance(rule, KnowledgeRule):
        return config_of(KnowledgeRule, rule, fields, name="rule")
    name = rule or (FERRANDO if has_samples else PARAPHRASES)
    return config_of(KnowledgeRule, None, {"name": name, **fields}, name="rule")
