"""Which tokens of a prompt are the name, in plain text and in chat templates. The only implementation.

Where a token lies is decided by the character offsets of the tokenizer. The tokens of a name run from the first one
that holds one of its characters to the last one that does. A token at the border may hold more (the blank before the
name, a bracket behind it); tokens that share a character (the bytes of an accent) all belong to the name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from features.entities.prompts import Prompt
from sae_train.errors import ConfigError, nearest_first
from sae_train.lm.models import LanguageModel
from sae_train.text.chat import encode_chat, refuse_special_tokens
from sae_train.text.tokens import bos_prefix, encode_plain, first_token_of_span, last_token_of_span


@dataclass(frozen=True)
class Encoded:
    """A tokenized prompt, and where the name stands in it.

    Attributes:
        ids: Token ids as the model reads them: a plain prompt behind the beginning-of-sequence token, where there is
            one; a conversation with the special tokens that its template spells out.
        name_at: Index of the last name token.
        name_from: Index of the first one.
    """

    ids: list[int]
    name_at: int
    name_from: int

    @property
    def name(self) -> range:
        """Return the indices of all name tokens."""
        return range(self.name_from, self.name_at + 1)

    @property
    def end(self) -> int:
        """Return the index of the last token of the prompt."""
        return len(self.ids) - 1


POSITIONS: dict[str, Callable[[Encoded], range]] = {
    "last": lambda read: read.name[-1:],  # last token of the name
    "first": lambda read: read.name[:1],  # first token of the name
    "all": lambda read: read.name,  # every token of the name
    "end": lambda read: range(read.end, read.end + 1),  # last token of the whole prompt, behind the name
}
"""Tokens of one prompt that can be read or patched."""

MATCHING: dict[str, Callable[[int, int], range]] = {
    "last-name-token": lambda front, tail: range(1),
    "name-tokens": lambda front, tail: range(front, 1),
    "from-name-on": lambda front, tail: range(tail),  # the last name token and all behind it
    "name-and-behind": lambda front, tail: range(front, tail),
}
"""Tokens of two prompts that match, counted from the last name token: from `front` <= 0 up to before `tail` >= 1."""


def encode(lm: LanguageModel, prompts: Sequence[Prompt], answers: Sequence[str] | None = None) -> list[Encoded]:
    """Tokenize prompts, with an answer behind each where given, and find the name in each.

    Args:
        lm: For its tokenizer.
        prompts: Plain prompts and conversations, mixed as they come.
        answers: One per prompt; an empty one adds nothing.

    Raises:
        InputError: An answer in a conversation holds a special token of the model.
        ShapeError: The model has no positions for a prompt as long as this.
    """
    tokenizer = lm.tokenizer
    behind = [""] * len(prompts) if answers is None else answers
    texts = [p.text + _continuation(tokenizer, p, a) for p, a in zip(prompts, behind, strict=True)]
    found: dict[int, Encoded] = {}
    for is_chat, read, front in ((False, encode_plain, bos_prefix(tokenizer)), (True, encode_chat, [])):
        which = [i for i, p in enumerate(prompts) if p.is_chat is is_chat]
        ids, offsets = read(tokenizer, [texts[i] for i in which]) if which else ([], [])
        for index, own, spans in zip(which, ids, offsets, strict=True):
            start = first_token_of_span(spans, prompts[index].name_start)
            end = last_token_of_span(spans, prompts[index].name_end)
            assert start <= end, f"no token of the name in '{texts[index]}': {spans}"
            found[index] = Encoded([*front, *own], name_at=len(front) + end, name_from=len(front) + start)
    ordered = [found[i] for i in range(len(prompts))]
    lm.check_tokens([read.ids for read in ordered], [f"a prompt about '{p.entity}'" for p in prompts])
    return ordered


def _continuation(tokenizer: Any, prompt: Prompt, answer: str) -> str:
    """Return an answer as it goes on behind a prompt: behind a blank, unless it begins the assistant's turn."""
    if not answer or not prompt.is_chat:
        return f" {answer}" if answer else ""
    refuse_special_tokens(tokenizer, answer)  # the tokenizer would recognise it, as it does those of the template
    begins_turn = prompt.text[-1:].isspace() or prompt.text.endswith(tuple(tokenizer.all_special_tokens))
    return answer if begins_turn else f" {answer}"


def name_lengths(lm: LanguageModel, names: Sequence[str]) -> list[int]:
    """Return the number of tokens of every name in a running text, behind a blank."""
    return [len(ids) for ids in encode_plain(lm.tokenizer, [f" {name}" for name in names])[0]] if names else []


def name_spans(lm: LanguageModel, prompts: Sequence[Prompt], position: str = "last") -> list[range]:
    """Return the indices of the tokens of each prompt that a position names.

    Args:
        lm: For its tokenizer.
        prompts: Texts with a name.
        position: An entry of `POSITIONS`.

    Raises:
        ConfigError: There is no such position.
    """
    return [span_of(read, position) for read in encode(lm, prompts)]


def span_of(read: Encoded, position: str) -> range:
    """Return the indices of the tokens that a position names.

    Example:
        >>> read = Encoded([1, 20, 21, 22, 23], name_at=3, name_from=2)
        >>> [list(span_of(read, p)) for p in ("last", "first", "all", "end")]
        [[3], [2], [2, 3], [4]]

    Raises:
        ConfigError: There is no such position.
    """
    if position not in POSITIONS:
        raise ConfigError(
            f"no position '{position}' in a prompt", got=position, expected=nearest_first(position, POSITIONS)
        )
    return POSITIONS[position](read)


def matching_offsets(own: Encoded, other: Encoded, positions: str) -> range:
    """Return the tokens at which two prompts match, counted from the last name token of each.

    Names of different length match at their last tokens only; texts behind a name that differ do not match at all.

    Args:
        own, other: The same prompt about two entities.
        positions: An entry of `MATCHING`.

    Example:
        >>> long, short = Encoded([1, 7, 8, 9], name_at=2, name_from=1), Encoded([1, 6, 9], name_at=1, name_from=1)
        >>> [list(matching_offsets(long, short, p)) for p in ("name-tokens", "from-name-on")]
        [[0], [0, 1]]
        >>> list(matching_offsets(long, long, "name-and-behind"))
        [-1, 0, 1]
    """
    front = 1 - len(own.name) if len(own.name) == len(other.name) else 0
    tail = len(own.ids) - own.name_at if own.ids[own.name_at + 1 :] == other.ids[other.name_at + 1 :] else 1
    return MATCHING[positions](front, tail)
