"""Identity of a tokenizer: a versioned hash of everything that decides which tokens a text becomes.

Version 2 covers the whole serialised tokenizer: normalizer, pre-tokenizer, vocabulary, merges, post-processor, decoder
and added tokens. Version 1, without a prefix, covered the vocabulary and the beginning-of-sequence token only; what was
written with it stays readable, since like is compared with like.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

V2 = "v2:"
_STATE = ("truncation", "padding")  # of the last call, not of the tokenizer


def tokenizer_hash(tokenizer: Any, *, like: object = None) -> str:
    """Return the SHA-256 of a tokenizer, with the prefix of its version.

    Args:
        tokenizer: Of transformers.
        like: A recorded hash, whose version is taken; the newest one without.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or (isinstance(like, str) and not like.startswith(V2)):
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1]))
        return hashlib.sha256(f"{vocabulary}|{tokenizer.bos_token_id}".encode()).hexdigest()
    parts = {k: v for k, v in json.loads(backend.to_str()).items() if k not in _STATE}
    text = json.dumps({**parts, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}, sort_keys=True)
    return V2 + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
