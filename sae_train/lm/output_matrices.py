"""The matrix by which each MLP writes: the keys that it reads, and whether it writes straight into the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.errors import ConfigError
from sae_train.lm.hooks import captured, decoder_blocks, replaced
from sae_train.lm.models import LanguageModel
from sae_train.rng import torch_rng

_NAMES = ("down_proj", "c_proj", "dense_4h_to_h", "fc2")  # Llama, Qwen2 and Mistral; GPT-2; NeoX; Phi
_PARENTS = ("mlp", "feed_forward", "ffn")
TOLERANCE = 1e-3  # of the push


def output_matrices(model: nn.Module) -> list[nn.Module]:
    """Return the output matrix of every block's MLP.

    Raises:
        ConfigError: A block has none under a known name, as a mixture of experts.
    """
    found: list[nn.Module] = []
    for index, block in enumerate(decoder_blocks(model)):
        mlp = next((getattr(block, n) for n in _PARENTS if hasattr(block, n)), None)
        matrix = next((getattr(mlp, n) for n in _NAMES if isinstance(getattr(mlp, n, None), nn.Module)), None)
        if matrix is None:
            raise ConfigError(
                f"{type(model).__name__} has no MLP output matrix to solve for",
                got=f"block {index} without one",
                expected=f"one called {', '.join(_NAMES)}",
                try_="another `method`",
            )
        found.append(matrix)
    return found


@torch.no_grad()
def add_to_matrix(matrix: Any, update: Float[Tensor, "d_out d_key"]) -> None:
    """Add an update to an output matrix; GPT-2 keeps its own transposed."""
    is_transposed = not isinstance(matrix, nn.Linear)
    matrix.weight += (update.T if is_transposed else update).to(matrix.weight.dtype)


@contextmanager
def captured_keys(model: nn.Module, blocks: Sequence[int]) -> Iterator[dict[int, Float[Tensor, "batch pos d_key"]]]:
    """Collect what the output matrices of some blocks read in the forward passes run inside, the last one's."""
    found: dict[int, Tensor] = {}
    matrices = output_matrices(model)

    def keeper(block: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _module, args: found.__setitem__(block, args[0])

    handles = [matrices[b].register_forward_pre_hook(keeper(b)) for b in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def check_writes_straight(lm: LanguageModel, input_ids: Int[Tensor, "batch pos"], blocks: Sequence[int]) -> None:
    """Push every MLP's output by a known vector and see whether the block's output moves by just that.

    Raises:
        ConfigError: It does not: a norm stands in between (Gemma 2 and 3), so no solution for the matrix is one for
            the residual stream.
    """
    generator = torch_rng("output_matrices.push", 0)
    for block in blocks:
        name = f"layers.{block}"
        with captured(lm.model, [name]) as found:
            lm.model(input_ids=input_ids, use_cache=False)
            plain = found[name].float()
            push = torch.randn(lm.d_model, generator=generator).to(lm.device) * plain.std()
            with replaced(lm.model, f"{name}.mlp", lambda acts, p=push: acts + p.to(acts.dtype)):
                lm.model(input_ids=input_ids, use_cache=False)
            moved = found[name].float() - plain
        gap = float((moved - push).abs().max() / push.abs().max())
        if gap > TOLERANCE:
            raise ConfigError(
                f"the MLPs of {type(lm.model).__name__} do not write straight into the residual stream",
                got=f"a push at {name}.mlp arrives at {name} changed by {gap:.0%}",
                expected="an architecture without a norm behind the MLP: Llama, Qwen2, Mistral, GPT-2, NeoX",
                try_="`method`=redirect",
            )
