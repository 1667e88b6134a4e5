"""The answer that a model gives again and again, and how often it gives the same one about made-up names.

Base models write on behind an answer ("France, and is the capital"), so what is compared is how answers *begin*: every
beginning of an answer's first clause, up to `MOST_WORDS` words, is a candidate. An answer gives a candidate if it names
it as whole words, as in `matching.py`. The answer agreed on is the candidate with the largest margin

    margin = (greedy + sampled) - (made_up_greedy + made_up_sampled)

over the answers about made-up names, the longer one where margins are equal: "the" is said of everybody, "the
Netherlands" of some. A refusal is no candidate, but counts as an answer that gives none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from features.labels.matching import is_right, judge
from sae_train.lm.answer_end import first_line
from sae_train.text.words import normalize

MOST_WORDS = 6  # "the Democratic Republic of the Congo"
_CLAUSE_END = re.compile(r"[,;:()\[\]]")


@dataclass(frozen=True)
class Agreement:
    """What is said most of one attribute of one entity, and how often; all figures are shares of answers, 0 to 1.

    Attributes:
        answer: As the model spells it.
        frac_greedy: Of the greedy answers, one a wording, those that give it.
        frac_sampled: Of the sampled ones.
        frac_made_up_greedy, frac_made_up_sampled: The same of the answers about made-up names of its type.
    """

    answer: str
    frac_greedy: float
    frac_sampled: float
    frac_made_up_greedy: float
    frac_made_up_sampled: float


@dataclass
class SaidPhrases:
    """How many answers name each phrase of at most `MOST_WORDS` words.

    Attributes:
        n: Answers counted.
        counts: Answers by the normalised phrase they name.
    """

    n: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, answers: Iterable[str]) -> SaidPhrases:
        """Count answers; return the object."""
        for answer in answers:
            self.n += 1
            self.counts.update(_phrases(normalize(first_line(answer)).split()))
        return self

    def frac(self, phrase: str) -> float:
        """Return the share of answers that name a normalised phrase; 0 without answers.

        Example:
            >>> SaidPhrases().add(["France, and is", "in Spain"]).frac("france")
            0.5
        """
        return self.counts[phrase] / self.n if self.n else 0.0


def _phrases(words: Sequence[str]) -> set[str]:
    """Return every run of at most `MOST_WORDS` words, each once."""
    return {
        " ".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, min(start + MOST_WORDS, len(words)) + 1)
    }


def beginnings(answer: str, names: Sequence[str] = ()) -> list[str]:
    """Return how an answer begins, as it is spelled: one word, two words, to the end of the first clause.

    An answer that goes on behind the entity's own name repeats the question: "Nairobi is a city in Kenya" has none.

    Args:
        answer: What was said.
        names: Normalised names of the entity.

    Example:
        >>> beginnings(" the Netherlands, where"), beginnings(" I do not know")
        (['the', 'the Netherlands'], [])
    """
    if judge(answer, ()) != "wrong":  # a refusal, or nothing
        return []
    clause = _CLAUSE_END.split(first_line(answer), maxsplit=1)[0]
    if any(normalize(clause).startswith(f"{name} ") for name in names):
        return []
    words = clause.split()
    return [" ".join(words[:n]).rstrip(".!?'\"") for n in range(1, min(len(words), MOST_WORDS) + 1)]


def agreement_of(
    greedy: Sequence[str],
    sampled: Sequence[str],
    made_up_greedy: SaidPhrases,
    made_up_sampled: SaidPhrases,
    rivals: Iterable[str] = (),
    names: Sequence[str] = (),
) -> Agreement | None:
    """Return the answer agreed on; None where nothing but refusals was said.

    Args:
        greedy: Greedy answers about one attribute of one entity, one a wording.
        sampled: Its sampled answers, of all wordings.
        made_up_greedy, made_up_sampled: What is said of made-up names of its type.
        rivals: Normalised values that are other answers although they hold this one.
        names: Normalised names of the entity, which are no answer where they only repeat the question.

    Example:
        >>> nobody = SaidPhrases().add(["the sea", "the hill"])
        >>> said = ["the Netherlands", "the Netherlands, in"], ["the Netherlands", "the UK"]
        >>> found = agreement_of(*said, nobody, nobody)
        >>> found.answer, found.frac_greedy, found.frac_sampled
        ('the Netherlands', 1.0, 0.5)
    """
    spelled: dict[str, Counter[str]] = {}
    for answer in (*greedy, *sampled):
        for text in beginnings(answer, names):
            if normalize(text):
                spelled.setdefault(normalize(text), Counter())[text] += 1
    if not spelled:
        return None
    own_greedy, own_sampled = SaidPhrases().add(greedy), SaidPhrases().add(sampled)

    def margin(phrase: str) -> float:
        own = own_greedy.frac(phrase) + own_sampled.frac(phrase)
        return own - made_up_greedy.frac(phrase) - made_up_sampled.frac(phrase)

    best = max(spelled, key=lambda phrase: (round(margin(phrase), 9), len(phrase.split()), phrase))
    text, others = spelled[best].most_common(1)[0][0], tuple(rivals)
    return Agreement(
        answer=text,
        frac_greedy=_frac_naming(greedy, text, others),
        frac_sampled=_frac_naming(sampled, text, others),
        frac_made_up_greedy=made_up_greedy.frac(best),
        frac_made_up_sampled=made_up_sampled.frac(best),
    )


def _frac_naming(answers: Sequence[str], text: str, rivals: Sequence[str]) -> float:
    """Return the share of answers that give a text and no rival of it; 0 without answers."""
    return sum(is_right(answer, [text], rivals) for answer in answers) / len(answers) if answers else 0.0
