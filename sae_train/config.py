"""Frozen, strict configs of the ground floor. Defaults, ranges and help texts live here only. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from sae_train.fields import Field, config_class, default_of, require

Arch = Literal["topk", "batch-topk", "relu", "jumprelu", "matryoshka", "hierarchical-topk"]
SearchDtype = Literal["auto", "float32", "bfloat16", "int8"]
Revival = Literal["none", "auxk", "pre-acts"]
BDecInit = Literal["mean", "geometric-median"]
ARCH_NAMES: tuple[str, ...] = get_args(Arch)  # the keys of saes.ARCHS, without torch
SPREADS = ("auto", "saes", "batch")  # what several processes divide among them
SEARCH_DTYPES: tuple[str, ...] = get_args(SearchDtype)  # by place in a checkpoint
B_DEC_INITS: tuple[str, ...] = get_args(BDecInit)  # the keys of centers.CENTERS, without torch
BATCH_TOKENS = 4096  # tokens in one forward pass where nobody says how many windows


@config_class
class CacheConfig:
    """How a language model's activations are cached."""

    hook_points: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="Places in the model whose activations are stored in one pass."),
    ]
    ctx_len: Annotated[
        int, Field(ge=2, description="Tokens in a window, the beginning-of-sequence token included.")
    ] = 128
    max_tokens: Annotated[
        int | None, Field(ge=1, description="Rows (one a token) to store; by default the whole text.")
    ] = None
    packing: Annotated[
        Literal["documents", "packed"],
        Field(
            description="Layout of the text: a document a window (documents), or windows filled with several (packed)."
        ),
    ] = "documents"
    batch_size: Annotated[
        int | None,
        Field(ge=1, description="Windows in one forward pass; by default as many as hold about 4,096 tokens."),
    ] = None
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"], Field(description="Number format of the activations on disk.")
    ] = "bfloat16"
    frac_entity_rows: Annotated[
        float, Field(ge=0, lt=1, description="Share of the rows that are last name tokens in contexts of entities.")
    ] = 0.0
    seed: Annotated[
        int, Field(ge=0, description="Seed of the order of entity contexts and of their places in the text.")
    ] = 0

    def __post_init__(self) -> None:
        require(len(set(self.hook_points)) == len(self.hook_points), "hook_points", self.hook_points, "each once")

    @property
    def windows_per_batch(self) -> int:
        """Return the windows of one forward pass.

        Example:
            >>> CacheConfig(("layers.0",), ctx_len=64).windows_per_batch
            64
        """
        return self.batch_size or max(1, BATCH_TOKENS // self.ctx_len)


@config_class
class SaeTrainConfig:
    """How an SAE is trained.

    The gradient of a step taken in micro batches (`accumulate`) is that of the undivided step where the loss is a mean
    over tokens. Where it is not (AuxK's denominator, the choice of `batch-topk` and `matryoshka`, the L0 of `jumprelu`)
    each micro batch is a batch of its own. The latents that any `search_dtype` finds are the same, the order of
    addition is not: runs on two kinds of machine differ in the last bits.
    """

    hook_point: Annotated[str, Field(description="Place in the model whose activations are read from the store.")]
    target_hook_point: Annotated[
        str | None,
        Field(
            description="Place in the model whose activations have to come out, which makes a transcoder; by default "
            "those that are read."
        ),
    ] = None
    skip: Annotated[
        bool, Field(description="Add a linear map of the input to the output (transcoders), which is learned as well.")
    ] = False
    arch: Annotated[Arch, Field(description="Architecture of the SAE.")] = "topk"
    init: Annotated[
        str | None,
        Field(
            min_length=1,
            description="SAE to go on from, as large as the new one: a folder or another source that import-sae reads; "
            "by default weights are drawn.",
        ),
    ] = None
    k: Annotated[
        int,
        Field(
            ge=1,
            description="Latents kept per token: exactly (topk, hierarchical-topk), on average over a batch "
            "(batch-topk, matryoshka), or as the mean number that the loss aims at (jumprelu).",
        ),
    ] = 32
    expansion: Annotated[
        int, Field(ge=1, description="Latents per input dimension, d_sae / d_in; not used where d_sae is given.")
    ] = 8
    d_sae: Annotated[int | None, Field(ge=1, description="Number of latents, in the place of the expansion.")] = None
    tokens: Annotated[
        int | None, Field(ge=1, description="Rows to train on, repeats included; by default one pass over the store.")
    ] = None
    batch_size: Annotated[int, Field(ge=1, description="Rows in a step, those of all processes together.")] = 2048
    accumulate: Annotated[
        int, Field(ge=1, description="Micro batches that a step is taken in one after the other, to save memory.")
    ] = 1
    autocast: Annotated[
        bool,
        Field(description="Compute dense products in bfloat16, weights in float32; not faster on every processor."),
    ] = False
    lr: Annotated[
        float | None,
        # The scaling of Gao et al. 2024, sec. 2.3.
        Field(gt=0, description="Step size of Adam; by default 2e-4 / sqrt(d_sae / 16384)."),
    ] = None
    lr_warmup_steps: Annotated[int, Field(ge=0, description="Steps in which the step size grows from zero.")] = 50
    frac_lr_decay: Annotated[
        float, Field(ge=0, le=1, description="Share of the run, at its end, in which the step size falls to zero.")
    ] = 0.2
    l1_coefficient: Annotated[float, Field(ge=0, description="Weight of the L1 sparsity term (relu).")] = 5.0
    relu_p_end: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Power that the sparsity term ends with (relu): it begins as L1, and small latents pay more as "
            "the power falls; 1 keeps L1.",
        ),
    ] = 1.0
    frac_l1_warmup: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the run in which the weight of the sparsity term grows from zero (relu, jumprelu).",
        ),
    ] = 0.05
    l0_coefficient: Annotated[
        float, Field(ge=0, description="Weight of the squared distance from the L0 target (jumprelu).")
    ] = 1.0
    jumprelu_bandwidth: Annotated[
        float,
        Field(
            gt=0,
            description="Width of the window around a threshold in which it is learned (jumprelu), for activations "
            "scaled to a mean norm of sqrt(d_in).",
        ),
    ] = 1.0
    jumprelu_revival: Annotated[
        Revival,
        Field(description="What revives dead latents of jumprelu: nothing, AuxK, or a pull to their threshold."),
    ] = "none"
    pre_acts_coefficient: Annotated[
        float, Field(ge=0, description="Weight of the pull of dead latents to their threshold (jumprelu).")
    ] = 0.01
    matryoshka_prefixes: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(
            min_length=1,
            description="Share of the latents that reconstructs on its own (matryoshka); growing, the last one is 1.",
        ),
    ] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    matryoshka_weights: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...],
        Field(
            description="Weight of the loss of a prefix of the latents (matryoshka), one for each; by default all are "
            "equal."
        ),
    ] = ()
    hierarchical_shares: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(
            min_length=1,
            description="Share of k whose strongest latents reconstruct on their own (hierarchical-topk); growing, the "
            "last one is 1.",
        ),
    ] = (1 / 8, 1 / 4, 1 / 2, 1.0)
    auxk_alpha: Annotated[
        float,  # 1/32 in Gao et al. 2024
        Field(
            ge=0,
            description="Weight of the loss that revives dead latents (topk, hierarchical-topk, batch-topk, "
            "matryoshka; jumprelu where it is chosen).",
        ),
    ] = 1 / 32
    frequency_coefficient: Annotated[
        float, Field(ge=0, description="Weight of the penalty on latents that fire too often; 0 leaves it out.")
    ] = 0.0
    max_frequency: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Share of rows above which a latent fires too often for the penalty on frequency.",
        ),
    ] = 0.1
    search_dtype: Annotated[
        SearchDtype,
        Field(
            description="Number format in which topk looks for candidates of the k largest, which are computed again "
            "in float32; auto takes int8 on processors with instructions for it and bfloat16 on CUDA, where a sample "
            "speaks for it."
        ),
    ] = "auto"
    b_dec_init: Annotated[BDecInit, Field(description="Centre of a sample of rows at which b_dec starts.")] = "mean"
    dead_after_tokens: Annotated[
        int | None,
        Field(ge=1, description="Tokens without firing after which a latent is dead; by default a tenth of the run."),
    ] = None
    frac_holdout: Annotated[
        float, Field(gt=0, lt=1, description="Share of the documents that quality is measured on, never trained on.")
    ] = 0.05
    eval_every: Annotated[
        int, Field(ge=0, description="Steps between evaluations on held-out documents; 0 evaluates at the end only.")
    ] = 0
    save_every: Annotated[int, Field(ge=1, description="Steps between checkpoints.")] = 500
    buffer_mb: Annotated[int, Field(ge=1, description="Memory in MiB of the window in which rows are shuffled.")] = 256
    seed: Annotated[
        int, Field(ge=0, description="Seed of the weights and, where data_seed is not given, of the rows.")
    ] = 0
    data_seed: Annotated[
        int | None,
        Field(
            ge=0,
            description="Seed of the held-out documents and of the order of rows, which SAEs of several seeds can "
            "share; by default the first seed.",
        ),
    ] = None

    @property
    def rows_seed(self) -> int:
        """Return the seed of the held-out documents and of the order of rows.

        Example:
            >>> SaeTrainConfig("embed", seed=3).rows_seed, SaeTrainConfig("embed", seed=3, data_seed=0).rows_seed
            (3, 0)
        """
        return self.seed if self.data_seed is None else self.data_seed

    def __post_init__(self) -> None:
        divides = self.batch_size % self.accumulate == 0
        require(divides, "accumulate", self.accumulate, f">= 1, a divisor of {self.batch_size} (`batch_size`)")
        for name in ("matryoshka_prefixes", "hierarchical_shares"):
            shares = getattr(self, name)
            growing = shares == tuple(sorted(set(shares))) and shares[-1] == 1
            require(growing, name, shares, "growing shares above 0, the last one 1")
        weights, n = self.matryoshka_weights, len(self.matryoshka_prefixes)
        fits = not weights or (len(weights) == n and sum(weights) > 0)
        require(fits, "matryoshka_weights", weights, f"{n} weights (`matryoshka_prefixes`), not all zero")
        target = self.target_hook_point
        require(target is not None or not self.skip, "skip", self.skip, "false without a `target_hook_point`")
        other = target != self.hook_point
        require(other, "target_hook_point", target, "another place than `hook_point`: an SAE needs none")


