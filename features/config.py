"""Frozen configs of labelling, mining and the causal checks. Defaults, ranges and help texts live here only.

Imports no torch, so that the command line reads it for free.
"""

from __future__ import annotations

from typing import Annotated, Literal

from sae_train.fields import Field, config_class, require

NameTokens = Literal["last", "all"]
_Positive = Annotated[float, Field(gt=0)]


@config_class
class KnowledgeRule:
    """Which rule labels entities, and its thresholds; the rules stand in `features/labels/rules.py`."""

    name: Annotated[
        Literal["paraphrases", "ferrando", "self-consistent"],
        Field(
            description="Rule by which an entity counts as known: over greedy answers, over sampled ones, or without "
            "an answer key."
        ),
    ] = "paraphrases"
    min_known_attributes: Annotated[
        int,
        Field(
            ge=1, description="Attributes of a known entity that must be known, or all that it has if they are fewer."
        ),
    ] = 2
    min_frac_right: Annotated[
        float,
        Field(
            ge=0, lt=1, description="Share of an attribute's greedy answers above which it is known (rule paraphrases)."
        ),
    ] = 0.5
    min_frac_sample: Annotated[
        float,
        Field(
            gt=0, le=1, description="Share of an attribute's sampled answers from which it is known (rule ferrando)."
        ),
    ] = 0.3
    min_frac_same_greedy: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Share of an attribute's greedy answers that must agree on one answer (rule self-consistent).",
        ),
    ] = 0.6
    min_frac_same_sampled: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Share of an attribute's samples that must agree on one answer (rule self-consistent).",
        ),
    ] = 0.5
    min_above_made_up: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Least difference of both shares from those of made-up names (rule self-consistent).",
        ),
    ] = 0.3


@config_class
class SelectionRule:
    """What a latent must do on the mining half to be selected."""

    top: Annotated[int, Field(ge=1, description="Most latents selected per direction and hook point.")] = 5
    max_q: Annotated[
        float, Field(ge=0, le=1, description="Largest Benjamini-Hochberg q of a selected latent's separation.")
    ] = 0.05
    min_separation: Annotated[
        float,  # minus infinity takes every latent
        Field(
            le=1,
            allow_inf_nan=True,
            description="Smallest MaxMin separation (a difference of firing rates) of a selected latent.",
        ),
    ] = 0.1
    # A latent is left out where the lower end of its rate's 95 % interval is above: one that straddles the rule stays.
    max_general_rate: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Largest share of running-text tokens on which a selected latent fires; 1 is no rule.",
        ),
    ] = 0.02
    # Above it the whole list stays empty: the best of so many latents would do as well if labels meant nothing.
    max_null_p: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Largest family-wise p of a direction's best separation, from shuffles of the labels.",
        ),
    ] = 0.05
    n_shuffles: Annotated[int, Field(ge=1, description="Shuffles of the labels for the family-wise p.")] = 1000


@config_class
class GateConfig:
    """How the gate is measured, and when it is passed."""

    n_entities: Annotated[int, Field(ge=2, description="Most held-out known entities that the gate asks about.")] = 60
    n_questions: Annotated[
        int, Field(ge=1, description="Most questions per entity in the gate, held-out wordings where there are any.")
    ] = 4
    tokens: Annotated[
        NameTokens,
        Field(description="Name tokens patched in the gate: all, or the last one, which leaves the others to be read."),
    ] = "all"
    n_blocks: Annotated[
        int, Field(ge=0, description="Blocks, evenly spread, at which the whole residual stream is patched as well.")
    ] = 0
    min_recall: Annotated[
        float, Field(ge=0, le=1, description="Recall without a patch below which the gate has nothing to measure.")
    ] = 0.3
    min_passing: Annotated[
        float, Field(ge=0, le=1, description="Share of the recall that the residual patch has to take.")
    ] = 0.5
    min_latents: Annotated[
        float,
        Field(ge=0, le=1, description="Share of the recall taken that all latents at the unknown level take as well."),
    ] = 0.5
    min_reconstruction: Annotated[
        float, Field(ge=0, le=1, description="Share of the recall taken that the SAE's reconstruction has to keep.")
    ] = 0.5
    seed: Annotated[int, Field(ge=0, description="Seed of the gate's entities, questions and random latents.")] = 0


