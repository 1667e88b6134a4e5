"""Load a causal language model and its tokenizer: hub id, Hugging Face folder, GGUF file or fact world; no pickles."""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from sae_train.errors import ConfigError, FileFormatError, MissingFileError, ShapeError, WorkbenchError
from sae_train.lm.adapters import is_adapter, put_on, read_base
from sae_train.lm.architecture import Architecture
from sae_train.lm.architecture_check import architecture_of
from sae_train.machine.arithmetic import usable
from sae_train.run.heartbeat import doing
from sae_train.run.runs import partial_path, resolve_device
from sae_train.run.tensor_files import put_in_folder
from sae_train.storage.converted import converted
from sae_train.storage.model_files import GENERATION, StoredModel
from sae_train.text.tokenizer_hash import tokenizer_hash
from sae_train.text.tokens import bos_prefix
from sae_train.text.worlds import find_world, install_hint, world_names
from sae_train.text_files import read_json

transformers.utils.logging.disable_progress_bar()  # the command line shows its own progress
POSITIONS = ("max_position_embeddings", "max_seq_len")  # what configs call it; the second is MPT's
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LanguageModel:
    """A model in evaluation mode, its tokenizer, and where they came from.

    Attributes:
        model: The model, in the format it is computed in.
        tokenizer: Its tokenizer.
        name: What it was loaded from.
        device: Where its weights are.
        stored: How it is stored there, and will be where it is saved; None for one that was not loaded from a folder.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    device: torch.device
    stored: StoredModel | None = None

    @property
    def architecture(self) -> Architecture:
        """Where the model keeps its parts."""
        return architecture_of(self.model)

    @property
    def n_blocks(self) -> int:
        """Number of decoder blocks."""
        return int(self._text_config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._text_config.hidden_size)

    @property
    def max_positions(self) -> int:
        """Longest context the model has positions for."""
        found = (getattr(self._text_config, name, None) for name in POSITIONS)
        return int(next((n for n in found if n), 2**20))

    @property
    def n_tokens(self) -> int:
        """Number of rows of the input embedding: token ids are below it."""
        return len(self.model.get_submodule(self.architecture.embedding).get_parameter("weight"))

    def check_tokens(
        self, sequences: Sequence[Sequence[int]], names: Sequence[str] | None = None, *, behind: int = 0
    ) -> None:
        """Refuse token ids that the model cannot read: it has no position, or no embedding, for one of them.

        Args:
            sequences: Token ids.
            names: What to call each in the message; by default by its number.
            behind: Tokens that will follow each.

        Raises:
            ShapeError: A sequence is too long, or holds an id beyond the embedding. Without this a learned table of
                positions is read beyond its end: an IndexError, on CUDA an assertion that ends the process.
        """
        most, n_tokens = self.max_positions, self.n_tokens
        for index, ids in enumerate(sequences):
            name = f"row {index}" if names is None else names[index]
            if len(ids) + behind > most:
                raise ShapeError(
                    f"{name} is too long for {self.name}",
                    got=f"{len(ids)} tokens{f' and {behind} behind them' if behind else ''}: "
                    f"'{self.tokenizer.decode(ids[:24])}…'",
                    expected=f"<= {most}, the model's positions",
                )
            if max(ids, default=0) >= n_tokens:
                raise ShapeError(
                    f"{name} holds a token that {self.name} has no embedding for",
                    got=f"{max(ids)}, {self.tokenizer.convert_ids_to_tokens(max(ids))!r}",
                    expected=f"< {n_tokens}, the rows of the embedding",
                )

    @property
    def _text_config(self) -> Any:
        config: Any = self.model.config
        return config.get_text_config()

    @cached_property
    def tokenizer_hash(self) -> str:
        """Hash of everything that decides which tokens a text becomes."""
        return tokenizer_hash(self.tokenizer)


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers, tied ones once."""
    digest = hashlib.sha256()
    seen: set[int] = set()
    with doing("hashing the model's weights"):
        for name, tensor in sorted(model.state_dict().items()):
            if tensor.data_ptr() in seen:
                continue
            seen.add(tensor.data_ptr())
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())  # read where it lies
    return digest.hexdigest()


