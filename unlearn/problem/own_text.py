"""Text that a model writes by itself, in the place of general text where none is given.

A fine-tune keeps what it is shown. With nothing but what the templates ask, everything else the model knows drifts;
its own samples at temperature one show it what it says anyway, in the proportions in which it says it. So KL on them is
KL on the model's own distribution: E over texts x drawn from p of KL(p(next | x) || q(next | x)).

On a fact world (seed 77, five targets) see docs/results/log_redirection.md, "text of its own".
"""

from __future__ import annotations

from collections.abc import Iterator

from sae_train.config import Decoding
from sae_train.errors import ConfigError
from sae_train.lm.answering import write_answers
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.text.tokens import Document, bos_prefix

N_TEXTS = 1024
PER_BATCH = 128
TOKENS = 63  # behind the first one: a window of general text has 64


def own_documents(lm: LanguageModel, *, seed: int) -> Iterator[Document]:
    """Yield `N_TEXTS` texts, each drawn at temperature one behind the token that texts begin with.

    Args:
        lm: The model that writes.
        seed: Of the draws.

    Raises:
        ConfigError: The tokenizer names no token that a text could begin with.
    """
    tokenizer = lm.tokenizer
    known = [t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None]
    start = bos_prefix(tokenizer) or known[:1]
    if not start:
        raise ConfigError(
            f"{lm.name} cannot write a text by itself",
            got="a tokenizer without a token that texts begin or end with",
            field="text",
            expected="general text to retain: a file, a hub dataset id, or texts",
        )
    length = min(TOKENS, lm.max_positions - len(start))
    for index in range(N_TEXTS // PER_BATCH):
        own_seed = int(rng("own_text.seeds", seed, index).integers(2**31))
        # One of them is greedy, the same in every batch, and not wanted.
        decoding = Decoding(length, samples=PER_BATCH, temperature=1.0, seed=own_seed)
        written = write_answers(lm, [start], decoding, is_over=lambda text: False, rows=PER_BATCH + 1)
        yield from (Document(text) for text in written[0].samples if text.strip())
