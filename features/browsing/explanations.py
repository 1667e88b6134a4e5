"""Explanations of latents as a hook: what is to be asked is written as JSON, answers are read and scored.

No model is called here. Whoever answers, a language model or a person, is given requests and fills in a file:

1. `explain.json` has a prompt and marked examples for each latent that is to be explained.
2. The answers, a list of `{"index": 12, "explanation": "…"}`, are given to the next run. It shows them, and writes
   `score.json`: texts by which each explanation is tested.
3. To an answer are added the `key` of its request and `"detection": [1, 0, …]`, `"fuzzing": [1, 0, …]`: for each text
   whether it fits the explanation. The next run scores them.

Detection asks which texts make the latent fire, half of them do; fuzzing shows texts in all of which it does and asks
where the marked tokens are those on which it fires, in half of them others are marked, as many. Both kinds of texts are
firings drawn at random, none of them among those of the first prompt. The score is the balanced accuracy,

    (right texts called right / right texts + wrong texts called wrong / wrong texts) / 2,

0.5 for answers that do not look at the text. Source of the two tasks: Paulo et al. 2024, "Automatically Interpreting
Millions of Features in Large Language Models" (arXiv:2410.13928; EleutherAI/delphi). Words and draws are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from features.browsing.records import Example, Explained, LatentRecord, Score
from sae_train.errors import FileFormatError
from sae_train.rng import rng
from sae_train.run.runs import text_hash
from sae_train.text_files import read_json

MOST_TEXTS = 10  # of either kind
LEAST_TEXTS = 2
MARKS = ("<<", ">>")
TASKS = ("detection", "fuzzing")
EXPLAIN = (
    "Each text below makes one latent of a sparse autoencoder fire. The tokens on which it fires stand in << and >>; "
    "the number before a text is how strongly. Say in one short sentence what these tokens, in their contexts, have in "
    "common."
)
PROMPTS = {
    "detection": "Explanation: {explanation}\nFor each text answer 1 if something in it fits the explanation, else 0.",
    "fuzzing": "Explanation: {explanation}\nFor each text answer 1 if the tokens in << and >> are those that the "
    "explanation is about, else 0.",
}


class Answer(NamedTuple):
    """What somebody answered about a latent.

    Attributes:
        explanation: In words.
        key: Of the texts that the tasks are about; empty where no task was answered.
        tasks: By task, for each text whether it fits.
    """

    explanation: str
    key: str
    tasks: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Quiz:
    """The texts by which one explanation is tested.

    Attributes:
        texts: By task.
        truth: By task, which of them fit.
    """

    texts: Mapping[str, list[str]]
    truth: Mapping[str, Bool[np.ndarray, " text"]]

    @property
    def key(self) -> str:
        """Return what tells these texts from others."""
        return text_hash(t for task in TASKS for t in self.texts.get(task, []))[:16]

    def score(self, answer: Answer) -> dict[str, Score]:
        """Return the score of each task that was answered."""
        found = {}
        for task, given in answer.tasks.items():
            truth, said = self.truth[task], np.asarray(given, dtype=bool)
            accuracy = (float(said[truth].mean()) + float((~said[~truth]).mean())) / 2
            found[task] = Score(accuracy, int(truth.sum()), int((~truth).sum()))
        return found


def marked(example: Example, words: Mapping[int, str], is_marked: Sequence[bool] | None = None) -> str:
    """Return the text of an example, the tokens on which the latent fires, or others, between marks.

    Example:
        >>> marked(Example(0, 0, 1, [5, 6, 7, 8], [0.0, 2.0, 1.0, 0.0]), {5: "The", 6: " cit", 7: "y", 8: " is"})
        'The<< city>> is'
    """
    flags = [v > 0 for v in example.values] if is_marked is None else list(is_marked)
    parts, was = [], False
    for token, flag in zip([*example.token_ids, None], [*flags, False], strict=True):
        parts.append(MARKS[0] if flag and not was else MARKS[1] if was and not flag else "")
        parts.append("" if token is None else words[token])
        was = flag
    return "".join(parts)


def explain_request(record: LatentRecord, words: Mapping[int, str]) -> dict[str, Any]:
    """Return the request for an explanation of one latent: a prompt with its strongest examples."""
    lines = [f"{e.value:.3g}: {marked(e, words)}" for e in record.top]
    return {"index": record.latent, "prompt": "\n\n".join([EXPLAIN, *lines]), "explanation": None}


def make_quiz(record: LatentRecord, words: Mapping[int, str], quiet: Sequence[Example], *, seed: int) -> Quiz:
    """Draw the texts that test an explanation.

    Args:
        record: The latent.
        words: Texts of tokens.
        quiet: Texts in which it never fires.
        seed: Of the draw.

    Returns:
        A task with fewer than two texts of either kind is left out.
    """
    draw = rng("explanations.texts", seed, record.latent)
    fresh = [e for e in record.sampled if not any(_overlap(e, other) for other in record.top)]
    loud = [fresh[i] for i in draw.permutation(len(fresh))]
    texts: dict[str, list[str]] = {}
    truth: dict[str, np.ndarray] = {}
    n = min(len(loud), len(quiet), MOST_TEXTS)
    if n >= LEAST_TEXTS:
        wrong = [quiet[i] for i in draw.permutation(len(quiet))[:n]]
        plain = ["".join(words[t] for t in e.token_ids) for e in [*loud[:n], *wrong]]
        _add(texts, truth, "detection", plain, n, draw)
    partly = [e for e in loud if 2 * sum(v > 0 for v in e.values) <= len(e.values)][: 2 * MOST_TEXTS]
    n = len(partly) // 2
    if n >= LEAST_TEXTS:
        right = [marked(e, words) for e in partly[:n]]
        false = [marked(e, words, _other_tokens(e, draw)) for e in partly[n : 2 * n]]
        _add(texts, truth, "fuzzing", [*right, *false], n, draw)
    return Quiz(texts, truth)


def _add(
    texts: dict[str, list[str]], truth: dict[str, np.ndarray], task: str, found: list[str], n: int, draw: Any
) -> None:
    """Add a task whose first `n` texts are the right ones, shuffled."""
    order = draw.permutation(len(found))
    texts[task], truth[task] = [found[i] for i in order], order < n


def _overlap(one: Example, other: Example) -> bool:
    """Tell whether two examples share a token of the text."""
    first, second = one.position - one.peak, other.position - other.peak
    is_apart = first + len(one.values) <= second or second + len(other.values) <= first
    return one.doc_id == other.doc_id and not is_apart


def _other_tokens(example: Example, draw: Any) -> list[bool]:
    """Mark as many tokens as fire, all of them others, drawn at random."""
    silent = np.flatnonzero(np.asarray(example.values) <= 0)
    chosen = draw.permutation(silent)[: len(example.values) - len(silent)]
    return [i in chosen for i in range(len(example.values))]


def score_request(latent: int, explanation: str, quiz: Quiz) -> dict[str, Any]:
    """Return the request that tests one explanation; which texts fit is not in it."""
    tasks = {
        task: {"prompt": PROMPTS[task].format(explanation=explanation), "texts": texts}
        for task, texts in quiz.texts.items()
    }
    return {"index": latent, "explanation": explanation, "key": quiz.key, **tasks}


def read_answers(path: Path, n_latents: int) -> dict[int, Answer]:
    """Read a file of answers: a JSON list of objects with `index`, `explanation` and, for scores, `key` and the tasks.

    Raises:
        FileFormatError: It is something else, or a latent is not there or there twice.
    """
    given = read_json(path)
    if not isinstance(given, list):
        raise _refused(path, f"a JSON {type(given).__name__}", "a list of objects")
    found: dict[int, Answer] = {}
    for number, one in enumerate(given):
        where = f"{path}, entry {number}"
        if not isinstance(one, Mapping):
            raise _refused(where, repr(one)[:80], "an object with 'index' and 'explanation'")
        index, text = one.get("index"), one.get("explanation")
        if type(index) is not int or not 0 <= index < n_latents or index in found:
            raise _refused(where, f"index {index!r}", f"a latent, 0 to {n_latents - 1}, each once")
        if text is None:
            continue  # a request that nobody answered
        if not isinstance(text, str):
            raise _refused(where, f"explanation {text!r}"[:80], "a text")
        tasks = {task: _bits(one[task], where, task) for task in TASKS if one.get(task) is not None}
        found[index] = Answer(text.strip(), str(one.get("key", "")), tasks)
    return found


def _bits(given: Any, where: str, task: str) -> list[int]:
    """Return the answers to a task."""
    if not isinstance(given, list) or not all(x in (0, 1) for x in given):
        raise _refused(where, f"{task} {given!r}"[:80], "a list of 0 and 1, one for each text")
    return [int(x) for x in given]


def explain(answers: Mapping[int, Answer], quizzes: Mapping[int, Quiz], path: Path) -> dict[int, Explained]:
    """Return what is said of each latent, with the scores of the tasks that were answered.

    Raises:
        FileFormatError: Answers are about other texts than those of this run, or their number is another.
    """
    found = {}
    for latent, answer in answers.items():
        scores: dict[str, Score] = {}
        if answer.tasks:
            quiz = quizzes.get(latent, Quiz({}, {}))
            _check(answer, quiz, latent, path)
            scores = quiz.score(answer)
        found[latent] = Explained(answer.explanation, scores.get("detection"), scores.get("fuzzing"))
    return found


def _check(answer: Answer, quiz: Quiz, latent: int, path: Path) -> None:
    """Refuse answers to other texts."""
    where = f"{path}, latent {latent}"
    if answer.key != quiz.key:
        raise _refused(
            where,
            f"answers to the texts of key {answer.key!r}",
            f"key {quiz.key!r}, that of score.json of the same store, SAE, settings and seed",
        )
    for task, said in answer.tasks.items():
        if len(said) != len(quiz.texts.get(task, [])):
            raise _refused(where, f"{len(said)} answers to {task}", f"{len(quiz.texts.get(task, []))}")


def _refused(where: object, got: str, expected: str) -> FileFormatError:
    return FileFormatError(f"cannot read answers: '{where}'", got=got, expected=expected, field="answers")
