"""What the weights say of latents: similar decoder rows, twins in another SAE, the tokens that they promote."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from sae_train.lm.logit_lens import logit_lens, unembedding
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import Progress
from sae_train.saes.base import Sae
from sae_train.saes.comparison import TWIN_COSINE, cosine_blocks, nearest_latents, unit_rows

LENS_BYTES = 64 * 2**20  # of logits at a time


class Similar(NamedTuple):
    """The latents of the same SAE whose decoder rows are most alike.

    Attributes:
        latent: Their numbers, best first, (n_latents, n).
        cosine: Cosine of the decoder rows, (n_latents, n).
    """

    latent: Int[np.ndarray, "n_latents n"]
    cosine: Float[np.ndarray, "n_latents n"]


class Twins(NamedTuple):
    """For every latent the most similar one of another SAE.

    Attributes:
        sae: Name of the other SAE.
        latent: Number in it, (n_latents,).
        cosine: Cosine of the decoder rows, (n_latents,).
        is_mutual: Whether it is the nearest of its nearest, too, (n_latents,).
    """

    sae: str
    latent: Int[np.ndarray, " n_latents"]
    cosine: Float[np.ndarray, " n_latents"]
    is_mutual: Bool[np.ndarray, " n_latents"]

    def has_twin(self) -> Bool[np.ndarray, " n_latents"]:
        """Return which latents have a twin: each other's nearest, with a cosine of at least `TWIN_COSINE`."""
        return self.is_mutual & (self.cosine >= TWIN_COSINE)


class Lens(NamedTuple):
    """The tokens whose logits a latent raises and lowers most (`sae_train.lm.logit_lens`).

    Attributes:
        promoted, suppressed: Token ids, strongest first, (n_latents, n).
        raised, lowered: What is added to their logits, up to scale, (n_latents, n).
    """

    promoted: Int[np.ndarray, "n_latents n"]
    raised: Float[np.ndarray, "n_latents n"]
    suppressed: Int[np.ndarray, "n_latents n"]
    lowered: Float[np.ndarray, "n_latents n"]


def similar_latents(sae: Sae, n: int, progress: Progress) -> Similar:
    """Return for every latent the `n` others, or as many as there are, with the largest cosine of decoder rows."""
    rows = unit_rows(sae.W_dec)
    most = min(n, len(rows) - 1)
    latent, cosine = torch.zeros(len(rows), most, dtype=torch.int64), torch.zeros(len(rows), most)
    with progress("similar latents", len(rows), unit="latents") as advance:
        for part, cosines in cosine_blocks(rows, rows):
            own = torch.arange(part.start, part.stop)
            cosines[own - part.start, own] = -torch.inf
            cosine[part], latent[part] = torch.topk(cosines, most, dim=1)
            advance(len(cosines))
    return Similar(latent.numpy(), cosine.numpy())


def twins_of(sae: Sae, other: Sae, progress: Progress) -> Twins:
    """Return for every latent its nearest in another SAE of the same place.

    Raises:
        ShapeError: They read activations of different width.
    """
    with progress("twins", sae.d_sae, unit="latents") as advance:
        of_sae, of_other = nearest_latents(sae, other, advance)
    is_mutual = of_other.latent[of_sae.latent] == np.arange(sae.d_sae)
    return Twins(other.name, of_sae.latent, of_sae.cosine, is_mutual)


def lens_of(lm: LanguageModel, sae: Sae, n: int, progress: Progress) -> Lens | None:
    """Return the tokens that latents promote and suppress; None where they write no vector of the model's width."""
    rows = sae.W_dec.detach()
    if rows.shape[1] != lm.d_model:
        return None
    found: list[tuple[torch.Tensor, ...]] = []
    step = max(1, LENS_BYTES // (4 * len(unembedding(lm))))
    with progress("logit lens", len(rows), unit="latents") as advance:
        for part in rows.split(step):
            logits = logit_lens(lm, part)
            up, down = (torch.topk(logits, min(n, logits.shape[1]), dim=1, largest=way) for way in (True, False))
            found.append((up.indices, up.values, down.indices, down.values))
            advance(len(part))
    return Lens(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True)))