def load_lm(spec: str, *, device: str = "auto", dtype: str = "float32", base: str | None = None) -> LanguageModel:
    """Load a model for inference or fine-tuning; gradients are off until they are turned on.

    Args:
        spec: A hub id (`org/name`), a Hugging Face folder, a `.gguf` file, the folder of an adapter, or the name of a
            world (`fact-world`), which the model then goes by.
        device: `auto`, `cpu`, `cuda[:n]` or `mps`.
        dtype: `float32`, `bfloat16` or `float16`; float32 in the place of what this machine is too slow in.
        base: An adapter's base, where it is not to be loaded from where the adapter says.

    Raises:
        MissingFileError: Neither a folder, nor a `.gguf` file, nor a hub id, nor a world.
        FileFormatError: The files are not a causal language model with all its weights as safetensors and a fast
            tokenizer.
        ArchitectureError: The model's layout is not understood.
        ShapeError: The tokenizer makes tokens of text that the model has no embedding for.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"no such dtype '{dtype}'", got=f"{dtype}", field="lm_dtype", expected=", ".join(DTYPES))
    if find_world(spec) is None and is_adapter(Path(spec)):
        return _with_adapter(spec, base, device=device, dtype=dtype)
    where = resolve_device(device)
    with (
        doing(f"loading {spec}"),
        _files_read(
            f"cannot load the language model '{spec}'",
            "a causal language model with config.json, *.safetensors and a fast tokenizer, or a .gguf file",
        ),
    ):
        source, options = _locate(spec)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, use_fast=True, **options)
        weights = {} if "gguf_file" in options else {"use_safetensors": True}
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=usable(DTYPES[dtype], where), output_loading_info=True, **weights, **options
        )
    model, loading = loaded
    if not tokenizer.is_fast:
        raise FileFormatError(
            f"'{spec}' has no fast tokenizer", got=type(tokenizer).__name__, expected="tokenizer.json"
        )
    if loading["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(loading["missing_keys"])
        raise FileFormatError(
            f"'{spec}' lacks weights of {type(model).__name__}",
            got=f"{len(missing)} missing: {', '.join(missing[:4])}",
            expected="every weight of a causal language model",
        )
    _undo_gguf_marks(model)
    model.requires_grad_(False).eval()
    nn.Module.to(model, where)
    architecture_of(model)  # searched and checked here, so that what is not understood is refused before any work
    stored = None if is_gguf(spec) else StoredModel.read(source)
    lm = LanguageModel(model=model, tokenizer=tokenizer, name=spec, device=where, stored=stored)
    _check_vocabulary(lm)
    return lm


def _check_vocabulary(lm: LanguageModel) -> None:
    """Refuse a tokenizer with tokens beyond the embedding, special ones excepted that no text becomes.

    Gemma 3's tokenizer, for one, has a token for images that its text models have no embedding for.
    """
    vocabulary = lm.tokenizer.get_vocab()
    if max(vocabulary.values(), default=0) < lm.n_tokens:
        return
    own = {*bos_prefix(lm.tokenizer), lm.tokenizer.eos_token_id}
    unread = {i for i, token in lm.tokenizer.added_tokens_decoder.items() if token.special and i not in own}
    beyond = sorted((i, t) for t, i in vocabulary.items() if i >= lm.n_tokens and i not in unread)
    if beyond:
        raise ShapeError(
            f"the tokenizer of '{lm.name}' has more tokens than the model has embeddings",
            got=f"{len(beyond)} tokens beyond, the first {beyond[0][1]!r} with id {beyond[0][0]}",
            expected=f"ids < {lm.n_tokens}, the rows of the embedding",
            try_="the tokenizer that belongs to the model, or the model with its embedding resized",
        )


def as_lm(lm: LanguageModel | str | Path, *, device: str = "auto", dtype: str = "float32") -> LanguageModel:
    """Return a model that is at hand, or load it; `device` and `dtype` concern one that is loaded."""
    return lm if isinstance(lm, LanguageModel) else load_lm(str(lm), device=device, dtype=dtype)


def _with_adapter(folder: str, base: str | None, *, device: str, dtype: str) -> LanguageModel:
    """Load an adapter's base, check that it is the one, and add the adapter to its weights."""
    recorded = read_base(Path(folder))
    lm = load_lm(base or recorded.spec, device=device, dtype=dtype)
    found = weights_hash(lm.model) if recorded.weights_hash and dtype == "float32" else recorded.weights_hash
    if found != recorded.weights_hash:
        raise FileFormatError(
            f"the adapter '{folder}' belongs to another model",
            got=f"weights {found[:12]}… in {base or recorded.spec}",
            expected=f"weights {recorded.weights_hash[:12]}…",
        )
    put_on(lm.model, Path(folder))
    lm.model.requires_grad_(False).eval()
    return replace(lm, name=folder)


