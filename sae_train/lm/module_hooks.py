"""Hooks on single modules: capture or replace inputs and outputs. The only place that registers hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor | None]  # what it returns, if anything, takes the activations' place


@contextmanager
def edited_input(module: nn.Module, edit: Edit) -> Iterator[None]:
    """Call `edit` on what a module is given first."""
    handle = module.register_forward_pre_hook(partial(_edit_input, edit), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def edited_output(module: nn.Module, edit: Edit) -> Iterator[None]:
    """Call `edit` on what a module returns, or on the first part of it."""
    handle = module.register_forward_hook(partial(_edit_output, edit))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def edited_flat(block: nn.Module, module: nn.Module, edit: Edit, *, is_input: bool = False) -> Iterator[None]:
    """Call `edit`, in the block's own shape, on what a module inside it is given or returns as one long row of tokens.

    OPT lays all sequences of a batch end to end for its MLP.
    """
    shape: list[tuple[int, int]] = []

    def note_shape(acts: Tensor) -> None:
        shape[:] = [(acts.shape[0], acts.shape[1])]

    def unflattened(acts: Tensor) -> Tensor | None:
        new = edit(acts.unflatten(0, shape[0]))
        return None if new is None else new.flatten(0, 1)

    with ExitStack() as stack:
        stack.enter_context(edited_input(block, note_shape))
        stack.enter_context((edited_input if is_input else edited_output)(module, unflattened))
        yield


# Bound with `partial`, not defined inside: the tests compile a type check of every function each time it is defined.
def _edit_output(edit: Edit, _module: nn.Module, _args: object, output: Any) -> Any:
    """Edit what a module returned; None leaves it."""
    is_several = isinstance(output, tuple | list)  # a list in GPT
    new = edit(output[0] if is_several else output)
    if new is None or not is_several:
        return new
    return [new, *output[1:]] if isinstance(output, list) else (new, *output[1:])


def _edit_input(edit: Edit, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Edit what a module is given; None leaves it."""
    new = edit(args[0] if args else kwargs["hidden_states"])
    if new is None:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})
