"""Rules that decide, from its graded answers, whether an entity counts as known.

`ferrando`: an attribute is known if at least `min_frac_sample` of its sampled answers are right (3 of 10), several
wordings pooled; an entity is unknown if none of its attributes is known (Ferrando et al., ICLR 2025, arXiv 2411.14257).

`paraphrases`: an attribute is known if more than `min_frac_right` of the greedy answers to its wordings are right; an
entity is unknown if no greedy answer is right.

`self-consistent`: an attribute is known if most greedy answers and half the samples give the same answer, whatever it
is, and made-up names get that answer clearly less often (`self_consistent.py`); an entity is unknown if none of its
attributes is known.

By all an entity is known with `min_known_attributes` known attributes, or all of them if it has fewer; what is neither
is `between`. Adding a rule: one entry in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from features.config import KnowledgeRule
from features.labels.agreement import Agreement
from features.labels.matching import Verdict
from sae_train.errors import ConfigError

PARAPHRASES, FERRANDO, SELF_CONSISTENT = "paraphrases", "ferrando", "self-consistent"
ROUNDING = 1e-12  # 3 / 10 is not exactly 0.3


@dataclass(frozen=True)
class AttributeRecord:
    """The verdicts on everything said about one attribute of one entity.

    Attributes:
        greedy: One per wording.
        sampled: Of all wordings, one after the other.
        agreement: What is said most; None where that was not looked for, or all answers refuse.
    """

    greedy: tuple[Verdict, ...]
    sampled: tuple[Verdict, ...] = ()
    agreement: Agreement | None = None

    def frac_right(self, verdicts: tuple[Verdict, ...]) -> float:
        """Return the share of right answers."""
        return verdicts.count("right") / len(verdicts)


class RuleParts(NamedTuple):
    """What makes a rule.

    Attributes:
        is_known: Whether one attribute is known.
        rules_out: Whether one attribute keeps its entity from being unknown.
        samples: Sampled answers per question it needs; 0 if it reads the greedy ones.
        needs_facts: Whether it judges by facts; otherwise every attribute is asked for, and made-up names are asked.
    """

    is_known: Callable[[AttributeRecord, KnowledgeRule], bool]
    rules_out: Callable[[AttributeRecord, KnowledgeRule], bool]
    samples: int
    needs_facts: bool = True


def _most_greedy(record: AttributeRecord, rule: KnowledgeRule) -> bool:
    """More than a share of the greedy answers is right."""
    return record.frac_right(record.greedy) > rule.min_frac_right


def _any_greedy(record: AttributeRecord, rule: KnowledgeRule) -> bool:
    """A greedy answer is right."""
    return "right" in record.greedy


def _enough_samples(record: AttributeRecord, rule: KnowledgeRule) -> bool:
    """At least a share of the samples is right."""
    if not record.sampled:
        raise ConfigError(
            f"the rule '{FERRANDO}' reads sampled answers", got="none", expected="10 a question", try_="`samples`=10"
        )
    return record.frac_right(record.sampled) >= rule.min_frac_sample - ROUNDING


def agrees(record: AttributeRecord, rule: KnowledgeRule) -> bool:
    """Most answers are the same, and made-up names get another one."""
    found = record.agreement
    if found is None:
        return False
    above = min(found.frac_greedy - found.frac_made_up_greedy, found.frac_sampled - found.frac_made_up_sampled)
    return (
        found.frac_greedy >= rule.min_frac_same_greedy - ROUNDING
        and found.frac_sampled >= rule.min_frac_same_sampled - ROUNDING
        and above >= rule.min_above_made_up - ROUNDING
    )


RULES: dict[str, RuleParts] = {
    PARAPHRASES: RuleParts(_most_greedy, _any_greedy, samples=0),
    FERRANDO: RuleParts(_enough_samples, _enough_samples, samples=10),
    SELF_CONSISTENT: RuleParts(agrees, agrees, samples=10, needs_facts=False),
}


def label_of(records: Mapping[str, AttributeRecord], rule: KnowledgeRule) -> str:
    """Apply a rule to what was said about one entity, by attribute; nothing asked is `between`.

    Example:
        >>> label_of({"country": AttributeRecord(("right", "right", "wrong"))}, KnowledgeRule())
        'known'
    """
    parts = RULES[rule.name]
    if not records:
        return "between"
    n_known = sum(parts.is_known(r, rule) for r in records.values())
    if n_known >= min(rule.min_known_attributes, len(records)):
        return "known"
    return "between" if any(parts.rules_out(r, rule) for r in records.values()) else "unknown"