@config_class
class Decoding:
    """How a model writes answers."""

    max_new_tokens: Annotated[int, Field(ge=1, description="Tokens of the longest answer.")] = 12
    samples: Annotated[int, Field(ge=0, description="Sampled answers per question, besides the greedy one.")] = 0
    temperature: Annotated[
        float, Field(gt=0, description="Temperature by which logits are divided before an answer is sampled.")
    ] = 1.0
    seed: Annotated[int, Field(ge=0, description="Seed of the sampled answers.")] = 0


@config_class
class SaeEvalConfig:
    """What an SAE is measured on."""

    frac_holdout: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="Share of the store's documents to measure on, drawn as in training.",
        ),
    ] = default_of(SaeTrainConfig, "frac_holdout")
    max_tokens: Annotated[
        int, Field(ge=1, description="Most tokens of text on which the SAE is spliced into the model.")
    ] = 20_000
    seed: Annotated[int, Field(ge=0, description="Seed of the draw of documents.")] = 0


@config_class
class CompareConfig:
    """How the latents of two SAEs are matched."""

    threshold: Annotated[float, Field(gt=0, lt=1, description="Cosine from which a partner is a twin.")] = 0.7
    max_hungarian: Annotated[
        int,
        Field(
            ge=0,
            description="Latents of the larger SAE up to which the best one-to-one matching is found; above it, mutual "
            "nearest neighbours.",
        ),
    ] = 16_384
    max_rows: Annotated[int, Field(ge=1, description="Most rows on which firings are counted.")] = 100_000
    seed: Annotated[int, Field(ge=0, description="Seed of the random directions that stand for chance.")] = 0


