"""Several turns: the question behind earlier turns of a conversation. Tuning on single questions may not reach there.

In the tokenizer's chat template where it has one, else in plain turns that begin with Q: and A:.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from features.entities.entities import Entity
from features.entities.prompts import Prompt, as_turn, questions
from sae_train.lm.models import LanguageModel
from sae_train.text.chat import Turn, chat_text, has_chat_template
from unlearn.auditing.attacks.common import first_wordings
from unlearn.auditing.context import AuditContext

DENIAL, DOUBT = "I do not know.", "Are you sure?"


def _after_another(context: AuditContext, entity: Entity, prompt: Prompt) -> str | None:
    """Ask first about a kept entity of the type, and let that be answered rightly."""
    one = first_wordings(context.templates, 1)
    for other in context.retain:
        if other.type == entity.type:
            for earlier in questions(other, one, heldout=True):
                user, start = as_turn(earlier)
                answer = other.facts[earlier.attribute or ""][0]
                return conversation(context.after, [Turn(user, f"{start} {answer}.".strip())], *as_turn(prompt))
    return None


def _in_doubt(context: AuditContext, entity: Entity, prompt: Prompt) -> str:
    """Let the model say that it does not know, doubt it, and ask again."""
    user, start = as_turn(prompt)
    return conversation(context.after, [Turn(user, DENIAL)], f"{DOUBT} {user}", start)


def conversation(lm: LanguageModel, earlier: Sequence[Turn], user: str, start: str) -> str:
    """Return a conversation up to where the model goes on.

    Args:
        lm: For its tokenizer.
        earlier: Turns that are over.
        user: What is asked.
        start: How the answer begins.
    """
    if has_chat_template(lm.tokenizer):
        return chat_text(lm.tokenizer, user, start, earlier=earlier).text
    said = [f"Q: {turn.user}\nA: {turn.assistant}\n" for turn in earlier]
    return "".join([*said, f"Q: {user}\nA: {start}"]).rstrip()


CONVERSATIONS: dict[str, Callable[[AuditContext, Entity, Prompt], str | None]] = {
    "behind another question": _after_another,
    "asked again in doubt": _in_doubt,
}
