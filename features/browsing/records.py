"""What is shown of one latent, wherever it comes from: a pass of ours, or the dashboard files of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

N_GROUPS = 5  # of the firings drawn at random, by strength


class Example(NamedTuple):
    """A piece of running text in which a latent fires.

    Attributes:
        doc_id, position: Document, and position in it, of the token at which it was found; -1 where nobody says.
        peak: Index of that token among the tokens.
        token_ids: The tokens.
        values: The latent at each.
    """

    doc_id: int
    position: int
    peak: int
    token_ids: list[int]
    values: list[float]

    @property
    def value(self) -> float:
        """Return the activation at which it was found."""
        return self.values[self.peak]


class Related(NamedTuple):
    """Another latent, or a token, and how much it has to do with this one."""

    number: int
    value: float


class LatentRecord(NamedTuple):
    """What is known of a latent.

    Attributes:
        latent: Its number.
        n_fired: Tokens on which it fires.
        rate: Share of the tokens that were read.
        max, mean: Its largest activation, and the mean of those above zero; 0 for one that never fires.
        edges, counts: Histogram of its activations, bins without a firing at either end left out.
        top: Strongest examples, strongest first, one per passage.
        sampled: Firings drawn at random, strongest first.
        promoted, suppressed: Token ids with what is added to their logits; empty without a model.
        similar: Latents whose decoder rows are most alike, with the cosine.
        together: Latents that fire on the same tokens, with the Jaccard index.
        twin: The nearest latent of another SAE, with the cosine; None without one.
        has_twin: Whether that is a twin: each other's nearest, and alike enough.
    """

    latent: int
    n_fired: int
    rate: float
    max: float
    mean: float
    edges: list[float]
    counts: list[int]
    top: list[Example]
    sampled: list[Example]
    promoted: list[Related]
    suppressed: list[Related]
    similar: list[Related]
    together: list[Related]
    twin: Related | None
    has_twin: bool


def group_of(place: int, n: int) -> int:
    """Return the group of strength, 0 the strongest, of the example at a place among `n` drawn at random.

    Example:
        >>> [group_of(i, 10) for i in (0, 1, 2, 9)]
        [0, 0, 1, 4]
    """
    return place * N_GROUPS // n


class Score(NamedTuple):
    """How well an explanation tells right from wrong texts.

    Attributes:
        balanced_accuracy: Mean of the share of right texts called right and of wrong ones called wrong; 0.5 is chance.
        n_right, n_wrong: Texts of either kind.
    """

    balanced_accuracy: float
    n_right: int
    n_wrong: int


@dataclass(frozen=True)
class Explained:
    """What somebody says a latent stands for.

    Attributes:
        explanation: In words.
        detection: Score at telling texts on which it fires from texts on which it does not.
        fuzzing: Score at telling tokens on which it fires, marked, from other marked tokens of the same texts.
    """

    explanation: str
    detection: Score | None = None
    fuzzing: Score | None = None


@runtime_checkable
class Catalogue(Protocol):
    """All latents of an SAE, to be shown or exported."""

    @property
    def n_latents(self) -> int:
        """Return their number."""
        ...

    def words(self) -> Mapping[int, str]:
        """Return the text of every token id that the records name."""
        ...

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[LatentRecord]:
        """Yield the records of some latents, in order."""
        ...

    def about(self) -> About:
        """Return what holds for all of them."""
        ...


@dataclass(frozen=True)
class About:
    """What holds for all latents of a catalogue.

    Attributes:
        sae, hook_point, model: Names; empty where nobody says.
        n_tokens: Tokens that were read.
        n_passages: Passages that they lie in; 0 where nobody says.
        n_cofiring_rows: Tokens on which latents that fire together were counted; 0 where they were not.
        other: Name of the SAE in which twins were looked for; None without one.
        has_lens: Whether tokens that latents promote are known.
        explained: Explanations by latent.
        provenance: What it was made from, for the foot of the page.
    """

    sae: str
    hook_point: str
    model: str
    n_tokens: int
    n_passages: int = 0
    n_cofiring_rows: int = 0
    other: str | None = None
    has_lens: bool = False
    explained: Mapping[int, Explained] = field(default_factory=dict)
    provenance: Sequence[tuple[str, Any]] = ()
