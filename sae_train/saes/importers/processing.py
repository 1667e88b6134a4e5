"""What was done to the language model before an SAE's activations were read, as `model_from_pretrained_kwargs` say.

TransformerLens can process a model's weights so that its logits stay and its activations do not. SAELens keeps the
words it was loaded with in `model_from_pretrained_kwargs`. One of them changes the activations that our SAEs read:

    center_writing_weights    whatever writes into the residual stream writes x - mean(x), the mean over its dimensions

That is linear, so it is folded into the encoder (`with_centred_activations`). TransformerLens skips it for models that
normalise by the root mean square, which see the mean. `fold_ln`, `fold_value_biases`, `center_unembed` and
`refactor_factored_attn_matrices` leave the residual stream and what attention and MLP add to it as they are. Everything
else is named in a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sae_train.saes.importers.draft import COLUMNS, SaeDraft

KEY, CENTRED = "model_from_pretrained_kwargs", "center_writing_weights"
HARMLESS = {"fold_ln", "fold_value_biases", "center_unembed", "refactor_factored_attn_matrices"}
HARMLESS |= {"device", "n_devices", "device_map", "move_to_device", "default_padding_side", "local_files_only", "token"}
NORMED_BY_SQUARES = ("llama", "gemma", "mistral", "mixtral", "qwen", "deepseek", "olmo-2", "olmo2", "olmo-3", "phi-3")
NORMED_BY_SQUARES += ("phi-4", "smollm", "granite", "falcon-h1", "lfm2", "gpt-oss", "yi-", "t5")


def processing_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the words a model was loaded with; none where nothing says so."""
    found = metadata.get(KEY)
    return dict(found) if isinstance(found, Mapping) else {}


def is_centred(metadata: Mapping[str, Any], model_name: str | None) -> bool:
    """Tell whether the activations were those of a model with `center_writing_weights`.

    Example:
        >>> words = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
        >>> is_centred(words, "gpt2-small"), is_centred(words, "google/gemma-2-2b"), is_centred({}, "gpt2-small")
        (True, False, False)
    """
    name = (model_name or "").lower()
    return bool(processing_of(metadata).get(CENTRED)) and not any(n in name for n in NORMED_BY_SQUARES)


def with_processing(draft: SaeDraft, metadata: Mapping[str, Any]) -> SaeDraft:
    """Return a draft that reads the activations of the model as it is, as far as that can be folded into the weights.

    What cannot be folded in, or was asked for and done by nobody, is said in the notes.
    """
    words, found = processing_of(metadata), draft
    if is_centred(metadata, draft.model_name):
        found = with_centred_activations(draft)
    elif words.get(CENTRED):
        note = f"{CENTRED} not folded in: TransformerLens does not centre models that normalise by squares"
        found = replace(draft, notes=(*draft.notes, note))
    for name, value in words.items():
        if name not in {CENTRED, *HARMLESS} and value not in (None, False):
            note = f"its activations are those of a model loaded with {name} = {value}, which is not folded in"
            found = replace(found, notes=(*found.notes, note))
    return found


def with_centred_activations(draft: SaeDraft) -> SaeDraft:
    """Return an SAE that reads x from the weights of one that reads P x = x - mean(x), the mean over dimensions.

    P = I - 1 1^T / d_in is its own transpose, so with W' = P W_enc (every column minus its mean) and
    b' = b_enc + b_dec (W' - W_enc) the pre-activations (P x - b_dec) W_enc + b_enc are (x - b_dec) W' + b'. The latents
    are the same ones; what is reconstructed is P x, as before. Sums are taken in float64.
    """
    W_enc, added = [], []
    for part in draft.W_enc.split(COLUMNS, dim=1):
        mean = part.double().mean(0)
        W_enc.append((part.double() - mean).float())
        added.append(-draft.b_dec.double().sum() * mean)  # b_dec (W' - W_enc)
    b_enc = (draft.b_enc.double() + torch.cat(added)).float()
    note = f"{CENTRED} folded: W_enc minus the mean of each column; x - mean(x) is what is reconstructed"
    return replace(draft, W_enc=torch.cat(W_enc, dim=1), b_enc=b_enc, notes=(*draft.notes, note))