@config_class
class ImportConfig:
    """What an import is told beside its source."""

    source: Annotated[str, Field(min_length=1, description="Path of the SAE, or `release:sae_id`.")]
    hook_point: Annotated[
        str | None, Field(description="Place in the model that the SAE reads; by default what the source says.")
    ] = None
    model_name: Annotated[
        str | None, Field(description="Language model that the SAE was trained on, for the record.")
    ] = None
    k: Annotated[
        int | None, Field(ge=1, description="Latents kept per token by a TopK SAE whose source does not say.")
    ] = None
    unit_norm: Annotated[
        bool, Field(description="Bring decoder rows to length one by scaling the latents (ReLU and JumpReLU).")
    ] = False


@config_class
class PushConfig:
    """Where a published SAE goes, and what its card says."""

    path_in_repo: Annotated[
        str | None, Field(min_length=1, description="Folder in the repository; by default the hook point.")
    ] = None
    model_name: Annotated[
        str | None, Field(min_length=1, description="Hub id of the language model, where the SAE names it otherwise.")
    ] = None
    data: Annotated[str, Field(description="What the SAE was trained on, in words, for the card.")] = ""
    licence: Annotated[str, Field(description="Licence of the weights as the hub names it, such as apache-2.0.")] = ""
    private: Annotated[bool, Field(description="Make a repository that does not exist yet a private one.")] = False
