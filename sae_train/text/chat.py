"""Chat templates: a question as an instruct model's user turn, the answer's beginning as the assistant's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_train.errors import ConfigError, InputError


@dataclass(frozen=True)
class ChatText:
    """A conversation up to the point where the model goes on.

    Attributes:
        text: All of it, special tokens spelled out.
        user_at: Character at which the user's words begin.
        start_at: Character at which the beginning of the answer begins.
    """

    text: str
    user_at: int
    start_at: int


@dataclass(frozen=True)
class Turn:
    """What a user said, and what was answered."""

    user: str
    assistant: str


def has_chat_template(tokenizer: Any) -> bool:
    """Tell whether a tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_text(tokenizer: Any, user: str, start: str = "", *, earlier: Sequence[Turn] = ()) -> ChatText:
    """Wrap what a user says, behind earlier turns; the assistant's turn begins with `start`.

    Raises:
        ConfigError: The tokenizer has no chat template, or one that does not repeat what the user says.
        InputError: The words hold a special token of the model, which the template would turn into one.
    """
    if not has_chat_template(tokenizer):
        raise ConfigError("the model has no chat template", got="`chat`=on", expected="`chat`=auto or off")
    refuse_special_tokens(tokenizer, user, start, *(text for turn in earlier for text in (turn.user, turn.assistant)))
    said = [(("user", turn.user), ("assistant", turn.assistant)) for turn in earlier]
    turns = [{"role": role, "content": text} for turn in (*said, (("user", user),)) for role, text in turn]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    user_at = text.rfind(user)
    if user_at < 0:
        raise ConfigError("the model's chat template changes the words of the user", got=text[:120], expected=user)
    return ChatText(text + start, user_at, len(text))


def refuse_special_tokens(tokenizer: Any, *texts: str) -> None:
    """Refuse words that a conversation would turn into special tokens.

    Raises:
        InputError: A text holds one.
    """
    for text in texts:
        special = [token for token in tokenizer.all_special_tokens if token in text]
        if special:
            raise InputError(
                "a question or answer holds a special token of the model",
                got=f"{special[0]} in '{text}'",
                expected="words",
            )


def encode_chat(tokenizer: Any, texts: list[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Tokenize conversations: the special tokens that the template spells out are recognised, and none are added.

    Returns:
        Token ids, and for every token the span of characters it stands for.
    """
    out = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return out["input_ids"], out["offset_mapping"]
