"""Check a model's table of parts against a forward pass of a few tokens; no gradient, once per model.

One pass gives the hidden states and logits that the table has to reproduce, two more try the cache, and one pushes the
output of every MLP and every attention to see where that arrives.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.errors import NumericalError
from sae_train.lm.architecture import (
    Architecture,
    Block,
    Writes,
    find_architecture,
    not_understood,
    read_with_cache,
)
from sae_train.lm.module_hooks import edited_input, edited_output
from sae_train.rng import torch_rng

TOKENS = (5, 3, 8, 4)
N_ROWS = 4  # of the pass that pushes
MLP_ROWS = {1: 1.0, 2: -3.0}  # rows pushed at the MLP, and by how much: a norm cannot pass on two sizes alike
ATTENTION_ROW = 3
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # relative; the same sums may be taken in another order
HALF_TOLERANCE = 0.1
_KEPT_AS = "_sae_workbench_architecture"  # on the model itself: a copy of it, whose layout is the same, has it too


def architecture_of(model: nn.Module) -> Architecture:
    """Return where a model keeps its parts; searched and checked when first asked for.

    Raises:
        ArchitectureError: A part was not found, or the model computes something else than the parts say.
        NumericalError: It computes NaN or Inf.
    """
    found = model.__dict__.get(_KEPT_AS)
    if found is None:
        was_training = model.training
        model.eval()
        try:
            found = _checked(model)
        finally:
            if was_training:
                model.train()
        setattr(model, _KEPT_AS, found)
    return found


@dataclass(frozen=True)
class _Run:
    """One pass over `TOKENS`: transformers' hidden states and logits, what entered and left blocks, what changed."""

    states: tuple[Tensor, ...]  # (1, pos, d_model), the last one as wide as the unembedding
    logits: Float[Tensor, "1 pos vocab"]
    embed: Float[Tensor, "1 pos d_model"]
    outputs: list[Float[Tensor, "1 pos d_model"]]
    overwritten: tuple[str, ...]


@torch.no_grad()
def _checked(model: nn.Module) -> Architecture:
    """Return the table with everything in it that only a forward pass tells."""
    table = find_architecture(model)
    n_tokens = len(model.get_submodule(table.embedding).get_parameter("weight"))
    ids = torch.tensor([[t % n_tokens for t in TOKENS]], device=next(model.parameters()).device)
    run = _run(model, table, ids)
    table = replace(table, first_state=_first_state(model, run), overwritten=run.overwritten)
    table = _with_readout(model, table, run)
    table = replace(table, blocks=_pushed(model, table, ids, run.outputs))
    return replace(table, has_reusable_cache=_reuses_cache(model, ids, run.logits))


