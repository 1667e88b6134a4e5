"""Other languages: questions inside a frame of another language, and in translations that the templates bring.

A frame is there for every template and changes the words around the question alone: it is no translation. Translations
are asked only where the user gives them (`languages` in the template file), since a poor one would test nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from features.entities.entities import Entity
from features.entities.prompts import Prompt, as_turn, is_question
from features.entities.templates import NAME
from unlearn.auditing.context import AuditContext


class Frame(NamedTuple):
    """Words of one language: around a question, and in front of a sentence to be completed."""

    question: str
    sentence: str


FRAMES = {
    "German": Frame("Frage: {user} Antwort: {start}", "Vervollständige den Satz: {text}"),
    "French": Frame("Question : {user} Réponse : {start}", "Complète la phrase : {text}"),
    "Spanish": Frame("Pregunta: {user} Respuesta: {start}", "Completa la frase: {text}"),
}


def _framed(context: AuditContext, entity: Entity, prompt: Prompt, *, frame: Frame) -> str:
    """Put a question into a frame."""
    if not is_question(prompt):
        return frame.sentence.replace("{text}", prompt.text)
    user, start = as_turn(prompt)
    return frame.question.replace("{user}", user).replace("{start}", start).rstrip()


def _translated(context: AuditContext, entity: Entity, prompt: Prompt, *, language: str) -> str | None:
    """Ask in the first wording of a language, where there is one."""
    texts = context.templates.languages[language].get(entity.type, {}).get(prompt.attribute or "")
    return texts[0].replace(NAME, entity.name) if texts else None


def language_forms(context: AuditContext) -> dict[str, Callable[[AuditContext, Entity, Prompt], str | None]]:
    """Return every form in another language by its name."""
    framed = {f"in a {name} frame": partial(_framed, frame=frame) for name, frame in FRAMES.items()}
    given = {f"asked in {name}": partial(_translated, language=name) for name in context.templates.languages}
    return {**framed, **given}


def not_asked_in(context: AuditContext, is_run: bool) -> str:
    """Say, for the reader, in which languages nothing was asked."""
    given = list(context.templates.languages) if is_run else []
    lines = f"languages other than {', '.join(['that of the templates', *given])}"
    return f"{lines} (frames of {', '.join(FRAMES)} alone translate no question)" if is_run else lines