@config_class
class SteeringConfig:
    """How latents are pushed."""

    strengths: Annotated[
        tuple[_Positive, ...],
        Field(
            min_length=1,
            description="Strength of a push in multiples of the latents' mean active values, growing; 0 is always "
            "measured.",
        ),
    ] = (1.0, 2.0, 5.0, 10.0)
    n_entities: Annotated[int, Field(ge=2, description="Most held-out entities that steering asks about.")] = 40
    n_questions: Annotated[int, Field(ge=1, description="Most questions per entity in steering.")] = 2
    tokens: Annotated[NameTokens, Field(description="Name tokens at which steering pushes: all, or the last one.")] = (
        "all"
    )
    n_windows: Annotated[
        int, Field(ge=0, description="Windows of running text on which steering measures the loss.")
    ] = 64
    seed: Annotated[
        int, Field(ge=0, description="Seed of steering's entities, questions, random latents and windows.")
    ] = 0

    def __post_init__(self) -> None:
        growing = tuple(sorted(set(self.strengths))) == self.strengths
        require(growing, "strengths", self.strengths, "growing, above 0")


@config_class
class BrowseConfig:
    """What a browser of latents keeps of each latent."""

    n_top: Annotated[int, Field(ge=1, description="Strongest examples of a latent, one per passage of text.")] = 12
    n_sampled: Annotated[
        int,
        Field(
            ge=0,
            description="Firings of a latent drawn at random, all equally likely, shown by strength in five groups.",
        ),
    ] = 20
    n_before: Annotated[int, Field(ge=0, le=200, description="Tokens shown before the one at which it fires.")] = 15
    n_after: Annotated[int, Field(ge=0, le=200, description="Tokens shown behind the one at which it fires.")] = 8
    n_neighbours: Annotated[
        int, Field(ge=1, description="Latents named as the most similar, and as those that fire together with it.")
    ] = 8
    n_words: Annotated[
        int, Field(ge=1, description="Tokens that a latent makes likelier, and as many less likely (logit lens).")
    ] = 10
    max_rows: Annotated[
        int | None, Field(ge=1, description="Most rows of the store that are read, from its start; all by default.")
    ] = None
    cofiring_rows: Annotated[
        int, Field(ge=1, description="Most rows, drawn at random, on which latents that fire together are counted.")
    ] = 20_000
    n_explained: Annotated[
        int, Field(ge=0, description="Latents, drawn at random, for which requests for an explanation are written.")
    ] = 0
    seed: Annotated[int, Field(ge=0, description="Seed of the firings, rows and latents drawn.")] = 0


@config_class
class ProbingConfig:
    """How latents are probed with the datasets of the package sae-probes."""

    probes: Annotated[
        tuple[str, ...],
        Field(
            description="Dataset of the package sae-probes on which few latents are probed against all activations "
            "(k-sparse probing), such as 5_hist_fig_ismale, or all.",
        ),
    ] = ()
    probe_ks: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(min_length=1, description="Latents that a probe reads, growing."),
    ] = (1, 5, 16)
    probe_penalty: Annotated[
        Literal["l1", "l2"], Field(description="Penalty of the probes of latents; that of the activations has l2.")
    ] = "l1"
    probe_test_texts: Annotated[
        int | None,
        Field(
            ge=2,
            description="Most texts of a dataset that probes are tested on; by default all that the package takes.",
        ),
    ] = None
    probe_seed: Annotated[
        int, Field(ge=0, lt=2**32, description="Seed of the probes' texts and solver; the package's own is 42.")
    ] = 42

    def __post_init__(self) -> None:
        growing = tuple(sorted(set(self.probe_ks))) == self.probe_ks
        require(growing, "probe_ks", self.probe_ks, "growing")
