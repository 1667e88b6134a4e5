"""Config of a removal request: sizes of its stations. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from sae_train.fields import Field, config_class
from unlearn.settings.registry import METHOD_SETTINGS, settings_of


@config_class
class RemoveConfig:
    """Sizes of the stations of a removal request; chosen so that a model of 135 M parameters takes minutes, not hours.

    The method is the one that fits: a step of the gradient methods takes 17 to 23 seconds there on two cores, and they
    take hundreds; the closed form takes one and a half minutes (docs/results/smollm2_removals.md).
    """

    method: Annotated[
        str, Field(description="Unlearning method.", json_schema_extra={"choices": [*METHOD_SETTINGS]})
    ] = "redirect-closed-form"
    n_others: Annotated[
        int, Field(ge=4, description="Most other names that the model is asked for, where no entities are given.")
    ] = 60
    n_unknown: Annotated[
        int, Field(ge=4, description="Unknown names that are made up, where no entities are given.")
    ] = 60
    name_samples: Annotated[
        int, Field(ge=1, description="Answers drawn behind each text that calls for another name.")
    ] = 64
    samples: Annotated[
        int, Field(ge=1, description="Sampled answers per question where the rule reads samples (self-consistent).")
    ] = 5
    gate_blocks: Annotated[
        int, Field(ge=1, description="Blocks, evenly spread, at which the quick gate looks for the knowledge.")
    ] = 8
    gate_entities: Annotated[int, Field(ge=2, description="Most known entities that a gate asks about.")] = 24
    gate_questions: Annotated[int, Field(ge=1, description="Most questions per entity in a gate.")] = 2
    n_hook_points: Annotated[int, Field(ge=1, description="Hook points that the quick gate proposes for SAEs.")] = 2
    n_rows: Annotated[int, Field(ge=1, description="Rows (one a token) in the activation store.")] = 60_000
    ctx_len: Annotated[int, Field(ge=2, description="Tokens in a window of text.")] = 128
    frac_entity_rows: Annotated[
        float, Field(gt=0, lt=1, description="Share of the rows that are last name tokens in contexts of entities.")
    ] = 0.1
    sae_k: Annotated[int, Field(ge=1, description="Latents kept per token.")] = 32
    sae_expansion: Annotated[int, Field(ge=1, description="Latents per input dimension.")] = 8
    sae_tokens: Annotated[int, Field(ge=1, description="Rows that each SAE is trained on, repeats included.")] = 300_000
    sae_batch_size: Annotated[int, Field(ge=1, description="Rows in a step of an SAE.")] = 2048
    max_general_rate: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Largest share of running-text tokens on which a selected latent fires; 1 is no rule.",
        ),
    ] = 0.02
    quick: Annotated[bool, Field(description="Audit with fewer draws, one relearning run, fewer targets attacked.")] = (
        True
    )
    seed: Annotated[int, Field(ge=0, description="Seed of everything random.")] = 0

    def __post_init__(self) -> None:
        settings_of(self.method)  # refuses a method that does not exist
