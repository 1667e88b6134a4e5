"""The station that labels entities: ask the model, grade the answers, write labels. Resumable when writing a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from features.config import KnowledgeRule
from features.entities.entities import Entity, entity_line
from features.entities.opening import open_entities
from features.entities.prompts import Prompt, check_types, in_chat, questions
from features.entities.templates import Templates
from features.labels.answer_log import AnswerLog
from features.labels.askable import check_askable
from features.labels.knowledge import GREEDY, ask_and_label, to_ask
from features.labels.labels import Labels, choose_rule
from features.labels.rules import RULES
from sae_train.config import Decoding
from sae_train.errors import ConfigError, nearest_first
from sae_train.lm.models import LanguageModel, as_lm, weights_hash
from sae_train.run.claims import check_resume
from sae_train.run.outputs import claimed
from sae_train.run.progress import Progress, shown
from sae_train.run.runs import partial_path, text_hash
from sae_train.run.stopping import Terminated
from sae_train.text.chat import has_chat_template
from sae_train.text.tokenizer_hash import tokenizer_hash

CHATS = ("auto", "on", "off")


@dataclass(frozen=True)
class _Job:
    """The model to ask, the entities and templates, and how answers are graded."""

    lm: LanguageModel
    entities: Sequence[Entity]
    templates: Templates
    prompts: list[Prompt]
    rule: KnowledgeRule
    decoding: Decoding
    chat: bool

    def identity(self) -> dict[str, Any]:
        """Return what decides the answers."""
        return {
            "model": weights_hash(self.lm.model),
            "tokenizer": self.lm.tokenizer_hash,
            "entities": text_hash(map(entity_line, self.entities)),
            "questions": text_hash(p.text for p in self.prompts),
            **asdict(self.decoding),
            "chat": self.chat,
        }

    def older(self) -> dict[str, Any]:
        """Return what an older version of the program recorded in the place of parts of `identity`."""
        return {"tokenizer": tokenizer_hash(self.lm.tokenizer, like="")}


def label_entities(
    lm: LanguageModel | str | Path,
    entities: Iterable[Entity] | str | Path,
    *,
    templates: Templates | str | Path | None = None,
    entities_format: str = "auto",
    out: str | Path | None = None,
    rule: str | KnowledgeRule | None = None,
    samples: int | None = None,
    temperature: float = GREEDY.temperature,
    chat: str = "off",
    duplicates: str = "error",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **fields: Any,
) -> Labels:
    """Ask a model about every entity and label it known, unknown or between.

    Args:
        lm: The model, or what `load_lm` takes.
        entities: Entities; a file, the id of a hub dataset, or the name of a world.
        templates: The questions: an object, a file, or the name of a world; files of other benchmarks bring their own.
        entities_format: `own`, a format of other benchmarks (`import_entities`), or `auto`: by the first row.
        out: Where the labels go; an interrupted run leaves `out`.partial. None leaves nothing on the disk.
        rule: When an entity is known: a rule, or its name; by default `ferrando` where answers are sampled, else
            `paraphrases`. `self-consistent` needs no facts: what the model says again and again becomes the fact.
        samples: Sampled answers per question, besides the greedy one; by default as many as the rule reads.
        temperature: Of the samples.
        chat: Ask in the model's chat template: `on`, `off`, or `auto`: where it has one.
        duplicates: What becomes of a name that its type has twice: `error`, `first` or `merge`.
        seed: Of the samples.
        device, dtype: Where and in what format a model that is loaded here computes.
        resume: Continue an interrupted run.
        overwrite: Replace `out`.
        progress: Shows how far it is; by default whatever there is: terminal, notebook, log.
        fields: Fields of `KnowledgeRule` (`min_known_attributes`, …), in the place of a whole rule.

    Returns:
        The labels, which know templates, rule and model.

    Raises:
        InputError: Something that goes in cannot be used, or the output is there already.

    Example:
        >>> from sae_train.run.progress import silent
        >>> from features.entities.entities import load_entities
        >>> asked = load_entities("fact-world")[:2]
        >>> label_entities("fact-world", asked, templates="fact-world", device="cpu", progress=silent).counts
        {'known': 2, 'unknown': 0, 'between': 0}
    """
    goal = None if out is None else Path(out)
    check_resume(goal, Path.is_file, resume=resume, overwrite=overwrite)
    left = () if goal is None else (partial_path(goal),)
    with claimed(goal, overwrite=overwrite, resume=resume, leftovers=left):
        chosen = choose_rule(rule, fields, has_samples=bool(samples))
        decoding = _decoding(chosen, samples, temperature, seed)
        asked, texts = open_entities(entities, templates, format=entities_format, duplicates=duplicates)
        check_types(asked, texts)
        check_askable(to_ask(asked, texts, chosen, seed), texts)  # before the model is loaded
        job = _job(as_lm(lm, device=device, dtype=dtype), asked, texts, chosen, decoding, chat)
        labelled = _ask(job, out, resume=resume, progress=progress or shown)
    return Labels(tuple(labelled), texts, chosen, job.lm.name, goal)


def _decoding(rule: KnowledgeRule, samples: int | None, temperature: float, seed: int) -> Decoding:
    """Return how answers are written for a rule."""
    needed = RULES[rule.name].samples
    count = needed if samples is None else samples
    decoding = replace(GREEDY, samples=count, temperature=temperature, seed=seed)
    if needed and not count:
        raise ConfigError(
            f"the rule '{rule.name}' reads samples", got="0 (samples)", expected=f"1 or more, {needed} by default"
        )
    return decoding


def _job(
    lm: LanguageModel,
    entities: Sequence[Entity],
    templates: Templates,
    rule: KnowledgeRule,
    decoding: Decoding,
    chat: str,
) -> _Job:
    """Write out all questions, so that those that cannot be asked are refused before the first one is."""
    if chat not in CHATS:
        raise ConfigError(f"no way '{chat}' to ask", got=f"{chat} (chat)", expected=nearest_first(chat, CHATS))
    is_chat = chat == "on" or (chat == "auto" and has_chat_template(lm.tokenizer))
    asked = to_ask(entities, templates, rule, decoding.seed)
    plain = [p for e in asked for p in questions(e, templates, heldout=False)]
    prompts = [in_chat(p, lm.tokenizer) for p in plain] if is_chat else plain
    return _Job(lm, entities, templates, prompts, rule, decoding, is_chat)


def _ask(job: _Job, out: str | Path | None, *, resume: bool, progress: Progress) -> list[Entity]:
    """Ask and judge; where there is a path, keep the answers on the way and write the labels whole."""
    kept = nullcontext() if out is None else AnswerLog(Path(out), job.identity(), resume=resume, older=job.older())
    with kept as log, progress("asking", len(job.prompts), unit="questions") as advance:
        how = {"decoding": job.decoding, "chat": job.chat}
        try:
            labelled = ask_and_label(job.lm, job.entities, job.templates, job.rule, log=log, advance=advance, **how)
            if log is not None:
                log.finish(labelled)
        except Terminated as told:  # at once: a block of questions may take longer than one is given
            raise Terminated(is_saved=log is not None and bool(log.kept)) from told
    return labelled
