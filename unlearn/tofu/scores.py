"""What a model makes of one row: loss and probability of answers, extraction strength, ROUGE recall of what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch

from sae_train.config import Decoding
from sae_train.errors import ConfigError
from sae_train.lm.answering import batches_by_length, write_answers
from sae_train.lm.generate import pad_right
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import Advance, no_advance
from unlearn.auditing.evaluations.text_metrics import extraction_strength
from unlearn.tofu.prompting import Prompting
from unlearn.tofu.rows import QaRow

TINY = 1e-10  # added to denominators, as open-unlearning does
INSTALL = "pip install 'sae-workbench[tofu]'"


@dataclass(frozen=True)
class AnswerScore:
    """One answer behind one question.

    Attributes:
        loss: Mean negative log-probability of its tokens in nats, the end of the text among them.
        strength: Extraction strength of its tokens, without the end of the text.
    """

    loss: float
    strength: float

    @property
    def probability(self) -> float:
        """The geometric mean of its tokens' probabilities, exp(-loss)."""
        return math.exp(-self.loss)


@dataclass(frozen=True)
class RowScore:
    """One row.

    Attributes:
        probability: Of the true answer.
        normalized: The same, divided by the sum of it and those of all wrong answers; None where there are none.
        truth_ratio: exp(-mean loss of the wrong answers) / exp(-loss of the paraphrased answer, or the true one); None
            where there are no wrong answers.
        rouge_recall: ROUGE-L recall of what the model says against the true answer, words stemmed.
        extraction_strength: Of the true answer.
        said: What the model says.
    """

    probability: float
    normalized: float | None
    truth_ratio: float | None
    rouge_recall: float
    extraction_strength: float
    said: str


def require_rouge() -> None:
    """Refuse to begin without the package that stems and aligns words.

    Raises:
        ConfigError: `rouge-score` is not installed.
    """
    if find_spec("rouge_score") is None:
        raise ConfigError("rouge-score is not installed", got="no package of that name", expected="it", try_=INSTALL)


def score_rows(
    lm: LanguageModel,
    rows: Sequence[QaRow],
    prompting: Prompting,
    *,
    max_new_tokens: int,
    batch_size: int,
    advance: Advance = no_advance,
) -> list[RowScore]:
    """Score every row.

    Args:
        lm: The model.
        rows: The rows.
        prompting: How they are asked.
        max_new_tokens: Of what the model says; it writes until its end of text.
        batch_size: Answers in one forward pass.
        advance: Called with the number of rows done.

    Raises:
        ShapeError: The model has no positions for a question and its answer.
    """
    found: list[RowScore] = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        found += _scored(lm, part, prompting, max_new_tokens, batch_size)
        advance(len(part))
    return found


def _scored(
    lm: LanguageModel, rows: Sequence[QaRow], prompting: Prompting, max_new_tokens: int, batch_size: int
) -> list[RowScore]:
    """Score some rows."""
    texts = [(r.question, a) for r in rows for a in (r.answer, r.paraphrased or r.answer, *r.wrong)]
    scores = iter(score_answers(lm, [prompting.answered(*text) for text in texts], batch_size))
    said = write_answers(
        lm, [prompting.question(r.question) for r in rows], Decoding(max_new_tokens), is_over=lambda text: False,
        rows=batch_size,
    )  # fmt: skip
    scorer = import_module("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    found = []
    for row, written in zip(rows, said, strict=True):
        true, other = next(scores), next(scores)
        wrong = [next(scores) for _ in row.wrong]
        text = written.greedy.strip()
        recall = float(scorer.score(row.answer.strip(), text)["rougeL"].recall)
        odds = [w.probability for w in wrong]
        normalized = true.probability / (true.probability + sum(odds) + TINY) if wrong else None
        found.append(RowScore(true.probability, normalized, _truth_ratio(other, wrong), recall, true.strength, text))
    return found


def _truth_ratio(true: AnswerScore, wrong: Sequence[AnswerScore]) -> float | None:
    """Return the truth ratio; the losses of the wrong answers are averaged, so it is a geometric mean."""
    if not wrong:
        return None
    return math.exp(-sum(w.loss for w in wrong) / len(wrong)) / (true.probability + TINY)


@torch.no_grad()
def score_answers(
    lm: LanguageModel, pairs: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> list[AnswerScore]:
    """Score answers, given as the tokens of question and answer.

    Raises:
        ShapeError: The model has no positions for a pair.
    """
    lm.check_tokens([[*front, *back] for front, back in pairs])
    found = [AnswerScore(float("nan"), 0.0)] * len(pairs)
    for batch in batches_by_length([len(f) + len(b) for f, b in pairs], batch_size):
        ids, mask = pad_right([[*pairs[i][0], *pairs[i][1]] for i in batch], device=lm.device)
        logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, index in enumerate(batch):
            front, back = pairs[index]
            answer = torch.tensor(back, device=logits.device)
            log_probs = logits[row, len(front) - 1 : len(front) + len(back) - 1].float().log_softmax(dim=-1)
            loss = -float(log_probs.gather(1, answer[:, None]).mean())
            found[index] = AnswerScore(loss, _strength((log_probs.argmax(dim=-1) == answer).tolist()[:-1]))
    return found


def _strength(greedy: Sequence[bool]) -> float:
    """Return the extraction strength as open-unlearning has it: no search goes beyond the last token, so >= 1 / n."""
    return max(1 / len(greedy), extraction_strength(greedy)) if greedy else 0.0
