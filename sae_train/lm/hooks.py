"""Capture and replace activations at hook points by name (names: `hook_names.py`, hooks: `module_hooks.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.errors import HookPointError, nearest_first
from sae_train.lm.architecture_check import architecture_of
from sae_train.lm.hook_names import block_index, canonical_hook_point
from sae_train.lm.models import LanguageModel
from sae_train.lm.module_hooks import Edit, edited_flat, edited_input, edited_output

HOOK_TOLERANCE = 1e-3  # of the largest value; the two passes may sum in another order


def hook_points(model: nn.Module) -> list[str]:
    """Return every hook point of the model, in the order of the forward pass."""
    return architecture_of(model).hook_points


def check_hook_point(model: nn.Module, name: str, *, model_name: str = "the model") -> str:
    """Return the canonical name.

    Raises:
        HookPointError: The model has no such hook point; the nearest names are given.
    """
    canonical, table = canonical_hook_point(name), architecture_of(model)
    allowed = table.hook_points
    if canonical not in allowed:
        last = len(table.blocks) - 1
        raise HookPointError(
            f"no hook point '{name}' in {model_name}",
            got=f"{name}",
            field="hook_point",
            expected=f"embed, layers.0 … layers.{last}, each with '.mlp', '.mlp:in' or '.self_attn'; "
            f"nearest: {nearest_first(canonical, allowed, most=2)}",
        )
    return canonical


def _edited(model: nn.Module, hook_point: str, edit: Edit) -> AbstractContextManager[None]:
    """Call `edit` on the activations at a hook point; what it returns, if anything, takes their place."""
    blocks = architecture_of(model).blocks
    if hook_point == "embed":
        return edited_input(model.get_submodule(blocks[0].path), edit)
    block = blocks[block_index(hook_point)]
    if hook_point.count(".") == 1:
        return edited_output(model.get_submodule(block.path), edit)
    if hook_point.endswith(".self_attn"):
        assert block.attention is not None, hook_point
        return edited_output(model.get_submodule(block.attention), edit)
    assert block.mlp is not None, hook_point
    is_input = hook_point.endswith(":in")
    module = model.get_submodule(block.mlp.entry if is_input else block.mlp.path)
    if block.mlp.is_flat:
        return edited_flat(model.get_submodule(block.path), module, edit, is_input=is_input)
    return (edited_input if is_input else edited_output)(module, edit)


@contextmanager
def replaced(
    model: nn.Module,
    hook_point: str,
    edit: Callable[[Float[Tensor, "batch pos d_in"]], Float[Tensor, "batch pos d_in"]],
) -> Iterator[None]:
    """Put `edit(activations)` in the place of the activations at one hook point while the context is open."""
    with _edited(model, hook_point, edit):
        yield


@contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Float[Tensor, "batch pos d_in"]]]:
    """Collect the activations of the forward passes run inside, the last one's under each name; graph kept."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in names:
            keep = _keep_copy if name in architecture_of(model).overwritten else dict.__setitem__
            stack.enter_context(_edited(model, name, partial(keep, found, name)))
        yield found


@contextmanager
def captured_keys(model: nn.Module, blocks: Sequence[int]) -> Iterator[dict[int, Float[Tensor, "batch pos d_key"]]]:
    """Collect what the MLP output matrices of some blocks read in the forward passes run inside, the last one's."""
    found: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for index in blocks:
            block = architecture_of(model).blocks[index]
            assert block.mlp is not None and block.mlp.output is not None, block.path
            module, keep = model.get_submodule(block.mlp.output.path), partial(found.__setitem__, index)
            if block.mlp.is_flat:
                stack.enter_context(edited_flat(model.get_submodule(block.path), module, keep, is_input=True))
            else:
                stack.enter_context(edited_input(module, keep))
        yield found


@contextmanager
def captured_linears(model: nn.Module, paths: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Collect what some linear layers read and return in the forward passes run inside, the last one's; graph kept.

    What they return requires a gradient, also where no weight does.
    """
    read: dict[str, Tensor] = {}
    returned: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for path in paths:
            module = model.get_submodule(path)
            stack.enter_context(edited_input(module, partial(read.__setitem__, path)))
            stack.enter_context(edited_output(module, partial(_keep_with_gradient, returned, path)))
        yield read, returned


def _keep_with_gradient(found: dict[str, Tensor], path: str, output: Tensor) -> None:
    """Keep what a layer returned; a gradient by it can be asked for."""
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_(True)
    found[path] = output


class _Enough(Exception):
    """Every wanted activation has been seen; the rest of the forward pass is not needed."""


def _keep_copy(found: dict[str, Tensor], name: str, acts: Tensor) -> None:
    """Keep activations that the model goes on to change."""
    found[name] = acts.clone()


def _keep(found: dict[str, Tensor], n_wanted: int, is_copied: bool, name: str, acts: Tensor) -> None:
    """Keep the activations at one hook point; end the forward pass when all are there."""
    found[name] = acts.clone() if is_copied else acts
    if len(found) == n_wanted:
        raise _Enough


@torch.no_grad()
def capture(
    lm: LanguageModel,
    input_ids: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"] | None,
    names: Sequence[str],
    *,
    position_ids: Int[Tensor, "batch pos"] | None = None,
) -> dict[str, Float[Tensor, "batch pos d_in"]]:
    """Run one batch up to the deepest hook point and return the activations at all of them.

    The forward pass ends right after the last wanted hook point: no blocks behind it, no logits.
    """
    found: dict[str, Tensor] = {}
    places = {} if position_ids is None else {"position_ids": position_ids}
    with ExitStack() as stack, suppress(_Enough):
        for name in names:
            is_copied = name in lm.architecture.overwritten
            stack.enter_context(_edited(lm.model, name, partial(_keep, found, len(names), is_copied, name)))
        lm.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **places)
    return found


@torch.no_grad()
def verify_hook_points(lm: LanguageModel, input_ids: Int[Tensor, "batch pos"], names: Sequence[str]) -> None:
    """Compare what is captured with the hidden states that the model itself returns, on one prompt.

    Covers `embed` and `layers.N` but the last block, whose hidden state the model returns behind its final norm.

    Raises:
        HookPointError: They differ: the hooks sit elsewhere than the names say.
    """
    blocks = [n for n in names if block_index(n) < lm.n_blocks - 1 and n in ("embed", f"layers.{block_index(n)}")]
    if not blocks:
        return
    captured_acts, first = capture(lm, input_ids, None, blocks), lm.architecture.first_state
    blocks = blocks if first else [name for name in blocks if name != "embed"]  # not in the model's own list
    states = lm.model(input_ids=input_ids, use_cache=False, output_hidden_states=True).hidden_states
    for name in blocks:
        own = states[block_index(name) + first].float()
        gap = float((captured_acts[name].float() - own).abs().max())
        if gap > HOOK_TOLERANCE * float(own.abs().max()):
            raise HookPointError(
                f"the activations at {name} are not those of {lm.name}'s own hidden states",
                got=f"a difference of {gap:.3g}",
                expected=f"hidden_states[{block_index(name) + first}]",
            )
