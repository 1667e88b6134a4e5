"""Frozen, strict configs of the ground floor. Defaults live here only; the command line reads them from here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sae_train.errors import ConfigError, nearest_first

T = TypeVar("T")
ARCH_NAMES = ("topk", "batch-topk", "relu", "jumprelu", "matryoshka")  # the keys of saes.ARCHS, without torch
SPREADS = ("auto", "saes", "batch")  # what several processes divide among them
SEARCH_DTYPES = ("auto", "float32", "bfloat16", "int8")  # by place in a checkpoint
B_DEC_INITS = ("mean", "geometric-median")  # the keys of centers.CENTERS, without torch
BATCH_TOKENS = 4096  # tokens in one forward pass where nobody says how many windows


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a config from a mapping; an unknown key is an error.

    Raises:
        ConfigError: A key is not a field of `kind`.
    """
    fields = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(f"{kind.__name__} has no key '{key}'", got=key, expected=nearest_first(key, fields))
    return kind(**values)


def config_of(kind: type[T], config: T | None, settings: Mapping[str, Any]) -> T:
    """Return a config with some of its fields set anew; a function's `config` and `**settings`.

    Raises:
        ConfigError: A setting is not a field of `kind`, or a field without a default is missing.

    Example:
        >>> config_of(CacheConfig, CacheConfig(("embed",), ctx_len=64), {"seed": 3}).ctx_len
        64
    """
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    known = {} if config is None else {field.name: getattr(config, field.name) for field in fields}
    values = {**known, **settings}
    needed = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    for name in (name for name in needed if name not in values):
        raise ConfigError(f"{name} is missing", got=", ".join(values) or "nothing", expected=name)
    return from_mapping(kind, values)


def default_of(kind: type, field: str) -> Any:
    """Return a field's default, for the command line.

    Example:
        >>> default_of(CacheConfig, "ctx_len")
        128
    """
    return next(f.default for f in dataclasses.fields(kind) if f.name == field)


def require(condition: bool, option: str, got: object, expected: str) -> None:
    """Raise ConfigError unless the condition holds."""
    if not condition:
        raise ConfigError(f"{option} is out of range", got=f"{got} ({option})", expected=expected)