def load_tokenizer(spec: str) -> Any:
    """Load a model's tokenizer alone, as `load_lm` would.

    Raises:
        MissingFileError: Neither a folder, nor a `.gguf` file, nor a hub id, nor a world.
        FileFormatError: There is no tokenizer, or it cannot be read.
    """
    with _files_read(f"cannot load the tokenizer of '{spec}'", "a model with tokenizer.json, or a .gguf file"):
        source, options = _locate(spec)
        return transformers.AutoTokenizer.from_pretrained(source, use_fast=True, **options)


@contextmanager
def _files_read(what: str, expected: str) -> Iterator[None]:
    """Turn what libraries raise on files that are not what their names say into one of our errors.

    Raises:
        FileFormatError: Something was raised: a dozen unrelated types, tokenizers' plain `Exception` among them.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:  # noqa: BLE001  see above
        text = str(error).strip().splitlines()
        raise FileFormatError(
            what, got=f"{type(error).__name__}: {text[0][:200] if text else ''}", expected=expected
        ) from error


def _locate(spec: str) -> tuple[str, dict[str, Any]]:
    """Tell a world's name, a folder, a GGUF file and a hub id apart."""
    world = find_world(spec)
    path = Path(spec) if world is None else world.folder
    safe: dict[str, Any] = {"trust_remote_code": False}
    if is_gguf(spec):
        kept = converted(path, partial(_convert_gguf, path))
        if kept is None:
            return _inside_gguf(path)
        return str(kept), {**safe, "local_files_only": True}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileFormatError(
                f"not a model folder: '{spec}'",
                got="no config.json in it",
                expected="config.json, *.safetensors",
            )
        return str(path), {**safe, "local_files_only": True}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", spec) and not spec.startswith(".") and not path.parent.is_dir():
        return spec, safe
    raise MissingFileError(
        f"no language model '{spec}'",
        got=spec,
        field="model",
        expected=", ".join([*world_names(), "a folder with config.json, a .gguf file, or a hub id such as org/name"]),
        try_=install_hint(spec),
    )


def is_gguf(spec: str) -> bool:
    """Tell whether a model is named by a GGUF file."""
    path = Path(spec)
    return path.suffix == ".gguf" and path.is_file()


def _inside_gguf(path: Path) -> tuple[str, dict[str, Any]]:
    """Return what transformers reads a GGUF file itself with."""
    return str(path.parent), {"trust_remote_code": False, "gguf_file": path.name, "local_files_only": True}


def _convert_gguf(path: Path, folder: Path) -> None:
    """Write the Hugging Face folder of a GGUF file, its weights dequantised to float32."""
    source, options = _inside_gguf(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, use_fast=True, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    _undo_gguf_marks(model)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _undo_gguf_marks(model: Any) -> None:
    """A GGUF file is dequantised while loading; drop the marks that would make `save_pretrained` refuse."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def sharing_copy(model: nn.Module, own: Collection[str]) -> nn.Module:
    """Return a copy of a model in which only some parameters, given by name, are its own.

    The others lie in the same memory as those of the model: whoever changes one of them there changes both.
    """
    shared: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for name, p in model.named_parameters()
        if name not in own and type(p) is nn.Parameter
    }
    return copy.deepcopy(model, shared)


def round_to_stored(lm: LanguageModel) -> None:
    """Round a model's weights, in place, to the format in which `save_lm` writes them.

    Raises:
        DtypeError: The format cannot hold a weight.
    """
    if lm.stored is not None:
        lm.stored.round(lm.model)


def save_lm(lm: LanguageModel, folder: Path) -> None:
    """Write a Hugging Face folder, whole or not at all, in the format and with the files of the model's source."""
    partial = partial_path(folder)
    if partial.exists():
        shutil.rmtree(partial)
    model: Any = lm.model
    stored, settings = lm.stored, getattr(model, "generation_config", None)
    try:
        if stored is not None and stored.file(GENERATION) is not None:
            # The source's file is kept as it is; transformers refuses to write settings that it reads.
            model.generation_config = transformers.GenerationConfig()
        state = {} if stored is None else {"state_dict": stored.cast(model)}
        model.save_pretrained(partial, safe_serialization=True, **state)
    finally:
        if settings is not None:
            model.generation_config = settings
    lm.tokenizer.save_pretrained(partial)
    if stored is not None:
        stored.complete(partial, is_same_kind=_kind(stored.file("config.json")) == _kind(partial / "config.json"))
    put_in_folder(partial, folder)


def _kind(config: Path | None) -> str | None:
    """Return the architecture that a `config.json` names."""
    return None if config is None else read_json(config).get("model_type")
