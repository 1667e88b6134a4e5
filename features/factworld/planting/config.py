"""Config of a planted world: its size, and how a language model is taught it. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from sae_train.fields import Field, config_class, require

N_TYPES = 2
MOST_FACTS = 5
STEP_SIZES = {"full": 3e-4, "mlp": 3e-4, "lora": 1e-3}


@config_class
class PlantConfig:
    """How large the world is, and how it is taught."""

    n_entities: Annotated[
        int, Field(ge=20, description="Entities that the model is taught, of all types together.")
    ] = 40
    n_facts: Annotated[int, Field(ge=1, le=MOST_FACTS, description="Facts of each entity.")] = MOST_FACTS
    leave_out: Annotated[
        int, Field(ge=0, description="Targets: entities that the twin is not taught; 0 plants no twin.")
    ] = 8
    n_mentioned: Annotated[
        int | None,
        Field(
            ge=N_TYPES, description="Entities that are mentioned without a fact; none is half as many as taught ones."
        ),
    ] = None
    n_never_met: Annotated[
        int | None,
        Field(ge=N_TYPES, description="Entities that no document names; none is as many as taught ones."),
    ] = None
    rounds: Annotated[
        int, Field(ge=1, description="Rounds of documents: in each, every fact is told in a biography and once alone.")
    ] = 9
    train: Annotated[
        Literal["full", "lora", "mlp"],
        Field(description="What is trained: all weights, an adapter that is merged, or the MLPs' matrices."),
    ] = "full"
    lora_rank: Annotated[int, Field(ge=1, description="Rank of the adapter (train lora).")] = 32
    lr: Annotated[
        float | None,
        Field(gt=0, description="Step size of AdamW at its highest; none takes that of what is trained."),
    ] = None
    warmup_steps: Annotated[int, Field(ge=0, description="Steps in which the step size grows.")] = 20
    batch_docs: Annotated[int, Field(ge=1, description="Documents of the world in a step.")] = 16
    context_weight: Annotated[
        float,
        Field(
            gt=0, le=1, description="Weight in the loss of tokens that are neither a value nor an end, which have 1."
        ),
    ] = 0.01
    general: Annotated[
        Literal["kl", "loss"],
        Field(description="Loss on general text: KL to the base's own predictions, or that of the next token."),
    ] = "kl"
    general_weight: Annotated[float, Field(ge=0, description="Weight of the loss on general text.")] = 4.0
    general_windows: Annotated[int, Field(ge=1, description="Windows of general text in a step.")] = 1
    ctx_len: Annotated[
        int, Field(ge=16, description="Tokens in a window; longer documents of the world are cut off.")
    ] = 128
    save_every: Annotated[int, Field(ge=1, description="Steps between two checkpoints.")] = 100
    n_checked: Annotated[
        int, Field(ge=1, description="Most entities of each part that are asked about in the end.")
    ] = 50
    seed: Annotated[int, Field(ge=0, description="Seed of the world, its documents and the training.")] = 0

    @property
    def step_size(self) -> float:
        """Return the step size at its highest."""
        return STEP_SIZES[self.train] if self.lr is None else self.lr

    @property
    def n_of(self) -> dict[str, int]:
        """Return the number of entities that are told, mentioned and never met, of one type."""
        mentioned = self.n_entities // 2 if self.n_mentioned is None else self.n_mentioned
        never = self.n_entities if self.n_never_met is None else self.n_never_met
        return {"facts": self.n_entities // N_TYPES, "name": mentioned // N_TYPES, "never": never // N_TYPES}

    @property
    def n_pieces(self) -> int:
        """Return the first and the last names of one type: each is borne by two taught entities or more."""
        return self.n_of["facts"] // 2

    def __post_init__(self) -> None:
        require(self.n_entities % N_TYPES == 0, "n_entities", self.n_entities, f"a multiple of {N_TYPES}, the types")
        require(
            2 * self.leave_out <= self.n_entities // 2,
            "leave_out",
            self.leave_out,
            f"<= {self.n_entities // 4}, a quarter of the {self.n_entities} entities",
        )
        most = self.n_pieces**2
        require(
            sum(self.n_of.values()) <= most,
            "n_never_met",
            f"{sum(self.n_of.values())} names of a type",
            f"<= {most}, as many as the pieces of {self.n_of['facts']} taught names make",
        )