@dataclass(frozen=True)
class CacheConfig:
    """How a language model's activations are cached.

    Attributes:
        hook_points: Canonical names, stored in one pass.
        ctx_len: Tokens in a window, the beginning-of-sequence token included.
        max_tokens: Rows to store; None stores the whole text.
        packing: `documents` keeps documents apart, `packed` fills every window with several.
        batch_size: Windows in one forward pass; None takes about 4,096 tokens.
        dtype: `bfloat16`, `float16` or `float32` on disk.
        entity_share: Share of rows that are last name tokens of entity contexts.
        seed: Shuffles the entity contexts and their places among the text.
    """

    hook_points: tuple[str, ...]
    ctx_len: int = 128
    max_tokens: int | None = None
    packing: str = "documents"
    batch_size: int | None = None
    dtype: str = "bfloat16"
    entity_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(len(self.hook_points) > 0, "--hook-point", "none", "at least one")
        require(len(set(self.hook_points)) == len(self.hook_points), "--hook-point", self.hook_points, "each once")
        require(self.ctx_len >= 2, "--ctx-len", self.ctx_len, ">= 2")
        require(self.max_tokens is None or self.max_tokens >= 1, "--max-tokens", self.max_tokens, ">= 1")
        require(self.packing in ("documents", "packed"), "--packing", self.packing, "documents, packed")
        require(self.batch_size is None or self.batch_size >= 1, "--batch-size", self.batch_size, ">= 1")
        require(
            self.dtype in ("bfloat16", "float16", "float32"),
            "--dtype",
            self.dtype,
            "bfloat16, float16, float32",
        )
        require(0 <= self.entity_share < 1, "--entity-share", self.entity_share, "0 <= share < 1")

    @property
    def windows_per_batch(self) -> int:
        """Return the windows of one forward pass.

        Example:
            >>> CacheConfig(("layers.0",), ctx_len=64).windows_per_batch
            64
        """
        return self.batch_size or max(1, BATCH_TOKENS // self.ctx_len)


@dataclass(frozen=True)
class SaeTrainConfig:
    """How an SAE is trained.

    Attributes:
        hook_point: Which activations of the store.
        arch: `topk`, `batch-topk`, `relu`, `jumprelu` or `matryoshka`.
        k: Latents kept per token (`topk`), on average over a batch (`batch-topk`, `matryoshka`), or the mean number
            that the loss aims at (`jumprelu`).
        expansion: `d_sae / d_in`; ignored when `d_sae` is given.
        d_sae: Number of latents; None means `expansion * d_in`.
        tokens: Rows to train on, repeats included; None means one pass.
        batch_size: Rows a step, those of all processes together.
        accumulate: Micro batches a step is taken in, one after the other: memory for fewer rows at a time. The gradient
            is that of the undivided step where the loss is a mean over tokens; where it is not (AuxK's denominator, the
            choice of `batch-topk` and `matryoshka`, the L0 of `jumprelu`), each micro batch is a batch of its own.
        autocast: Dense products in bfloat16, weights and sums in float32. `topk` has none but the search and AuxK.
        lr: Adam's step size; None means 2e-4 / sqrt(d_sae / 2**14) (the scaling of Gao et al. 2024, sec. 2.3).
        lr_warmup_steps: Steps of linear warm-up.
        lr_decay_share: Share of the run, at its end, in which the step size falls linearly to zero.
        l1_coefficient: Weight of the sparsity term (`relu`).
        l1_warmup_share: Share of the run in which the weight of a sparsity term grows from zero (`relu`, `jumprelu`).
        l0_coefficient: Weight of the squared distance from the L0 target (`jumprelu`).
        jumprelu_bandwidth: Width of the window around a threshold in which it is learned (`jumprelu`), in units of
            activations scaled to a mean norm of sqrt(d_in).
        matryoshka_prefixes: Shares of the latents that reconstruct on their own (`matryoshka`), the last one 1.
        auxk_alpha: Weight of the loss that revives dead latents (`topk`, `batch-topk`, `matryoshka`); 1/32 in Gao et
            al. 2024.
        search_dtype: In what `topk` looks for the k largest: `float32`, or `int8` or `bfloat16` for candidates, which
            are computed again in float32. `auto` takes int8 on processors that have instructions for it, if few rows of
            a sample have to be searched again; on CUDA bfloat16, if a timing and a sample speak for it. The latents
            found are the same, the order of addition is not: runs on two kinds of machine differ in the last bits.
        b_dec_init: Where `b_dec` starts: `mean` or `geometric-median` of a sample.
        dead_after_tokens: A latent is dead when it has not fired in that many; None means a tenth of the run.
        holdout_share: Share of the documents that are never trained on.
        eval_every: Steps between evaluations on held-out documents; 0 evaluates at the end only.
        save_every: Steps between checkpoints.
        buffer_mb: Memory for the shuffle window.
        seed: Draws the weights, and where `data_seed` is None the rows too.
        data_seed: Draws the held-out documents and the order of rows, so that SAEs of several seeds can share them.
    """

    hook_point: str
    arch: str = "topk"
    k: int = 32
    expansion: int = 8
    d_sae: int | None = None
    tokens: int | None = None
    batch_size: int = 2048
    accumulate: int = 1
    autocast: bool = False
    lr: float | None = None
    lr_warmup_steps: int = 50
    lr_decay_share: float = 0.2
    l1_coefficient: float = 5.0
    l1_warmup_share: float = 0.05
    l0_coefficient: float = 1.0
    jumprelu_bandwidth: float = 0.05
    matryoshka_prefixes: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    auxk_alpha: float = 1 / 32
    search_dtype: str = "auto"
    b_dec_init: str = "mean"
    dead_after_tokens: int | None = None
    holdout_share: float = 0.05
    eval_every: int = 0
    save_every: int = 500
    buffer_mb: int = 256
    seed: int = 0
    data_seed: int | None = None

    @property
    def rows_seed(self) -> int:
        """Return the seed of the held-out documents and of the order of rows.

        Example:
            >>> SaeTrainConfig("embed", seed=3).rows_seed, SaeTrainConfig("embed", seed=3, data_seed=0).rows_seed
            (3, 0)
        """
        return self.seed if self.data_seed is None else self.data_seed

    def __post_init__(self) -> None:
        require(self.k >= 1, "--k", self.k, ">= 1")
        require(self.expansion >= 1, "--expansion", self.expansion, ">= 1")
        require(self.d_sae is None or self.d_sae >= 1, "--d-sae", self.d_sae, ">= 1")
        require(self.tokens is None or self.tokens >= 1, "--tokens", self.tokens, ">= 1")
        require(self.batch_size >= 1, "--batch-size", self.batch_size, ">= 1")
        divides = self.accumulate >= 1 and self.batch_size % self.accumulate == 0
        require(divides, "--accumulate", self.accumulate, f">= 1, a divisor of {self.batch_size} (--batch-size)")
        require(self.data_seed is None or self.data_seed >= 0, "--data-seed", self.data_seed, ">= 0")
        require(self.lr is None or self.lr > 0, "--lr", self.lr, "> 0")
        require(self.lr_warmup_steps >= 0, "--lr-warmup-steps", self.lr_warmup_steps, ">= 0")
        require(0 <= self.lr_decay_share <= 1, "--lr-decay-share", self.lr_decay_share, "0 <= share <= 1")
        require(self.l1_coefficient >= 0, "--l1-coefficient", self.l1_coefficient, ">= 0")
        require(0 <= self.l1_warmup_share <= 1, "--l1-warmup-share", self.l1_warmup_share, "0 <= share <= 1")
        require(self.l0_coefficient >= 0, "--l0-coefficient", self.l0_coefficient, ">= 0")
        require(self.jumprelu_bandwidth > 0, "--jumprelu-bandwidth", self.jumprelu_bandwidth, "> 0")
        shares = tuple(self.matryoshka_prefixes)
        growing = shares == tuple(sorted(set(shares))) and shares[:1] > (0,) and shares[-1:] == (1,)
        require(growing, "--matryoshka-prefix", shares, "growing shares above 0, the last one 1")
        require(self.search_dtype in SEARCH_DTYPES, "--search-dtype", self.search_dtype, ", ".join(SEARCH_DTYPES))
        require(self.b_dec_init in B_DEC_INITS, "--b-dec-init", self.b_dec_init, ", ".join(B_DEC_INITS))
        require(self.auxk_alpha >= 0, "--auxk-alpha", self.auxk_alpha, ">= 0")
        require(
            self.dead_after_tokens is None or self.dead_after_tokens >= 1,
            "--dead-after-tokens",
            self.dead_after_tokens,
            ">= 1",
        )
        require(self.eval_every >= 0, "--eval-every", self.eval_every, ">= 0")
        require(0 < self.holdout_share < 1, "--holdout-share", self.holdout_share, "0 < share < 1")
        require(self.save_every >= 1, "--save-every", self.save_every, ">= 1")
        require(self.buffer_mb >= 1, "--buffer-mb", self.buffer_mb, ">= 1")


@dataclass(frozen=True)
class SaeEvalConfig:
    """What an SAE is measured on.

    Attributes:
        holdout_share: Share of the store's documents; that of the training for those it never saw.
        max_tokens: Tokens of text on which the SAE is spliced into the model, at most.
        seed: Draws the documents; that of the training for those it never saw.
    """

    holdout_share: float = default_of(SaeTrainConfig, "holdout_share")
    max_tokens: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.holdout_share < 1, "--holdout-share", self.holdout_share, "0 < share < 1")
        require(self.max_tokens >= 1, "--max-tokens", self.max_tokens, ">= 1")


@dataclass(frozen=True)
class CompareConfig:
    """How the latents of two SAEs are matched.

    Attributes:
        threshold: Cosine from which a partner is a twin.
        max_hungarian: Latents, of the larger SAE, up to which the best one-to-one matching is found; above, mutual
            nearest neighbours.
        max_rows: Rows to count firings on, at most.
        seed: Draws the random directions of the comparison with chance.
    """

    threshold: float = 0.7
    max_hungarian: int = 16_384
    max_rows: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.threshold < 1, "--threshold", self.threshold, "0 < cosine < 1")
        require(self.max_hungarian >= 0, "--max-hungarian", self.max_hungarian, ">= 0")
        require(self.max_rows >= 1, "--max-rows", self.max_rows, ">= 1")
