"""Fixtures of the latent browser: a store in which each latent stands for one token. Registered by conftest.py."""

from __future__ import annotations

import pytest

N_TOKENS, N_DOCUMENTS, LENGTH = 8, 30, 20
RARE = 5  # a token that stands five times in the text


@pytest.fixture
def planted(make_store):
    """Return a function that writes a store of made-up text, and gives its path, token ids, strengths and an SAE.

    At a token `t` the activation is its strength times the unit vector `t`, so that latent `t` fires at this token
    and at no other, by the strength less one half. `shuffled` draws the token ids anew: then it fires at all of them.
    """
    import numpy as np
    import torch

    from sae_train.saes import build_sae

    def build(*, shuffled: bool = False, **fields):
        draw = np.random.default_rng(0)
        n = N_DOCUMENTS * LENGTH
        token = draw.choice([t for t in range(N_TOKENS) if t not in (RARE, N_TOKENS - 1)], n)
        token[draw.permutation(n)[:5]] = RARE
        strength = draw.uniform(1, 3, n).astype(np.float32)
        acts = np.eye(N_TOKENS, dtype=np.float32)[token] * strength[:, None]
        named = draw.permutation(token) if shuffled else token
        rows = {"token_id": named, "position": np.arange(n) % LENGTH, "doc_id": np.arange(n) // LENGTH, **fields}
        path = make_store(torch.from_numpy(acts), rows.pop("doc_id"), **rows)
        sae = build_sae("relu", N_TOKENS, N_TOKENS)
        sae.hook_point = "layers.0"
        with torch.no_grad():
            sae.W_enc.copy_(torch.eye(N_TOKENS))
            sae.W_dec.copy_(torch.eye(N_TOKENS))
            sae.b_enc.fill_(-0.5)
        return path, token, strength, sae

    return build
