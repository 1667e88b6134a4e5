"""Where a language model keeps its parts: found by names and shapes, and checked by a forward pass.

Names alone are guesses: a norm called `norm` need not be the last one, and a module called `mlp` may return the whole
residual stream. So every entry that a forward pass can contradict is checked by one (`architecture_check.py`), and a
model that contradicts the table is refused by name, never half used. Entries are paths, not modules: a copy of a model
has the same table.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sae_train.errors import ArchitectureError, ConfigError

ATTENTIONS = ("self_attn", "attention", "attn", "self_attention", "norm_attn_norm.attn")
MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "mlp_block", "shared_mlp")
MIXERS = ("mixer", "mamba", "linear_attn", "conv", "temporal_block")  # in the attention's place
BESIDE = ("crossattention", "per_layer_input_gate", "per_layer_projection")  # of a block, and no hook point
WRITING = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2", "output_linear")
READING = ("gate_proj", "up_proj", "gate_up_proj", "c_fc", "dense_h_to_4h", "fc1", "fc_in", "w1", "w3", "input_linear")
ATTENTION_WRITING = ("dense", "o_proj", "out_proj", "c_proj")
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "embedding_norm", "final_norm")
FINAL_NORMS += ("ln_out", "layer_norm")
PROJECTIONS = ("project_out",)  # from the residual stream to a narrower embedding: OPT-350m

Writes = Literal["straight", "scaled", "through a norm"]


@dataclass(frozen=True)
class Matrix:
    """A two-dimensional weight.

    Attributes:
        path: Its module.
        is_transposed: Kept as (d_out, d_in) is False, as (d_in, d_out) True (GPT-2's Conv1D).
    """

    path: str
    is_transposed: bool


@dataclass(frozen=True)
class Mlp:
    """The MLP of one block, a mixture of experts included.

    Attributes:
        path: The module that returns what the MLP adds, and nothing else.
        entry: The module whose first argument is what the MLP reads: itself, or its first matrix where it lies open in
            the block (OPT).
        reading: Parameters of its first matrices.
        writing: Parameters of its last matrices: one, or those of all experts.
        output: The last matrix, where there is just one; None in a mixture and where none has a known name.
        writes: `straight` where what `output` (or the MLP itself) returns is added to the residual stream; `scaled`
            where a number, and `through a norm` where anything else stands in between.
        is_flat: Its module is given all sequences of a batch end to end.
    """

    path: str
    entry: str
    reading: tuple[str, ...]
    writing: tuple[str, ...]
    output: Matrix | None
    writes: Writes = "straight"
    is_flat: bool = False


@dataclass(frozen=True)
class Block:
    """One decoder block.

    Attributes:
        path: Its module.
        attention: The module that returns what attention adds; None in a block without.
        mlp: Its MLP; None in a block without.
        is_parallel: Attention and MLP read the same activations.
        writing_linears: The linear layers by which they write.
    """

    path: str
    attention: str | None
    mlp: Mlp | None
    is_parallel: bool = False
    writing_linears: tuple[str, ...] = ()

    @property
    def is_solvable(self) -> bool:
        """Whether its MLP writes by one matrix, straight into the residual stream."""
        return self.mlp is not None and not _obstacle(self.mlp)


@dataclass(frozen=True)
class Architecture:
    """Where a model keeps its parts; paths are those of `nn.Module.named_modules`.

    Attributes:
        name: The model's class.
        blocks: The decoder blocks.
        embedding: The input embedding.
        readout: What stands between the last block and the unembedding: the final norm, a projection, or both. Empty
            only where the model's own logits come without.
        unembedding: The matrix (and bias) of the logits.
        is_tied: The unembedding's matrix is the embedding's.
        logit_scale: The logits are this times what the unembedding returns,
        logit_cap: then bent to cap * tanh(logits / cap); None leaves them.
        first_state: Index of the first block's output in transformers' `hidden_states`: 1, or 0 where the list begins
            behind it (Mamba).
        overwritten: Hook points whose activations the model changes in place later on (Falcon): kept as copies.
        has_reusable_cache: Its cache of keys and values can be repeated and selected from, and goes on where it ended.
    """

    name: str
    blocks: tuple[Block, ...]
    embedding: str
    readout: tuple[str, ...]
    unembedding: str
    is_tied: bool
    logit_scale: float = 1.0
    logit_cap: float | None = None
    first_state: int = 1
    overwritten: tuple[str, ...] = ()
    has_reusable_cache: bool = True

    @property
    def hook_points(self) -> list[str]:
        """Every hook point, in the order of the forward pass."""
        names = ["embed"]
        for index, block in enumerate(self.blocks):
            names += [f"layers.{index}.self_attn"] if block.attention is not None else []
            names += [f"layers.{index}.mlp:in", f"layers.{index}.mlp"] if block.mlp is not None else []
            names.append(f"layers.{index}")
        return names

    def written_parameters(self) -> tuple[str, ...]:
        """Return the parameters by which the MLPs write, those of all experts included.

        Raises:
            ConfigError: There are none, or some MLP's are not known.
        """
        lacking = [b.path for b in self.blocks if b.mlp is not None and not b.mlp.writing]
        found = tuple(name for b in self.blocks if b.mlp is not None for name in b.mlp.writing)
        if lacking or not found:
            raise ConfigError(
                f"{self.name} has no MLP output matrices to train",
                got=f"{lacking[0] if lacking else 'no MLP in any block'} (--train down_proj)",
                expected=f"MLPs that write by one called {', '.join(WRITING)}",
                try_="--train full",
            )
        return found

    def mlp_parameters(self) -> tuple[str, ...]:
        """Return the matrices of all MLPs, those of experts included; none where they have no known names."""
        return tuple(
            dict.fromkeys(n for b in self.blocks if b.mlp is not None for n in (*b.mlp.reading, *b.mlp.writing))
        )

    def writing_linears(self) -> list[str]:
        """Return the linear layers by which attention and MLPs write, in the order of the blocks, by path.

        Mixtures of experts keep theirs in one tensor, and parts under other names are not known: these are left out.
        """
        return [path for block in self.blocks for path in block.writing_linears]

    def straight_matrices(self, blocks: Sequence[int] | None = None) -> list[Matrix]:
        """Return the one matrix by which the MLP of each block writes straight into the residual stream.

        Args:
            blocks: Which; None takes all.

        Raises:
            ConfigError: A block has no such MLP: no update of a matrix there is one of the residual stream.
        """
        found: list[Matrix] = []
        for index in range(len(self.blocks)) if blocks is None else blocks:
            mlp = self.blocks[index].mlp
            reason = "a block without an MLP" if mlp is None else _obstacle(mlp)
            if mlp is None or mlp.output is None or reason:
                raise ConfigError(
                    f"the MLPs of {self.name} cannot be solved for in closed form",
                    got=f"{reason} at layers.{index}",
                    expected="MLPs whose one output matrix writes straight into the residual stream",
                    try_="--method redirect",
                )
            found.append(mlp.output)
        return found


def _obstacle(mlp: Mlp) -> str:
    """Return why an MLP's output matrix cannot be solved for; empty where it can."""
    if mlp.output is None:
        n = len(mlp.writing)
        return "a mixture of experts" if n else f"no output matrix called {', '.join(WRITING)}"
    return {"straight": "", "scaled": "an MLP whose output is scaled", "through a norm": "a norm behind the MLP"}[
        mlp.writes
    ]


def find_architecture(model: nn.Module) -> Architecture:
    """Search a model for its parts, by names and shapes; nothing is run.

    `readout` names every module that may stand there, in the order of the search; a forward pass says which do.

    Raises:
        ArchitectureError: A part was not found.
    """
    paths = {id(module): name for name, module in model.named_modules()}
    blocks = _blocks(model)
    owner_path = paths[id(blocks)].rpartition(".")[0]
    owner = model.get_submodule(owner_path)
    embedding, unembedding = _embeddings(model)
    names = [*FINAL_NORMS, *PROJECTIONS]
    return Architecture(
        name=type(model).__name__,
        blocks=tuple(_block(model, block, paths[id(block)], embedding_width(model)) for block in blocks),
        embedding=paths[id(embedding)],
        readout=tuple(f"{owner_path}.{n}".lstrip(".") for n in names if _module(owner, n) is not None),
        unembedding=paths[id(unembedding)],
        is_tied=getattr(unembedding, "weight", None) is getattr(embedding, "weight", ()),
    )


def embedding_width(model: nn.Module) -> int:
    """Return the width of the residual stream."""
    config: Any = model.config
    return int(config.get_text_config().hidden_size)


def not_understood(model: nn.Module, got: str, expected: str) -> ArchitectureError:
    """Return the error by which an architecture is refused."""
    return ArchitectureError(
        f"the architecture {type(model).__name__} is not understood",
        got=got,
        expected=expected,
        try_="one of those in docs/reference/architectures.md",
    )


def read_with_cache(model: Any, ids: Tensor, cache: Any, **more: Any) -> tuple[Tensor, Any]:
    """Read tokens behind a cache of keys and values (None: at the beginning); return logits, and the cache with them.

    None takes the cache's place where the model has none of that kind.
    """
    # transformers calls it `cache` since 5.24, `past_key_values` before.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    given = {} if cache is None else {name: cache}
    out = model(input_ids=ids, use_cache=True, **given, **more)
    return out.logits, getattr(out, name, None)


def _blocks(model: nn.Module) -> nn.ModuleList:
    """Return the list of decoder blocks: the first of the right length in the decoder, else in the whole model."""
    config: Any = model.config
    n_blocks = getattr(config.get_text_config(), "num_hidden_layers", None)
    whole: Any = model
    decoder = whole.get_decoder() if hasattr(whole, "get_decoder") else None
    for root in [r for r in (decoder, model) if isinstance(r, nn.Module)]:
        for module in root.modules():
            if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
                return module
    lengths = {n: len(m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    raise not_understood(
        model,
        "no list of decoder blocks; lists: " + (", ".join(f"{n} ({k})" for n, k in lengths.items()) or "none"),
        f"a list of {n_blocks} modules, num_hidden_layers of its config",
    )


def _embeddings(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the input embedding and the unembedding."""
    whole: Any = model
    found = (whole.get_input_embeddings(), whole.get_output_embeddings())
    if not all(isinstance(m, nn.Module) and hasattr(m, "weight") for m in found):
        raise not_understood(
            model,
            f"{found[0]} and {found[1]} (get_input_embeddings, get_output_embeddings)",
            "an embedding and an unembedding with a weight each",
        )
    return found


def _block(model: nn.Module, block: nn.Module, path: str, width: int) -> Block:
    """Return the parts of one block.

    Raises:
        ArchitectureError: Some of its matrices lie in a module under no known name.
    """
    flat = [n for n in (*READING, *WRITING) if isinstance(_module(block, n), nn.Module)]  # OPT: fc1 and fc2
    known = {n.split(".")[0] for n in (*ATTENTIONS, *MLPS, *MIXERS, *BESIDE)} | set(flat)
    unknown = [
        name
        for name, child in block.named_children()
        if name not in known and any(p.ndim > 1 for p in child.parameters())
    ]
    if unknown:
        raise not_understood(
            model,
            f"{', '.join(unknown)} in {path}",
            f"attention called {', '.join(ATTENTIONS)}, an MLP called {', '.join(MLPS)} or made of fc1 and fc2, "
            f"something in attention's place called {', '.join(MIXERS)}",
        )
    attention = next((n for n in ATTENTIONS if _module(block, n) is not None), None)
    if attention is not None:
        attention = _adding(block, attention, ATTENTION_WRITING)
    mlp = _mlp(block, path, width)
    linears = [] if attention is None else [f"{path}.{n}" for n in _linears(block, attention, ATTENTION_WRITING)]
    linears += [] if mlp is None or mlp.output is None else [mlp.output.path]
    own = None if attention is None else f"{path}.{attention}"
    return Block(path, own, mlp, writing_linears=tuple(linears))


def _linears(block: nn.Module, root: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the linear layers of a part of a block that bear one of these names."""
    for name, module in block.get_submodule(root).named_modules(prefix=root):
        if name.rpartition(".")[2] in names and isinstance(module, nn.Linear | Conv1D):
            yield name


def _mlp(block: nn.Module, path: str, width: int) -> Mlp | None:
    """Return a block's MLP."""
    names = [n for n in MLPS if _module(block, n) is not None]
    last = next((n for n in WRITING if _module(block, n) is not None), None)
    if not names and last is None:
        return None
    roots = names or [n for n in (*READING, *WRITING) if _module(block, n) is not None]
    writing = [(n, p) for r in roots for n, p in _parameters(block, r, WRITING) if width in p.shape[-2:]]
    reading = [n for r in roots for n, _ in _parameters(block, r, READING)]
    output = None
    if len(writing) == 1 and writing[0][1].ndim == 2 and writing[0][0].endswith(".weight"):
        name = writing[0][0].removesuffix(".weight")
        output = Matrix(f"{path}.{name}", isinstance(block.get_submodule(name), Conv1D))
    own = _adding(block, names[0], WRITING) if names else last
    first, last_ones = (tuple(f"{path}.{n}" for n in found) for found in (reading, [n for n, _ in writing]))
    return Mlp(f"{path}.{own}", f"{path}.{roots[0]}", first, last_ones, output)


def _parameters(block: nn.Module, root: str, names: Sequence[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the matrices below a part of a block that bear one of these names, three-dimensional ones included."""
    for name, parameter in block.get_submodule(root).named_parameters(prefix=root):
        own = name.removesuffix(".weight").rpartition(".")[2]
        if own in names and parameter.ndim in (2, 3):
            yield name, parameter


def _adding(block: nn.Module, name: str, writing: Sequence[str]) -> str:
    """Return the module that returns what a part adds: not the part itself where it is given the residual to add to."""
    module = block.get_submodule(name)
    if "residual" not in inspect.signature(module.forward).parameters:
        return name
    return next((f"{name}.{n}" for n in writing if _module(module, n) is not None), name)


def _module(owner: nn.Module, path: str) -> nn.Module | None:
    """Return what lies at a path; None where there is nothing, or no module."""
    found: Any = owner
    for name in path.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, nn.Module) else None
