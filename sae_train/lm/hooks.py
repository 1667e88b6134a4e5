"""Hook points: capture and replacement of activations. The only place that registers hooks; names: `hook_names.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.errors import HookPointError, nearest_first
from sae_train.lm.hook_names import block_index, canonical_hook_point
from sae_train.lm.models import LanguageModel

_ATTENTION_NAMES = ("self_attn", "attention", "attn", "self_attention")
_MLP_NAMES = ("mlp", "feed_forward", "ffn")
HOOK_TOLERANCE = 1e-3  # of the largest value; the two passes may sum in another order


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the list of decoder blocks, whatever the architecture calls it.

    Raises:
        HookPointError: No module list has as many entries as the config has blocks.
    """
    config: Any = model.config
    n_blocks = config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return module
    raise HookPointError(
        f"no decoder blocks found in {type(model).__name__}",
        got="no fitting list",
        expected=f"{n_blocks} blocks",
    )


def hook_points(model: nn.Module) -> list[str]:
    """Return every hook point of the model, in the order of the forward pass."""
    names = ["embed"]
    for index, block in enumerate(decoder_blocks(model)):
        names += [f"layers.{index}.self_attn"] if _child(block, _ATTENTION_NAMES) is not None else []
        names += [f"layers.{index}.mlp"] if _child(block, _MLP_NAMES) is not None else []
        names.append(f"layers.{index}")
    return names


def check_hook_point(model: nn.Module, name: str, *, model_name: str = "the model") -> str:
    """Return the canonical name.

    Raises:
        HookPointError: The model has no such hook point; the nearest names are given.
    """
    canonical, allowed = canonical_hook_point(name), hook_points(model)
    if canonical not in allowed:
        last = len(decoder_blocks(model)) - 1
        raise HookPointError(
            f"no hook point '{name}' in {model_name}",
            got=f"{name}",
            field="hook_point",
            expected=f"embed, layers.0 … layers.{last}, each with '.mlp' or '.self_attn'; "
            f"nearest: {nearest_first(canonical, allowed, most=2)}",
        )
    return canonical


def _child(block: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """Return the first child with one of these names."""
    return next((getattr(block, n) for n in names if hasattr(block, n)), None)


@contextmanager
def _edited(model: nn.Module, hook_point: str, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Call `edit` on the activations at a hook point; what it returns, if anything, takes their place."""
    blocks = decoder_blocks(model)
    if hook_point == "embed":
        handle = blocks[0].register_forward_pre_hook(partial(_edit_input, edit), with_kwargs=True)
    else:
        block = blocks[block_index(hook_point)]
        names = {"mlp": _MLP_NAMES, "self_attn": _ATTENTION_NAMES}
        module = _child(block, names[hook_point.split(".")[2]]) if hook_point.count(".") == 2 else block
        assert module is not None, hook_point
        handle = module.register_forward_hook(partial(_edit_output, edit))
    try:
        yield
    finally:
        handle.remove()


# Bound with `partial`, not defined inside: the tests compile a type check of every function each time it is defined.
def _edit_output(edit: Callable[[Tensor], Tensor | None], _module: nn.Module, _args: object, output: Any) -> Any:
    """Edit what a module returned; None leaves it."""
    is_tuple = isinstance(output, tuple)
    new = edit(output[0] if is_tuple else output)
    if new is None:
        return None
    return (new, *output[1:]) if is_tuple else new


def _edit_input(
    edit: Callable[[Tensor], Tensor | None], _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Edit what a block is given; None leaves it."""
    new = edit(args[0] if args else kwargs["hidden_states"])
    if new is None:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


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
    contexts = [_edited(model, name, lambda acts, name=name: found.__setitem__(name, acts)) for name in names]
    entered = []
    try:
        for context in contexts:
            context.__enter__()
            entered.append(context)
        yield found
    finally:
        for context in reversed(entered):
            context.__exit__(None, None, None)


class _Enough(Exception):
    """Every wanted activation has been seen; the rest of the forward pass is not needed."""


def _keep(found: dict[str, Tensor], n_wanted: int, name: str, acts: Tensor) -> None:
    """Keep the activations at one hook point; end the forward pass when all are there."""
    found[name] = acts
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
    contexts = [_edited(lm.model, name, partial(_keep, found, len(names), name)) for name in names]
    entered = []
    try:
        for context in contexts:
            context.__enter__()
            entered.append(context)
        places = {} if position_ids is None else {"position_ids": position_ids}
        lm.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **places)
    except _Enough:
        pass
    finally:
        for context in reversed(entered):
            context.__exit__(None, None, None)
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
    captured_acts = capture(lm, input_ids, None, blocks)
    states = lm.model(input_ids=input_ids, use_cache=False, output_hidden_states=True).hidden_states
    for name in blocks:
        own = states[block_index(name) + 1].float()
        gap = float((captured_acts[name].float() - own).abs().max())
        if gap > HOOK_TOLERANCE * float(own.abs().max()):
            raise HookPointError(
                f"the activations at {name} are not those of {lm.name}'s own hidden states",
                got=f"a difference of {gap:.3g}",
                expected=f"hidden_states[{block_index(name) + 1}]",
            )
