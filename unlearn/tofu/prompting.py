"""How a question is put to a model: in its own chat form, or in a text that holds the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_train.errors import ConfigError
from sae_train.text.chat import has_chat_template

CHAT = "chat"
PLAIN = "Question: {question}\nAnswer:"
PLACE = "{question}"
LONGEST = 512  # tokens of a question with its answer; what is longer is cut off, as open-unlearning does


@dataclass(frozen=True)
class Prompting:
    """A form of question.

    Attributes:
        tokenizer: The model's.
        form: `chat`, or a text that holds `{question}`; the answer follows behind white space.
    """

    tokenizer: Any
    form: str

    @classmethod
    def of(cls, tokenizer: Any, form: str | None) -> Prompting:
        """Return a form; None chooses the model's own chat form where it has one.

        Raises:
            ConfigError: The text does not hold the question, or the model has no chat form.
        """
        has_chat = has_chat_template(tokenizer)
        form = (CHAT if has_chat else PLAIN) if form is None else form
        if form == CHAT and not has_chat:
            raise ConfigError(
                "the model has no chat form", got="a tokenizer without a chat template", field="prompt",
                expected=f"a text that holds {PLACE}", try_=f"--prompt {PLAIN!r}",
            )  # fmt: skip
        if form != CHAT and PLACE not in form:
            raise ConfigError(
                "the prompt asks nothing", got=form, field="prompt", expected=f"{CHAT}, or a text that holds {PLACE}"
            )
        return cls(tokenizer, form)

    def question(self, question: str) -> list[int]:
        """Return the tokens of a question alone, up to where the answer begins."""
        if self.form == CHAT:
            return self._chat([{"role": "user", "content": question}], add_generation_prompt=True)
        return self._plain(self.form.replace(PLACE, question))

    def answered(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Return the tokens of question and answer; an end-of-text token is the answer's last one.

        Tokenized in one piece and parted at the question's length, as open-unlearning does.

        Raises:
            ConfigError: The answer melts into the question's last token: a form that ends with a space does that.
        """
        front = self.question(question)
        if self.form == CHAT:
            said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            whole = self._chat(said, add_generation_prompt=False)
        else:
            asked = self.form.replace(PLACE, question)
            whole = self._plain(asked + answer if asked[-1].isspace() else f"{asked} {answer}")
        if whole[-1] != self.tokenizer.eos_token_id:
            whole = [*whole, self.tokenizer.eos_token_id]
        if len(whole) <= len(front) + 1:
            raise ConfigError(
                "an answer has no tokens of its own", got=f"{answer!r} behind {question!r}", field="prompt",
                expected=f"tokens behind the {len(front)} of the question (at most {LONGEST} together)",
                try_="a prompt that does not end with a space",
            )  # fmt: skip
        return front, whole[len(front) :]

    def _chat(self, said: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
        ids: Any = self.tokenizer.apply_chat_template(
            list(said), tokenize=True, return_dict=False, add_generation_prompt=add_generation_prompt
        )
        return list(ids)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, max_length=LONGEST, truncation=True)["input_ids"])