def _run(model: nn.Module, table: Architecture, ids: Int[Tensor, "1 pos"]) -> _Run:
    """Run the model once, hooks at every block and its parts."""
    seen: dict[str, _Kept] = {}
    with ExitStack() as stack:
        stack.enter_context(edited_input(model.get_submodule(table.blocks[0].path), partial(_keep, seen, "embed")))
        for index, block in enumerate(table.blocks):
            if block.mlp is not None:
                keep = partial(_keep, seen, f"layers.{index}.mlp:in")
                stack.enter_context(edited_input(model.get_submodule(block.mlp.entry), keep))
            parts = {"": block.path, ".self_attn": block.attention, ".mlp": block.mlp and block.mlp.path}
            for part, path in parts.items():
                if path is not None:
                    keep = partial(_keep, seen, f"layers.{index}{part}")
                    stack.enter_context(edited_output(model.get_submodule(path), keep))
        try:
            out: Any = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        except (TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
            raise not_understood(
                model, f"{type(error).__name__}: {error} in a forward pass", "logits and hidden states of token ids"
            ) from error
    missing = [b.path for i, b in enumerate(table.blocks) if f"layers.{i}" not in seen]
    if missing or out.hidden_states is None:
        raise not_understood(
            model,
            f"a forward pass that does not go through {missing[0]}" if missing else "no hidden_states",
            "every decoder block run, and output_hidden_states",
        )
    if not bool(torch.isfinite(out.logits).all()):
        raise NumericalError(
            f"the logits of {type(model).__name__} are not finite",
            got=f"NaN or Inf for {len(TOKENS)} tokens, in {out.logits.dtype}",
            expected="finite numbers",
            try_="--lm-dtype float32, or whole weights",
        )
    overwritten = tuple(name for name, kept in seen.items() if kept.acts._version != kept.version)
    outputs = [seen[f"layers.{i}"].acts for i in range(len(table.blocks))]
    return _Run(tuple(out.hidden_states), out.logits, seen["embed"].acts, outputs, overwritten)


class _Kept(NamedTuple):
    """Activations, and how often they had been changed in place when they were seen."""

    acts: Tensor
    version: int


def _keep(seen: dict[str, _Kept], name: str, acts: Tensor) -> None:
    """Keep activations under a name."""
    seen[name] = _Kept(acts, acts._version)


def _gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest value; infinite where the shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float((one.float() - other.float()).abs().max() / other.float().abs().max().clamp_min(1e-30))


def tolerance(tensor: Tensor) -> float:
    """Return how far two computations of the same thing may lie apart."""
    return TOLERANCE.get(tensor.dtype, HALF_TOLERANCE)


def _first_state(model: nn.Module, run: _Run) -> int:
    """Return where the blocks' outputs begin in `hidden_states`; all but the last, which lies behind the final norm.

    Raises:
        ArchitectureError: They are not those of the blocks.
    """
    inner = run.outputs[:-1]
    gaps: dict[int, float] = {}
    for first in (1, 0):
        expected = [*([run.embed] if first else []), *inner]
        pairs = zip(expected, run.states, strict=False)
        gaps[first] = max([_gap(a, b) for a, b in pairs], default=0.0) if len(run.states) > len(inner) else float("inf")
    first = min(gaps, key=lambda k: (gaps[k], -k))
    if gaps[first] > tolerance(run.logits):
        raise not_understood(
            model,
            f"blocks whose outputs differ from hidden_states by {min(gaps.values()):.2g} of the largest value",
            "the hidden states that the model itself returns",
        )
    return first


def _with_readout(model: nn.Module, table: Architecture, run: _Run) -> Architecture:
    """Return the table with what turns the last block's output into the model's own logits.

    Raises:
        ArchitectureError: Nothing found does.
    """
    norms = [p for p in table.readout if model.get_submodule(p).__class__ is not nn.Linear]
    projections = [p for p in table.readout if p not in norms]
    cap, own, best = _logit_cap(model), run.logits.float(), float("inf")
    unbent = own if cap is None else cap * torch.atanh((own / cap).clamp(-0.999, 0.999))
    for norm, used in itertools.product(
        [*((n,) for n in norms), ()], [tuple(projections), ()] if projections else [()]
    ):
        read = _read_out(model, (*norm, *used), table.unembedding, run.outputs[-1])
        if read is None or read.shape != own.shape:
            continue
        for scale in (1.0, float((read * unbent).sum() / read.square().sum().clamp_min(1e-30))):
            gap = _gap(scale * read if cap is None else cap * torch.tanh(scale * read / cap), own)
            if scale > 0 and gap <= tolerance(run.logits):
                return replace(table, readout=(*norm, *used), logit_scale=scale, logit_cap=cap)
            best = min(best, gap)
    raise not_understood(
        model,
        f"logits that are not those of the last block behind {', '.join(table.readout) or 'any norm'} and "
        f"{table.unembedding} (nearest: {best:.2g} of the largest logit apart)",
        "a final norm that gives the model's own logits",
    )


def _read_out(model: nn.Module, readout: tuple[str, ...], unembedding: str, acts: Tensor) -> Tensor | None:
    """Return the logits behind some modules; None where the widths do not fit."""
    unembed: Any = model.get_submodule(unembedding)
    for path in readout:
        acts = model.get_submodule(path)(acts)
    return unembed(acts).float() if acts.shape[-1] == unembed.weight.shape[-1] else None


def _logit_cap(model: nn.Module) -> float | None:
    """Return the bound of the logits, if the config has one."""
    config: Any = model.config
    for name in ("final_logit_softcapping", "softcap"):
        value = getattr(config.get_text_config(), name, None)
        if value is not None:
            return float(value)
    return None


# --------------------------------------------------------------------------------------------------------------- pushes
class _PushedBlock:
    """What four like rows show of one block when what its MLP and its attention return is pushed.

    Rows 1 and 2 are pushed at the MLP's last matrix (at the MLP itself where it has not just one), row 3 at attention.
    Behind the block all rows are made like row 0, which is pushed nowhere, so that one pass tries every block.
    """

    def __init__(self, seed: int, plain: Float[Tensor, "1 pos d_model"]) -> None:
        vector = torch.randn(plain.shape[-1], generator=torch_rng("architecture.push", seed))
        size = plain.float().std().to(plain.dtype)  # as large as what the block returns
        self.push = vector.to(plain) * (size + 1e-6)
        self.is_flat = False
        self.mlp: Tensor | None = None  # what the MLP returns, row by row
        self.behind = torch.zeros(0)

    def at_attention(self, acts: Tensor) -> Tensor:
        """Push what attention returns in its row."""
        changed = acts.clone()
        changed.view(N_ROWS, -1, acts.shape[-1])[ATTENTION_ROW] += self.push
        return changed

    def at_mlp(self, acts: Tensor) -> None:
        """Keep what the MLP returns."""
        self.is_flat = acts.ndim == 2
        self.mlp = acts.reshape(N_ROWS, -1, acts.shape[-1]).clone()

    def at_matrix(self, acts: Tensor) -> Tensor:
        """Push what the MLP's last matrix returns in its rows."""
        changed = acts.reshape(N_ROWS, -1, acts.shape[-1]).clone()
        for row, factor in MLP_ROWS.items():
            changed[row] += factor * self.push
        return changed.view(acts.shape)

    def leave(self, acts: Tensor) -> Tensor:
        """Keep what the block returns and make all rows like the first."""
        self.behind = acts.float()
        return acts[:1].expand_as(acts).clone()

    def writes(self, allowed: float) -> Writes | None:
        """Tell how the pushes at the MLP arrived; None where nothing did."""
        moved = {row: self.behind[row] - self.behind[0] for row in MLP_ROWS}
        wanted = {row: (factor * self.push.float()).expand_as(moved[row]) for row, factor in MLP_ROWS.items()}
        if not any(bool(m.any()) for m in moved.values()):
            return None
        first = next(iter(MLP_ROWS))
        scale = float((moved[first] * wanted[first]).sum() / wanted[first].square().sum())
        kinds: tuple[tuple[float, Writes], ...] = ((1.0, "straight"), (scale, "scaled"))
        for factor, name in kinds:
            if all((m - factor * wanted[r]).norm() <= allowed * (factor * wanted[r]).norm() for r, m in moved.items()):
                return name
        return "through a norm"


@torch.no_grad()
def _pushed(
    model: nn.Module, table: Architecture, ids: Int[Tensor, "1 pos"], outputs: Sequence[Float[Tensor, "1 pos d_model"]]
) -> tuple[Block, ...]:
    """Return the blocks with how their MLPs write, in which shape, and whether attention works beside them.

    Raises:
        ArchitectureError: What an MLP returns does not arrive behind its block, or is the whole residual stream.
    """
    pushes = [_PushedBlock(index, plain) for index, plain in enumerate(outputs)]
    with ExitStack() as stack:
        for block, push in zip(table.blocks, pushes, strict=True):
            module = model.get_submodule(block.path)
            stack.enter_context(edited_output(module, push.leave))
            if block.attention is not None:
                stack.enter_context(edited_output(model.get_submodule(block.attention), push.at_attention))
            if block.mlp is not None:
                last = block.mlp.path if block.mlp.output is None else block.mlp.output.path
                stack.enter_context(edited_output(model.get_submodule(block.mlp.path), push.at_mlp))
                stack.enter_context(edited_output(model.get_submodule(last), push.at_matrix))
        logits = model(input_ids=ids.expand(N_ROWS, -1), use_cache=False).logits
    return tuple(_judged(model, b, p, tolerance(logits)) for b, p in zip(table.blocks, pushes, strict=True))


def _judged(model: nn.Module, block: Block, push: _PushedBlock, allowed: float) -> Block:
    """Return a block with what its pushes show."""
    if block.mlp is None:
        return block
    writes = None if push.mlp is None else push.writes(allowed)
    if push.mlp is None or writes is None:
        raise not_understood(
            model, f"a push at {block.mlp.path} that does not arrive", f"it in the output of {block.path}"
        )
    if _gap(push.mlp[0], push.behind[0]) <= allowed:
        raise not_understood(
            model,
            f"the residual stream itself out of {block.mlp.path}",
            "an MLP that returns what it adds to the stream",
        )
    is_parallel = block.attention is not None and _gap(push.mlp[ATTENTION_ROW], push.mlp[0]) <= allowed
    return replace(block, mlp=replace(block.mlp, writes=writes, is_flat=push.is_flat), is_parallel=is_parallel)


# ---------------------------------------------------------------------------------------------------------------- cache
@torch.no_grad()
def _reuses_cache(model: nn.Module, ids: Int[Tensor, "1 pos"], logits: Float[Tensor, "1 pos vocab"]) -> bool:
    """Tell whether a cache, repeated and selected from, goes on as the whole sequence would."""
    _, cache = read_with_cache(model, ids[:, :-1], None)
    layers = getattr(cache, "layers", [])
    if not layers or any(hasattr(layer, "conv_states") or not _can_repeat(layer) for layer in layers):
        return False  # a recurrent state is neither repeated nor selected by the methods for keys and values
    assert cache is not None
    cache.batch_repeat_interleave(3)
    cache.batch_select_indices(torch.tensor([0, 2], device=ids.device))
    again, _ = read_with_cache(model, ids[:, -1:].expand(2, -1), cache)
    return _gap(again[1, -1], logits[0, -1]) <= tolerance(logits)


def _can_repeat(layer: object) -> bool:
    """Tell whether a layer of a cache has the two methods that answering needs."""
    return hasattr(layer, "batch_repeat_interleave") and hasattr(layer, "batch_select_indices")
